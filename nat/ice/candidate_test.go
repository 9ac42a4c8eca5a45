package ice

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestParseCandidate(t *testing.T) {
	good := map[string]Candidate{
		"host 192.168.1.2:4001":       {Host, netip.MustParseAddrPort("192.168.1.2:4001")},
		"srflx 44.129.0.1:65535":      {Srflx, netip.MustParseAddrPort("44.129.0.1:65535")},
		"mapped [3fff::1]:1":          {Mapped, netip.MustParseAddrPort("[3fff::1]:1")},
		"host [::ffff:44.1.2.3]:4001": {Host, netip.MustParseAddrPort("44.1.2.3:4001")},
	}
	for text, want := range good {
		got, err := ParseCandidate(text)
		if err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
		again, err := ParseCandidate(got.String())
		if err != nil || again != got {
			t.Errorf("%q does not survive a round trip: %v, %v", text, again, err)
		}
	}
	for _, text := range []string{
		"", "host", "host ", "192.168.1.2:4001", "relay 44.1.2.3:4001", "prflx 44.1.2.3:4001", "HOST 44.1.2.3:1",
		"host 44.1.2.3", "host 44.1.2.3:0", "host 44.1.2.3:65536", "host example.org:80", "host  44.1.2.3:4001",
		"host [fe80::1%eth0]:4001", "host 44.1.2.3:4001 ", "host 3fff::1:4001", "host 44.1.2.3:4001\n",
	} {
		if c, err := ParseCandidate(text); !errors.Is(err, ErrCandidate) {
			t.Errorf("%q: %v, %v", text, c, err)
		}
	}
	longest := "mapped [1111:2222:3333:4444:5555:6666:7777:8888]:65535"
	if c, err := ParseCandidate(longest); err != nil || c.String() != longest {
		t.Errorf("the longest candidate (%d bytes): %v", len(longest), err)
	}
	for _, over := range []int{-1, 0, 1} {
		text := "host " + strings.Repeat("0", MaxCandidateText+over-len("host "))
		_, err := ParseCandidate(text)
		if tooLong := strings.Contains(err.Error(), "bytes"); tooLong != (over > 0) {
			t.Errorf("%d bytes: %v", len(text), err)
		}
	}
}

func FuzzParseCandidate(f *testing.F) {
	for _, s := range []string{"host 192.168.1.2:4001", "mapped [3fff::1]:1", "srflx [::ffff:44.1.2.3]:9", "host [fe80::1%1]:4"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseCandidate(text)
		if err != nil {
			if !errors.Is(err, ErrCandidate) {
				t.Fatalf("unnamed error %v", err)
			}
			return
		}
		again, err := ParseCandidate(c.String())
		if err != nil || again != c {
			t.Fatalf("%q is %v, then %v, %v", text, c, again, err)
		}
		Filter{}.Allow(c.Addr)
	})
}

func TestDescriptionIsJSONButNeverLogged(t *testing.T) {
	d := Description{Ufrag: "ufrag", Pwd: "secretSecretSecretSecret", Candidates: []Candidate{{Host, netip.MustParseAddrPort("44.1.2.3:4")}}}
	b, err := json.Marshal(d)
	want := `{"ufrag":"ufrag","pwd":"secretSecretSecretSecret","candidates":["host 44.1.2.3:4"]}`
	if err != nil || string(b) != want {
		t.Errorf("%s, %v", b, err)
	}
	var back Description
	if err := json.Unmarshal(b, &back); err != nil || back.Pwd != d.Pwd || !slices.Equal(back.Candidates, d.Candidates) {
		t.Errorf("%v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`{"candidates":["relay 1.2.3.4:5"]}`), &back); !errors.Is(err, ErrCandidate) {
		t.Errorf("a bad candidate: %v", err)
	}
	var out bytes.Buffer
	slog.New(slog.NewTextHandler(&out, nil)).Info("offer", "description", d)
	fmt.Fprintf(&out, "%v %+v %#v %s", d, d, d, d)
	if strings.Contains(out.String(), "secret") {
		t.Errorf("printed: %s", &out)
	}
}

func TestDescriptionValidate(t *testing.T) {
	pwd, ufrag := strings.Repeat("p", minPwd), strings.Repeat("u", minUfrag)
	rows := []struct {
		ufrag, pwd string
		ok         bool
	}{
		{ufrag, pwd, true},
		{ufrag[1:], pwd, false},
		{ufrag, pwd[1:], false},
		{strings.Repeat("u", maxUfrag), strings.Repeat("p", maxPwd), true},
		{strings.Repeat("u", maxUfrag+1), pwd, false},
		{ufrag, strings.Repeat("p", maxPwd+1), false},
		{"a:bcd", pwd, false},
		{"ab d", pwd, false},
		{"+/09azAZ", pwd, true},
		{"", "", false},
	}
	for _, row := range rows {
		err := Description{Ufrag: row.ufrag, Pwd: row.pwd}.Validate()
		if (err == nil) != row.ok || err != nil && !errors.Is(err, ErrDescription) {
			t.Errorf("%q %q: %v", row.ufrag, row.pwd, err)
		}
	}
}

func TestFilter(t *testing.T) {
	addrs := func(s ...string) (out []netip.Addr) {
		for _, a := range s {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	twoHomes := Filter{Ours: addrs("44.129.0.1", "3fff:a::1"), Theirs: addrs("44.130.0.1", "3fff:b::1")}
	oneRouter := Filter{Ours: addrs("44.129.0.1"), Theirs: addrs("44.129.0.1")}
	onePrefix := Filter{Ours: addrs("44.129.0.1", "3fff:a::1"), Theirs: addrs("3fff:a::2")}
	cutOff := Filter{OnLink: []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24")}}
	online := Filter{OnLink: cutOff.OnLink, Ours: addrs("44.129.0.1")}

	rows := []struct {
		name string
		f    Filter
		addr string
		want bool
	}{
		{"public", Filter{}, "44.1.2.3:4001", true},
		{"public IPv6", Filter{}, "[3fff::1]:4001", true},
		{"public as IPv4 in IPv6", Filter{}, "[::ffff:44.1.2.3]:4001", true},
		{"port 0", Filter{}, "44.1.2.3:0", false},
		{"private, two homes with the same network", twoHomes, "192.168.1.2:4001", false},
		{"unique local, two homes", twoHomes, "[fd00::1]:4001", false},
		{"private, one router", oneRouter, "192.168.1.2:4001", true},
		{"unique local, one router", oneRouter, "[fd00::1]:4001", true},
		{"carrier network, two homes", twoHomes, "100.64.1.2:4001", false},
		{"carrier network, one public address", oneRouter, "100.64.1.2:4001", true},
		{"private, one IPv6 network", onePrefix, "192.168.1.2:4001", true},
		{"private, beacon heard", Filter{SameLAN: true}, "192.168.1.2:4001", true},
		{"private, nothing known", Filter{}, "192.168.1.2:4001", false},
		{"our network, cut off", cutOff, "192.168.1.2:4001", true},
		{"another private network, cut off", cutOff, "10.0.0.1:4001", false},
		{"our network, but on-line", online, "192.168.1.2:4001", false},
		{"private as IPv4 in IPv6", Filter{}, "[::ffff:192.168.1.1]:80", false},
		{"loopback", Filter{}, "127.0.0.1:4001", false},
		{"loopback allowed", Filter{Loopback: true}, "127.0.0.1:4001", true},
		{"IPv6 loopback", oneRouter, "[::1]:4001", false},
		{"IPv6 loopback allowed", Filter{Loopback: true}, "[::1]:4001", true},
		{"loopback as IPv4 in IPv6", oneRouter, "[::ffff:127.0.0.1]:4001", false},
		{"IPv4-compatible", oneRouter, "[::127.0.0.1]:4001", false},
		{"NAT64 of loopback", oneRouter, "[64:ff9b::7f00:1]:4001", false},
		{"local NAT64", oneRouter, "[64:ff9b:1::7f00:1]:4001", false},
		{"6to4 of loopback", oneRouter, "[2002:7f00:1::]:4001", false},
		{"Teredo", oneRouter, "[2001:0:1::]:4001", false},
		{"unspecified", oneRouter, "0.0.0.0:4001", false},
		{"IPv6 unspecified", oneRouter, "[::]:4001", false},
		{"unspecified as IPv4 in IPv6", oneRouter, "[::ffff:0.0.0.0]:4001", false},
		{"this network", oneRouter, "0.1.2.3:4001", false},
		{"link-local", oneRouter, "169.254.169.254:80", false},
		{"IPv6 link-local", oneRouter, "[fe80::1]:4001", false},
		{"zone", oneRouter, "[fe80::1%eth0]:4001", false},
		{"multicast", oneRouter, "224.0.0.251:5353", false},
		{"IPv6 multicast", oneRouter, "[ff02::fb]:5353", false},
		{"reserved", oneRouter, "240.0.0.1:4001", false},
		{"broadcast", oneRouter, "255.255.255.255:4001", false},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			if got := row.f.Allow(netip.MustParseAddrPort(row.addr)); got != row.want {
				t.Errorf("%s: %v", row.addr, got)
			}
		})
	}
	if (Filter{}).Allow(netip.AddrPort{}) {
		t.Error("the zero address is allowed")
	}
}

func TestFilterForTakesPublicAddressesOnly(t *testing.T) {
	list := func(s ...string) (out []Candidate) {
		for _, c := range s {
			p, err := ParseCandidate(c)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, p)
		}
		return out
	}
	f := FilterFor(
		list("host 192.168.1.2:1", "host [3fff::1]:1", "srflx 44.1.2.3:5", "mapped 44.1.2.3:6", "host 127.0.0.1:7"),
		list("host 192.168.1.3:1", "mapped 100.64.0.1:9", "srflx 169.254.1.1:9"))
	if fmt.Sprint(f.Ours) != "[3fff::1 44.1.2.3]" || len(f.Theirs) != 0 {
		t.Errorf("ours %v, theirs %v", f.Ours, f.Theirs)
	}
}

func TestHostCandidates(t *testing.T) {
	addrs := func(s ...string) (out []netip.Addr) {
		for _, a := range s {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	rows := []struct {
		name     string
		in       []netip.Addr
		loopback bool
		want     string
	}{
		{"an ordinary device", addrs("127.0.0.1", "::1", "3fff::5", "fe80::1", "192.168.1.2"), false,
			"[host 192.168.1.2:7 host [3fff::5]:7]"},
		{"with loopback", addrs("127.0.0.1", "192.168.1.2"), true, "[host 192.168.1.2:7 host 127.0.0.1:7]"},
		{"only loopback", addrs("127.0.0.1", "::1"), false, "[host 127.0.0.1:7 host [::1]:7]"},
		{"link-local is not enough", addrs("169.254.3.4", "fe80::1", "127.0.0.1"), false, "[host 127.0.0.1:7]"},
		{"twice the same", addrs("192.168.1.2", "192.168.1.2"), false, "[host 192.168.1.2:7]"},
		{"nothing", nil, true, "[]"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			if got := fmt.Sprint(hostCandidates(row.in, 7, row.loopback)); got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
		})
	}
	for _, n := range []int{MaxHosts - 1, MaxHosts, MaxHosts + 1} {
		var in []netip.Addr
		for i := range n {
			in = append(in, netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}))
		}
		if got := len(hostCandidates(in, 7, true)); got != min(n, MaxHosts) {
			t.Errorf("%d interfaces: %d candidates", n, got)
		}
	}
}

func TestCandidatesAreCutAtTheLimit(t *testing.T) {
	for _, n := range []int{MaxCandidates - 1, MaxCandidates, MaxCandidates + 1} {
		a := &Agent{cfg: Config{Accept: Filter{}.Allow, Logger: slog.New(slog.DiscardHandler)}}
		a.local.Candidates = []Candidate{{Srflx, netip.MustParseAddrPort("44.9.9.9:9")}}
		in := []Candidate{
			{Host, netip.MustParseAddrPort("192.168.1.1:1")}, {Srflx, netip.MustParseAddrPort("44.9.9.9:9")},
		}
		for i := range n {
			c := Candidate{Srflx, netip.AddrPortFrom(netip.AddrFrom4([4]byte{44, 1, 1, byte(i)}), 1)}
			in = append(in, c, c)
		}
		in = append(in, Candidate{Host, netip.MustParseAddrPort("44.1.1.77:1")})
		out := a.admit(in)
		if len(out) != min(n+1, MaxCandidates) {
			t.Errorf("%d signalled: %d admitted", n, len(out))
		}
		if n < MaxCandidates && out[0].Kind != Host {
			t.Errorf("not sorted: %v", out)
		}
	}
}
