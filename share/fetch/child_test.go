package fetch

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"porchlight/share"
	"porchlight/share/merkle"
)

// The crash tests run this test binary as another process and kill it.
// childEnv holds what it is to do: "get BASE DST" or "serve ADDR DIR".
const (
	childEnv   = "PORCHLIGHT_FETCH_CHILD"
	sockBuffer = 64 << 10
)

func childMain() {
	args := strings.Split(os.Getenv(childEnv), " ")
	var err error
	switch args[0] {
	case "get":
		err = childGet(args[1], args[2])
	case "serve":
		err = childServe(args[1], args[2])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// smallBuffers keeps the kernel from taking in much that nobody reads.
func smallBuffers(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, sockBuffer)
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, sockBuffer)
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	})
}

func childGet(base, dst string) error {
	d := net.Dialer{Control: smallBuffers}
	c := &Client{HTTP: &http.Client{Transport: &http.Transport{DialContext: d.DialContext}}, Base: base}
	_, err := c.Get(context.Background(), "s/f", dst, Options{})
	return err
}

func childServe(addr, dir string) error {
	shares, err := share.Open(&memStore{}, nil)
	if err != nil {
		return err
	}
	if _, err := shares.Add(dir, "s", nil, nil); err != nil {
		return err
	}
	lc := net.ListenConfig{Control: smallBuffers}
	l, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	return http.Serve(l, share.NewHandler(share.Config{Shares: shares, Grants: everybody{}}))
}

func startChild(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+strings.Join(args, " "))
	cmd.Stderr = os.Stderr
	if !runsHere() {
		t.Skip("this kernel does not run binaries of this test's architecture as processes of their own")
	}
	return cmd
}

// runsHere is false under user-mode emulation without binfmt_misc.
func runsHere() bool {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=none")
	return !errors.Is(cmd.Run(), syscall.ENOEXEC)
}

// gate counts bytes and stops them at a limit, so that a kill never comes too
// late however busy the machine is.
type gate struct {
	mu       sync.Mutex
	cond     sync.Cond
	n, limit int64
}

func newGate(limit int64) *gate {
	g := &gate{limit: limit}
	g.cond.L = &g.mu
	return g
}

// pass waits until bytes may pass and counts what f lets through.
func (g *gate) pass(f func() (int, error)) (int, error) {
	g.mu.Lock()
	for g.n >= g.limit {
		g.cond.Wait()
	}
	g.mu.Unlock()
	n, err := f()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.n += int64(n)
	g.cond.Broadcast()
	return n, err
}

// reached waits until the limit is reached.
func (g *gate) reached() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.n < g.limit {
		g.cond.Wait()
	}
}

func (g *gate) open(limit int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.limit = limit
	g.cond.Broadcast()
}

func (g *gate) count() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.n
}

// gatedListener has all that leaves pass a gate.
type gatedListener struct {
	net.Listener
	gate *gate
}

func (l gatedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return gatedConn{c, l.gate}, err
}

type gatedConn struct {
	net.Conn
	gate *gate
}

func (c gatedConn) Write(b []byte) (done int, err error) {
	for done < len(b) && err == nil {
		var n int
		n, err = c.gate.pass(func() (int, error) { return c.Conn.Write(b[done:min(done+16<<10, len(b))]) })
		done += n
	}
	return done, err
}

// gatedBody has what a request or an answer carries pass a gate.
type gatedBody struct {
	io.ReadCloser
	gate *gate
}

func (b gatedBody) Read(p []byte) (int, error) {
	return b.gate.pass(func() (int, error) { return b.ReadCloser.Read(p[:min(len(p), 16<<10)]) })
}

// gatedTransport gates the content of uploads and downloads.
type gatedTransport struct {
	http.RoundTripper
	gate *gate
}

func (t gatedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPut && r.Body != nil {
		r = r.Clone(r.Context())
		r.Body = gatedBody{r.Body, t.gate}
	}
	resp, err := t.RoundTripper.RoundTrip(r)
	if err == nil && r.Header.Get("Range") != "" {
		resp.Body = gatedBody{resp.Body, t.gate}
	}
	return resp, err
}

const crashSize = 24<<20 + 12345

func crashFile(t *testing.T) (dir string, content []byte) {
	t.Helper()
	dir, content = t.TempDir(), pattern(crashSize, 7)
	name, old := filepath.Join(dir, "f"), time.Now().Add(-time.Minute)
	if err := errors.Join(os.WriteFile(name, content, 0o644), os.Chtimes(name, old, old)); err != nil {
		t.Fatal(err)
	}
	return dir, content
}

// killPoints are n random points, one in each n-th of the file's length.
func killPoints(n int64) (points []int64) {
	for i := range n {
		points = append(points, (i*crashSize+rand.Int64N(crashSize))/n)
	}
	return points
}

func TestKilledClientResumes(t *testing.T) {
	const kills = 6
	dir, content := crashFile(t)
	lc := net.ListenConfig{Control: smallBuffers}
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	out := newGate(0)
	srv := &http.Server{Handler: handlerFor(t, dir)}
	go srv.Serve(gatedListener{l, out})
	defer srv.Close()
	base, dst := "http://"+l.Addr().String(), filepath.Join(t.TempDir(), "got")
	for _, p := range killPoints(kills) {
		out.open(max(p, out.count()) + 1)
		cmd := startChild(t, "get", base, dst)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		out.reached()
		cmd.Process.Kill()
		if err := cmd.Wait(); err == nil {
			t.Fatal("the kill came too late")
		}
	}
	out.open(math.MaxInt64)
	if err := startChild(t, "get", base, dst).Run(); err != nil {
		t.Fatal(err)
	}
	checkSum(t, dst, content)
	// Beyond one piece a kill: what lay in socket buffers (the kernel doubles
	// what is asked for, on both ends), in the client's, and piece layers.
	layer := merkle.EncodedLen(crashSize) + 4096
	limit := crashSize + kills*(merkle.PieceSize(crashSize)+4*sockBuffer+buffers*bufferSize) + (kills+1)*layer
	t.Logf("%d kills: %d bytes served beyond a file of %d, limit %d", kills, out.count()-crashSize, int64(crashSize), limit-crashSize)
	if out.count() > limit {
		t.Errorf("served %d bytes, limit %d", out.count(), limit)
	}
}

func checkSum(t *testing.T, name string, content []byte) {
	t.Helper()
	got, err := os.ReadFile(name)
	if err != nil || sha256.Sum256(got) != sha256.Sum256(content) {
		t.Fatalf("%d bytes differ: %v", len(got), err)
	}
}

// killedServer is a serving process that can be killed and started again on
// the same port.
type killedServer struct {
	t         *testing.T
	addr, dir string
	cmd       *exec.Cmd
	between   func() // what to wait for while the server is away
}

func (k *killedServer) start() {
	k.cmd = startChild(k.t, "serve", k.addr, k.dir)
	out, err := k.cmd.StdoutPipe()
	if err != nil {
		k.t.Error(err)
		return
	}
	if err := k.cmd.Start(); err != nil {
		k.t.Error(err)
		return
	}
	fmt.Fscanln(out, new(string))
}

func (k *killedServer) kill() {
	k.cmd.Process.Kill()
	k.cmd.Wait()
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// killAt kills and restarts the server whenever a point is reached.
func (k *killedServer) killAt(g *gate, points []int64) {
	g.open(points[0] + 1)
	for i := range points {
		g.reached()
		k.kill()
		g.open(math.MaxInt64) // so that the client notices
		k.between()
		if i+1 < len(points) {
			g.open(max(points[i+1], g.count()) + 1)
		}
		k.start()
	}
}

// newKilledServer serves dir and returns a client whose content passes a gate.
func newKilledServer(t *testing.T, dir string) (*killedServer, *Client, *gate) {
	t.Helper()
	k := &killedServer{t: t, addr: freeAddr(t), dir: dir, between: func() {}}
	k.start()
	t.Cleanup(k.kill)
	tr := &http.Transport{DialContext: (&net.Dialer{Control: smallBuffers}).DialContext}
	t.Cleanup(tr.CloseIdleConnections)
	g := newGate(0)
	return k, &Client{HTTP: &http.Client{Transport: gatedTransport{tr, g}}, Base: "http://" + k.addr}, g
}

func TestKilledServerIsWaitedFor(t *testing.T) {
	dir, content := crashFile(t)
	k, c, g := newKilledServer(t, dir)
	dst := filepath.Join(t.TempDir(), "got")
	waiting := make(chan struct{}, 1)
	k.between = func() {
		select {
		case <-waiting:
		case <-time.After(10 * time.Second):
			t.Error("nobody was told that the transfer waits")
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { k.killAt(g, killPoints(4)) })
	res, err := c.Get(t.Context(), "s/f", dst, Options{Progress: func(p Progress) {
		if p.State == Waiting && p.Err != nil {
			select {
			case waiting <- struct{}{}:
			default:
			}
		}
	}})
	wg.Wait()
	if err != nil || res.Fetched != crashSize {
		t.Fatalf("%+v, %v", res, err)
	}
	t.Logf("4 kills: %d bytes fetched for a file of %d", res.Fetched, int64(crashSize))
	checkSum(t, dst, content)
}

func TestKilledServerKeepsUploads(t *testing.T) {
	dir := t.TempDir()
	src, content := crashFile(t)
	k, c, g := newKilledServer(t, dir)
	var wg sync.WaitGroup
	wg.Go(func() { k.killAt(g, killPoints(4)) })
	res, err := c.Put(t.Context(), filepath.Join(src, "f"), "s/f", PutOptions{})
	wg.Wait()
	// Nothing is on disk of what was in buffers between the two.
	if limit := int64(crashSize + 4*(4*sockBuffer+1<<20)); err != nil || res.Fetched > limit {
		t.Fatalf("%+v, %v, limit %d", res, err, limit)
	}
	t.Logf("4 kills: %d bytes sent beyond a file of %d", res.Fetched-crashSize, int64(crashSize))
	checkSum(t, filepath.Join(dir, "f"), content)
	if all, _ := os.ReadDir(dir); len(all) != 1 {
		t.Errorf("left behind: %v", all)
	}
}

// smallDisk mounts a tmpfs of 1 MiB.
func smallDisk(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting a small disk needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatalf("mount: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}
