package config

import (
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"porchlight/agent/reach"
)

const link = "porchlight:4wmbhsf3u4ipnyeykm2borsz4haeke7lkrgxw3h5352thcxhvapyboab"

func TestTheDefaultsAreRight(t *testing.T) {
	c := Default()
	if err := c.Check(); err != nil {
		t.Errorf("the defaults are refused: %v", err)
	}
	if c.State == "" || c.Name == "" || c.Console != "127.0.0.1:8460" {
		t.Errorf("%+v", c)
	}
}

func TestDefaultStateIsInTheHomeOfWhoRunsIt(t *testing.T) {
	want := "/var/lib/porchlight"
	if os.Geteuid() != 0 {
		t.Setenv("HOME", "/home/somebody")
		want = "/home/somebody/.local/share/porchlight"
	}
	if got := DefaultState(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestCheckNamesWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   string // "" means right
	}{
		{"no state", func(c *Config) { c.State = "" }, "state: name a folder"},
		{"listen anywhere", func(c *Config) { c.Listen = ":4001" }, ""},
		{"listen without port", func(c *Config) { c.Listen = "127.0.0.1" }, "use [HOST]:PORT"},
		{"listen at a name", func(c *Config) { c.Listen = "router.lan:4001" }, "the host is a literal IP address"},
		{"listen above the last port", func(c *Config) { c.Listen = ":65536" }, `"65536" is no port number`},
		{"listen at the last port", func(c *Config) { c.Listen = ":65535" }, ""},
		{"console off", func(c *Config) { c.Console = "off" }, ""},
		{"console at a name", func(c *Config) { c.Console = "router.lan:80" }, ""},
		{"no console", func(c *Config) { c.Console = "" }, "use HOST:PORT or off"},
		{"console without port", func(c *Config) { c.Console = "on" }, "use HOST:PORT or off"},
		{"console at a service", func(c *Config) { c.Console = "127.0.0.1:http" }, `"http" is no port number`},
		{"bootstrap", func(c *Config) { c.Bootstrap = []string{link + "?at=44.128.0.7:4001"} }, ""},
		{"bootstrap without place", func(c *Config) { c.Bootstrap = []string{link} }, "at= which address"},
		{"bootstrap mistyped", func(c *Config) { c.Bootstrap = []string{"porchlight:x"} }, "bootstrap: "},
		{"public", func(c *Config) { c.Reachability = reach.Public }, ""},
		{"private", func(c *Config) { c.Reachability = reach.Private }, ""},
		{"no reachability", func(c *Config) { c.Reachability = "" }, `"" is not auto, public or private`},
		{"level", func(c *Config) { c.LogLevel = "debug" }, ""},
		{"no level", func(c *Config) { c.LogLevel = "" }, `"" is not debug, info, warn or error`},
		{"odd level", func(c *Config) { c.LogLevel = "verbose" }, `"verbose" is not debug, info, warn or error`},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := Default()
			c.change(&cfg)
			err := cfg.Check()
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestCheckReportsAllAtOnce(t *testing.T) {
	err := Config{Console: "on", Listen: "x", Reachability: "y", LogLevel: "z"}.Check()
	for _, want := range []string{"state:", "console:", "listen:", "reachability:", "log level:"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
}

func TestListenAddr(t *testing.T) {
	for listen, want := range map[string]string{
		"":                 "[::]:4001", // the port is the kept one
		":0":               "[::]:4001",
		":5000":            "[::]:5000",
		"127.0.0.1:0":      "127.0.0.1:4001",
		"192.168.1.2:5000": "192.168.1.2:5000",
		"[::1]:5000":       "[::1]:5000",
		"[fe80::1%lo]:1":   "[fe80::1%lo]:1",
		"0.0.0.0:5000":     "0.0.0.0:5000",
	} {
		got, err := Config{Listen: listen}.ListenAddr(4001)
		if err != nil || got != netip.MustParseAddrPort(want) {
			t.Errorf("%q: %v, %v; want %s", listen, got, err, want)
		}
	}
	for _, listen := range []string{"5000", "::1:5000", "localhost:5000", ":-1", ":65536", ":port", "127.0.0.1:", "[::1]"} {
		if got, err := (Config{Listen: listen}).ListenAddr(4001); err == nil || !strings.HasPrefix(err.Error(), "listen: ") {
			t.Errorf("%q: %v, %v", listen, got, err)
		}
	}
}

func TestLevel(t *testing.T) {
	for text, want := range map[string]slog.Level{"debug": -4, "info": 0, "warn": 4, "error": 8} {
		if got, err := (Config{LogLevel: text}).Level(); got != want || err != nil {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
}

// write makes a config file.
func write(t testing.TB, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadLaysTheFileOverTheDefaults(t *testing.T) {
	c := Default()
	if err := c.Read(write(t, []byte(`{"listen": ":4001", "bootstrap": ["`+link+`?at=44.128.0.7:4001"], "reachability": "public", "loopback": true}`))); err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Listen, want.Reachability, want.Loopback = ":4001", reach.Public, true
	want.Bootstrap = []string{link + "?at=44.128.0.7:4001"}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("%+v, want %+v", c, want)
	}
}

func TestReadRefuses(t *testing.T) {
	for content, want := range map[string]string{
		``:                         "EOF",
		`listen = ":4001"`:         "invalid character",
		`{"lissten": ":4001"}`:     `unknown field "lissten"`,
		`{"listen": 4001}`:         "cannot unmarshal number",
		`{"loopback": "yes"}`:      "cannot unmarshal string",
		`{"listen": ":1"} {"a":1}`: "more than one",
		`{"listen": ":1"}}`:        "more than one",
	} {
		c := Default()
		path := write(t, []byte(content))
		if err := c.Read(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", content, err)
		}
	}
	c := Default()
	if err := c.Read(filepath.Join(t.TempDir(), "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestTheFileIsLimited(t *testing.T) {
	for size, fits := range map[int]bool{maxFile - 1: true, maxFile: true, maxFile + 1: false} {
		content := `{"name": ""}`
		content = strings.Replace(content, `""`, `"`+strings.Repeat("n", size-len(content))+`"`, 1)
		c := Default()
		err := c.Read(write(t, []byte(content)))
		if fits != (err == nil) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func TestEveryEntryOfTheFileHasAName(t *testing.T) {
	for i := range reflect.TypeFor[Config]().NumField() {
		f := reflect.TypeFor[Config]().Field(i)
		if name := f.Tag.Get("json"); name == "" || name != strings.ToLower(name) {
			t.Errorf("field %s has the name %q in files", f.Name, name)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, seed := range []string{"", "{}", `{"listen": ":4001", "bootstrap": ["` + link + `"]}`, `{"loopback": true}`, `[`, `{"name": 1}`, "\x00"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		c := Default()
		if c.Read(write(t, content)) != nil {
			return
		}
		// Whatever is read is checked without harm, and written it reads the
		// same.
		c.Check()
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var again Config
		if err := again.Read(write(t, b)); err != nil && len(b) <= maxFile {
			t.Fatalf("%s: %v", b, err)
		}
	})
}
