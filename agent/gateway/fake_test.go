package gateway

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"porchlight/agent/identity"
	"porchlight/share"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func address(n byte) identity.Address {
	seed := sha256.Sum256([]byte{n})
	return identity.FromSeed(seed[:]).Address()
}

var (
	bob, alice, carol = address(1), address(2), address(3)
	names             = map[string]identity.Address{"bob": bob, "alice": alice, "carol": carol, bob.String(): bob}
)

var errAway = errors.New("no way to the device was found")

// world is a gateway and the contacts that answer it.
type world struct {
	gateway *Gateway
	server  *httptest.Server
	port    string
}

// newWorld serves bob and alice by handlers; carol is away.
func newWorld(t testing.TB, handlers map[identity.Address]http.Handler) *world {
	t.Helper()
	peers := map[string]string{}
	for a, h := range handlers {
		s := httptest.NewUnstartedServer(h)
		// Hostile answers are no news.
		s.Config.ErrorLog = nil
		s.Start()
		t.Cleanup(s.Close)
		peers[a.String()] = s.Listener.Addr().String()
	}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, hostport string) (net.Conn, error) {
			host, _, _ := net.SplitHostPort(hostport)
			if peers[host] == "" {
				return nil, errAway
			}
			return (&net.Dialer{}).DialContext(ctx, network, peers[host])
		},
		DisableCompression:     true,
		MaxResponseHeaderBytes: 16 << 10,
	}
	t.Cleanup(transport.CloseIdleConnections)
	g := New(Config{
		Resolve: func(_ context.Context, name string) (identity.Address, error) {
			if a, ok := names[name]; ok {
				return a, nil
			}
			return identity.Address{}, fmt.Errorf("%q: %w", name, ErrUnknown)
		},
		Client: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		Contacts: func() []Entry {
			return []Entry{
				{Name: "Bob", Label: "bob", Online: true},
				{Name: "Alice & <Co>", Label: "alice"},
				{Name: "Carol", Label: "carol", LastSeenUnixMS: time.Now().Add(-3 * time.Hour).UnixMilli()},
			}
		},
	})
	s := httptest.NewUnstartedServer(nil)
	s.Config = g.Server()
	s.Start()
	t.Cleanup(s.Close)
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	return &world{gateway: g, server: s, port: port}
}

// host is NAME.localhost or localhost, with the port.
func (w *world) host(name string) string {
	if name != "" {
		name += "."
	}
	return name + "localhost:" + w.port
}

// path is the prefix of a contact's pages in the form by path.
func (w *world) path(name string) string { return "/~" + name + "." + w.gateway.token(name) }

// ask sends a request; headers are "Name: value".
func (w *world) ask(t testing.TB, method, host, path string, headers ...string) (*http.Response, string) {
	t.Helper()
	return w.put(t, method, host, path, nil, headers...)
}

// put writes the request as it is: hostile paths, hosts and headers too.
func (w *world) put(t testing.TB, method, host, path string, content io.Reader, headers ...string) (*http.Response, string) {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", w.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	text := method + " " + path + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n"
	for _, h := range headers {
		if h != "" {
			text += h + "\r\n"
		}
	}
	switch c := content.(type) {
	case nil:
		text += "\r\n"
	case *strings.Reader:
		b, _ := io.ReadAll(c)
		text += fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(b), b)
	default:
		b, _ := io.ReadAll(c)
		text += fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(b), b)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		b = append(b, (" cut: " + err.Error())...)
	}
	return resp, string(b)
}

const browserAccept = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"

// grants of the share service: everybody reads, "drop" may be written to.
type grants struct{}

func (grants) Allows(_ *http.Request, who []string) bool { return len(who) > 0 }

// memory keeps the list of shares.
type memory struct{}

func (memory) Load() ([]share.Share, error) { return nil, nil }
func (memory) Save([]share.Share) error     { return nil }

// shares makes folders and serves them with the real handler.
func shares(t testing.TB, files map[string]string) http.Handler {
	t.Helper()
	dir := t.TempDir()
	list, err := share.Open(memory{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	made := map[string]bool{}
	for name, content := range files {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		top, _, _ := strings.Cut(name, "/")
		if made[top] {
			continue
		}
		made[top] = true
		var write []string
		if top == "drop" {
			write = []string{"everybody"}
		}
		if _, err := list.Add(filepath.Join(dir, top), top, []string{"everybody"}, write); err != nil {
			t.Fatal(err)
		}
	}
	return share.NewHandler(share.Config{Shares: list, Grants: grants{}, MinFree: -1})
}
