package forward_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"porchlight/agent/forward"
)

func TestWhatCanBeExposed(t *testing.T) {
	long := strings.Repeat("x", forward.MaxName)
	who := func(n int) []string { return strings.Split(strings.TrimSuffix(strings.Repeat("bob,", n), ","), ",") }
	for _, tt := range []struct {
		name, network, target string
		to                    []string
		want                  string // name network target
		err                   error
	}{
		{"", "", "22", nil, "22 tcp 127.0.0.1:22", nil},
		{"22", "tcp", "22", nil, "22 tcp 127.0.0.1:22", nil},
		{"ssh", "tcp", "127.0.0.1:22", nil, "ssh tcp 127.0.0.1:22", nil},
		{"nas", "tcp", "192.168.1.20:445", nil, "nas tcp 192.168.1.20:445", nil},
		{"5060", "udp", "[::1]:5060", nil, "5060 udp [::1]:5060", nil},
		{"mapped", "tcp", "[::ffff:127.0.0.1]:22", nil, "mapped tcp 127.0.0.1:22", nil},
		{long, "tcp", "1", who(forward.MaxWho), long + " tcp 127.0.0.1:1", nil},
		{"top", "tcp", "65535", []string{strings.Repeat("b", 128)}, "top tcp 127.0.0.1:65535", nil},

		{long + "x", "tcp", "1", nil, "", forward.ErrName},
		{"Web", "tcp", "80", nil, "", forward.ErrName},
		{"a/b", "tcp", "80", nil, "", forward.ErrName},
		{"a b", "tcp", "80", nil, "", forward.ErrName},
		{"é", "tcp", "80", nil, "", forward.ErrName},
		{"x", "sctp", "80", nil, "", forward.ErrNetwork},
		{"x", "tcp", "0", nil, "", forward.ErrTarget},
		{"x", "tcp", "65536", nil, "", forward.ErrTarget},
		{"x", "tcp", "", nil, "", forward.ErrTarget},
		{"x", "tcp", "localhost:80", nil, "", forward.ErrTarget},
		{"x", "tcp", "nas.lan:80", nil, "", forward.ErrTarget},
		{"x", "tcp", "::1", nil, "", forward.ErrTarget},
		{"x", "tcp", "0.0.0.0:80", nil, "", forward.ErrTarget},
		{"x", "tcp", "[::]:80", nil, "", forward.ErrTarget},
		{"x", "tcp", "[::ffff:0.0.0.0]:80", nil, "", forward.ErrTarget},
		{"x", "udp", "224.0.0.251:5353", nil, "", forward.ErrTarget},
		{"x", "udp", "[ff02::fb]:5353", nil, "", forward.ErrTarget},
		{"x", "udp", "255.255.255.255:67", nil, "", forward.ErrTarget},
		{"x", "tcp", "1", who(forward.MaxWho + 1), "", forward.ErrWho},
		{"x", "tcp", "1", []string{""}, "", forward.ErrWho},
		{"x", "tcp", "1", []string{strings.Repeat("b", 129)}, "", forward.ErrWho},
	} {
		e, err := forward.NewExposed(tt.name, tt.network, tt.target, tt.to)
		if !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
			t.Errorf("%q %q %q: %v, want %v", tt.name, tt.network, tt.target, err, tt.err)
			continue
		}
		if got := fmt.Sprintf("%s %s %s", e.Name, e.Network, e.Target); err == nil && got != tt.want {
			t.Errorf("%q %q %q gives %q, want %q", tt.name, tt.network, tt.target, got, tt.want)
		}
		if err == nil && tt.to == nil && !reflect.DeepEqual(e.To, []string{"me"}) {
			t.Errorf("without a word who may: %q", e.To)
		}
	}
}

func exposed(t *testing.T, name, network, target string) forward.Exposed {
	t.Helper()
	e, err := forward.NewExposed(name, network, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestTheTableOutlivesRestarts(t *testing.T) {
	store := &memory{}
	table, err := forward.Open(store, anything)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(table.List()); n != 0 {
		t.Fatalf("%d services are exposed from the beginning", n)
	}
	for _, e := range []forward.Exposed{
		exposed(t, "web", "tcp", "80"), exposed(t, "53", "udp", "53"), exposed(t, "53", "tcp", "53"),
	} {
		if err := table.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := table.Add(exposed(t, "53", "tcp", "54")); !errors.Is(err, forward.ErrExists) {
		t.Errorf("a name that is taken: %v", err)
	}
	if err := table.Remove("udp", "web"); !errors.Is(err, forward.ErrUnknown) {
		t.Errorf("another network's: %v", err)
	}
	if err := table.Remove("tcp", "53"); err != nil {
		t.Fatal(err)
	}
	// What the store writes is what it reads.
	b, err := json.Marshal(store.list)
	if err != nil {
		t.Fatal(err)
	}
	again := &memory{}
	if err := json.Unmarshal(b, &again.list); err != nil {
		t.Fatal(err)
	}
	reopened, err := forward.Open(again, anything)
	if err != nil || !reflect.DeepEqual(reopened.List(), table.List()) || len(table.List()) != 2 {
		t.Errorf("%v after a restart, %v before, %v", reopened.List(), table.List(), err)
	}
	store.fail = errors.New("disk full")
	if err := table.Add(exposed(t, "22", "tcp", "22")); !errors.Is(err, store.fail) || len(table.List()) != 2 {
		t.Errorf("unsaved: %v, and %d are exposed", err, len(table.List()))
	}
	if _, err := forward.Open(store, anything); !errors.Is(err, store.fail) {
		t.Errorf("Open = %v", err)
	}
	for name, list := range map[string][]forward.Exposed{
		"twice":   {exposed(t, "1", "tcp", "1"), exposed(t, "1", "tcp", "2")},
		"hostile": {{Name: "../x", Network: "tcp", Target: netip.MustParseAddrPort("127.0.0.1:1"), To: []string{"me"}}},
		"nobody":  {{Name: "x", Network: "tcp", Target: netip.MustParseAddrPort("127.0.0.1:1")}},
	} {
		if _, err := forward.Open(&memory{list: list}, anything); err == nil {
			t.Errorf("a file with %s was read", name)
		}
	}
}

func TestTheTableIsBounded(t *testing.T) {
	table, err := forward.Open(&memory{}, anything)
	if err != nil {
		t.Fatal(err)
	}
	for i := range forward.MaxExposed {
		if err := table.Add(exposed(t, fmt.Sprint("s", i), "tcp", "80")); err != nil {
			t.Fatal(err)
		}
	}
	if err := table.Add(exposed(t, "more", "tcp", "80")); !errors.Is(err, forward.ErrTooMany) {
		t.Errorf("one above the limit: %v", err)
	}
}

// TestTheAgentsOwnPortsAreKept: under every address this machine has, now and
// when one was exposed before the port became the agent's.
func TestTheAgentsOwnPortsAreKept(t *testing.T) {
	keep := forward.KeepPorts(8080, 7777)
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	own := []string{"127.0.0.1:8080", "127.1.2.3:8080", "[::1]:7777"}
	for _, a := range addrs {
		own = append(own, netip.AddrPortFrom(netip.MustParsePrefix(a.String()).Addr(), 7777).String())
	}
	for _, at := range own {
		if err := keep(netip.MustParseAddrPort(at)); !errors.Is(err, forward.ErrKept) {
			t.Errorf("%s: %v", at, err)
		}
	}
	for _, at := range []string{"127.0.0.1:8081", "192.0.2.1:8080"} {
		if err := keep(netip.MustParseAddrPort(at)); err != nil {
			t.Errorf("%s: %v", at, err)
		}
	}
	table, err := forward.Open(&memory{}, keep)
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Add(exposed(t, "console", "tcp", "8080")); !errors.Is(err, forward.ErrKept) {
		t.Errorf("Add = %v", err)
	}

	w := newWorld(t)
	w.expose("tcp", "echo", w.tcp(echoTCP))
	checkBack(t, w.mustDial("tcp", "echo"))
	w.refused.Store(true)
	if _, err := w.dial("tcp", "echo"); !errors.Is(err, forward.ErrNotOffered) {
		t.Errorf("a target that became the agent's own: %v", err)
	}
	eventually(t, "what it carried has ended", func() bool { n, _ := w.server.Open(); return n == 0 })
}

func TestLocalAddresses(t *testing.T) {
	for _, tt := range []struct{ local, name, want string }{
		{"", "8022", "127.0.0.1:8022"},
		{"", "ssh", "127.0.0.1:0"},
		{"", "99999", "127.0.0.1:0"},
		{"2222", "22", "127.0.0.1:2222"},
		{"0", "22", "127.0.0.1:0"},
		{"0.0.0.0:2222", "22", "0.0.0.0:2222"},
		{"[::1]:2222", "22", "[::1]:2222"},
		{"localhost:2222", "22", ""},
		{"65536", "22", ""},
		{"-1", "22", ""},
		{"127.0.0.1", "22", ""},
	} {
		at, err := forward.ParseLocal(tt.local, tt.name)
		if tt.want == "" {
			if !errors.Is(err, forward.ErrLocal) {
				t.Errorf("%q: %v, %v", tt.local, at, err)
			}
		} else if err != nil || at.String() != tt.want {
			t.Errorf("%q for %q: %v, %v, want %s", tt.local, tt.name, at, err, tt.want)
		}
	}
}
