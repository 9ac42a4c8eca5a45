package reach_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"porchlight/agent/identity"
	"porchlight/agent/reach"
)

// shelf keeps files in memory and counts writes.
type shelf struct {
	files  map[string][]byte
	writes int
	full   error
}

func (s *shelf) ReadJSON(name string, v any) error {
	if b, ok := s.files[name]; ok {
		return json.Unmarshal(b, v)
	}
	return nil
}

func (s *shelf) WriteJSON(name string, v any) error {
	if s.full != nil {
		return s.full
	}
	s.writes++
	b, err := json.Marshal(v)
	s.files[name] = b
	return err
}

func numbered(n int) identity.Address {
	seed := make([]byte, 32)
	seed[0], seed[1] = byte(n), byte(n>>8)
	return identity.FromSeed(seed).Address()
}

func placed(n int) identity.Link {
	return identity.Link{Address: numbered(n), At: []netip.AddrPort{netip.MustParseAddrPort(fmt.Sprintf("44.128.0.1:%d", 1+n))}}
}

func heard(n int) identity.Via {
	return identity.Via{Address: numbered(n), At: placed(n).At[0]}
}

func TestFellowsOutliveARestartAndCostNoWrites(t *testing.T) {
	s := &shelf{files: map[string][]byte{}}
	f, err := reach.OpenFellows(s, numbered(0))
	if err != nil {
		t.Fatal(err)
	}
	f.Suggest(heard(1), heard(2), heard(0))
	for range 100 {
		if err := f.Proved(placed(2)); err != nil {
			t.Fatal(err)
		}
	}
	if s.writes != 1 {
		t.Errorf("%d writes for one rendezvous", s.writes)
	}
	if got := f.Links(); len(got) != 2 || got[0].Address != numbered(2) || got[1].Address != numbered(1) {
		t.Errorf("known are %v", got)
	}
	f.Suggest(heard(2))
	again, err := reach.OpenFellows(s, numbered(0))
	if err != nil || len(again.Links()) != 1 || again.Links()[0].Address != numbered(2) {
		t.Errorf("after a restart: %v, %v", again.Links(), err)
	}
	moved := placed(2)
	moved.At = placed(9).At
	if err := again.Proved(moved); err != nil || s.writes != 2 {
		t.Errorf("a rendezvous at another address: %v, %d writes", err, s.writes)
	}
}

func TestFellowsAreBounded(t *testing.T) {
	s := &shelf{files: map[string][]byte{}}
	f, _ := reach.OpenFellows(s, numbered(0))
	for n := 1; n <= 400; n++ {
		f.Suggest(heard(n))
	}
	if got := f.Links(); len(got) != 64 || got[0].Address != numbered(400) {
		t.Errorf("%d are remembered by hearsay", len(got))
	}
	for n := 1; n <= 33; n++ {
		if err := f.Proved(placed(n)); err != nil {
			t.Fatal(err)
		}
	}
	again, _ := reach.OpenFellows(s, numbered(0))
	if got := again.Links(); len(got) != 32 || got[0].Address != numbered(33) || got[31].Address != numbered(2) {
		t.Errorf("%d are kept", len(got))
	}
}

func TestAFullDiskForgetsNoFellow(t *testing.T) {
	full := errors.New("no space left")
	s := &shelf{files: map[string][]byte{}, full: full}
	f, _ := reach.OpenFellows(s, numbered(0))
	if err := f.Proved(placed(1)); !errors.Is(err, full) {
		t.Errorf("Proved = %v", err)
	}
	if len(f.Links()) != 1 {
		t.Error("what could not be written is not known either")
	}
}

func TestEachDeviceIsToldOfOthersInAnOrderOfItsOwn(t *testing.T) {
	f, _ := reach.OpenFellows(&shelf{files: map[string][]byte{}}, numbered(0))
	for n := 1; n <= 40; n++ {
		f.Suggest(heard(n))
	}
	first := map[identity.Address]bool{}
	for n := 1; n <= 20; n++ {
		some := f.For(numbered(n), 4)
		if len(some) != 4 || some[0] != f.For(numbered(n), 4)[0] {
			t.Fatalf("device %d is told of %v", n, some)
		}
		for _, v := range some {
			if v.Address == numbered(n) {
				t.Errorf("device %d is told of itself", n)
			}
		}
		first[some[0].Address] = true
	}
	if len(first) < 8 {
		t.Errorf("twenty devices go to %d rendezvous first", len(first))
	}
}
