package overlay_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"go.uber.org/goleak"

	"porchlight/agent/identity"
	"porchlight/agent/overlay"
	"porchlight/nat"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// places is a Finder that knows where everybody is.
type places struct {
	socket *nat.Socket
	mu     sync.Mutex
	at     map[identity.Address]netip.AddrPort
	wrong  int
}

func (p *places) put(a identity.Address, at netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at[a] = at
}

func (p *places) Find(_ context.Context, to identity.Address) (*nat.Peer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok := p.at[to]
	if !ok {
		return nil, errors.New("nowhere to be found")
	}
	peer := p.socket.NewPeer()
	return peer, peer.SetPath(nat.Path{Kind: nat.KindDirect, Addr: at})
}

func (p *places) Adopt(_ identity.Address, remote net.Addr) *nat.Peer {
	return p.socket.Adopt(remote.(*net.UDPAddr).AddrPort())
}

func (p *places) Ended(_ identity.Address, peer *nat.Peer) { peer.Close() }

func (p *places) Wrong(_ identity.Address, peer *nat.Peer) {
	p.mu.Lock()
	p.wrong++
	p.mu.Unlock()
	peer.Close()
}

type end struct {
	*overlay.Overlay
	device *identity.Device
	places *places
	at     netip.AddrPort
	close  func()
}

func newEnd(t *testing.T, seed byte, listen string, admit func(identity.Address) error) *end {
	t.Helper()
	socket, err := nat.Listen(t.Context(), nat.Config{Addr: listen})
	if err != nil {
		t.Fatal(err)
	}
	device := identity.FromSeed(bytes.Repeat([]byte{seed}, 32))
	o := overlay.New(overlay.Config{Device: device, Socket: socket, Admit: admit, Upkeep: []string{"introduce"}, Logger: slog.New(slog.DiscardHandler)})
	e := &end{
		Overlay: o,
		device:  device,
		places:  &places{socket: socket, at: map[identity.Address]netip.AddrPort{}},
		at:      socket.LocalAddr().(*net.UDPAddr).AddrPort(),
	}
	o.Use(e.places)
	if err := o.Start(); err != nil {
		t.Fatal(err)
	}
	e.close = sync.OnceFunc(func() {
		o.Close()
		socket.Close()
	})
	t.Cleanup(e.close)
	return e
}

func pair(t *testing.T) (a, b *end) {
	a, b = newEnd(t, 1, "127.0.0.1:0", nil), newEnd(t, 2, "127.0.0.1:0", nil)
	a.places.put(b.Address(), b.at)
	b.places.put(a.Address(), a.at)
	return a, b
}

func TestStreamsCarryBytesBothWaysAndEndHalfByHalf(t *testing.T) {
	a, b := pair(t)
	listener, err := b.Listen("count")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			n, _ := io.Copy(io.Discard, conn)
			fmt.Fprintf(conn, "%d from %s", n, conn.RemoteAddr())
			conn.Close()
		}
	}()
	conn, err := a.Dial(t.Context(), b.Address(), "count")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(make([]byte, 300_000)); err != nil {
		t.Fatal(err)
	}
	conn.(*overlay.Conn).CloseWrite()
	answer, err := io.ReadAll(conn)
	if want := "300000 from " + a.Address().String(); err != nil || string(answer) != want {
		t.Errorf("answer %q, %v; want %q", answer, err, want)
	}
	if got := conn.RemoteAddr().String(); got != b.Address().String() {
		t.Errorf("remote address is %s", got)
	}
}

func TestHTTPKnowsItsCaller(t *testing.T) {
	a, b := pair(t)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", overlay.Caller(r), r.URL.Path)
	})
	if err := b.Serve("web", handler); err != nil {
		t.Fatal(err)
	}
	client := a.Client("web")
	defer client.CloseIdleConnections()
	for range 3 {
		response, err := client.Get("http://" + b.Address().String() + "/x")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if want := a.Address().String() + " /x"; string(body) != want {
			t.Errorf("body %q, want %q", body, want)
		}
	}
	if _, err := client.Get("http://example.org/"); !errors.Is(err, identity.ErrAddress) {
		t.Errorf("a host that is no address: %v", err)
	}
}

func TestAnImpostorIsRefused(t *testing.T) {
	a, b := pair(t)
	wanted := identity.FromSeed(bytes.Repeat([]byte{9}, 32)).Address()
	a.places.put(wanted, b.at) // the right place, the wrong key
	_, err := a.Dial(t.Context(), wanted, "web")
	if !errors.Is(err, overlay.ErrImpostor) {
		t.Errorf("Dial = %v, want ErrImpostor", err)
	}
	if a.places.wrong == 0 {
		t.Error("the finder was not told that its hint was wrong")
	}
	if s := a.Current(wanted); s != nil {
		t.Error("a session to the impostor exists")
	}
}

// rawDial speaks QUIC to an end with a configuration of its own.
func rawDial(t *testing.T, to *end, conf *tls.Config) error {
	t.Helper()
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	transport := &quic.Transport{Conn: udp}
	defer transport.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	conn, err := transport.Dial(ctx, net.UDPAddrFromAddrPort(to.at), conf, &quic.Config{})
	if err != nil {
		return err
	}
	defer conn.CloseWithError(0, "")
	// TLS lets the client finish first: the refusal follows.
	_, err = conn.AcceptStream(ctx)
	return err
}

func TestADowngradeIsRefused(t *testing.T) {
	b := newEnd(t, 2, "127.0.0.1:0", nil)
	certificate, err := identity.FromSeed(bytes.Repeat([]byte{1}, 32)).Certificate()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		conf *tls.Config
		want string
	}{
		{"an older protocol", &tls.Config{NextProtos: []string{"porchlight/0"}, Certificates: []tls.Certificate{certificate}}, "application protocol"},
		{"another protocol", &tls.Config{NextProtos: []string{"h3"}, Certificates: []tls.Certificate{certificate}}, "application protocol"},
		{"no key at all", &tls.Config{NextProtos: []string{"porchlight/1"}}, "certificate"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conf := tt.conf.Clone()
			conf.InsecureSkipVerify = true
			err := rawDial(t, b, conf)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("dial = %v, want it to speak of %q", err, tt.want)
			}
		})
	}
	if n := len(b.Connected()); n != 0 {
		t.Errorf("%d sessions exist", n)
	}
}

func TestABlockedDeviceGetsNoSession(t *testing.T) {
	a := newEnd(t, 1, "127.0.0.1:0", nil)
	b := newEnd(t, 2, "127.0.0.1:0", func(from identity.Address) error { return errors.New("blocked") })
	a.places.put(b.Address(), b.at)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	conn, err := a.Dial(ctx, b.Address(), "web")
	if err == nil {
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, err = conn.Read(make([]byte, 1))
		conn.Close()
	}
	var refused *quic.ApplicationError
	if !errors.As(err, &refused) {
		t.Errorf("a blocked device got: %v", err)
	}
	if n := len(b.Connected()); n != 0 {
		t.Errorf("%d sessions exist", n)
	}
}

func TestUnknownServices(t *testing.T) {
	a, b := pair(t)
	conn, err := a.Dial(t.Context(), b.Address(), "nothing")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, overlay.ErrNoService) {
		t.Errorf("Read = %v, want ErrNoService", err)
	}
	for _, name := range []string{"", strings.Repeat("x", overlay.MaxServiceName+1)} {
		if _, err := a.Dial(t.Context(), b.Address(), name); err == nil {
			t.Errorf("service name of %d bytes was dialled", len(name))
		}
	}
	if _, err := a.Dial(t.Context(), b.Address(), strings.Repeat("x", overlay.MaxServiceName)); err != nil {
		t.Errorf("longest service name: %v", err)
	}
	if _, err := a.Dial(t.Context(), a.Address(), "web"); err == nil {
		t.Error("a device called itself")
	}
}

func TestCallersShareOneSession(t *testing.T) {
	a, b := pair(t)
	var all sync.WaitGroup
	sessions := make([]*overlay.Session, 20)
	for i := range sessions {
		all.Go(func() { sessions[i], _ = a.Session(t.Context(), b.Address()) })
	}
	all.Wait()
	for _, s := range sessions {
		if s == nil || s != sessions[0] {
			t.Fatalf("sessions differ: %p and %p", s, sessions[0])
		}
	}
	if !sessions[0].Dialed() || sessions[0].RTT() <= 0 {
		t.Errorf("dialled %t, round trip %v", sessions[0].Dialed(), sessions[0].RTT())
	}
}

// TestARestartIsNoticedAtOnce: the reset key outlives the process, so the
// other side learns of the death with its next packet, not after a time-out.
func TestARestartIsNoticedAtOnce(t *testing.T) {
	a := newEnd(t, 1, "127.0.0.1:0", nil)
	b := newEnd(t, 2, "127.0.0.1:0", nil)
	a.places.put(b.Address(), b.at)
	if err := b.Serve("web", http.NotFoundHandler()); err != nil {
		t.Fatal(err)
	}
	client := a.Client("web")
	defer client.CloseIdleConnections()
	get := func() error {
		response, err := client.Get("http://" + b.Address().String() + "/")
		if err == nil {
			response.Body.Close()
		}
		return err
	}
	if err := get(); err != nil {
		t.Fatal(err)
	}
	session := a.Current(b.Address())
	// The old process dies without a word: its socket is gone first.
	b.places.socket.Close()
	b.close()
	again := newEnd(t, 2, b.at.String(), nil)
	if err := again.Serve("web", http.NotFoundHandler()); err != nil {
		t.Fatal(err)
	}
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(10 * time.Second)
	for done := false; !done; {
		select {
		case <-session.Done():
			done = true
		case <-ticker.C:
			// Something to send, as a transfer would have.
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if conn, err := a.Dial(ctx, b.Address(), "web"); err == nil {
				conn.Write(make([]byte, 1000))
				conn.Close()
			}
			cancel()
		case <-deadline:
			t.Fatal("the session outlived the other side by 10 s")
		}
	}
	if err := get(); err != nil {
		t.Fatal(err)
	}
}
