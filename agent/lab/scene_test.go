package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"porchlight/agent/api"
	"porchlight/nat/natlab"
)

const (
	// testLimit ends one test's agents and commands, whatever happens.
	testLimit = 4 * time.Minute
	// patience is how long something may take that has no limit of its own.
	patience = 60 * time.Second
	// maxStop is how long an agent may take to stop.
	maxStop = 3 * time.Second
	// slow is a one-way delay that makes a transfer last: a stream's window
	// of 2 MiB for each round trip is 17 MB/s.
	slow = 60 * time.Millisecond
	// folder is where failed tests leave what explains them.
	folder = "../../lab-out"
)

// built holds the programs that the tests of this process share.
var built struct{ dir, program string }

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

// testsAtOnce is how many tests play at the same time: they mostly wait.
const testsAtOnce = "3"

func testMain(m *testing.M) int {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		flag.Set("test.parallel", testsAtOnce)
	}
	var err error
	if built.dir, err = os.MkdirTemp("", "porchlight"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(built.dir)
	if built.program, err = build(context.Background(), built.dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// scene is what one test plays on: a laboratory, and a folder for files.
type scene struct {
	*world
	t   *testing.T
	ctx context.Context
}

// newScene builds a laboratory with rendezvous. A test that fails leaves logs,
// capture and diagram.
func newScene(t *testing.T, o natlab.Options, rendezvous int) *scene {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root: run this as root")
	}
	ctx, dir := bounded(t), newFolder(t)
	o.Dir = dir
	w, err := newWorld(ctx, o, built.program, rendezvous)
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{world: w, t: t, ctx: ctx}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("capture and diagram: %s (%v)", kept(t), w.lab.Dump(kept(t), "lab"))
		}
		if err := w.close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testLimit)
	t.Cleanup(cancel)
	return ctx
}

// newFolder makes a folder for states and logs, with a name that leaves room
// for a socket's path. A test that fails leaves the logs.
func newFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lab")
	check(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("logs: %s (%v)", kept(t), copyLogs(dir, kept(t)))
		}
		os.RemoveAll(dir)
	})
	return dir
}

// kept is where a failed test leaves what explains it.
func kept(t *testing.T) string {
	name := filepath.Join(folder, strings.ReplaceAll(t.Name(), "/", "-"))
	if full, err := filepath.Abs(name); err == nil {
		return full
	}
	return name
}

func copyLogs(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	logs, err := filepath.Glob(filepath.Join(from, "*.log"))
	for _, name := range logs {
		b, readErr := os.ReadFile(name)
		err = errors.Join(err, readErr, os.WriteFile(filepath.Join(to, filepath.Base(name)), b, 0o644))
	}
	return err
}

// check fails the test at once if there is an error.
func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// await polls until cond holds and returns how long that took.
func await(t *testing.T, ctx context.Context, what string, limit time.Duration, cond func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !cond() {
		if time.Since(began) > limit || ctx.Err() != nil {
			t.Fatalf("not within %v: %s", limit, what)
		}
		pause(ctx, 20*time.Millisecond)
	}
	return time.Since(began)
}

// stopInTime stops agents at the same time and checks how long each takes.
func stopInTime(t *testing.T, agents ...*agent) {
	t.Helper()
	for _, e := range stopAll(agents) {
		t.Logf("%s: stopped in %.2f s", e.name, e.took.Seconds())
		if e.err != nil || e.took > maxStop {
			t.Errorf("%s took %v to stop, %v are allowed: %v", e.name, e.took, maxStop, e.err)
		}
	}
}

// at starts a home, registered at all rendezvous.
func (s *scene) at(name string, kind natlab.Kind, extra ...string) (*agent, *natlab.Host) {
	s.t.Helper()
	a, host, err := s.home(s.ctx, name, kind, extra...)
	check(s.t, err)
	return a, host
}

// friends makes devices contacts of each other.
func (s *scene) friends(a, b *agent) {
	s.t.Helper()
	check(s.t, introduce(s.ctx, a, b))
}

// directly lets a reach b and waits until the path is direct.
func (s *scene) directly(a, b *agent) {
	s.t.Helper()
	var p api.Ping
	check(s.t, a.run(s.ctx, &p, "ping", b.name, "--until-direct"))
	if p.Path != direct {
		s.t.Fatalf("%s reaches %s by %q: %s", a.name, b.name, p.Path, p.Reason)
	}
}

// contact is how a sees b at this moment.
func contact(ctx context.Context, a, b *agent) (c api.Contact) {
	status, err := a.status(ctx)
	if err != nil {
		return c
	}
	for _, c = range status.Contacts {
		if c.Name == b.name {
			return c
		}
	}
	return api.Contact{}
}

// offered is a file of random bytes that an agent serves to friends.
type offered struct {
	t      *testing.T
	from   *agent
	name   string
	size   int64
	sha256 string
}

// offer puts a file of random bytes into an agent's share.
func offer(t *testing.T, ctx context.Context, from *agent, size int64) offered {
	t.Helper()
	dir := filepath.Join(filepath.Dir(from.state), "shared-by-"+from.name)
	check(t, os.MkdirAll(dir, 0o755))
	f := offered{t: t, from: from, name: "random.bin", size: size}
	file, err := os.Create(filepath.Join(dir, f.name))
	check(t, err)
	_, err = io.CopyN(file, rand.NewChaCha8([32]byte{byte(size)}), size)
	check(t, err)
	check(t, file.Close())
	f.sha256, err = hashOf(file.Name())
	check(t, err)
	check(t, from.run(ctx, nil, "shares", "add", dir, "--name", "films", "--read", "friends"))
	return f
}

// sent is how far the agent that serves the file has come with it.
func (f offered) sent(ctx context.Context) int64 {
	status, err := f.from.status(ctx)
	if err != nil {
		return 0
	}
	for _, t := range status.Transfers {
		if t.Name == f.name {
			return t.Bytes
		}
	}
	return 0
}

// awaitSent waits until n bytes are under way.
func (f offered) awaitSent(ctx context.Context, n int64) {
	f.t.Helper()
	await(f.t, ctx, fmt.Sprintf("%d of %d bytes are sent", n, f.size), patience, func() bool { return f.sent(ctx) >= n })
}

// fetching is a get under way.
type fetching struct {
	file   offered
	dst    string
	kill   context.CancelFunc // as kill -9 does
	done   chan struct{}
	result transfer
	err    error
}

// get begins to fetch the file to an agent's friend.
func (f offered) get(ctx context.Context, to *agent, name string) *fetching {
	g := &fetching{file: f, dst: filepath.Join(filepath.Dir(to.state), name), done: make(chan struct{})}
	ctx, g.kill = context.WithCancel(ctx)
	go func() {
		defer close(g.done)
		g.err = to.run(ctx, &g.result, "get", f.from.name+":/films/"+f.name, "-o", g.dst)
	}()
	return g
}

// part is how many bytes have arrived so far.
func (g *fetching) part() int64 {
	info, err := os.Stat(g.dst + ".porchlight-part")
	if err != nil {
		return 0
	}
	return info.Size()
}

// arrived waits for the end and checks what came.
func (g *fetching) arrived() transfer {
	t := g.file.t
	t.Helper()
	<-g.done
	check(t, g.err)
	again, err := hashOf(g.dst)
	check(t, err)
	if g.result.SHA256 != g.file.sha256 || again != g.file.sha256 {
		t.Fatalf("arrived with sha256 %s, said to be %s, want %s", again, g.result.SHA256, g.file.sha256)
	}
	if g.result.Bytes != g.file.size {
		t.Errorf("%d bytes arrived of %d", g.result.Bytes, g.file.size)
	}
	t.Logf("%d bytes in %.1f s, %d over the network, by the %s path in the end",
		g.result.Bytes, g.result.Seconds, g.result.Fetched, g.result.Path)
	return g.result
}

// over reports whether the transfer has ended.
func (g *fetching) over() bool {
	select {
	case <-g.done:
		return true
	default:
		return false
	}
}

// sessions counts the sessions that an agent began or accepted with another.
func sessions(t *testing.T, a *agent, with string) int {
	t.Helper()
	count, err := sessionsBegun(a, with)
	check(t, err)
	return count
}

// buildFor builds the agent for an emulated machine.
func buildFor(ctx context.Context, name string, env ...string) (string, error) {
	program := filepath.Join(built.dir, "porchlight-"+name)
	cmd := exec.CommandContext(ctx, "go", append(slices.Clone(buildArgs), "-o", program, "porchlight/agent")...)
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0"), env...)
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the agent for %s: %w: %s", name, err, text)
	}
	return program, nil
}
