package spray

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	natstun "porchlight/nat/stun"
)

func TestASideSurvivesItsEncoding(t *testing.T) {
	longest := Side{
		Mapping: natstun.AddressAndPortDependent, Mapped: netip.MustParseAddrPort("255.255.255.255:65535"),
		Last: 65535, Delta: -maxDelta, Block: maxBlock, Sockets: MaxSockets,
	}
	for _, s := range []Side{longest, {Mapping: natstun.None, Mapped: netip.MustParseAddrPort("8.8.8.8:1")}} {
		b, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > MaxSide {
			t.Errorf("%d bytes: %s", len(b), b)
		}
		if got, err := ParseSide(b); err != nil || got != s {
			t.Errorf("%+v, %v", got, err)
		}
	}
	mapped := longest
	mapped.Mapped = netip.MustParseAddrPort("[::ffff:8.8.8.8]:99")
	if b, err := mapped.Encode(); err != nil || !strings.Contains(string(b), `"8.8.8.8:99"`) {
		t.Errorf("%s, %v", b, err)
	}
}

func TestUnusableSidesAreRefused(t *testing.T) {
	for _, row := range []struct {
		text string
		good bool
	}{
		{`{"mapping":"endpoint-independent","mapped":"8.8.8.8:5"}`, true},
		{`{"mapping":"endpoint-independent","mapped":"[::ffff:8.8.8.8]:5"}`, true},
		{`{"mapping":"endpoint-independent","mapped":"8.8.8.8:5","later":"word"}`, true},
		{`{"mapping":"unknown","mapped":"8.8.8.8:5"}`, false},
		{`{"mapping":"","mapped":"8.8.8.8:5"}`, false},
		{`{"mapped":"8.8.8.8:5"}`, false},
		{`{"mapping":"none"}`, false},
		{`{"mapping":"none","mapped":""}`, false},
		{`{"mapping":"none","mapped":"8.8.8.8:0"}`, false},
		{`{"mapping":"none","mapped":"[2606::1]:5"}`, false},
		{`{"mapping":"none","mapped":"example:5"}`, false},
		{`{"mapping":"address-dependent","mapped":"8.8.8.8:5","last":9,"delta":64}`, true},
		{`{"mapping":"address-dependent","mapped":"8.8.8.8:5","last":9,"delta":65}`, false},
		{`{"mapping":"address-dependent","mapped":"8.8.8.8:5","last":9,"delta":-65}`, false},
		{`{"mapping":"address-dependent","mapped":"8.8.8.8:5","delta":1}`, false},
		{`{"mapping":"address-dependent","mapped":"8.8.8.8:5","last":65536}`, false},
		{`{"mapping":"address-dependent","mapped":"8.8.8.8:5","last":9,"block":2048}`, true},
		{`{"mapping":"address-dependent","mapped":"8.8.8.8:5","last":9,"block":2049}`, false},
		{`{"mapping":"address-dependent","mapped":"8.8.8.8:5","last":9,"block":-1}`, false},
		{`{"mapping":"address-dependent","mapped":"8.8.8.8:5","sockets":256}`, true},
		{`{"mapping":"address-dependent","mapped":"8.8.8.8:5","sockets":257}`, false},
		{`{"mapping":"address-dependent","mapped":"8.8.8.8:5","sockets":-1}`, false},
		{`{"mapping":"none","mapped":"8.8.8.8:5"}{}`, false},
		{``, false}, {`[]`, false}, {`null`, false},
	} {
		_, err := ParseSide([]byte(row.text))
		if (err == nil) != row.good || err != nil && !errors.Is(err, ErrSide) {
			t.Errorf("%s: %v", row.text, err)
		}
	}
}

func TestTheSizeOfASideIsLimited(t *testing.T) {
	const text = `{"mapping":"none","mapped":"8.8.8.8:5"}`
	for _, more := range []int{-1, 0, 1} {
		_, err := ParseSide([]byte(text + strings.Repeat(" ", MaxSide+more-len(text))))
		if (err == nil) != (more <= 0) {
			t.Errorf("%d bytes: %v", MaxSide+more, err)
		}
	}
}

func FuzzParseSide(f *testing.F) {
	f.Add([]byte(`{"mapping":"address-and-port-dependent","mapped":"8.8.8.8:5","last":65535,"delta":-1,"block":9,"sockets":256}`))
	f.Add([]byte(`{"mapping":"none","mapped":"[::ffff:1.2.3.4]:5"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSide(b)
		if err != nil {
			return
		}
		again, err := s.Encode()
		if err != nil {
			t.Fatalf("%+v: %v", s, err)
		}
		if got, err := ParseSide(again); err != nil || got != s {
			t.Errorf("%+v becomes %+v, %v", s, got, err)
		}
		easy := Side{Mapping: natstun.None, Mapped: netip.MustParseAddrPort("9.9.9.9:9")}
		if p, err := Decide(easy, s, true); err == nil && p.Sprays {
			ports := newPorts(p, newRandom(1))
			for range MaxProbes {
				if port := ports.port(); port < lowestPort {
					t.Fatalf("%+v: port %d", s, port)
				}
			}
		}
	})
}

func TestSmallDevicesOpenFewerSockets(t *testing.T) {
	for memory, want := range map[uint64]int{SmallMemory - 1: SmallSockets, SmallMemory: MaxSockets, 1 << 40: MaxSockets} {
		if got := socketsFor(memory); got != want {
			t.Errorf("%d bytes: %d", memory, got)
		}
	}
	if n := DefaultSockets(); n != SmallSockets && n != MaxSockets {
		t.Errorf("%d sockets", n)
	}
}

func TestSamplesTellThePattern(t *testing.T) {
	for _, row := range []struct {
		name         string
		ports        []int
		last         uint16
		delta, block int
	}{
		{"one after the other", []int{40000, 40001, 40002, 40003, 40004, 40005}, 40005, 1, 0},
		{"other flows in between", []int{40000, 40003, 40004, 40009, 40010, 40031}, 40031, 1, 0},
		{"two answers swapped", []int{40000, 40002, 40001, 40003, 40004, 40005}, 40005, 1, 0},
		{"steps of two", []int{40000, 40002, 40006, 40008, 40010, 40012}, 40012, 2, 0},
		{"falling", []int{40010, 40009, 40008, 40007, 40005, 40004}, 40004, -1, 0},
		{"four are enough", []int{40000, 40001, 40002, 40003}, 40003, 1, 0},
		{"three are not", []int{40000, 40001, 40002}, 40002, 0, 0},
		{"random", []int{1024, 65535, 33000, 2000, 9999, 40000}, 40000, 0, 0},
		{"a block", []int{2100, 2520, 2200, 2050, 2333, 2400}, 2400, 0, 940},
		{"a large block", []int{2100, 4098, 2200, 2050, 2333, 2400}, 2400, 0, maxBlock},
		{"too large for a block", []int{2100, 4099, 2200, 2050, 2333, 2400}, 2400, 0, 0},
		{"one port for all", []int{2100, 2100, 2100, 2100}, 2100, 0, 0},
	} {
		var mapped []netip.AddrPort
		for _, p := range row.ports {
			mapped = append(mapped, netip.AddrPortFrom(netip.MustParseAddr("8.8.8.8"), uint16(p)))
		}
		s, err := Side{Mapping: natstun.AddressAndPortDependent}.sampled(mapped)
		if err != nil || s.Last != row.last || s.Delta != row.delta || s.Block != row.block {
			t.Errorf("%s: %+v, %v", row.name, s, err)
		}
	}
}

func TestUselessSamplesAreRefused(t *testing.T) {
	s := Side{Mapping: natstun.AddressDependent}
	if _, err := s.sampled(nil); !errors.Is(err, ErrNoSample) {
		t.Error(err)
	}
	two := []netip.AddrPort{netip.MustParseAddrPort("8.8.8.8:2000"), netip.MustParseAddrPort("8.8.8.9:2001")}
	if _, err := s.sampled(two); !errors.Is(err, ErrMoving) || !errors.Is(err, ErrHopeless) {
		t.Error(err)
	}
	known := s
	known.Delta = 2
	if got, err := known.sampled(two[:1]); err != nil || got.Delta != 2 || got.Last != 2000 {
		t.Errorf("a known step is lost: %+v, %v", got, err)
	}
}
