package tcppunch

import (
	"encoding/json"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"porchlight/nat/ice"
	"porchlight/nat/stun"
)

func addrs(texts ...string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, s := range texts {
		out = append(out, netip.MustParseAddrPort(s))
	}
	return out
}

func TestParseLocalTakesWhatAnEndSays(t *testing.T) {
	for name, want := range map[string]Local{
		"independent": {Mapped: addrs("44.1.2.3:4000"), Mapping: stun.EndpointIndependent},
		"counting":    {Mapped: addrs("44.1.2.3:4000"), Mapping: stun.AddressAndPortDependent, Last: 4003, Delta: -1, RTT: maxRTT},
		"most":        {Mapped: addrs("255.255.255.254:65535", "255.255.255.253:65535", "255.255.255.252:65535", "255.255.255.251:65535"), Mapping: stun.EndpointIndependent},
		"ipv6":        {Mapped: addrs("[2001:db9::1]:4000"), Mapping: stun.None},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := json.Marshal(want)
			if err != nil {
				t.Fatal(err)
			}
			got, err := ParseLocal(b)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %+v, %v", b, got, err)
			}
		})
	}
}

func TestParseLocalRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":             ``,
		"no addresses":        `{"mapping":"none"}`,
		"five addresses":      `{"mapped":["1.1.1.1:1","1.1.1.1:2","1.1.1.1:3","1.1.1.1:4","1.1.1.1:5"],"mapping":"none"}`,
		"no port":             `{"mapped":["1.1.1.1:0"],"mapping":"none"}`,
		"empty address":       `{"mapped":[""],"mapping":"none"}`,
		"unheard-of mapping":  `{"mapped":["1.1.1.1:1"],"mapping":"odd"}`,
		"no mapping":          `{"mapped":["1.1.1.1:1"]}`,
		"delta above":         `{"mapped":["1.1.1.1:1"],"mapping":"address-and-port-dependent","last":9,"delta":33}`,
		"delta below":         `{"mapped":["1.1.1.1:1"],"mapping":"address-and-port-dependent","last":9,"delta":-33}`,
		"delta without last":  `{"mapped":["1.1.1.1:1"],"mapping":"address-and-port-dependent","delta":1}`,
		"delta that is a lie": `{"mapped":["1.1.1.1:1"],"mapping":"endpoint-independent","last":9,"delta":1}`,
		"round trip above":    `{"mapped":["1.1.1.1:1"],"mapping":"none","rtt":2001}`,
		"round trip below":    `{"mapped":["1.1.1.1:1"],"mapping":"none","rtt":-1}`,
		"last beyond ports":   `{"mapped":["1.1.1.1:1"],"mapping":"none","last":65536}`,
	} {
		t.Run(name, func(t *testing.T) {
			if l, err := ParseLocal([]byte(text)); !errors.Is(err, ErrLocal) {
				t.Errorf("%+v, %v", l, err)
			}
		})
	}
}

func TestParseLocalSizeLimit(t *testing.T) {
	text := `{"mapped":["1.1.1.1:1"],"mapping":"none"}`
	for size, want := range map[int]error{MaxLocal - 1: nil, MaxLocal: nil, MaxLocal + 1: ErrLocal} {
		padded := text + strings.Repeat(" ", size-len(text))
		if _, err := ParseLocal([]byte(padded)); !errors.Is(err, want) {
			t.Errorf("%d bytes: %v, want %v", size, err, want)
		}
	}
}

func TestLocalIsMadeToFit(t *testing.T) {
	long := "[2001:db9:1111:2222:3333:4444:5555:666%d]:65535"
	var many []netip.AddrPort
	for i := range 9 {
		many = append(many, netip.MustParseAddrPort(strings.Replace(long, "%d", string(rune('0'+i)), 1)))
	}
	l := Local{Mapped: many, Mapping: stun.AddressAndPortDependent, Last: 65535, Delta: -32}.fitted()
	b, err := json.Marshal(l)
	if err != nil || len(b) > MaxLocal || len(l.Mapped) == 0 {
		t.Fatalf("%d bytes with %d addresses, %v", len(b), len(l.Mapped), err)
	}
	if l.Mapped[0] != many[0] {
		t.Error("the best address went first")
	}
	if _, err := ParseLocal(b); err != nil {
		t.Error(err)
	}
}

func TestPlan(t *testing.T) {
	keeps := Local{Mapped: addrs("44.1.1.1:1111"), Mapping: stun.EndpointIndependent}
	counts := Local{Mapped: addrs("44.2.2.2:2222"), Mapping: stun.AddressAndPortDependent, Last: 3000, Delta: 1}
	down := Local{Mapped: addrs("44.2.2.2:2222"), Mapping: stun.AddressAndPortDependent, Last: 1028, Delta: -2}
	up := Local{Mapped: addrs("44.2.2.2:2222"), Mapping: stun.AddressAndPortDependent, Last: 65530, Delta: 2}
	random := Local{Mapped: addrs("44.3.3.3:3333"), Mapping: stun.AddressAndPortDependent}
	guessed := Local{Mapped: addrs("44.4.4.4:4444"), Mapping: stun.Unknown}
	inside := Local{Mapped: addrs("192.168.1.2:80", "127.0.0.1:80", "[::ffff:10.0.0.1]:80"), Mapping: stun.None}
	six := Local{Mapped: addrs("[2001:db9::6]:6666"), Mapping: stun.None}
	both := Local{Mapped: addrs("44.1.1.1:1111", "[2001:db9::1]:1111"), Mapping: stun.EndpointIndependent}
	for _, c := range []struct {
		name         string
		ours, theirs Local
		flows, lines int
		first        string
		err          error
	}{
		{"both keep", keeps, keeps, 1, 1, "44.1.1.1:1111", nil},
		{"not known is taken for kept", keeps, guessed, 1, 1, "44.4.4.4:4444", nil},
		{"they count", keeps, counts, window, 1, "44.2.2.2:3001", nil},
		{"they count down to the end", keeps, down, 2, 1, "44.2.2.2:1026", nil},
		{"they count up to the end", keeps, up, 2, 1, "44.2.2.2:65532", nil},
		{"we count", counts, keeps, fan, fan, "44.1.1.1:1111", nil},
		{"both count", counts, counts, window, window, "44.2.2.2:3001", nil},
		{"theirs is random", keeps, random, 0, 0, "", ErrHopeless},
		{"ours is random", random, keeps, 0, 0, "", ErrHopeless},
		{"one counts, one is random", counts, random, 0, 0, "", ErrHopeless},
		{"private addresses", keeps, inside, 0, 0, "", ErrHopeless},
		{"no family in common", keeps, six, 0, 0, "", ErrHopeless},
		{"one family in common", six, both, 1, 1, "[2001:db9::1]:1111", nil},
		{"nothing said", keeps, Local{}, 0, 0, "", ErrLocal},
	} {
		t.Run(c.name, func(t *testing.T) {
			flows, err := plan(c.ours, c.theirs, ice.Filter{})
			if !errors.Is(err, c.err) || len(flows) != c.flows {
				t.Fatalf("%v, %v", flows, err)
			}
			lines := make(map[int]bool)
			for _, f := range flows {
				lines[f.line] = true
			}
			if len(lines) != c.lines || len(flows) > 0 && flows[0].to.String() != c.first {
				t.Errorf("%v", flows)
			}
		})
	}
}

func TestForwardedPortsGoFirst(t *testing.T) {
	forwarded := addrs("44.9.9.9:999")
	keeps := Local{Mapped: addrs("44.1.1.1:1111", "44.9.9.9:999"), Mapping: stun.EndpointIndependent}
	if got := keeps.with(forwarded).Mapped; !reflect.DeepEqual(got, addrs("44.9.9.9:999", "44.1.1.1:1111")) {
		t.Errorf("behind a router that keeps: %v", got)
	}
	random := Local{Mapped: addrs("44.3.3.3:3333"), Mapping: stun.AddressAndPortDependent}
	if got := random.with(forwarded); got.hopeless() || !reflect.DeepEqual(got.Mapped, forwarded) {
		t.Errorf("behind a random one: %+v", got)
	}
	if got := random.with(nil); !got.hopeless() {
		t.Errorf("nothing forwarded: %+v", got)
	}
}

func FuzzParseLocal(f *testing.F) {
	f.Add([]byte(`{"mapped":["44.1.2.3:4000","[2001:db9::1]:1"],"mapping":"endpoint-independent"}`))
	f.Add([]byte(`{"mapped":["44.1.2.3:4000"],"mapping":"address-and-port-dependent","last":65535,"delta":32}`))
	f.Add([]byte(`{"mapped":["[fe80::1%eth0]:1"],"mapping":"none"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ParseLocal(b)
		if err != nil {
			if !errors.Is(err, ErrLocal) {
				t.Fatal(err)
			}
			return
		}
		ours := Local{Mapped: addrs("44.1.1.1:1", "[2001:db9::1]:1"), Mapping: stun.EndpointIndependent}
		flows, err := plan(ours, l, ice.Filter{})
		if err == nil && (len(flows) == 0 || len(flows) > window) {
			t.Errorf("%d flows", len(flows))
		}
		for _, f := range flows {
			if a := f.to.Addr().Unmap(); a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || f.to.Port() == 0 {
				t.Errorf("goes to %s", f.to)
			}
		}
	})
}
