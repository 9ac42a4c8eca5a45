package reach

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	pion "github.com/pion/stun/v2"

	"porchlight/agent/identity"
)

// answering dials a network in which whoever is called answers with bytes.
func answering(answer []byte) dialer {
	return func(context.Context, netip.AddrPort) (net.Conn, error) {
		here, there := net.Pipe()
		go func() {
			there.Read(make([]byte, 2048))
			there.Write(answer)
			there.Close()
		}()
		return here, nil
	}
}

func failing(err error) dialer {
	return func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, err }
}

func TestWhatANodeAnswers(t *testing.T) {
	success, err := pion.Build(pion.TransactionID, pion.BindingSuccess, pion.Fingerprint)
	if err != nil {
		t.Fatal(err)
	}
	framed := append([]byte{0, byte(len(success.Raw))}, success.Raw...)
	to := netip.MustParseAddrPort("44.2.2.2:4001")
	tests := []struct {
		name string
		dial dialer
		want finding
	}{
		{"a node", answering(framed), answers},
		{"a portal", answering([]byte("HTTP/1.1 302 Found\r\nLocation: http://hotel.example/\r\n\r\n")), portal},
		{"another service", answering([]byte("SSH-2.0-OpenSSH_9.6\r\n")), unasked},
		{"nothing", answering(nil), unasked},
		{"less than a frame", answering(framed[:headSize-1]), unasked},
		{"refused", failing(fmt.Errorf("dial: %w", syscall.ECONNREFUSED)), answers},
		{"prohibited", failing(fmt.Errorf("dial: %w", syscall.EHOSTUNREACH)), forbidden},
		{"forbidden here", failing(fmt.Errorf("dial: %w", syscall.EPERM)), forbidden},
		{"no route", failing(fmt.Errorf("dial: %w", syscall.ENETUNREACH)), silence},
		{"timeout", failing(os.ErrDeadlineExceeded), silence},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := askNode(t.Context(), tt.dial, to); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
	if got := unreached(syscall.EHOSTUNREACH, 3*time.Second); got != silence {
		t.Errorf("a neighbour that is off: %q", got)
	}
}

func TestNobodyAnswersAtNowhereButAPortal(t *testing.T) {
	for _, tt := range []struct {
		dial dialer
		want finding
	}{
		{answering([]byte("HTTP/1.0 200 OK\r\n\r\n")), portal},
		{answering([]byte("hello")), silence},
		{answering(nil), silence},
		{failing(syscall.ECONNREFUSED), silence},
	} {
		if got := askNowhere(t.Context(), tt.dial); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

func TestConclude(t *testing.T) {
	for _, tt := range []struct {
		found []finding
		want  finding
	}{
		{nil, unasked},
		{[]finding{silence}, unasked}, // one node may be off
		{[]finding{silence, silence}, silence},
		{[]finding{silence, answers}, answers},
		{[]finding{portal, silence}, portal},
		{[]finding{portal, answers}, answers}, // somebody's web server
		{[]finding{forbidden, silence}, unasked},
		{[]finding{forbidden, forbidden}, forbidden},
		{[]finding{forbidden}, unasked},
	} {
		if got := conclude(tt.found); got != tt.want {
			t.Errorf("%v: %q, want %q", tt.found, got, tt.want)
		}
	}
}

func TestOnlyAFewPublicNodesAreAsked(t *testing.T) {
	k := keeperWith(own)
	k.cfg.Links = func() []identity.Link {
		link := identity.Link{Address: device(5).Address(), At: []netip.AddrPort{netip.MustParseAddrPort("192.168.1.9:4001")}}
		for i := range 9 {
			link.At = append(link.At, netip.AddrPortFrom(netip.AddrFrom4([4]byte{44, 1, 1, byte(i)}), 4001))
		}
		return []identity.Link{link}
	}
	asked := make(chan netip.AddrPort, 32)
	k.dial = func(_ context.Context, to netip.AddrPort) (net.Conn, error) {
		asked <- to
		return nil, errors.Join(io.EOF, os.ErrDeadlineExceeded)
	}
	if got := k.askOutside(); got != silence {
		t.Errorf("%q", got)
	}
	if len(asked) != maxOutside+1 {
		t.Errorf("%d were asked", len(asked))
	}
	for range len(asked) {
		if a := <-asked; a.Addr().IsPrivate() {
			t.Errorf("%v was asked", a)
		}
	}
	k.cfg.Links = func() []identity.Link { return nil }
	if got := k.askOutside(); got != unasked || len(asked) != 0 {
		t.Errorf("without nodes: %q, %d asked", got, len(asked))
	}
}
