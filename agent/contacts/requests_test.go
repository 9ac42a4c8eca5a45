package contacts_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/agent/contacts"
	"porchlight/agent/identity"
)

// counted counts the writes of a requests file.
type counted struct {
	files
	writes int
}

func (c *counted) WriteJSON(name string, v any) error {
	c.writes++
	return c.files.WriteJSON(name, v)
}

func openRequests(t *testing.T, f contacts.Files) *contacts.Requests {
	t.Helper()
	r, err := contacts.OpenRequests(f)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func request(n int) contacts.Request {
	key := make([]byte, 32)
	key[0], key[1] = byte(n), byte(n>>8)
	a := identity.NewAddress(key, identity.KindDevice)
	return contacts.Request{Address: a, From: a, Name: fmt.Sprint("n", n), Link: identity.Link{Address: a}}
}

func TestPendingRequestsAreBoundedAndTheOldestMakesRoom(t *testing.T) {
	f := &files{data: map[string][]byte{}}
	r := openRequests(t, f)
	for n := range contacts.MaxPending {
		if dropped, err := r.Put(request(n)); err != nil || !dropped.IsZero() {
			t.Fatalf("request %d: dropped %v, %v", n, dropped, err)
		}
	}
	again := request(0)
	again.Note = "please"
	if dropped, _ := r.Put(again); !dropped.IsZero() {
		t.Errorf("an address that asks again dropped %s", dropped.Short())
	}
	dropped, err := r.Put(request(contacts.MaxPending))
	if err != nil || dropped != request(0).Address {
		t.Errorf("one too many dropped %s, %v", dropped.Short(), err)
	}
	all := r.Pending()
	if len(all) != contacts.MaxPending || all[0].Name != "n50" || all[len(all)-1].Name != "n1" {
		t.Errorf("%d pending, from %s to %s", len(all), all[0].Name, all[len(all)-1].Name)
	}
	if err := r.Flush(true); err != nil {
		t.Fatal(err)
	}
	if n := len(openRequests(t, f).Pending()); n != contacts.MaxPending {
		t.Errorf("%d pending after a restart", n)
	}
}

func TestStrangersCauseFewWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &counted{files: files{data: map[string][]byte{}}}
		r := openRequests(t, f)
		for n := range 3600 { // one each second, for an hour
			r.Put(request(n))
			r.Flush(false)
			<-time.After(time.Second)
		}
		if f.writes < 5 || f.writes > 7 {
			t.Errorf("%d writes in an hour of strangers, want one in ten minutes", f.writes)
		}
	})
}

func TestARequestIsAcceptedOrRefused(t *testing.T) {
	f := &files{data: map[string][]byte{}}
	r := openRequests(t, f)
	yes, no := request(1), request(2)
	no.From = request(3).Address
	r.Put(yes)
	r.Put(no)
	if got, err := r.Accept(yes.Address); err != nil || got.Name != "n1" {
		t.Errorf("accepted %+v, %v", got, err)
	}
	if err := r.Refuse(no.Address); err != nil {
		t.Error(err)
	}
	for _, again := range []identity.Address{yes.Address, no.Address} {
		if _, err := r.Accept(again); !errors.Is(err, contacts.ErrUnknown) {
			t.Errorf("accepted again: %v", err)
		}
		if err := r.Refuse(again); !errors.Is(err, contacts.ErrUnknown) {
			t.Errorf("refused again: %v", err)
		}
	}
	r = openRequests(t, f)
	if !r.Refused(no.Address) || !r.Refused(no.From) || r.Refused(yes.Address) {
		t.Error("the wrong ones are refused after a restart")
	}
	want := contacts.Bond{Address: yes.Address, Standing: contacts.Mutual, Unsent: true}
	if got := r.Bonds(); !slices.Equal(got, []contacts.Bond{want}) {
		t.Errorf("bonds %+v", got)
	}
	if err := r.Ask(no.Address, ""); err != nil || r.Refused(no.Address) {
		t.Errorf("who is asked is refused no more: %v", err)
	}
}

// holding is a file with so many who were refused, and so many contacts.
func holding(t *testing.T, refused, bonds int) *files {
	t.Helper()
	var kept struct {
		Refused []identity.Address `json:"refused"`
		Bonds   []contacts.Bond    `json:"bonds"`
	}
	for n := range refused {
		kept.Refused = append(kept.Refused, request(n).Address)
	}
	for n := range bonds {
		kept.Bonds = append(kept.Bonds, contacts.Bond{Address: request(n).Address, Standing: contacts.Asked})
	}
	f := &files{data: map[string][]byte{}}
	if err := f.WriteJSON("requests.json", kept); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestWhoWasRefusedIsRememberedUpToALimit(t *testing.T) {
	for _, before := range []int{contacts.MaxRefused - 2, contacts.MaxRefused - 1, contacts.MaxRefused} {
		r := openRequests(t, holding(t, before, 0))
		latest := request(before)
		r.Put(latest)
		if err := r.Refuse(latest.Address); err != nil {
			t.Fatal(err)
		}
		full := before == contacts.MaxRefused
		if r.Refused(request(0).Address) == full || !r.Refused(request(1).Address) || !r.Refused(latest.Address) {
			t.Errorf("after %d and one more, not the latest are remembered", before)
		}
	}
}

func TestStandings(t *testing.T) {
	a := request(1).Address
	tests := []struct {
		name string
		do   func(*contacts.Requests)
		want []contacts.Bond
	}{
		{"asked", func(r *contacts.Requests) { r.Ask(a, "hi") }, []contacts.Bond{{a, contacts.Asked, true, "hi"}}},
		{"arrived", func(r *contacts.Requests) { r.Ask(a, "hi"); r.Settle(a, contacts.Asked) }, []contacts.Bond{{a, contacts.Asked, false, ""}}},
		{"accepted", func(r *contacts.Requests) { r.Ask(a, "hi"); r.Settle(a, contacts.Mutual) }, []contacts.Bond{{a, contacts.Mutual, false, ""}}},
		{"mutual stays", func(r *contacts.Requests) {
			r.Ask(a, "")
			r.Settle(a, contacts.Mutual)
			r.Settle(a, contacts.Asked)
			r.Ask(a, "")
		}, []contacts.Bond{{a, contacts.Mutual, false, ""}}},
		{"both asked", func(r *contacts.Requests) { r.Put(request(1)); r.Ask(a, "") }, []contacts.Bond{{a, contacts.Mutual, true, ""}}},
		{"of nobody asked", func(r *contacts.Requests) { r.Settle(a, contacts.Asked) }, nil},
		{"it had us already", func(r *contacts.Requests) { r.Settle(a, contacts.Mutual) }, []contacts.Bond{{a, contacts.Mutual, false, ""}}},
		{"forgotten", func(r *contacts.Requests) { r.Ask(a, ""); r.Forget(a) }, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := &files{data: map[string][]byte{}}
			r := openRequests(t, f)
			tt.do(r)
			for _, r := range []*contacts.Requests{r, openRequests(t, f)} {
				if got := r.Bonds(); len(got) != len(tt.want) || len(got) > 0 && got[0] != tt.want[0] {
					t.Errorf("bonds %+v, want %+v", got, tt.want)
				}
			}
		})
	}
}

func TestWhatCannotBeStoredDidNotHappen(t *testing.T) {
	f := &files{data: map[string][]byte{}}
	r := openRequests(t, f)
	r.Put(request(1))
	f.fail = true
	if _, err := r.Accept(request(1).Address); err == nil {
		t.Error("accepted without a word on the disk")
	}
	if err := r.Ask(request(2).Address, ""); err == nil {
		t.Error("asked without a word on the disk")
	}
	if len(r.Pending()) != 1 || len(r.Bonds()) != 0 {
		t.Errorf("%d pending, bonds %v", len(r.Pending()), r.Bonds())
	}
}

func TestBondsAreBounded(t *testing.T) {
	r := openRequests(t, holding(t, 0, contacts.MaxContacts-1))
	if err := r.Ask(request(contacts.MaxContacts-1).Address, ""); err != nil {
		t.Error(err)
	}
	if err := r.Ask(request(contacts.MaxContacts).Address, ""); err == nil {
		t.Error("one too many was taken")
	}
	if err := r.Ask(request(0).Address, "again"); err != nil {
		t.Errorf("one that is known: %v", err)
	}
}

func TestSuggestedNamesAreUsable(t *testing.T) {
	a := request(7).Address
	tests := []struct{ name, want string }{
		{"anna", "anna"},
		{"Anna at home", "Anna-at-home"},
		{"", "contact-" + a.Short()},
		{"friends", "contact-" + a.Short()},
		{"a:b/c?d@e\n", "a-b-c-d-e"},
		{"\xff\xfe", "contact-" + a.Short()},
		{strings.Repeat("x", contacts.MaxName+1), "contact-" + a.Short()},
		{"bob", "bob-2"},
		{strings.Repeat("y", contacts.MaxName), strings.Repeat("y", contacts.MaxName-4) + "-2"},
	}
	taken := func(s string) bool { return s == "bob" || s == strings.Repeat("y", contacts.MaxName) }
	for _, tt := range tests {
		got := contacts.SuggestName(tt.name, a, taken)
		if got != tt.want {
			t.Errorf("%q: %q, want %q", tt.name, got, tt.want)
		}
		b := open(t, &files{data: map[string][]byte{}})
		if _, err := b.Add(link(1), got, contacts.None); err != nil {
			t.Errorf("%q: %v", got, err)
		}
	}
}
