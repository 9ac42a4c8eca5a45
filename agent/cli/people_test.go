package cli

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"porchlight/agent/api"
)

func TestPeerAndPort(t *testing.T) {
	for text, want := range map[string][2]string{
		"kitchen:22":                        {"kitchen", "22"},
		"kitchen:printer":                   {"kitchen", "printer"},
		"porchlight:abc?at=1.2.3.4:5:22":    {"porchlight:abc?at=1.2.3.4:5", "22"},
		"porchlight:abc?via=x@[::1]:6:http": {"porchlight:abc?via=x@[::1]:6", "http"},
		"::":                                {"", ""},
		"kitchen":                           {"", ""},
		"kitchen:":                          {"", ""},
		":22":                               {"", ""},
		":":                                 {"", ""},
		"":                                  {"", ""},
	} {
		peer, service, err := peerPort(text)
		if peer != want[0] || service != want[1] {
			t.Errorf("%q: %q %q", text, peer, service)
		}
		var u usageError
		if wrong := want[0] == ""; wrong != errors.As(err, &u) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestWordsAreKeptForTheirOwnerAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "words.txt")
	var out bytes.Buffer
	c := &call{out: &out}
	if err := c.saveWords(path, []string{"abandon", "ability"}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), path) || strings.Contains(out.String(), "ability") {
		t.Errorf("said %q", out.String())
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if b, err := readWords(path); err != nil || string(b) != "abandon ability\n" {
		t.Errorf("read back %q, %v", b, err)
	}
	if err := c.saveWords(path, []string{"zoo"}); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), "choose another name") {
		t.Errorf("a second time: %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "abandon ability\n" {
		t.Errorf("the first copy became %q", b)
	}
	if err := c.saveWords(filepath.Join(path, "below"), nil); err == nil {
		t.Error("kept below a file")
	}
}

func TestFilesOfWordsHaveALimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "words.txt")
	for size, fits := range map[int]bool{0: true, maxWords - 1: true, maxWords: true, maxWords + 1: false, 3 * maxWords: false} {
		if err := os.WriteFile(path, bytes.Repeat([]byte("a"), size), 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := readWords(path)
		if fits && (err != nil || len(b) != size) {
			t.Errorf("%d bytes: %d read, %v", size, len(b), err)
		}
		if !fits && (err == nil || !strings.Contains(err.Error(), "these are no 24 words")) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	if _, err := readWords(path + ".missing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

func TestWhatWaitsForTheOwner(t *testing.T) {
	for want, s := range map[string]api.Status{
		"": {Contacts: []api.Contact{{Name: "bob"}}},
		"\n1 message from bob that you have not read; see: porchlight messages bob\n": {
			Contacts: []api.Contact{{Name: "bob", Unread: 1}}},
		"\n2 messages from bob that you have not read; see: porchlight messages bob\n" +
			"\nEve asks to become a contact; see: porchlight contacts requests\n": {
			Contacts: []api.Contact{{Name: "bob", Unread: 2}}, Requests: []api.Request{{Name: "Eve"}}},
		"\n2 people ask to become contacts; see: porchlight contacts requests\n": {Requests: make([]api.Request, 2)},
	} {
		var b bytes.Buffer
		if noticesText(&b, s); b.String() != want {
			t.Errorf("%q, want %q", b.String(), want)
		}
	}
}

func TestDevicesForPeople(t *testing.T) {
	var b bytes.Buffer
	devicesText(&b, api.Devices{Owner: "ownerofall", HoldsKey: true, Devices: []api.Member{
		{Name: "attic", Address: "aaaa", This: true, Online: true},
		{Name: "phone\x1b[2J", Address: "bbbb", Online: true},
		{Name: "tablet", Address: "cccc"},
	}})
	want := `owner  ownerofall
       the owner's key is here; keep a copy of it: porchlight backup words
DEVICE    ADDRESS  STATE
attic     aaaa     this one
phone[2J  bbbb     on-line
tablet    cccc     off-line
`
	if got := b.String(); got != want {
		t.Errorf("\n%s, want\n%s", got, want)
	}
}

func TestMessagesForPeople(t *testing.T) {
	var b bytes.Buffer
	messagesText(&b, []api.Message{
		{Peer: "bob", Text: "one\ntwo\x1b[2J, which is quite a long line, and no name: it is not cut anywhere"},
		{Peer: "bob", Text: "three", Out: true, State: "waiting"},
		{Peer: "bob", Text: "four", Out: true, State: "stored"},
		{Peer: "bob", Text: "five", Out: true, State: "delivered"},
		{Peer: "bob", Text: "six", Out: true, State: "expired"},
		{Peer: "bob", Text: "seven", Out: true, State: "of a later version"},
	})
	var got []string
	for _, line := range strings.Split(strings.TrimSpace(b.String()), "\n") {
		if _, after, dated := strings.Cut(line, ":00  "); dated {
			line = after
		}
		got = append(got, line)
	}
	want := []string{"bob", "  one", "  two[2J, which is quite a long line, and no name: it is not cut anywhere", "me → bob (on its way)", "  three", "me → bob (kept by a helper)", "  four",
		"me → bob (delivered)", "  five", "me → bob (expired, never delivered)", "  six", "me → bob (of a later version)", "  seven"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestEverySourceHasWords(t *testing.T) {
	seen := map[string]bool{}
	for _, source := range []string{"session", "lan", "link", "cache", "dht", "of a later version"} {
		text := sourceWords(source)
		if text == "" || seen[text] {
			t.Errorf("%s: %q", source, text)
		}
		seen[text] = true
	}
}
