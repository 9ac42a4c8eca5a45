package contacts_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"porchlight/agent/contacts"
	"porchlight/agent/identity"
)

type files struct {
	data map[string][]byte
	fail bool
}

func (f *files) ReadJSON(name string, v any) error {
	if b, ok := f.data[name]; ok {
		return json.Unmarshal(b, v)
	}
	return nil
}

func (f *files) WriteJSON(name string, v any) error {
	if f.fail {
		return errors.New("no space left on device")
	}
	b, err := json.Marshal(v)
	f.data[name] = b
	return err
}

func link(n byte) identity.Link {
	return identity.Link{Address: identity.FromSeed(bytes.Repeat([]byte{n}, 32)).Address()}
}

func open(t *testing.T, f *files) *contacts.Book {
	t.Helper()
	b, err := contacts.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGrants(t *testing.T) {
	b := open(t, &files{data: map[string][]byte{}})
	for n, role := range []contacts.Role{contacts.Me, contacts.Friend, contacts.None, contacts.Friend} {
		if _, err := b.Add(link(byte(n)), "c"+strconv.Itoa(n), role); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Block("c3", true); err != nil {
		t.Fatal(err)
	}
	stranger := link(9).Address
	tests := []struct {
		who  string
		want string // which of c0 c1 c2 c3 and the stranger may
	}{
		{"everybody", "c0 c1 c2 stranger"},
		{"friends", "c0 c1"},
		{"me", "c0"},
		{"c2", "c2"},
		{"c3", ""},
		{"", ""},
		{"c2,me", "c0 c2"},
		{link(1).Address.String(), "c1"},
		{stranger.String(), "stranger"},
	}
	for _, tt := range tests {
		t.Run(tt.who, func(t *testing.T) {
			var got []string
			for n := range 4 {
				if b.Allows(link(byte(n)).Address, strings.Split(tt.who, ",")) {
					got = append(got, "c"+strconv.Itoa(n))
				}
			}
			if b.Allows(stranger, strings.Split(tt.who, ",")) {
				got = append(got, "stranger")
			}
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("allowed: %q, want %q", s, tt.want)
			}
		})
	}
	if b.Allows(identity.Address{}, []string{"everybody"}) {
		t.Error("nobody is allowed something")
	}
	if err := b.Admit(link(3).Address); !errors.Is(err, contacts.ErrBlocked) {
		t.Errorf("Admit of a blocked device: %v", err)
	}
}

func TestNames(t *testing.T) {
	b := open(t, &files{data: map[string][]byte{}})
	for _, name := range []string{"", "me", "friends", "a b", "a:b", "a/b", "a@b", "a\nb", strings.Repeat("x", 41), "\xff"} {
		if _, err := b.Add(link(1), name, contacts.Friend); err == nil {
			t.Errorf("name %q was taken", name)
		}
	}
	for _, name := range []string{"Zoë", "attic-pi", strings.Repeat("x", 40)} {
		if _, err := b.Add(link(1), name, contacts.Friend); err != nil {
			t.Errorf("name %q: %v", name, err)
		}
	}
	if _, err := b.Add(link(2), strings.Repeat("x", 40), contacts.Friend); !errors.Is(err, contacts.ErrTaken) {
		t.Errorf("a name twice: %v", err)
	}
}

func TestResolve(t *testing.T) {
	b := open(t, &files{data: map[string][]byte{}})
	full := identity.Link{Address: link(1).Address, Via: []identity.Via{}}
	full, _ = identity.ParseLink(full.Address.String() + "?at=44.128.0.1:5")
	if full.Address.IsZero() {
		full, _ = identity.ParseLink("porchlight:" + link(1).Address.String() + "?at=44.128.0.1:5")
	}
	b.Add(full, "bob", contacts.Friend)
	for _, text := range []string{"bob", link(1).Address.String(), full.String()} {
		if got, err := b.Resolve(text); err != nil || got.String() != full.String() {
			t.Errorf("Resolve(%q) = %v, %v", text, got, err)
		}
	}
	if _, err := b.Resolve("bobby"); !errors.Is(err, contacts.ErrUnknown) {
		t.Errorf("unknown name: %v", err)
	}
	if _, err := b.Resolve(link(1).Address.String()[:55]); !errors.Is(err, identity.ErrAddress) {
		t.Errorf("a short address: %v", err)
	}
}

// TestBookAgainstModel makes random changes, some of which fail to be stored,
// and compares the book, also after opening it again, with a plain map.
func TestBookAgainstModel(t *testing.T) {
	f := &files{data: map[string][]byte{}}
	b := open(t, f)
	model := map[string]identity.Address{}
	r := rand.New(rand.NewPCG(1, 2))
	for step := range 2000 {
		n := byte(r.IntN(20))
		name := "c" + strconv.Itoa(r.IntN(20))
		f.fail = r.IntN(5) == 0
		var err error
		switch r.IntN(3) {
		case 0, 1:
			_, err = b.Add(link(n), name, contacts.Friend)
			if err == nil {
				maps.DeleteFunc(model, func(_ string, a identity.Address) bool { return a == link(n).Address })
				model[name] = link(n).Address
			}
		case 2:
			if err = b.Remove(name); err == nil {
				delete(model, name)
			}
		}
		if f.fail && err == nil {
			t.Fatalf("step %d: a change that was not stored succeeded", step)
		}
		if r.IntN(50) == 0 {
			b = open(t, f)
		}
		var got []string
		for _, c := range b.List() {
			got = append(got, c.Name)
			if model[c.Name] != c.Link.Address {
				t.Fatalf("step %d: %s is %s", step, c.Name, c.Link.Address.Short())
			}
		}
		if want := slices.Sorted(maps.Keys(model)); !slices.Equal(got, want) {
			t.Fatalf("step %d: book %v, model %v", step, got, want)
		}
	}
}
