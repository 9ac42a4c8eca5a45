package app

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/fx"
	"go.uber.org/goleak"

	"porchlight/agent/api"
	"porchlight/agent/config"
	"porchlight/agent/control"
	"porchlight/agent/reach"
	"porchlight/agent/state"
	"porchlight/compute/sandbox"
)

// runVariable makes this test binary an agent with the configuration that the
// variable holds.
const runVariable = "PORCHLIGHT_TEST_RUN"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == sandbox.ChildArgument {
		os.Exit(sandbox.ChildMain())
	}
	if text := os.Getenv(runVariable); text != "" {
		os.Exit(runAsAgent(text))
	}
	goleak.VerifyTestMain(m)
}

func runAsAgent(text string) int {
	var cfg config.Config
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if err := Run(context.Background(), cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// loopback is the configuration of an agent for tests.
func loopback(t *testing.T) config.Config {
	cfg := config.Default()
	cfg.Gateway, cfg.LAN, cfg.DHTNodes = "off", "off", []string{"none"}
	cfg.State = t.TempDir()
	cfg.Listen = "127.0.0.1:0"
	cfg.Console = "off"
	cfg.Loopback = true
	return cfg
}

// agent is an agent in this process.
type agent struct {
	t    *testing.T
	cfg  config.Config
	app  *fx.App
	http *http.Client
	once bool
}

func start(t *testing.T, cfg config.Config) *agent {
	t.Helper()
	a := &agent{t: t, cfg: cfg, app: fx.New(graph(cfg, slog.New(slog.DiscardHandler), &held{}))}
	if err := a.app.Start(t.Context()); err != nil {
		t.Fatal(startError(err))
	}
	t.Cleanup(func() { a.stop() })
	a.http = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", a.socket())
		},
	}}
	return a
}

func (a *agent) socket() string { return filepath.Join(a.cfg.State, control.Socket) }

// stop stops the agent and returns how long that took.
func (a *agent) stop() time.Duration {
	a.t.Helper()
	if a.once {
		return 0
	}
	a.once = true
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	if err := a.app.Stop(ctx); err != nil {
		a.t.Errorf("stop: %v", err)
	}
	return time.Since(began)
}

// ask makes one request of the API.
func (a *agent) ask(method, path string, in, out any) {
	a.t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		a.t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(a.t.Context(), method, "http://agent/api/v1/"+path, bytes.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	response, err := a.http.Do(request)
	if err != nil {
		a.t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		a.t.Fatalf("%s %s: %s %s %v", method, path, response.Status, answer, err)
	}
	if out != nil {
		if err := json.Unmarshal(answer, out); err != nil {
			a.t.Fatal(err)
		}
	}
}

func (a *agent) status() (s api.Status) {
	a.t.Helper()
	a.ask(http.MethodGet, "status", nil, &s)
	return s
}

// until polls the status for a condition.
func (a *agent) until(what string, ok func(api.Status) bool) api.Status {
	a.t.Helper()
	deadline, tick := time.After(30*time.Second), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for {
		s := a.status()
		if ok(s) {
			return s
		}
		select {
		case <-tick.C:
		case <-deadline:
			a.t.Fatalf("never %s: %+v", what, s)
		}
	}
}

// dial opens a raw stream to a service of a peer.
func (a *agent) dial(peer, service string) net.Conn {
	a.t.Helper()
	conn, err := net.Dial("unix", a.socket())
	if err != nil {
		a.t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET /api/v1/dial?peer=%s&service=%s HTTP/1.1\r\nHost: agent\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", peer, service, control.Upgrade)
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		a.t.Fatalf("dial: %v %v", response, err)
	}
	return &buffered{conn, reader}
}

type buffered struct {
	net.Conn
	from io.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.from.Read(p) }

func TestTheGraphIsComplete(t *testing.T) {
	if err := fx.ValidateApp(graph(loopback(t), slog.New(slog.DiscardHandler), &held{})); err != nil {
		t.Fatal(err)
	}
}

func TestMainStaysShort(t *testing.T) {
	b, err := os.ReadFile("../main.go")
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(b, []byte("\n")); n >= 40 {
		t.Errorf("agent/main.go has %d lines: it only hands over to package cli; put the rest there", n)
	}
}

func TestAnAgentAnswersAndLeavesNothingBehind(t *testing.T) {
	before := goleak.IgnoreCurrent()
	cfg := loopback(t)
	cfg.Console = "127.0.0.1:0"
	a := start(t, cfg)
	s := a.status()
	if len(s.Address) != 56 || s.Listen == "" || s.Name != cfg.Name || s.RSSBytes < 1<<20 {
		t.Errorf("status %+v", s)
	}
	if took := a.stop(); took > stopLimit {
		t.Errorf("stopping took %v", took)
	}
	if _, err := os.Stat(a.socket()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the control socket is still there: %v", err)
	}
	if err := goleak.Find(before); err != nil {
		t.Error(err)
	}
}

// pair starts two agents that know each other; b has the other's rendezvous.
func pair(t *testing.T) (a, b *agent) {
	t.Helper()
	cfg := loopback(t)
	cfg.Reachability = reach.Public
	a = start(t, cfg)
	link := a.until("public", func(s api.Status) bool { return s.Reachability == api.Public }).Link
	cfg = loopback(t)
	cfg.Bootstrap = []string{link}
	b = start(t, cfg)
	s := b.until("registered", func(s api.Status) bool { return len(s.Helpers) == 1 && s.Helpers[0].Online })
	a.ask(http.MethodPost, "contacts", map[string]string{"link": s.Link, "name": "bob", "role": "friend"}, nil)
	b.ask(http.MethodPost, "contacts", map[string]string{"link": link, "name": "alice", "role": "friend"}, nil)
	return a, b
}

func TestAgentsStopInTimeWhileBusy(t *testing.T) {
	for name, first := range map[string]string{"the one that serves": "a", "the one that fetches": "b", "both at once": "both"} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			// A stream that is open and a transfer that cannot end: what is
			// fetched is not read.
			dir := t.TempDir()
			file, err := os.Create(filepath.Join(dir, "large"))
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(file.Truncate(64<<20), file.Close()); err != nil {
				t.Fatal(err)
			}
			a.ask(http.MethodPost, "shares", api.Share{Name: "pub", Dir: dir, Read: []string{"bob"}}, nil)
			idle := b.dial("alice", control.PingService)
			defer idle.Close()
			busy := b.dial("alice", ShareService)
			defer busy.Close()
			fmt.Fprint(busy, "GET /pub/large HTTP/1.1\r\nHost: alice\r\n\r\n")
			response, err := http.ReadResponse(bufio.NewReader(busy), nil)
			if err != nil || response.StatusCode != http.StatusOK {
				t.Fatalf("%+v, %v", response, err)
			}
			a.until("transferring", func(s api.Status) bool { return len(s.Transfers) == 1 })

			switch first {
			case "a":
				timely(t, a.stop())
				timely(t, b.stop())
			case "b":
				timely(t, b.stop())
				timely(t, a.stop())
			default:
				done := make(chan time.Duration)
				go func() { done <- a.stop() }()
				timely(t, b.stop())
				timely(t, <-done)
			}
			if _, err := io.Copy(io.Discard, idle); err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the open stream: %v", err)
			}
		})
	}
}

func timely(t *testing.T, took time.Duration) {
	t.Helper()
	t.Logf("stopped after %v", took)
	if took > stopLimit {
		t.Errorf("stopping took %v", took)
	}
}

func TestThePortIsKept(t *testing.T) {
	cfg := loopback(t)
	cfg.Listen = ""
	first := start(t, cfg)
	listen := first.status().Listen
	first.stop()
	second := start(t, cfg)
	if got := second.status().Listen; got != listen {
		t.Errorf("first at %s, then at %s", listen, got)
	}
}

func TestASecondAgentOnTheSameFolderIsRefused(t *testing.T) {
	cfg := loopback(t)
	start(t, cfg)
	err := Run(t.Context(), cfg)
	if !errors.Is(err, state.ErrInUse) || !strings.Contains(err.Error(), cfg.State) {
		t.Errorf("second agent: %v", err)
	}
}

func TestStartErrorsSayWhatToDo(t *testing.T) {
	taken, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for want, change := range map[string]func(*config.Config){
		"choose another with --listen":   func(c *config.Config) { c.Listen = taken.LocalAddr().String() },
		"choose another with --console":  func(c *config.Config) { c.Console = listener.Addr().String() },
		"choose a shorter folder":        func(c *config.Config) { c.State = filepath.Join(c.State, strings.Repeat("x", 107)) },
		"choose another with --work":     func(c *config.Config) { c.Work = "/dev/null/work" },
		"is not auto, public or private": func(c *config.Config) { c.Reachability = "perhaps" },
		"restore it, or move it away": func(c *config.Config) {
			os.WriteFile(filepath.Join(c.State, "contacts.json"), []byte("{"), 0o600)
		},
	} {
		t.Run(want, func(t *testing.T) {
			before := goleak.IgnoreCurrent()
			cfg := loopback(t)
			change(&cfg)
			err := Run(t.Context(), cfg)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v", err)
			}
			if err := goleak.Find(before); err != nil {
				t.Error(err)
			}
			folder, err := state.Open(cfg.State)
			if err != nil {
				t.Fatalf("the folder stayed locked: %v", err)
			}
			folder.Close()
		})
	}
}

func TestSIGTERMEndsItInTime(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg := loopback(t)
	text, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), runVariable+"="+string(text))
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); errors.Is(err, syscall.ENOEXEC) {
		t.Skip("the kernel cannot start this foreign binary by itself: no binfmt_misc entry")
	} else if err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	waitForSocket(t, filepath.Join(cfg.State, control.Socket))
	began := time.Now()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v\n%s", err, log.Bytes())
	}
	timely(t, time.Since(began))
}

func waitForSocket(t *testing.T, path string) {
	t.Helper()
	deadline, tick := time.After(30*time.Second), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for {
		if conn, err := net.Dial("unix", path); err == nil {
			conn.Close()
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("nothing listens at %s", path)
		}
	}
}
