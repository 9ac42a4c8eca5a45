package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/control"
	"porchlight/nat/natlab"
)

const (
	// startLimit is how long an agent may take until its control socket
	// answers, and until it is registered: long enough for an emulated one.
	startLimit = 60 * time.Second
	// maxHelpers is how many rendezvous an agent registers at, if there are as
	// many.
	maxHelpers = 3
	// stopLimit is how long an agent may take to stop before it is killed.
	stopLimit = 10 * time.Second
)

// placer puts a command on a host: a laboratory's, or this machine.
type placer interface {
	Command(ctx context.Context, name string, args ...string) *exec.Cmd
}

// here is this machine.
type here struct{}

// Command implements placer.
func (here) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, name, args...)
}

// agent is one running agent and its state folder.
type agent struct {
	name    string
	host    placer
	program []string // and what it runs under
	state   string
	args    []string
	log     *os.File
	process *exec.Cmd
	cancel  context.CancelFunc
}

// newAgent prepares an agent with a state folder below dir.
func newAgent(dir, program, name string, host placer, args ...string) (*agent, error) {
	a := &agent{name: name, host: host, program: []string{program}, state: filepath.Join(dir, name), args: args}
	if err := os.MkdirAll(a.state, 0o700); err != nil {
		return nil, err
	}
	var err error
	a.log, err = os.Create(filepath.Join(dir, name+".log"))
	return a, err
}

// start runs the agent and waits until it answers.
func (a *agent) start(ctx context.Context) error {
	ctx, a.cancel = context.WithCancel(ctx)
	args := slices.Concat(a.program, []string{"run", "--state", a.state, "--name", a.name, "--log-level", "debug"}, a.args)
	a.process = a.host.Command(ctx, args[0], args[1:]...)
	a.process.Stdout, a.process.Stderr = a.log, a.log
	if err := a.process.Start(); err != nil {
		return fmt.Errorf("start %s: %w", a.name, err)
	}
	deadline := time.Now().Add(startLimit)
	for {
		_, err := a.status(ctx)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("%s does not answer: %w; see %s", a.name, err, a.log.Name())
		}
		pause(ctx, 50*time.Millisecond)
	}
}

// pause waits for a while, or for the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// kill ends the agent as a power cut would.
func (a *agent) kill() {
	a.process.Process.Kill()
	a.process.Wait()
	a.cancel()
}

// stop ends the agent in order and returns how long that took. The error says
// so if it had to be killed.
func (a *agent) stop() (time.Duration, error) {
	if a.process == nil || a.process.ProcessState != nil {
		return 0, nil
	}
	began := time.Now()
	a.process.Process.Signal(syscall.SIGTERM)
	patience := time.AfterFunc(stopLimit, func() { a.process.Process.Kill() })
	err := a.process.Wait()
	patience.Stop()
	a.cancel()
	return time.Since(began), err
}

// command prepares a command of the command line for the agent. Its control
// socket is a file, so it can run anywhere.
func (a *agent) command(ctx context.Context, args ...string) *exec.Cmd {
	at := slices.Index(args, "--") // what follows is for the program
	if at < 0 {
		at = len(args)
	}
	args = slices.Insert(slices.Clone(args), at, "--state", a.state, "--json")
	args = append(a.program[1:len(a.program):len(a.program)], args...)
	return exec.CommandContext(ctx, a.program[0], args...)
}

// run runs a command and reads the last line it prints into out, if not nil.
func (a *agent) run(ctx context.Context, out any, args ...string) error {
	cmd := a.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: porchlight %s: %w: %s", a.name, args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	if out == nil {
		return nil
	}
	lines := bytes.Split(bytes.TrimSpace(stdout.Bytes()), []byte("\n"))
	if err := json.Unmarshal(lines[len(lines)-1], out); err != nil {
		return fmt.Errorf("%s: porchlight %s printed %q: %w", a.name, args[0], stdout.String(), err)
	}
	return nil
}

// status asks the agent itself, without a process in between: quick enough to
// be asked many times a second.
func (a *agent) status(ctx context.Context) (s api.Status, err error) {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", filepath.Join(a.state, control.Socket))
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://porchlight/api/v1/status", nil)
	if err != nil {
		return s, err
	}
	response, err := client.Do(request)
	if err != nil {
		return s, err
	}
	defer response.Body.Close()
	return s, json.NewDecoder(response.Body).Decode(&s)
}

func (a *agent) link(ctx context.Context) (string, error) {
	var l struct{ Link string }
	err := a.run(ctx, &l, "link")
	return l.Link, err
}

// awaitHelpers waits until the agent is registered at n rendezvous.
func (a *agent) awaitHelpers(ctx context.Context, n int) error {
	deadline := time.Now().Add(startLimit)
	for {
		s, err := a.status(ctx)
		online := 0
		for _, h := range s.Helpers {
			if h.Online {
				online++
			}
		}
		if err == nil && online >= n && s.Reachability != api.Checking {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("%s found %d of %d rendezvous (%v); see %s", a.name, online, n, err, a.log.Name())
		}
		pause(ctx, 100*time.Millisecond)
	}
}

// world is a laboratory with agents on its hosts.
type world struct {
	lab     *natlab.Lab
	dir     string
	program string
	agents  []*agent
	links   []string // of the rendezvous
}

// newWorld builds a laboratory with n rendezvous; agents keep their state and
// log in o.Dir.
func newWorld(ctx context.Context, o natlab.Options, program string, n int) (*world, error) {
	lab, err := natlab.New(ctx, o)
	if err != nil {
		return nil, err
	}
	w := &world{lab: lab, dir: o.Dir, program: program}
	for i := range n {
		if err := w.rendezvous(ctx, fmt.Sprintf("helper%d", i+1)); err != nil {
			return nil, errors.Join(err, w.close())
		}
	}
	return w, nil
}

// rendezvous starts an agent on a public host.
func (w *world) rendezvous(ctx context.Context, name string) error {
	host, err := w.lab.Host(name)
	if err != nil {
		return err
	}
	args := []string{"--listen", ":4001", "--console", "off", "--reachability", "public"}
	for _, link := range w.links {
		args = append(args, "--bootstrap", link)
	}
	a, err := newAgent(w.dir, w.program, name, host, args...)
	if err != nil {
		return err
	}
	w.agents = append(w.agents, a)
	if err := a.start(ctx); err != nil {
		return err
	}
	link, err := a.link(ctx)
	w.links = append(w.links, link)
	return err
}

// home starts an agent behind a router of a kind.
func (w *world) home(ctx context.Context, name string, kind natlab.Kind, extra ...string) (*agent, *natlab.Host, error) {
	host, err := w.lab.Home(name, kind)
	if err != nil {
		return nil, nil, err
	}
	args := []string{"--console", "off"}
	for _, link := range w.links {
		args = append(args, "--bootstrap", link)
	}
	a, err := newAgent(w.dir, w.program, name, host, append(args, extra...)...)
	if err != nil {
		return nil, nil, err
	}
	w.agents = append(w.agents, a)
	if err := a.start(ctx); err != nil {
		return nil, nil, err
	}
	return a, host, a.awaitHelpers(ctx, min(len(w.links), maxHelpers))
}

// close stops all agents, the rendezvous last, and takes the laboratory down.
func (w *world) close() error {
	n := min(len(w.links), len(w.agents))
	stopAll(w.agents[n:])
	stopAll(w.agents[:n])
	for _, a := range w.agents {
		a.log.Close()
	}
	return w.lab.Close()
}

// ending is how an agent stopped.
type ending struct {
	*agent
	took time.Duration
	err  error
}

// stopAll stops agents at the same time.
func stopAll(agents []*agent) []ending {
	ends := make([]ending, len(agents))
	var all sync.WaitGroup
	for i, a := range agents {
		all.Go(func() {
			took, err := a.stop()
			ends[i] = ending{a, took, err}
		})
	}
	all.Wait()
	return ends
}

// introduce makes b a contact of a and a of b.
func introduce(ctx context.Context, a, b *agent) error {
	for _, pair := range [][2]*agent{{a, b}, {b, a}} {
		link, err := pair[1].link(ctx)
		if err != nil {
			return err
		}
		if err := pair[0].run(ctx, nil, "contacts", "add", link, pair[1].name); err != nil {
			return err
		}
	}
	return nil
}

// sessionsBegun counts the sessions that an agent began or accepted with
// another, by its log.
func sessionsBegun(a *agent, with string) (count int, err error) {
	b, err := os.ReadFile(a.log.Name())
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, `msg="session begins"`) && strings.Contains(line, "peer="+with[:8]) {
			count++
		}
	}
	return count, err
}

// tell prints one line of a report.
func tell(w io.Writer, format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }

// hashOf returns a file's SHA-256 in hexadecimal.
func hashOf(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
