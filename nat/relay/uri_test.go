package relay

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestURIs(t *testing.T) {
	name253 := strings.Repeat(strings.Repeat("a", 63)+".", 3) + strings.Repeat("b", 61)
	for text, want := range map[string]URI{
		// RFC 7064 appendix A, RFC 7065 appendix A
		"stun:example.org":                     {"stun", "example.org", 3478, "udp"},
		"stuns:example.org":                    {"stuns", "example.org", 5349, "tls"},
		"stun:example.org:8000":                {"stun", "example.org", 8000, "udp"},
		"turn:example.org":                     {"turn", "example.org", 3478, "udp"},
		"turns:example.org":                    {"turns", "example.org", 5349, "tls"},
		"turn:example.org:8000":                {"turn", "example.org", 8000, "udp"},
		"turn:example.org?transport=udp":       {"turn", "example.org", 3478, "udp"},
		"turn:example.org?transport=tcp":       {"turn", "example.org", 3478, "tcp"},
		"turns:example.org?transport=tcp":      {"turns", "example.org", 5349, "tls"},
		"TURN:Example.ORG:8000?transport=TCP":  {"turn", "example.org", 8000, "tcp"},
		"turn:44.128.0.1:443?transport=tcp":    {"turn", "44.128.0.1", 443, "tcp"},
		"turns:[3FFF:0::1]:443":                {"turns", "3fff::1", 443, "tls"},
		"stun:[3fff::1]":                       {"stun", "3fff::1", 3478, "udp"},
		"turn:127.0.0.1:65535":                 {"turn", "127.0.0.1", 65535, "udp"},
		"turn:a-b.c1:1":                        {"turn", "a-b.c1", 1, "udp"},
		"turn:" + name253 + ":1?transport=tcp": {"turn", name253, 1, "tcp"},
	} {
		got, err := ParseURI(text)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", text, got, err, want)
			continue
		}
		if again, err := ParseURI(got.String()); err != nil || again != got {
			t.Errorf("%s: printed %s, read as %+v, %v", text, got, again, err)
		}
	}
	for _, text := range []string{
		"", ":", "turn", "turn:", "turn::3478", "example.org", "http:example.org", "turnx:example.org",
		"turn://example.org", "turn:user@example.org", "turn:user:pass@example.org", "turn:example.org/", "turn:example.org#a",
		"turn:example.org:", "turn:example.org:0", "turn:example.org:65536", "turn:example.org:-1", "turn:example.org:+1",
		"turn:example.org:03478", "turn:example.org: 1", "turn:example.org:1:2", "turn:example.org:x",
		"turn:example.org?", "turn:example.org?transport", "turn:example.org?transport=", "turn:example.org?transport=sctp",
		"turn:example.org?transport=udp&x", "turn:example.org?transport=udp?transport=udp", "turn:example.org?Transport=udp",
		"turn:?transport=udp", "turns:example.org?transport=udp", "stun:example.org?transport=udp", "stuns:example.org?transport=tcp",
		"turn:3fff::1", "turn:[3fff::1", "turn:3fff::1]", "turn:[]", "turn:[3fff::1]x", "turn:[3fff::1]3478", "turn:[44.128.0.1]",
		"turn:[fe80::1%eth0]", "turn:[fe80::1%25eth0]", "turn:[::ffff:44.128.0.1]", "turn:[::]", "turn:[ff02::1]", "turn:[v1.x]",
		"turn:0.0.0.0", "turn:224.0.0.1", "turn:1.2.3", "turn:1.2.3.256", "turn:01.2.3.4", "turn:16909060", "turn:0x7f.0.0.1",
		"turn:-a.org", "turn:a-.org", "turn:a..org", "turn:.org", "turn:a.org.", "turn:a_b.org", "turn:a%2eorg", "turn:ä.org",
		"turn:a b", " turn:a", "turn:a\n", "turn:a\x00", "turn:" + strings.Repeat("a", 64),
		"turn:a" + name253, "turn:" + name253 + strings.Repeat(" ", MaxURI),
	} {
		if u, err := ParseURI(text); !errors.Is(err, ErrURI) {
			t.Errorf("%q: %+v, %v", text, u, err)
		}
	}
	for n, ok := range map[int]bool{MaxURI - 1: true, MaxURI: true, MaxURI + 1: false} {
		_, err := parseURI("turn:a" + strings.Repeat(":", n-6)) // never valid; the length is refused first
		if tooLong := strings.Contains(err.Error(), "bytes, at most"); tooLong == ok {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestResolve(t *testing.T) {
	ctx := t.Context()
	asked := ""
	lookup := func(_ context.Context, host string) ([]netip.Addr, error) {
		asked = host
		var all []netip.Addr
		for i := range byte(2 * maxResolved) {
			all = append(all, netip.AddrFrom4([4]byte{44, 128, 0, i / 2}), netip.MustParseAddr("::ffff:44.128.0.0"))
		}
		return all, nil
	}
	u := URI{Scheme: "turn", Host: "3fff::1", Port: 1}
	if got, err := u.Resolve(ctx, lookup); err != nil || asked != "" || len(got) != 1 || got[0] != netip.MustParseAddrPort("[3fff::1]:1") {
		t.Errorf("address: %v, %v, asked for %q", got, err, asked)
	}
	u.Host = "example.org"
	if got, err := u.Resolve(ctx, lookup); err != nil || asked != "example.org" || len(got) != maxResolved || got[1].Addr().As4()[3] != 1 {
		t.Errorf("name: %v, %v, asked for %q", got, err, asked)
	}
	none := func(context.Context, string) ([]netip.Addr, error) { return nil, nil }
	if got, err := u.Resolve(ctx, none); err == nil {
		t.Errorf("no address: %v", got)
	}
	broken := func(context.Context, string) ([]netip.Addr, error) { return nil, context.Canceled }
	if _, err := u.Resolve(ctx, broken); !errors.Is(err, context.Canceled) {
		t.Errorf("broken resolver: %v", err)
	}
}

func TestStockServersAreChecked(t *testing.T) {
	good := Stock{URI: "turns:example.org", Username: "home", Password: "light"}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Stock){
		"no uri":               func(s *Stock) { s.URI = "" },
		"stun":                 func(s *Stock) { s.URI = "stun:example.org" },
		"no user":              func(s *Stock) { s.Username = "" },
		"no password":          func(s *Stock) { s.Password = "" },
		"one byte too long":    func(s *Stock) { s.Username = strings.Repeat("u", MaxUsername+1) },
		"password too long":    func(s *Stock) { s.Password = Secret(strings.Repeat("secret", MaxPassword)) },
		"line end in password": func(s *Stock) { s.Password = "secret\n" },
		"no UTF-8":             func(s *Stock) { s.Username = "\xff" },
	} {
		s := good
		change(&s)
		if err := s.Check(); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	good.Username, good.Password = strings.Repeat("u", MaxUsername), Secret(strings.Repeat("p", MaxPassword))
	if err := good.Check(); err != nil {
		t.Errorf("longest: %v", err)
	}
	if _, err := AllocateStock(t.Context(), good, Options{Network: "udp"}); err == nil {
		t.Error("a network beside the one of the uri is accepted")
	}
}

func FuzzURI(f *testing.F) {
	for _, text := range []string{"turn:example.org", "turns:[3fff::1]:443?transport=tcp", "stun:44.128.0.1:1", "turn:a:b@c", "turn:[::1%a]"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := ParseURI(text)
		if err != nil {
			if !errors.Is(err, ErrURI) || u != (URI{}) {
				t.Fatalf("%q: %+v, %v", text, u, err)
			}
			return
		}
		if again, err := ParseURI(u.String()); err != nil || again != u {
			t.Fatalf("%q: printed %q, read as %+v, %v", text, u, again, err)
		}
		if len(u.String()) > len(text) || u.Port == 0 || strings.ContainsAny(u.String(), "@/ %") {
			t.Fatalf("%q read as %+v", text, u)
		}
		if _, err := u.Resolve(t.Context(), func(_ context.Context, host string) ([]netip.Addr, error) {
			if _, err := netip.ParseAddr(host); err == nil {
				t.Fatalf("%q: an address is looked up", host)
			}
			return []netip.Addr{loopback}, nil
		}); err != nil {
			t.Fatal(err)
		}
	})
}
