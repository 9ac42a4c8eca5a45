package app

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"porchlight/agent/config"
	"porchlight/nat/stun"
)

// TestAConfiguredRelayIsAskedAtTheStart: its password never leaves the machine,
// its user name only once the server has said who it is.
func TestAConfiguredRelayIsAskedAtTheStart(t *testing.T) {
	server, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	cfg := loopback(t)
	cfg.Relay, cfg.RelayUser = "turn:"+server.LocalAddr().String(), "home"
	cfg.RelayPasswordFile = filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(cfg.RelayPasswordFile, []byte("light\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := start(t, cfg)
	defer a.stop()
	server.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 2048)
	n, _, err := server.ReadFrom(b)
	if err != nil {
		t.Fatal(err)
	}
	if b = b[:n]; stun.Check(b) != nil || b[0] != 0 || b[1] != 3 { // RFC 8656 §17: Allocate
		t.Errorf("% x", b)
	}
}

func TestStunServersAreFoundByName(t *testing.T) {
	cfg := config.Default()
	cfg.Gateway, cfg.LAN, cfg.DHTNodes = "off", "off", []string{"none"}
	cfg.STUN = []string{"stun:192.0.2.1", "stun:a.example:5", "stun:[2001:db8::1]:7"}
	s, err := newSTUNServers(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	known := []netip.Addr{netip.MustParseAddr("192.0.2.9")}
	s.lookup = func(context.Context, string) ([]netip.Addr, error) {
		if len(known) == 0 {
			return nil, errors.New("no such host")
		}
		return known, nil
	}
	literal := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:3478"), netip.MustParseAddrPort("[2001:db8::1]:7")}
	if s.addresses() != nil {
		t.Errorf("before: %v", s.addresses())
	}
	if all := s.resolve(t.Context()); !all {
		t.Error("not all found")
	}
	if got, want := s.addresses(), slices.Insert(slices.Clone(literal), 1, netip.MustParseAddrPort("192.0.2.9:5")); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	known = nil
	if s.resolve(t.Context()) || !slices.Equal(s.addresses(), literal) {
		t.Errorf("one is gone: %v", s.addresses())
	}
	s.uris = s.uris[1:2]
	if s.resolve(t.Context()) || !slices.Equal(s.addresses(), literal) {
		t.Errorf("nothing is found: %v", s.addresses())
	}
}
