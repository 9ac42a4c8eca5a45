package spray

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	natstun "porchlight/nat/stun"
)

// described are sides of every kind.
func described() map[string]Side {
	return map[string]Side{
		"public":        {Mapping: natstun.None, Sockets: 256},
		"easy":          {Mapping: natstun.EndpointIndependent, Sockets: 256},
		"random":        {Mapping: natstun.AddressAndPortDependent, Sockets: 256, Last: 2000},
		"by address":    {Mapping: natstun.AddressDependent, Sockets: 256, Last: 2000},
		"block":         {Mapping: natstun.AddressAndPortDependent, Sockets: 256, Last: 2000, Block: 512},
		"small":         {Mapping: natstun.AddressAndPortDependent, Sockets: 64, Last: 2000},
		"sequential":    {Mapping: natstun.AddressAndPortDependent, Sockets: 256, Last: 2000, Delta: 1},
		"falling":       {Mapping: natstun.AddressDependent, Sockets: 256, Last: 2000, Delta: -2},
		"no sockets":    {Mapping: natstun.AddressAndPortDependent, Last: 2000},
		"tiny in a row": {Mapping: natstun.AddressAndPortDependent, Sockets: MinSockets, Last: 2000, Delta: 1},
	}
}

func TestPlansFitTogether(t *testing.T) {
	hopeless, easy := ErrHopeless, ErrEasy
	type want struct {
		method  Method
		sockets int
		err     error
	}
	wants := map[[2]string]want{
		{"easy", "random"}:              {Birthday, 256, nil},
		{"public", "random"}:            {Birthday, 256, nil},
		{"easy", "by address"}:          {Birthday, 256, nil},
		{"easy", "block"}:               {Birthday, 256, nil},
		{"easy", "small"}:               {Birthday, 64, nil},
		{"easy", "sequential"}:          {Window, 64, nil},
		{"easy", "falling"}:             {Window, 64, nil},
		{"easy", "tiny in a row"}:       {Window, MinSockets, nil},
		{"easy", "no sockets"}:          {"", 0, hopeless},
		{"sequential", "falling"}:       {Predict, 64, nil},
		{"sequential", "tiny in a row"}: {Predict, MinSockets, nil},
		{"sequential", "random"}:        {"", 0, hopeless},
		{"block", "random"}:             {"", 0, hopeless},
		{"small", "random"}:             {"", 0, hopeless},
		{"easy", "public"}:              {"", 0, easy},
	}
	for pair, w := range wants {
		for _, first := range []bool{true, false} {
			a, b := described()[pair[0]], described()[pair[1]]
			a.Mapped, b.Mapped = netip.MustParseAddrPort("8.8.1.1:500"), netip.MustParseAddrPort("8.8.2.2:600")
			t.Run(fmt.Sprintf("%v asked by the first %v", pair, first), func(t *testing.T) {
				p, errP := Decide(a, b, first)
				q, errQ := Decide(b, a, !first)
				if !errors.Is(errP, w.err) || !errors.Is(errQ, w.err) || (errP == nil) != (w.err == nil) {
					t.Fatalf("%v, %v", errP, errQ)
				}
				if p.Method != w.method || q.Method != w.method || p.Sockets != w.sockets || q.Sockets != w.sockets {
					t.Errorf("%+v, %+v", p, q)
				}
				if w.err != nil {
					return
				}
				if p.Chooses == q.Chooses || p.Asking == q.Asking || p.Target != b.Mapped || q.Target != a.Mapped {
					t.Errorf("%+v, %+v", p, q)
				}
				if w.method == Predict {
					if !p.Opens || !q.Opens || p.Sprays || q.Sprays || p.Chooses != first {
						t.Errorf("%+v, %+v", p, q)
					}
				} else if p.Opens || !p.Sprays || !q.Opens || q.Sprays || !p.Chooses {
					t.Errorf("%+v, %+v", p, q)
				}
			})
		}
	}
}

func TestOneNATInFrontOfBothIsHopeless(t *testing.T) {
	a, b := described()["easy"], described()["random"]
	a.Mapped, b.Mapped = netip.MustParseAddrPort("8.8.1.1:500"), netip.MustParseAddrPort("8.8.1.1:600")
	if _, err := Decide(a, b, true); !errors.Is(err, ErrHopeless) {
		t.Error(err)
	}
	b.Mapped = netip.AddrPort{}
	if _, err := Decide(a, b, true); !errors.Is(err, ErrSide) {
		t.Error(err)
	}
}
