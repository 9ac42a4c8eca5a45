package people

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"porchlight/agent/identity"
	"porchlight/agent/introduce"
)

func TestHostileNotesAreRefused(t *testing.T) {
	here := func(more string) string {
		return `{"v":1,"k":"here","boot":"0123456789abcdef","n":1` + more + `}`
	}
	link := address(1).String()
	asks := func(more string) string { return `{"v":1,"k":"request","link":"porchlight:` + link + `"` + more + `}` }
	pad := func(s string, size int) string { return s + strings.Repeat(" ", size-len(s)) }
	tests := []struct {
		name, body string
		ok         bool
	}{
		{"presence", here(`,"on":true,"name":"attic","roster":18446744073709551615`), true},
		{"a request", asks(`,"name":"Anna","note":"hello"`), true},
		{"what a newer device adds", here(`,"mood":"good"`), true},
		{"as long as may be", pad(here(""), maxMessage), true},
		{"one byte too long", pad(here(""), maxMessage+1), false},
		{"nothing", "", false},
		{"no object", "[]", false},
		{"two objects", here("") + here(""), false},
		{"no version", `{"k":"here","boot":"0123456789abcdef","n":1}`, false},
		{"another version", strings.Replace(here(""), `"v":1`, `"v":2`, 1), false},
		{"no kind", `{"v":1}`, false},
		{"another kind", `{"v":1,"k":"shout"}`, false},
		{"no boot", `{"v":1,"k":"here","n":1}`, false},
		{"a short boot", `{"v":1,"k":"here","boot":"0123","n":1}`, false},
		{"a boot of other digits", `{"v":1,"k":"here","boot":"0123456789abcdeg","n":1}`, false},
		{"a count of nothing", `{"v":1,"k":"here","boot":"0123456789abcdef"}`, false},
		{"a count below", `{"v":1,"k":"here","boot":"0123456789abcdef","n":-1}`, false},
		{"a count above", `{"v":1,"k":"here","boot":"0123456789abcdef","n":18446744073709551616}`, false},
		{"a long name", here(`,"name":"` + strings.Repeat("é", MaxName) + `"`), true},
		{"a longer name", here(`,"name":"` + strings.Repeat("é", MaxName+1) + `"`), false},
		{"a name of two lines", here(`,"name":"a\nb"`), false},
		{"a name that turns around", here(`,"name":"a\u202eb"`), false},
		{"a name that is not UTF-8", here(",\"name\":\"a\xffb\""), false},
		{"a request without link", `{"v":1,"k":"request"}`, false},
		{"a yes without link", `{"v":1,"k":"accept","link":""}`, false},
		{"a request of no address", `{"v":1,"k":"request","link":"porchlight:aaaa"}`, false},
		{"a long text", asks(`,"note":"` + strings.Repeat("é", MaxNote) + `"`), true},
		{"a longer text", asks(`,"note":"` + strings.Repeat("é", MaxNote+1) + `"`), false},
		{"a text of as many bytes as may be", asks(`,"note":"` + strings.Repeat("€", maxNoteBytes/3) + `"`), true},
		{"a text of more", asks(`,"note":"` + strings.Repeat("𝄞", maxNoteBytes/4+1) + `"`), false},
		{"a text with a bell", asks(`,"note":"\u0007"`), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parse([]byte(tt.body))
			if (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrMessage) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestTheLongestNoteCanBeCarried(t *testing.T) {
	if maxMessage > introduce.MaxNote {
		t.Errorf("notes have up to %d bytes, and %d are carried", maxMessage, introduce.MaxNote)
	}
}

func TestHintsThatDoNotFitAreLeftOut(t *testing.T) {
	link := identity.Link{Address: address(1)}
	for n := range identity.MaxHints {
		at := netip.MustParseAddrPort(fmt.Sprintf("[2001:db8:1111:2222:3333:4444:5555:%x]:54321", 0x6660+n))
		link.At = append(link.At, at)
		link.Via = append(link.Via, identity.Via{Address: address(10 + n), At: at})
	}
	m := message{Kind: kindRequest, Name: strings.Repeat("<", MaxName), Link: &link, Note: strings.Repeat("é", MaxNote)}
	b, err := m.encode()
	if err != nil || len(b) > maxMessage {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	got, err := parse(b)
	if err != nil || len(got.Link.At) != 4 || len(got.Link.Via) == 0 || len(got.Link.Via) == 4 {
		t.Errorf("%+v, %v", got.Link, err)
	}
	if len(link.Via) != identity.MaxHints {
		t.Error("the sender's own link was cut")
	}
	m.Note = strings.Repeat("n", maxMessage)
	if _, err := m.encode(); !errors.Is(err, ErrMessage) {
		t.Errorf("what never fits: %v", err)
	}
}

func TestOwnNamesAreMadeTellable(t *testing.T) {
	for in, want := range map[string]string{
		"attic": "attic", "a\nb": "ab", "a\xffb": "ab", "": "",
		strings.Repeat("é", 50): strings.Repeat("é", MaxName),
	} {
		if got := clip(in); got != want || checkText(got, MaxName) != nil {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"v":1,"k":"here","boot":"0123456789abcdef","n":1,"on":true,"name":"attic","roster":3}`))
	f.Add([]byte(`{"v":1,"k":"request","name":"Anna","note":"hi","link":"porchlight:` + address(1).String() + `?at=1.2.3.4:5"}`))
	f.Add([]byte(`{"v":1,"k":"accept","link":"` + address(1).String() + `"}`))
	f.Add([]byte(`{"v":1,"k":"mutual"}`))
	f.Add([]byte(`{"v":1,"k":"here","name":"\ud800"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parse(b)
		if err != nil {
			if !errors.Is(err, ErrMessage) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		again, err := m.encode()
		if err != nil {
			return // canonical form may be longer, of links written short
		}
		if m2, err := parse(again); err != nil || m2.N != m.N || m2.Name != m.Name || m2.Note != m.Note {
			t.Fatalf("%q read again: %+v, %v", again, m2, err)
		}
	})
}
