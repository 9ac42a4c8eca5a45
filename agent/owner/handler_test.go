package owner_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/owner"
)

// body makes the body of PUT /v1/roster.
func body(t testing.TB, roster, presigned []byte, version uint64) []byte {
	t.Helper()
	b, err := json.Marshal(map[string]any{"roster": roster, "presigned": presigned, "edition": map[string]any{"version": version}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWhoIsToldRosters(t *testing.T) {
	w := newWorld()
	a, b := w.add(t, 1, nil), w.add(t, 2, nil)
	o := a.create(t, "")
	a.bring(t, b, "")
	bob, stranger := person(9), device(50).Address()
	a.wanted[bob.Address()] = true
	if _, err := a.Learn(bob.Address(), owner.SignRoster(bob, 1, []identity.Address{device(9).Address()})); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		caller identity.Address
		of     string
		want   int
	}{
		{"a stranger asks for the own owner", stranger, o.String(), 200},
		{"a stranger asks for another", stranger, bob.Address().String(), 404},
		{"an own device asks for another", b.address(), bob.Address().String(), 200},
		{"a welcome one asks for another", device(9).Address(), bob.Address().String(), 200},
		{"for one that nobody knows", b.address(), person(8).Address().String(), 404},
		{"for a device", b.address(), b.address().String(), 400},
		{"for nothing", b.address(), "", 400},
		{"nobody asks", identity.Address{}, o.String(), 401},
	}
	for _, tt := range tests {
		got := post(a.handler, tt.caller, "GET", "/v1/roster?of="+tt.of, nil)
		if got.Code != tt.want {
			t.Errorf("%s: %d %s", tt.name, got.Code, got.Body)
		}
		if got.Code == 200 {
			of, _ := identity.ParseAddress(tt.of)
			if _, err := owner.ParseRoster(of, got.Body.Bytes()); err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
		}
	}
}

func TestWhoMayTellWhat(t *testing.T) {
	w := newWorld()
	a, b := w.add(t, 1, nil), w.add(t, 2, nil)
	o := a.create(t, "")
	a.bring(t, b, "")
	words, _ := a.Words()
	key, err := owner.FromWords(words)
	if err != nil {
		t.Fatal(err)
	}
	bob, stranger := person(9), device(50).Address()
	a.wanted[bob.Address()] = true
	own := a.Roster(o)
	newer := owner.SignRoster(key, 3, []identity.Address{a.address(), b.address()})
	put := func(caller, of identity.Address, b []byte) int {
		return post(a.handler, caller, "PUT", "/v1/roster?of="+of.String(), b).Code
	}
	tests := []struct {
		name   string
		caller identity.Address
		of     identity.Address
		body   []byte
		want   int
	}{
		{"nobody", identity.Address{}, o, body(t, newer, nil, 0), 401},
		{"no JSON", stranger, o, []byte("{"), 400},
		{"no roster", stranger, o, []byte("{}"), 400},
		{"a forged roster", stranger, o, body(t, owner.SignRoster(bob, 9, nil), nil, 0), 400},
		{"an unwanted owner", stranger, person(8).Address(), body(t, owner.SignRoster(person(8), 1, nil), nil, 0), 204},
		{"a wanted one, by a stranger", stranger, bob.Address(), body(t, owner.SignRoster(bob, 2, nil), nil, 0), 204},
		{"an older one", stranger, bob.Address(), body(t, owner.SignRoster(bob, 1, nil), nil, 0), 409},
		{"presigned by a stranger", stranger, o, body(t, own, []byte("evil"), 99), 204},
		{"presigned by an own device, for another owner", b.address(), bob.Address(), body(t, owner.SignRoster(bob, 2, nil), []byte("evil"), 99), 204},
		{"presigned by an own device, old", b.address(), o, body(t, own, []byte("old"), 1), 204},
	}
	before := a.Presigned()
	for _, tt := range tests {
		if got := put(tt.caller, tt.of, tt.body); got != tt.want {
			t.Errorf("%s: %d", tt.name, got)
		}
		if !bytes.Equal(a.Presigned(), before) {
			t.Errorf("%s: what is presigned changed", tt.name)
		}
	}
	if a.Version(bob.Address()) != 2 || a.Version(person(8).Address()) != 0 {
		t.Errorf("versions %d and %d", a.Version(bob.Address()), a.Version(person(8).Address()))
	}
	// The older one was answered by the newer.
	got := post(a.handler, stranger, "PUT", "/v1/roster?of="+bob.Address().String(), body(t, owner.SignRoster(bob, 1, nil), nil, 0))
	if r, err := owner.ParseRoster(bob.Address(), got.Body.Bytes()); err != nil || r.Version != 2 {
		t.Errorf("answer %+v, %v", r, err)
	}
	if got := put(b.address(), o, body(t, newer, []byte("new"), 3)); got != 204 || a.Version(o) != 3 {
		t.Errorf("a newer roster of an own device: %d, version %d", got, a.Version(o))
	}
	// a holds the key and signed by itself what is presigned for version 3.
	if got := a.Presigned(); len(got) == 0 || got[0] != 3 {
		t.Errorf("presigned %q", got)
	}
	// A revoked device tells nothing any more.
	if err := a.Revoke(b.address()); err != nil {
		t.Fatal(err)
	}
	before = a.Presigned()
	if got := put(b.address(), o, body(t, a.Roster(o), []byte("evil"), 99)); got != 204 || !bytes.Equal(a.Presigned(), before) {
		t.Errorf("a revoked device: %d, presigned %q", got, a.Presigned())
	}
}

func TestBodiesAreBounded(t *testing.T) {
	w := newWorld()
	a, b := w.add(t, 1, nil), w.add(t, 2, nil)
	o := a.create(t, "")
	a.bring(t, b, "")
	padded := func(size int) []byte {
		x := body(t, a.Roster(o), nil, 0)
		return append(x, bytes.Repeat([]byte(" "), size-len(x))...)
	}
	stranger := device(50).Address()
	target := "/v1/roster?of=" + o.String()
	tests := []struct {
		name           string
		caller         identity.Address
		method, target string
		body           []byte
		want           int
	}{
		{"a stranger below", stranger, "PUT", target, padded(owner.MaxRequest - 1), 204},
		{"a stranger at", stranger, "PUT", target, padded(owner.MaxRequest), 204},
		{"a stranger above", stranger, "PUT", target, padded(owner.MaxRequest + 1), 413},
		{"an own device at", b.address(), "PUT", target, padded(owner.MaxUpdate), 204},
		{"an own device above", b.address(), "PUT", target, padded(owner.MaxUpdate + 1), 413},
		{"joining at", stranger, "POST", "/v1/join", append([]byte("{}"), bytes.Repeat([]byte(" "), owner.MaxRequest-2)...), 403},
		{"joining above", stranger, "POST", "/v1/join", append([]byte("{}"), bytes.Repeat([]byte(" "), owner.MaxRequest-1)...), 413},
		{"joining with no JSON", stranger, "POST", "/v1/join", []byte("["), 400},
		{"another path", stranger, "GET", "/v1/key", nil, 404},
		{"another method", stranger, "DELETE", target, nil, 405},
	}
	for _, tt := range tests {
		if got := post(a.handler, tt.caller, tt.method, tt.target, tt.body); got.Code != tt.want {
			t.Errorf("%s: %d %s", tt.name, got.Code, got.Body)
		}
	}
}

func TestStrangersAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, b := w.add(t, 1, nil), w.add(t, 2, nil)
		o := a.create(t, "")
		a.bring(t, b, "")
		ask := func(caller identity.Address) int {
			return post(a.handler, caller, "GET", "/v1/roster?of="+o.String(), nil).Code
		}
		time.Sleep(time.Minute) // of the bubble's clock
		for i := range owner.AskedPerMinute + 1 {
			want := http.StatusOK
			if i == owner.AskedPerMinute {
				want = http.StatusTooManyRequests
			}
			if got := ask(device(50).Address()); got != want {
				t.Errorf("request %d of a stranger: %d", i+1, got)
			}
			if got := ask(b.address()); got != http.StatusOK {
				t.Errorf("request %d of an own device: %d", i+1, got)
			}
		}
		if got := ask(device(51).Address()); got != http.StatusOK {
			t.Errorf("another stranger: %d", got)
		}
		for i := range owner.MaxCallers {
			ask(identity.NewAddress(ownerNumber(i).Address().Key(), identity.KindDevice))
		}
		if got := ask(device(52).Address()); got != http.StatusTooManyRequests {
			t.Errorf("one stranger too many: %d", got)
		}
		time.Sleep(time.Minute)
		for _, caller := range []identity.Address{device(50).Address(), device(52).Address()} {
			if got := ask(caller); got != http.StatusOK {
				t.Errorf("a minute later: %d", got)
			}
		}
	})
}

func TestAskRefusesWhatIsNoRoster(t *testing.T) {
	w := newWorld()
	a, b := w.add(t, 1, nil), w.add(t, 2, nil)
	o := a.create(t, "")
	for name, answer := range map[string]string{
		"garbage":   "hello",
		"nothing":   "",
		"too large": strings.Repeat("x", owner.MaxRoster+1),
		"another's": string(owner.SignRoster(person(9), 9, nil)),
	} {
		w.nodes[a.address()] = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(answer)) })
		if signed, err := owner.Ask(t.Context(), b.client(), a.address(), o); err == nil || signed != nil {
			t.Errorf("%s: %d bytes, %v", name, len(signed), err)
		}
	}
	w.nodes[a.address()] = http.NotFoundHandler()
	if changed, err := b.Fetch(t.Context(), b.client(), a.address(), o); changed || err != nil {
		t.Errorf("not known there: %t, %v", changed, err)
	}
	w.nodes[a.address()] = a.handler
	b.wanted[o] = true
	if err := b.Tell(t.Context(), b.client(), a.address()); err == nil {
		t.Error("a device of nobody told something")
	}
	if changed, err := b.Fetch(t.Context(), b.client(), a.address(), o); !changed || err != nil {
		t.Errorf("Fetch = %t, %v", changed, err)
	}
	// What is older there than here is no error.
	w.nodes[a.address()] = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(a.Roster(o)) })
	if changed, err := b.Fetch(t.Context(), b.client(), a.address(), o); changed || err != nil {
		t.Errorf("the same again: %t, %v", changed, err)
	}
}

func TestARosterThatChangesWithoutEndIsNotStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newWorld().add(t, 1, nil)
		bob := person(9)
		a.wanted[bob.Address()] = true
		put := func(version uint64) int {
			caller := device(byte(100 + version/20)).Address()
			return post(a.handler, caller, "PUT", "/v1/roster?of="+bob.Address().String(), body(t, owner.SignRoster(bob, version, nil), nil, 0)).Code
		}
		for v := range uint64(owner.ChangesPerHour + 1) {
			want := http.StatusNoContent
			if v == owner.ChangesPerHour {
				want = http.StatusTooManyRequests
			}
			if got := put(v + 1); got != want {
				t.Errorf("version %d: %d", v+1, got)
			}
		}
		if got := put(owner.ChangesPerHour); got != http.StatusNoContent {
			t.Errorf("the one that is known: %d", got)
		}
		time.Sleep(time.Hour) // of the bubble's clock
		if got := put(owner.ChangesPerHour + 1); got != http.StatusNoContent {
			t.Errorf("an hour later: %d", got)
		}
	})
}
