package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"porchlight/agent/api"
	"porchlight/nat/natlab"
)

const (
	// consolePort is where a home's console listens on that home.
	consolePort = "8460"
	// minFile is the least size of the file that is fetched, in bytes.
	minFile = 100 << 20
)

// stage is what the demonstration plays on: a caller, a device that is
// called, and how a browser here gets at the caller's console.
type stage struct {
	attic, cabin *agent
	dial         func(ctx context.Context) (net.Conn, error)
	close        func() error
}

// demo lets two homes find each other, fetch a file and run a task.
func demo(ctx context.Context, out io.Writer, dir, program string, once bool) (err error) {
	tell(out, "Porchlight: two homes that find each other by address")
	file, err := bigFile(ctx, dir)
	if err != nil {
		return err
	}
	search, err := buildExample(ctx, dir, "search")
	if err != nil {
		return err
	}
	s, err := setStage(ctx, out, dir, program)
	if err != nil {
		return err
	}
	defer func() {
		tell(out, "\ntaking everything down again")
		err = errors.Join(err, s.close())
	}()
	if err := play(ctx, out, dir, s, file, search); err != nil || once {
		return err
	}
	return keepConsole(ctx, out, s)
}

// setStage builds the laboratory, or, without root, uses loopback.
func setStage(ctx context.Context, out io.Writer, dir, program string) (stage, error) {
	if os.Geteuid() != 0 {
		tell(out, "Not root: no NATs can be made. The same on loopback, without a router between the homes.")
		return loopbackStage(ctx, dir, program)
	}
	w, err := newWorld(ctx, natlab.Options{Dir: dir}, program, 1)
	if err != nil {
		return stage{}, err
	}
	tell(out, "  helper   a public host, the only one; it introduces and never sees what is inside")
	attic, atticHost, err := w.home(ctx, "attic", natlab.PortRestricted, "--console", "127.0.0.1:"+consolePort)
	if err == nil {
		var cabin *agent
		if cabin, _, err = w.home(ctx, "cabin", natlab.PortRestricted); err == nil {
			tell(out, "  attic    a home behind a port-restricted NAT (verified by RFC 5780)")
			tell(out, "  cabin    another one; 20 ms one way between any two\n")
			dial := func(ctx context.Context) (net.Conn, error) {
				return atticHost.Dial(ctx, "tcp", "127.0.0.1:"+consolePort)
			}
			return stage{attic, cabin, dial, w.close}, nil
		}
	}
	return stage{}, errors.Join(err, w.close())
}

// loopbackStage starts three agents on this machine.
func loopbackStage(ctx context.Context, dir, program string) (stage, error) {
	var started []*agent
	stop := func() error {
		for _, a := range started {
			a.stop()
			a.log.Close()
		}
		return nil
	}
	start := func(name string, args ...string) (*agent, error) {
		a, err := newAgent(dir, program, name, here{}, append(args, "--loopback", "--listen", "127.0.0.1:0")...)
		if err != nil {
			return nil, err
		}
		started = append(started, a)
		return a, a.start(ctx)
	}
	fail := func(err error) (stage, error) { return stage{}, errors.Join(err, stop()) }
	helper, err := start("helper", "--console", "off", "--reachability", "public")
	if err != nil {
		return fail(err)
	}
	link, err := helper.link(ctx)
	if err != nil {
		return fail(err)
	}
	free, err := freePort()
	if err != nil {
		return fail(err)
	}
	attic, err := start("attic", "--console", free, "--bootstrap", link)
	if err != nil {
		return fail(err)
	}
	cabin, err := start("cabin", "--console", "off", "--bootstrap", link)
	if err != nil {
		return fail(err)
	}
	if err := errors.Join(attic.awaitHelpers(ctx, 1), cabin.awaitHelpers(ctx, 1)); err != nil {
		return fail(err)
	}
	dial := func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", free)
	}
	return stage{attic, cabin, dial, stop}, nil
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// bigFile makes a real file of some size: the Go toolchain's own tree.
func bigFile(ctx context.Context, dir string) (string, error) {
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("find the Go tree: %w", err)
	}
	folder := filepath.Join(dir, "share")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	file := filepath.Join(folder, "go.tar")
	tree := string(root[:len(root)-1])
	cmd := exec.CommandContext(ctx, "tar", "-C", tree, "-cf", file, "src", "pkg", "bin")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("pack %s: %w: %s", tree, err, text)
	}
	info, err := os.Stat(file)
	if err == nil && info.Size() < minFile {
		err = fmt.Errorf("%s has only %d bytes", file, info.Size())
	}
	return file, err
}

// buildExample builds one of the example programs for WASI.
func buildExample(ctx context.Context, dir, name string) (string, error) {
	wasm := filepath.Join(dir, name+".wasm")
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w", "-o", wasm, "porchlight/compute/examples/"+name)
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the example %s: %w: %s", name, err, text)
	}
	return wasm, nil
}

// play shows the main job and reports it.
func play(ctx context.Context, out io.Writer, dir string, s stage, file, program string) error {
	if err := s.cabin.run(ctx, nil, "shares", "add", filepath.Dir(file), "--name", "films", "--read", "friends"); err != nil {
		return err
	}
	if err := s.cabin.run(ctx, nil, "donate", "on", "--to", "friends"); err != nil {
		return err
	}
	if err := introduce(ctx, s.attic, s.cabin); err != nil {
		return err
	}
	tell(out, "attic and cabin have added each other by link.")
	var ping api.Ping
	if err := s.attic.run(ctx, &ping, "ping", "cabin", "--until-direct"); err != nil {
		return err
	}
	if err := reportPath(ctx, out, s, ping); err != nil {
		return err
	}
	if err := fetchFile(ctx, out, dir, s, file); err != nil {
		return err
	}
	return runTask(ctx, out, dir, s, program)
}

func reportPath(ctx context.Context, out io.Writer, s stage, p api.Ping) error {
	tell(out, "path          %s   %s → %s", p.Path, p.Local, p.Remote)
	tell(out, "first byte    %.2f s", p.FirstByteMS/1000)
	if p.DirectMS == nil {
		return fmt.Errorf("the path is not direct: %s", p.Reason)
	}
	tell(out, "direct        %.2f s, round trip %.0f ms", *p.DirectMS/1000, p.RTTMS)
	status, err := s.attic.status(ctx)
	if err != nil {
		return err
	}
	tell(out, "reachability  %s, mapping %s, %.1f MB resident", status.Reachability, status.NAT.Mapping, float64(status.RSSBytes)/1e6)
	return nil
}

// transfer is what get prints.
type transfer struct {
	Bytes       int64
	Seconds     float64
	SHA256      string
	Path        string
	FirstByteMS float64 `json:"first_byte_ms"`
	Fetched     int64   `json:"fetched_bytes"`
	Resumed     bool
}

func fetchFile(ctx context.Context, out io.Writer, dir string, s stage, file string) error {
	want, err := hashOf(file)
	if err != nil {
		return err
	}
	var got transfer
	fetched := filepath.Join(dir, "fetched.tar")
	if err := s.attic.run(ctx, &got, "get", "cabin:/films/"+filepath.Base(file), "-o", fetched); err != nil {
		return err
	}
	again, err := hashOf(fetched)
	if err != nil {
		return err
	}
	if got.SHA256 != want || again != want {
		return fmt.Errorf("the file that arrived has another hash: %s instead of %s", again, want)
	}
	tell(out, "file          %.0f MB in %.1f s: %.1f MB/s over the %s path, first byte after %.2f s",
		float64(got.Bytes)/1e6, got.Seconds, float64(got.Bytes)/1e6/got.Seconds, got.Path, got.FirstByteMS/1000)
	tell(out, "sha256        %s… equal on both sides", want[:16])
	return os.Remove(fetched)
}

func runTask(ctx context.Context, out io.Writer, dir string, s stage, program string) error {
	input := filepath.Join(dir, "diary.txt")
	text := "Monday: rain\nTuesday: somebody left the porch light on\nWednesday: rain\n"
	if err := os.WriteFile(input, []byte(text), 0o644); err != nil {
		return err
	}
	results := filepath.Join(dir, "results")
	began := time.Now()
	if err := s.attic.run(ctx, nil, "jobs", "submit", program, "--to", "cabin", "--input", input, "-o", results, "--", "light"); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(results, "*.out"))
	if err != nil || len(files) != 1 {
		return fmt.Errorf("the task left %d results: %w", len(files), err)
	}
	answer, err := os.ReadFile(files[0])
	if err != nil {
		return err
	}
	tell(out, "task          cabin searched a text for attic in %.1f s and answered: %q", time.Since(began).Seconds(), answer)
	return nil
}

// keepConsole lets a browser on this machine see the attic's console until the
// end.
func keepConsole(ctx context.Context, out io.Writer, s stage) error {
	listener, err := net.Listen("tcp", "127.0.0.1:"+consolePort)
	if err != nil {
		if listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	tell(out, "\nThe attic's console: http://%s/   (Ctrl-C ends the demonstration)", listener.Addr())
	for {
		conn, err := listener.Accept()
		if err != nil {
			return nil
		}
		go carry(ctx, conn, s.dial)
	}
}

func carry(ctx context.Context, browser net.Conn, dial func(context.Context) (net.Conn, error)) {
	defer browser.Close()
	console, err := dial(ctx)
	if err != nil {
		return
	}
	defer console.Close()
	go func() {
		io.Copy(console, browser)
		console.Close()
	}()
	io.Copy(browser, console)
}
