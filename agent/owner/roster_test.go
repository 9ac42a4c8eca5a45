package owner_test

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"porchlight/agent/identity"
	"porchlight/agent/owner"
)

func devices(n int) (all []identity.Address) {
	for i := range n {
		all = append(all, device(byte(i+1)).Address())
	}
	return all
}

func TestRosterRoundTrip(t *testing.T) {
	o := person(9)
	for _, n := range []int{0, 1, 2, owner.MaxDevices} {
		b := owner.SignRoster(o, math.MaxUint64, devices(n))
		r, err := owner.ParseRoster(o.Address(), b)
		if err != nil || r.Owner != o.Address() || r.Version != math.MaxUint64 || len(r.Devices) != n {
			t.Errorf("%d devices: %+v, %v", n, r, err)
		}
		for _, d := range devices(n) {
			if !r.Lists(d) {
				t.Errorf("%d devices: %s is missing", n, d.Short())
			}
		}
		if r.Lists(device(200).Address()) || len(b) > owner.MaxRoster {
			t.Errorf("%d devices make %d bytes, and list a stranger", n, len(b))
		}
	}
	if owner.MaxRoster > 600 {
		t.Errorf("a roster may have %d bytes", owner.MaxRoster)
	}
}

func TestParseRosterRefuses(t *testing.T) {
	o := person(9)
	good := owner.SignRoster(o, 3, devices(2))
	// resigned signs what change made of the body anew.
	resigned := func(change func(body []byte) []byte) []byte {
		body := change(bytes.Clone(good[:len(good)-64]))
		message := append(append([]byte("porchlight roster 1 "), o.Address().Key()...), body...)
		return append(body, o.Sign(message)...)
	}
	if _, err := owner.ParseRoster(o.Address(), resigned(func(b []byte) []byte { return b })); err != nil {
		t.Fatalf("what is spoilt below is not good: %v", err)
	}
	set := func(at int, v byte) func([]byte) []byte {
		return func(b []byte) []byte { b[at] = v; return b }
	}
	tests := map[string][]byte{
		"nothing":             nil,
		"cut short":           good[:len(good)-1],
		"one byte more":       append(bytes.Clone(good), 0),
		"half a head":         good[:5],
		"another form":        resigned(set(0, 2)),
		"version 0":           resigned(set(8, 0)),
		"fewer than it says":  resigned(set(9, 3)),
		"more than it says":   resigned(set(9, 1)),
		"255 devices":         resigned(set(9, 255)),
		"17 devices":          owner.SignRoster(o, 3, devices(owner.MaxDevices+1)),
		"one device twice":    owner.SignRoster(o, 3, append(devices(2), devices(1)...)),
		"devices not ordered": resigned(func(b []byte) []byte { return append(b[:10:10], append(bytes.Clone(b[42:74]), b[10:42]...)...) }),
		"another's signature": owner.SignRoster(person(8), 3, devices(2)),
		"a flipped version":   set(8, 4)(bytes.Clone(good)),
		"a flipped device":    set(20, good[20]^1)(bytes.Clone(good)),
		"a flipped signature": set(len(good)-1, good[len(good)-1]^1)(bytes.Clone(good)),
		"no domain":           append(bytes.Clone(good[:len(good)-64]), o.Sign(good[:len(good)-64])...),
	}
	for name, b := range tests {
		if r, err := owner.ParseRoster(o.Address(), b); !errors.Is(err, owner.ErrRoster) || r.Owner != (identity.Address{}) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	if _, err := owner.ParseRoster(person(8).Address(), good); !errors.Is(err, owner.ErrRoster) {
		t.Errorf("as another owner's: %v", err)
	}
	if _, err := owner.ParseRoster(identity.NewAddress(o.Address().Key(), identity.KindDevice), good); !errors.Is(err, owner.ErrRoster) {
		t.Errorf("as a device's: %v", err)
	}
	if _, err := owner.ParseRoster(identity.Address{}, good); !errors.Is(err, owner.ErrRoster) {
		t.Errorf("as nobody's: %v", err)
	}
}

func FuzzRoster(f *testing.F) {
	o := person(9)
	f.Add(owner.SignRoster(o, 3, devices(2)))
	f.Add(owner.SignRoster(o, 1, nil))
	f.Add(owner.SignRoster(o, 1, devices(owner.MaxDevices)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := owner.ParseRoster(o.Address(), b)
		if err == nil && !bytes.Equal(owner.SignRoster(o, r.Version, r.Devices), b) {
			t.Errorf("%x reads as %+v, which is written otherwise", b, r)
		}
	})
}
