package introduce

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"porchlight/agent/identity"
)

func via(n byte, at string) identity.Via {
	return identity.Via{Address: device(n).Address(), At: netip.MustParseAddrPort(at)}
}

func TestARegistrationTellsOfOthersAndOfTheDeviceItself(t *testing.T) {
	w := newWorld()
	a := newNode(w, 1, nil)
	you := netip.MustParseAddrPort("203.0.113.5:4001")
	others := []identity.Via{{Address: a.address, At: you}}
	for n := range MaxOthers + 1 {
		others = append(others, via(byte(10+n), fmt.Sprintf("203.0.113.%d:4001", n+1)))
	}
	r := newNode(w, 2, func(c *Config) {
		c.Others = func(identity.Address) []identity.Via { return others }
		c.Seen = func(of identity.Address) netip.AddrPort {
			if of != a.address {
				t.Errorf("asked where %s is seen", of.Short())
			}
			return you
		}
	})
	got, err := a.Register(t.Context(), r.address, a.Epoch())
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Others) != MaxOthers || got.Others[0] != others[1] || got.You != you || got.Ticket != nil {
		t.Errorf("registration %+v", got)
	}
	if again, err := a.Register(t.Context(), r.address, a.Epoch()); err != nil || again.Others != nil {
		t.Errorf("the same is told again: %v, %v", again.Others, err)
	}
	others = others[:2]
	if again, err := a.Register(t.Context(), r.address, a.Epoch()); err != nil || len(again.Others) != 1 {
		t.Errorf("news are not told: %v, %v", again.Others, err)
	}
	if d := time.Since(time.Unix(got.UnixS, 0)); d < 0 || d > time.Minute {
		t.Errorf("the time there is %v ago", d)
	}
}

func TestNonsenseInARegistrationIsLeftOut(t *testing.T) {
	w, a, r, _ := three(t)
	good := via(10, "203.0.113.1:4001")
	text := func(f ...fellow) string { b, _ := json.Marshal(f); return string(b) }
	owner := identity.NewAddress(device(11).Address().Key(), identity.KindOwner)
	many := make([]fellow, MaxOthers+1)
	for i := range many {
		many[i] = fellow(good)
	}
	tests := []struct {
		name, body string
		others     int
		you        string
		unix       int64
		fails      bool
	}{
		{"nothing", `{}`, 0, "", 0, false},
		{"all that is good", `{"others":` + text(fellow(good)) + `,"you":"1.2.3.4:5","unix_s":1700000000}`, 1, "1.2.3.4:5", 1700000000, false},
		{"too many", `{"others":` + text(many...) + `}`, MaxOthers, "", 0, false},
		{"the rendezvous itself", `{"others":` + text(fellow{r.address, good.At}) + `}`, 0, "", 0, false},
		{"we ourselves", `{"others":` + text(fellow{a.address, good.At}) + `}`, 0, "", 0, false},
		{"an owner", `{"others":` + text(fellow{owner, good.At}) + `}`, 0, "", 0, false},
		{"a port of none", `{"others":` + text(fellow{good.Address, netip.MustParseAddrPort("1.2.3.4:0")}) + `}`, 0, "", 0, false},
		{"a group", `{"others":` + text(fellow{good.Address, netip.MustParseAddrPort("224.0.0.1:1")}) + `,"you":"[ff02::1]:9"}`, 0, "", 0, false},
		{"a zone", `{"you":"[fe80::1%eth0]:9"}`, 0, "", 0, false},
		{"nowhere", `{"you":"0.0.0.0:9"}`, 0, "", 0, false},
		{"a mapped address", `{"you":"[::ffff:1.2.3.4]:9"}`, 0, "1.2.3.4:9", 0, false},
		{"before 1970", `{"unix_s":-1}`, 0, "", 0, false},
		{"after 2200", `{"unix_s":7258118401}`, 0, "", 0, false},
		{"no address", `{"others":[{"address":"x","at":"1.2.3.4:5"}]}`, 0, "", 0, true},
		{"no JSON", `?`, 0, "", 0, true},
		{"as much as may be", `{` + strings.Repeat(" ", maxRegistration-2) + `}`, 0, "", 0, false},
		{"one byte too much", `{` + strings.Repeat(" ", maxRegistration-1) + `}`, 0, "", 0, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w.put(r.address, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(tt.body)) }))
			got, err := a.Register(t.Context(), r.address, a.Epoch())
			if tt.fails != (err != nil) {
				t.Fatal(err)
			}
			you := ""
			if got.You.IsValid() {
				you = got.You.String()
			}
			if len(got.Others) != tt.others || you != tt.you || got.UnixS != tt.unix {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestPeriodsHaveLimits(t *testing.T) {
	for s, want := range map[int]time.Duration{
		-1: DefaultPeriod, 0: DefaultPeriod, 1: minPeriod, 5: minPeriod, 6: 6 * time.Second,
		599: 599 * time.Second, 600: maxPeriod, 601: maxPeriod, 1 << 30: maxPeriod,
	} {
		if got := (registerBody{EveryS: s}).period(); got != want {
			t.Errorf("every %d s: %v, want %v", s, got, want)
		}
	}
}

func TestWhoUnregistersIsNotHereAnyMore(t *testing.T) {
	_, a, r, b := three(t)
	if err := b.Unregister(t.Context(), r.address); err != nil {
		t.Fatal(err)
	}
	if w := send(t, r, a.address, "GET", "/v1/epoch?of="+b.address.String(), nil); w.Code != 404 {
		t.Errorf("epoch: %d", w.Code)
	}
	if err := b.Unregister(t.Context(), r.address); err != nil {
		t.Errorf("again: %v", err)
	}
}

func FuzzRegistration(f *testing.F) {
	f.Add([]byte(`{"others":[{"address":"","at":"1.2.3.4:5"}],"you":"1.2.3.4:5","unix_s":1}`))
	f.Add([]byte(`{"you":"","unix_s":-9}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var body registrationBody
		if json.Unmarshal(b, &body) != nil {
			return
		}
		r := body.checked(device(1).Address(), device(2).Address())
		if len(r.Others) > MaxOthers || r.UnixS < 0 || r.UnixS > lastUnixS || r.You.IsValid() && !usable(r.You) {
			t.Fatalf("accepted %+v", r)
		}
	})
}

func FuzzRegisterBody(f *testing.F) {
	f.Add([]byte(`{"epoch":"00000000000000000000000000000001","every_s":20}`))
	f.Add([]byte(`{"every_s":1e9}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var body registerBody
		if json.Unmarshal(b, &body) == nil {
			if p := body.period(); p < minPeriod || p > maxPeriod {
				t.Fatalf("every %v", p)
			}
		}
	})
}

func TestARegistrationSaysWhereItsDeviceCanBeCalled(t *testing.T) {
	w := newWorld()
	a := newNode(w, 1, nil)
	var who identity.Address
	var told []netip.AddrPort
	r := newNode(w, 2, func(c *Config) {
		c.Reachable = func(of identity.Address, at []netip.AddrPort) { who, told = of, at }
	})
	if _, err := a.Register(t.Context(), r.address, a.Epoch()); err != nil || told != nil {
		t.Errorf("a device that says nothing: %v, %v", told, err)
	}
	at := []netip.AddrPort{
		netip.MustParseAddrPort("203.0.113.1:4001"), netip.MustParseAddrPort("[ff02::1]:9"), netip.MustParseAddrPort("0.0.0.0:1"),
		netip.MustParseAddrPort("[::ffff:203.0.113.2]:4001"), netip.MustParseAddrPort("203.0.113.3:4001"),
	}
	if _, err := a.RegisterEvery(t.Context(), r.address, a.Epoch(), DefaultPeriod, at...); err != nil {
		t.Fatal(err)
	}
	if who != a.address || fmt.Sprint(told) != "[203.0.113.1:4001 203.0.113.2:4001]" {
		t.Errorf("%s can be called at %v", who.Short(), told)
	}
}
