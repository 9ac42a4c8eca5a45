package portmap

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// helperEnv makes the test binary run a Mapper instead of tests: a Mapper has
// to be inside its network namespace with all its goroutines.
const helperEnv = "PORTMAP_TEST_HELPER"

func TestMain(m *testing.M) {
	if setup := os.Getenv(helperEnv); setup != "" {
		if err := helper([]byte(setup)); err != nil {
			fmt.Fprintln(os.Stderr, "helper:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// The tests wait for routers most of the time.
	flag.Parse()
	flag.Set("test.parallel", "20")
	goleak.VerifyTestMain(m)
}

// helperConfig is what a helper is started with.
type helperConfig struct {
	UDP, TCP   uint16
	Secret     byte
	Lease      time.Duration
	Check      time.Duration
	NoAnnounce bool
}

// helperLine is what a helper prints at each change.
type helperLine struct {
	State State
	After time.Duration // since Start
	Heap  uint64        // highest seen, in bytes
}

// helper runs a Mapper with echo servers on its ports. It prints the State at
// each change and obeys lines on standard input.
func helper(setup []byte) error {
	var hc helperConfig
	if err := json.Unmarshal(setup, &hc); err != nil {
		return err
	}
	if err := echo(hc.UDP, hc.TCP); err != nil {
		return err
	}
	cfg := Config{UDPPort: hc.UDP, TCPPort: hc.TCP}
	cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	cfg.Secret[0] = hc.Secret
	heap := watchHeap()
	m := New(cfg)
	m.pace.announceDelay = time.Millisecond
	m.pace.announceRest = 100 * time.Millisecond
	if hc.Lease != 0 {
		m.pace.lease, m.pace.minRenew = hc.Lease, time.Second
	}
	if hc.Check != 0 {
		m.pace.check, m.pace.checkAgain = hc.Check, hc.Check/4
	}
	if hc.NoAnnounce {
		m.heard = nil
	}
	start := time.Now()
	m.Start()
	go obey(m)
	out := json.NewEncoder(os.Stdout)
	for {
		changed := m.Changed()
		out.Encode(helperLine{m.State(), time.Since(start), heap()})
		select {
		case <-changed:
		case <-m.ctx.Done():
			return m.Close()
		}
	}
}

// obey does what the test says; the end of input is Close.
func obey(m *Mapper) {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		word, rest, _ := strings.Cut(in.Text(), " ")
		switch word {
		case "refresh":
			m.Refresh()
		case "distrust":
			var mapping Mapping
			json.Unmarshal([]byte(rest), &mapping)
			m.Distrust(mapping)
		case "crash":
			os.Exit(3)
		}
	}
	m.Close()
}

// echo serves both transports on all addresses.
func echo(udp, tcp uint16) error {
	pc, err := net.ListenPacket("udp", fmt.Sprintf(":%d", udp))
	if err != nil {
		return err
	}
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			pc.WriteTo(b[:n], from)
		}
	}()
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", tcp))
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	return nil
}

// awaitLimit is when a test gives up. It says nothing about speed: the machine
// may be busy with many namespaces at once.
const awaitLimit = 20 * time.Second

// device is a Mapper in a process of its own.
type device struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan helperLine
	last  helperLine
	log   lockedLog
	done  chan struct{}
	once  sync.Once
}

type lockedLog struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// startDevice runs a helper in the namespace.
func startDevice(t *testing.T, ns string, hc helperConfig) *device {
	t.Helper()
	setup, _ := json.Marshal(hc)
	d := &device{t: t, cmd: exec.Command("ip", "netns", "exec", ns, os.Args[0]), lines: make(chan helperLine, 1024), done: make(chan struct{})}
	d.cmd.Env = append(os.Environ(), helperEnv+"="+string(setup))
	d.cmd.Stderr = &d.log
	d.in, _ = d.cmd.StdinPipe()
	out, _ := d.cmd.StdoutPipe()
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(d.done)
		dec := json.NewDecoder(out)
		for {
			var l helperLine
			if dec.Decode(&l) != nil {
				break
			}
			d.lines <- l
		}
		d.cmd.Wait()
	}()
	t.Cleanup(func() {
		d.stop()
		if t.Failed() || os.Getenv("PORTMAP_TEST_LOG") != "" {
			t.Logf("log of the device:\n%s", d.log.String())
		}
	})
	return d
}

// await returns the first State that satisfies ok, beginning with the last one
// seen. States that follow each other fast may be seen as one.
func (d *device) await(what string, ok func(State) bool) helperLine {
	d.t.Helper()
	timeout := time.After(awaitLimit)
	for !ok(d.last.State) {
		select {
		case d.last = <-d.lines:
		case <-timeout:
			d.t.Fatalf("after %v not %s: %+v", awaitLimit, what, d.last.State)
		case <-d.done:
			d.t.Fatalf("device ended before it was %s: %+v", what, d.last.State)
		}
	}
	return d.last
}

func (d *device) say(line string) { fmt.Fprintln(d.in, line) }

// stop closes the Mapper and waits for the process.
func (d *device) stop() {
	d.once.Do(func() {
		d.in.Close()
		select {
		case <-d.done:
		case <-time.After(awaitLimit):
			d.cmd.Process.Kill()
			<-d.done
			d.t.Errorf("device did not stop within %v", awaitLimit)
		}
	})
}
