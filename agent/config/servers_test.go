package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"porchlight/nat/relay"
)

// passwordFile makes a file with a password.
func passwordFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAStockRelayNeedsAllItsParts(t *testing.T) {
	good := passwordFile(t, "light\n")
	for _, c := range []struct{ name, relay, user, file, want string }{
		{"none", "", "", "", ""},
		{"all", "turn:192.0.2.1", "home", good, ""},
		{"over tcp", "turn:192.0.2.1:443?transport=tcp", "home", good, ""},
		{"over tls", "turns:relay.example:443", "home", good, ""},
		{"no user", "turn:192.0.2.1", "", good, "it needs a relay user"},
		{"no file", "turn:192.0.2.1", "home", "", "it needs a relay user"},
		{"user alone", "", "home", "", "name one, such as turn:"},
		{"file alone", "", "", good, "name one, such as turn:"},
		{"no server", "192.0.2.1", "home", good, "it begins with"},
		{"relays nothing", "stun:192.0.2.1", "home", good, "relays nothing"},
		{"password in the name", "turn:home:light@192.0.2.1", "home", good, "fields of their own"},
		{"missing file", "turn:192.0.2.1", "home", filepath.Join(t.TempDir(), "missing"), "no such file"},
		{"a folder", "turn:192.0.2.1", "home", t.TempDir(), "no regular file"},
		{"a device", "turn:192.0.2.1", "home", "/dev/zero", "no regular file"},
		{"empty file", "turn:192.0.2.1", "home", passwordFile(t, "\n"), "password is empty"},
		{"two lines", "turn:192.0.2.1", "home", passwordFile(t, "a\nb\n"), "no printable text"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := Default()
			cfg.Relay, cfg.RelayUser, cfg.RelayPasswordFile = c.relay, c.user, c.file
			err := cfg.Check()
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if stock, err := cfg.Stock(); c.want == "" && (err != nil || (stock == nil) != (c.relay == "")) {
				t.Errorf("%+v, %v", stock, err)
			}
		})
	}
}

func TestThePasswordFileIsLimitedAndItsLineEndIsNot(t *testing.T) {
	longest := strings.Repeat("p", relay.MaxPassword)
	for content, want := range map[string]string{
		"light": "light", "light\n": "light", "light\r\n": "light", " light ": " light ",
		longest: longest, longest + "\r\n": longest,
	} {
		if got, err := readPassword(passwordFile(t, content)); string(got) != want || err != nil {
			t.Errorf("%d bytes: %d bytes, %v", len(content), len(got), err)
		}
	}
	for _, over := range []int{0, 1, 2} { // more than the line end's two bytes
		_, err := readPassword(passwordFile(t, longest+strings.Repeat("p", over+1)+"\n"))
		if (err != nil) != (over >= 1) {
			t.Errorf("%d bytes too many: %v", over, err)
		}
	}
}

func TestSTUNServers(t *testing.T) {
	for _, c := range []struct {
		stun []string
		want string
	}{
		{nil, ""},
		{[]string{"stun:192.0.2.1", "stun:[2001:db8::1]:3478", "stun:a.example:1", "stun:b.example"}, ""},
		{[]string{"stun:192.0.2.1", "stun:192.0.2.2", "stun:192.0.2.3"}, ""},
		{[]string{"stun:1.example", "stun:2.example", "stun:3.example", "stun:4.example", "stun:5.example"}, "at most 4"},
		{[]string{"stuns:a.example"}, "only as stun:"},
		{[]string{"turn:a.example"}, "only as stun:"},
		{[]string{"a.example:3478"}, "it begins with"},
	} {
		cfg := Default()
		cfg.STUN = c.stun
		err := cfg.Check()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v: %v, want %q", c.stun, err, c.want)
		}
		if all, err := cfg.STUNServers(); c.want == "" && (err != nil || len(all) != len(c.stun)) {
			t.Errorf("%v: %v, %v", c.stun, all, err)
		}
	}
}
