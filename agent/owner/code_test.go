package owner_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"porchlight/agent/owner"
)

func TestCodesAreReadAsPeopleTypeThem(t *testing.T) {
	c := owner.NewCode()
	text := c.Text()
	plain := strings.ReplaceAll(text, "-", "")
	if len(plain) != owner.CodeLength || len(text) != owner.CodeLength+2 || text[4] != '-' || text[9] != '-' {
		t.Errorf("a code is %q", text)
	}
	for _, typed := range []string{text, plain, strings.ToUpper(text), " " + plain[:4] + " " + plain[4:8] + "  " + plain[8:] + "\r\n"} {
		if got, err := owner.ParseCode(typed); err != nil || got.Text() != text {
			t.Errorf("ParseCode(%q): %v", typed, err)
		}
	}
	if owner.NewCode().Text() == text {
		t.Error("two codes are the same")
	}
	for _, shown := range []string{fmt.Sprint(c), fmt.Sprintf("%v %+v %#v %s", c, c, c, c)} {
		if strings.Contains(shown, plain[:4]) || !strings.Contains(shown, "redacted") {
			t.Errorf("a code prints %s", shown)
		}
	}
}

// TestEveryTypoIsFound: each of 13 × 31 wrong characters, and each two
// different ones that are swapped, neighbours or not.
func TestEveryTypoIsFound(t *testing.T) {
	plain := strings.ReplaceAll(owner.NewCode().Text(), "-", "")
	refuse := func(b []byte) {
		t.Helper()
		if _, err := owner.ParseCode(string(b)); !errors.Is(err, owner.ErrTyped) {
			t.Errorf("%s was typed for %s: %v", b, plain, err)
		}
	}
	for i := range plain {
		for _, c := range "abcdefghijklmnopqrstuvwxyz234567" {
			if b := []byte(plain); byte(c) != b[i] {
				b[i] = byte(c)
				refuse(b)
			}
		}
		for j := range i {
			if b := []byte(plain); b[i] != b[j] {
				b[i], b[j] = b[j], b[i]
				refuse(b)
			}
		}
	}
}

func TestParseCodeExplains(t *testing.T) {
	for typed, want := range map[string]string{
		"":                       "0 characters",
		"abcd":                   "4 characters",
		"abcd-efgh-ijkl0":        "character 13",
		"abcd-efgh-ijkl-mnop":    "16 characters",
		strings.Repeat("a", 100): "far too long",
		"äbcd-efgh-ijklm":        "character 1",
	} {
		if _, err := owner.ParseCode(typed); !errors.Is(err, owner.ErrTyped) || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseCode(%q) = %v, want %q", typed, err, want)
		}
	}
}

// TestWhatACodeDerivesNeverChanges: two versions of the program must meet.
func TestWhatACodeDerivesNeverChanges(t *testing.T) {
	c, err := owner.ParseCode("aaaa-aaaa-aaaaa")
	if err != nil {
		t.Fatal(err)
	}
	tag := c.Tag()
	if got, want := hex.EncodeToString(tag[:]), "150f58141f21a597"; got != want {
		t.Errorf("tag %s, want %s", got, want)
	}
	if got, want := c.Meeting().Address().String(), "xwkyfqn7wckoj345wi34hc6uv6ee6ndeqquhpmcm6ockfcxlembv5mqb"; got != want {
		t.Errorf("meeting %s, want %s", got, want)
	}
	again, _ := owner.ParseCode("AAAA AAAA AAAAA")
	other := owner.NewCode()
	if again.Tag() != tag || again.Meeting().Address() != c.Meeting().Address() || other.Tag() == tag {
		t.Error("the same code derives something else, or another the same")
	}
}

func FuzzCode(f *testing.F) {
	f.Add("aaaa-aaaa-aaaaa")
	f.Add(owner.NewCode().Text())
	f.Add("ABCD efgh\tijklm")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := owner.ParseCode(s)
		if err != nil {
			return
		}
		if again, err := owner.ParseCode(c.Text()); err != nil || again.Text() != c.Text() {
			t.Errorf("%q reads as %q, which does not read", s, c.Text())
		}
	})
}

func BenchmarkCode(b *testing.B) {
	for b.Loop() {
		c := owner.NewCode()
		c.Tag()
	}
}
