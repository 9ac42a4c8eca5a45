package control

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
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"porchlight/agent/api"
	"porchlight/agent/contacts"
	"porchlight/agent/identity"
	"porchlight/agent/introduce"
	"porchlight/agent/join"
	"porchlight/agent/overlay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// files keeps a book in memory; full makes writing fail.
type files struct{ full error }

func (files) ReadJSON(string, any) error    { return nil }
func (f files) WriteJSON(string, any) error { return f.full }

// overlayFunc is an Overlay that only dials.
type overlayFunc func(ctx context.Context, to identity.Address, service string) (net.Conn, error)

func (f overlayFunc) Dial(ctx context.Context, to identity.Address, service string) (net.Conn, error) {
	return f(ctx, to, service)
}
func (overlayFunc) Connected() []identity.Address { return nil }

// paths is one path, which tests change.
type paths struct {
	mu         sync.Mutex
	info       join.Info
	changed    chan struct{}
	remembered []identity.Link
}

func (p *paths) Info(identity.Address) join.Info {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	info := p.info
	info.Changed = p.changed
	return info
}

func (p *paths) become(info join.Info) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.info = info
	if p.changed != nil {
		close(p.changed)
	}
	p.changed = make(chan struct{})
}

func (p *paths) Remember(l identity.Link) { p.remembered = append(p.remembered, l) }
func (p *paths) Prepare(l identity.Link)  { p.remembered = append(p.remembered, l) }

type shares struct{ err error }

func (s shares) List() []api.Share                  { return []api.Share{{Name: "music"}} }
func (s shares) Add(a api.Share) (api.Share, error) { return a, s.err }
func (s shares) Remove(string) error                { return s.err }

type donations struct {
	donate api.Donate
	err    error
}

func (d *donations) Donate() api.Donate { return d.donate }
func (d *donations) SetDonate(to api.Donate) error {
	d.donate = to
	return d.err
}

func device(seed byte) identity.Address {
	return identity.FromSeed(bytes.Repeat([]byte{seed}, 32)).Address()
}

var own, bob, eve = device(1), device(2), device(3)

// config is a Config of fakes with one contact, bob.
func config(t *testing.T) Config {
	t.Helper()
	book, err := contacts.Open(files{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := book.Add(identity.Link{Address: bob}, "bob", contacts.Friend); err != nil {
		t.Fatal(err)
	}
	return Config{
		Address:  own,
		Status:   func() api.Status { return api.Status{Address: own.String(), Contacts: []api.Contact{{Name: "bob"}}} },
		Netcheck: func(context.Context) api.Netcheck { return api.Netcheck{Verdict: api.Public} },
		Contacts: book,
		Overlay: overlayFunc(func(context.Context, identity.Address, string) (net.Conn, error) {
			return nil, errors.New("dialled without need")
		}),
		Paths:    &paths{},
		Shares:   shares{},
		Work:     &donations{},
		Requests: &requests{},
		Devices:  &household{},
		Messages: &texts{},
		Services: &exposed{},
		Best: func(_ context.Context, l identity.Link) (identity.Address, error) {
			if l.Address == nowhere {
				return identity.Address{}, errors.New("no device answers")
			}
			return l.Address, nil
		},
		Lookup: func(_ context.Context, l identity.Link, w LookupWish) (api.Lookup, error) {
			return api.Lookup{Address: l.Address.String(), Source: map[bool]string{true: "dht", false: "cache"}[w.Fresh]}, nil
		},
		HangUp: func(identity.Address) {},
		Logger: slog.New(slog.DiscardHandler),
	}
}

// ask makes one request and returns the status and the body.
func ask(s *Server, method, path, body string) (int, string) {
	w := httptest.NewRecorder()
	s.local.ServeHTTP(w, httptest.NewRequest(method, "/api/v1/"+path, strings.NewReader(body)))
	return w.Code, w.Body.String()
}

func TestAnswers(t *testing.T) {
	for _, c := range []struct{ method, path, body, want string }{
		{"GET", "status", "", `"address":"` + own.String()},
		{"GET", "netcheck", "", `"verdict":"public"`},
		{"GET", "resolve?peer=bob", "", `{"address":"` + bob.String() + `"}`},
		{"GET", "resolve?peer=" + eve.String(), "", eve.String()},
		{"GET", "path?peer=bob", "", `"path":"relay"`},
		{"GET", "contacts", "", `[{"name":"bob"`},
		{"POST", "contacts", `{"link":"porchlight:` + eve.String() + `","name":"eve","role":"none"}`, `"name":"eve"`},
		{"DELETE", "contacts/bob", "", `{}`},
		{"PUT", "contacts/bob/blocked", "true", `{}`},
		{"GET", "shares", "", `[{"name":"music"`},
		{"POST", "shares", `{"name":"new","dir":"/x","read":["me"],"write":[]}`, `"name":"new"`},
		{"DELETE", "shares/music", "", `{}`},
		{"GET", "donate", "", `{"enabled":false`},
		{"PUT", "donate", `{"enabled":true,"to":["me"]}`, `{"enabled":true,"to":["me"]}`},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			cfg := config(t)
			cfg.Paths = &paths{info: join.Info{Path: "relay"}}
			code, body := ask(New(cfg), c.method, c.path, c.body)
			if code != http.StatusOK || !strings.Contains(body, c.want) {
				t.Errorf("%d %s", code, body)
			}
		})
	}
}

func TestErrorsHaveACodeAndANextStep(t *testing.T) {
	dial := func(err error) func(*Config) {
		return func(c *Config) {
			c.Overlay = overlayFunc(func(context.Context, identity.Address, string) (net.Conn, error) { return nil, err })
		}
	}
	same := func(*Config) {}
	for _, c := range []struct {
		name, method, path, body string
		change                   func(*Config)
		status                   int
		code, text               string
	}{
		{"unknown name", "GET", "resolve?peer=nobody", "", same, 404, "not_found", "porchlight contacts list"},
		{"no peer", "GET", "resolve", "", same, 404, "not_found", "no such contact"},
		{"mistyped address", "GET", "resolve?peer=b" + bob.String()[1:], "", same, 400, "invalid", "not an address"},
		{"mistyped link", "GET", "resolve?peer=porchlight:x", "", same, 400, "invalid", "not a"},
		{"own address", "GET", "resolve?peer=" + own.String(), "", same, 400, "invalid", "name another device"},
		{"own link", "POST", "contacts", `{"link":"porchlight:` + own.String() + `","name":"me2"}`, same, 400, "invalid", "own"},
		{"taken name", "POST", "contacts", `{"link":"porchlight:` + eve.String() + `","name":"bob"}`, same, 400, "invalid", "choose another"},
		{"unknown role", "POST", "contacts", `{"link":"porchlight:` + eve.String() + `","name":"e","role":"king"}`, same, 400, "invalid", "use me, friend or none"},
		{"unknown field", "POST", "contacts", `{"lonk":"x"}`, same, 400, "invalid", `unknown field "lonk"`},
		{"unknown field of a share", "POST", "shares", `{"name":"x","path":"y"}`, same, 400, "invalid", `unknown field "path"`},
		{"no JSON", "PUT", "donate", `yes`, same, 400, "invalid", "invalid character"},
		{"no body", "PUT", "contacts/bob/blocked", ``, same, 400, "invalid", "EOF"},
		{"remove unknown", "DELETE", "contacts/nobody", "", same, 404, "not_found", "no such contact"},
		{"block unknown", "PUT", "contacts/nobody/blocked", "true", same, 404, "not_found", "no such contact"},
		{"share refused", "POST", "shares", `{}`, func(c *Config) { c.Shares = shares{Invalid(errors.New("choose another with --name"))} }, 400, "invalid", "--name"},
		{"share missing", "DELETE", "shares/x", "", func(c *Config) { c.Shares = shares{NotFound(errors.New("list them"))} }, 404, "not_found", "list them"},
		{"disk full", "PUT", "donate", `{}`, func(c *Config) { c.Work = &donations{err: errors.New("disk full")} }, 500, "failed", "disk full"},
		{"nobody answers", "GET", "dial?peer=bob&service=x", "", dial(errors.New("no route")), 504, "timeout", "it may be off"},
		{"no way", "GET", "dial?peer=bob&service=x", "", dial(join.ErrNoWay), 504, "timeout", "it may be off"},
		{"two causes", "GET", "dial?peer=bob&service=x", "", dial(errors.Join(errors.New("one"), errors.New("two"))), 504, "timeout", "one; two"},
		{"out of time", "GET", "ping?peer=bob", "", dial(context.DeadlineExceeded), 504, "timeout", "deadline"},
		{"refused by the peer", "GET", "ping?peer=bob", "", dial(introduce.ErrRefused), 403, "not_allowed", "refused"},
		{"no such service", "GET", "dial?peer=bob&service=x", "", dial(overlay.ErrNoService), 500, "failed", "does not offer"},
		{"strange timeout", "GET", "ping?peer=bob&timeout=soon", "", same, 400, "invalid", "no duration up to"},
		{"timeout too long", "GET", "ping?peer=bob&timeout=10m1s", "", same, 400, "invalid", "no duration up to 10m"},
		{"ping of nobody", "GET", "ping?peer=nobody", "", same, 404, "not_found", "no such contact"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := config(t)
			c.change(&cfg)
			status, body := ask(New(cfg), c.method, c.path, c.body)
			var p Problem
			if err := json.Unmarshal([]byte(body), &p); err != nil {
				t.Fatalf("%q: %v", body, err)
			}
			if status != c.status || p.Code != c.code || !strings.Contains(p.Error, c.text) || strings.Contains(p.Error, "\n") {
				t.Errorf("%d %q: %s", status, p.Code, p.Error)
			}
		})
	}
}

func TestABlockedDeviceIsHungUpAndNotCalled(t *testing.T) {
	cfg := config(t)
	var hungUp []identity.Address
	cfg.HangUp = func(a identity.Address) { hungUp = append(hungUp, a) }
	s := New(cfg)
	for _, name := range []string{"bob", eve.String()} {
		if status, body := ask(s, "PUT", "contacts/"+name+"/blocked", "true"); status != http.StatusOK {
			t.Fatalf("block %s: %d %s", name, status, body)
		}
		for _, path := range []string{"resolve", "path", "ping", "dial"} {
			status, body := ask(s, "GET", path+"?peer="+name, "")
			if status != http.StatusForbidden || !strings.Contains(body, "porchlight contacts unblock") {
				t.Errorf("%s of a blocked device: %d %s", path, status, body)
			}
		}
	}
	if len(hungUp) != 2 || hungUp[0] != bob || hungUp[1] != eve {
		t.Errorf("hung up %v", hungUp)
	}
	ask(s, "PUT", "contacts/bob/blocked", "false")
	if status, _ := ask(s, "GET", "resolve?peer=bob", ""); status != http.StatusOK || len(hungUp) != 2 {
		t.Errorf("after unblocking: %d, hung up %d times", status, len(hungUp))
	}
}

func TestALinkIsRememberedWhenItIsUsed(t *testing.T) {
	cfg := config(t)
	p := &paths{}
	cfg.Paths = p
	link := "porchlight:" + eve.String() + "?at=44.128.0.7:4001"
	if status, body := ask(New(cfg), "GET", "resolve?peer="+link, ""); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	if len(p.remembered) != 1 || len(p.remembered[0].At) != 1 {
		t.Errorf("remembered %v", p.remembered)
	}
}

func TestBodiesAreLimited(t *testing.T) {
	s := New(config(t))
	body := func(size int) string {
		const frame = `{"name":"","dir":"","read":[],"write":[]}`
		return strings.Replace(frame, `""`, `"`+strings.Repeat("n", size-len(frame))+`"`, 1)
	}
	for size, want := range map[int]int{maxBody - 1: 200, maxBody: 200, maxBody + 1: 400} {
		if status, answer := ask(s, "POST", "shares", body(size)); status != want {
			t.Errorf("%d bytes: %d %.80s", size, status, answer)
		}
	}
}

func TestTheConsoleCannotDial(t *testing.T) {
	s := New(config(t))
	for _, path := range []string{"dial?peer=bob&service=x", "ping?peer=bob"} {
		w := httptest.NewRecorder()
		s.Routes().ServeHTTP(w, httptest.NewRequest("GET", "/api/v1/"+path, nil))
		if w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

// serve starts a server on a socket in a new folder.
func serve(t *testing.T, cfg Config) (*Server, string) {
	t.Helper()
	s, path := New(cfg), filepath.Join(t.TempDir(), Socket)
	if err := s.Start(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, path
}

func TestTheSocketIsTheOwnersAndReplacesAStaleOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), Socket)
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	s := New(config(t))
	if err := s.Start(path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	for range 2 {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if _, err := net.Dial("unix", path); err == nil {
		t.Error("still answered after Close")
	}
}

func TestPathsOfSocketsAreLimited(t *testing.T) {
	for length, fits := range map[int]bool{maxPath - 1: true, maxPath: true, maxPath + 1: false} {
		t.Run(fmt.Sprint(length), func(t *testing.T) {
			dir, err := os.MkdirTemp("/tmp", "")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			s := New(config(t))
			defer s.Close()
			err = s.Start(dir + "/" + strings.Repeat("s", length-len(dir)-1))
			if fits != (err == nil) {
				t.Errorf("%d bytes: %v", length, err)
			}
			if err != nil && !strings.Contains(err.Error(), "shorter folder with --state") {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestAFailedStartCanBeClosed(t *testing.T) {
	s := New(config(t))
	if err := s.Start(filepath.Join(t.TempDir(), "missing", Socket)); err == nil {
		t.Error("listens in a missing folder")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// streamTo returns an Overlay of which every stream leads to handle.
func streamTo(t *testing.T, handle func(*net.TCPConn)) overlayFunc {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { defer conn.Close(); handle(conn.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() { listener.Close(); running.Wait() })
	return func(ctx context.Context, to identity.Address, service string) (net.Conn, error) {
		if to != bob || service != "echo" {
			return nil, fmt.Errorf("dialled %s of %s", service, to)
		}
		return new(net.Dialer).DialContext(ctx, "tcp", listener.Addr().String())
	}
}

// upgrade dials the echo service of bob; behind comes in the same write as
// the request.
func upgrade(t *testing.T, path, behind string) (*net.UnixConn, *bufio.Reader) {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	request := "GET /api/v1/dial?peer=bob&service=echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: " + Upgrade + "\r\n\r\n"
	if _, err := io.WriteString(conn, request+behind); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols || response.Header.Get("Upgrade") != Upgrade {
		t.Fatalf("%v %v", response, err)
	}
	return conn, reader
}

func TestAStreamCarriesBothWaysAndEndsHalfByHalf(t *testing.T) {
	cfg := config(t)
	cfg.Overlay = streamTo(t, func(conn *net.TCPConn) {
		// The answer comes only after all of the question: half of the
		// stream ends before the other.
		question, _ := io.ReadAll(conn)
		conn.Write(bytes.ToUpper(question))
	})
	_, path := serve(t, cfg)
	conn, reader := upgrade(t, path, "early ")
	text := strings.Repeat("porch light ", 50_000)
	go func() {
		io.WriteString(conn, text)
		conn.CloseWrite()
	}()
	answer, err := io.ReadAll(reader)
	if want := strings.ToUpper("early " + text); err != nil || string(answer) != want {
		t.Errorf("%d bytes of %d, %v", len(answer), len(want), err)
	}
}

func TestCloseEndsStreamsAlsoStuckOnes(t *testing.T) {
	before := goleak.IgnoreCurrent()
	cfg := config(t)
	full := make(chan struct{})
	cfg.Overlay = overlayFunc(func(context.Context, identity.Address, string) (net.Conn, error) {
		return &stuck{full: full, released: make(chan struct{})}, nil
	})
	s, path := serve(t, cfg)
	conn, reader := upgrade(t, path, "more than the peer takes")
	<-full
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("Close waits for a peer that takes nothing")
	}
	if _, err := io.Copy(io.Discard, reader); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the command sees %v", err)
	}
	conn.Close()
	if err := goleak.Find(before); err != nil {
		t.Error(err)
	}
}

// stuck is a stream whose peer sends nothing and takes nothing. Like those of
// the overlay, a Write that waits is ended by a deadline but not by Close.
type stuck struct {
	net.Conn
	full     chan struct{}
	released chan struct{}
	once     sync.Once
}

func (s *stuck) Read([]byte) (int, error) {
	<-s.released
	return 0, os.ErrDeadlineExceeded
}

func (s *stuck) Write([]byte) (int, error) {
	close(s.full)
	<-s.released
	return 0, os.ErrDeadlineExceeded
}

func (s *stuck) SetDeadline(time.Time) error {
	s.once.Do(func() { close(s.released) })
	return nil
}

func (s *stuck) Close() error { return nil }

func TestCloseEndsACallThatNobodyAnswers(t *testing.T) {
	for _, path := range []string{"dial?peer=bob&service=echo", "ping?peer=bob&timeout=10m"} {
		cfg := config(t)
		calling := make(chan struct{})
		cfg.Overlay = overlayFunc(func(ctx context.Context, _ identity.Address, _ string) (net.Conn, error) {
			close(calling)
			<-ctx.Done()
			return nil, ctx.Err()
		})
		s, socket := serve(t, cfg)
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET /api/v1/%s HTTP/1.1\r\nHost: x\r\n\r\n", path)
		<-calling
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// echoing is an Overlay whose every service echoes.
func echoing() overlayFunc {
	return func(context.Context, identity.Address, string) (net.Conn, error) {
		here, there := net.Pipe()
		go func() {
			defer there.Close()
			io.Copy(there, there)
		}()
		return here, nil
	}
}

func TestPingFollowsThePathUntilItIsDirect(t *testing.T) {
	cfg := config(t)
	cfg.Overlay = echoing()
	p := &paths{info: join.Info{Path: "relay", Reason: api.Trying}}
	cfg.Paths = p
	_, socket := serve(t, cfg)
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /api/v1/ping?peer=bob&until_direct=true HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	d := json.NewDecoder(response.Body)
	var first, last api.Ping
	if err := d.Decode(&first); err != nil || first.Path != "relay" || first.Reason != api.Trying || first.DirectMS != nil {
		t.Fatalf("%+v, %v", first, err)
	}
	p.become(join.Info{Path: "direct", Local: "host 10.0.0.1:1", Remote: "srflx 44.128.0.7:4001"})
	if err := d.Decode(&last); err != nil || last.Path != "direct" || last.DirectMS == nil || last.Local == "" || last.Remote == "" {
		t.Fatalf("%+v, %v", last, err)
	}
	if err := d.Decode(&last); !errors.Is(err, io.EOF) {
		t.Errorf("after the last: %v", err)
	}
}

func TestPingEnds(t *testing.T) {
	for name, c := range map[string]struct {
		info  join.Info
		query string
	}{
		"when nothing more is asked":      {join.Info{Path: "relay", Reason: api.Trying}, ""},
		"when direct is known impossible": {join.Info{Path: "relay", Reason: api.BothRandom, Hopeless: true}, "&until_direct=true"},
		"when its time is over":           {join.Info{Path: "relay", Reason: api.Trying}, "&until_direct=true&timeout=50ms"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			cfg.Overlay = echoing()
			cfg.Paths = &paths{info: c.info}
			status, body := ask(New(cfg), "GET", "ping?peer=bob"+c.query, "")
			var p api.Ping
			if err := json.Unmarshal([]byte(body), &p); err != nil || status != http.StatusOK || p.Path != "relay" || p.DirectMS != nil || p.Reason != c.info.Reason {
				t.Errorf("%d %s %v", status, body, err)
			}
		})
	}
}
