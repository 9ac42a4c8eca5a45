package cli

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"porchlight/agent/api"
	"porchlight/agent/control"
	"porchlight/agent/forward"
	"porchlight/compute"
	"porchlight/share/fetch"
)

func told(code string) error { return &problem{control.Problem{Error: "told", Code: code}} }

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{errors.New("anything"), exitFailed},
		{usage("typed wrongly"), exitUsage},
		{errNotRunning, exitNotRunning},
		{errNotAllowed, exitNotAllowed},
		{context.DeadlineExceeded, exitTimedOut},
		{context.Canceled, exitFailed},
		{told("not_allowed"), exitNotAllowed},
		{told("timeout"), exitTimedOut},
		{told("invalid"), exitUsage},
		{told("not_found"), exitFailed},
		{told("failed"), exitFailed},
		{told("a code of a later version"), exitFailed},
		{fetch.ErrNotAllowed, exitNotAllowed},
		{forward.ErrNotOffered, exitNotAllowed},
		{forward.ErrName, exitUsage},
		{forward.ErrRefused, exitFailed},
		{fetch.ErrGaveUp, exitTimedOut},
		{fetch.ErrNotFound, exitFailed},
		{fetch.ErrExists, exitFailed},
		{&compute.Refusal{Code: compute.CodeNotAllowed}, exitNotAllowed},
		{&compute.Refusal{Code: compute.CodeDonationOff}, exitNotAllowed},
		{&compute.Refusal{Code: compute.CodeTooLarge}, exitFailed},
	} {
		for _, err := range []error{c.err, fmt.Errorf("on the way: %w", c.err), errors.Join(c.err, errors.New("more"))} {
			if got := exitCode(err); got != c.want {
				t.Errorf("%v (%T): %d, want %d", err, c.err, got, c.want)
			}
		}
	}
}

// run runs a command in this process.
func run(args ...string) (code int, out, errOut string) {
	var o, e bytes.Buffer
	code = Main(args, &o, &e)
	return code, o.String(), e.String()
}

func TestEveryCommandExplainsItself(t *testing.T) {
	_, all, _ := run("help")
	for _, cmd := range commands() {
		if !strings.Contains(all, "  "+cmd.name+" ") || !strings.Contains(all, cmd.summary) {
			t.Errorf("help leaves out %s", cmd.name)
		}
		for _, flag := range []string{"--help", "-h"} {
			code, out, errOut := run(append(strings.Fields(cmd.name), flag)...)
			if !strings.Contains(out, "\n  --state ") || strings.Contains(out, " \n") {
				t.Errorf("%s %s does not list the flags well:\n%s", cmd.name, flag, out)
			}
			if code != exitOK || errOut != "" || !strings.HasPrefix(out, "usage: porchlight "+cmd.name) || !strings.Contains(out, cmd.summary) {
				t.Errorf("%s %s: %d %q %q", cmd.name, flag, code, out, errOut)
			}
		}
		code, _, errOut := run(append(strings.Fields(cmd.name), "--no-such-flag")...)
		if code != exitUsage || !strings.Contains(errOut, "no-such-flag") || !strings.Contains(errOut, "usage: porchlight "+cmd.name) {
			t.Errorf("%s with an unknown flag: %d %q", cmd.name, code, errOut)
		}
	}
}

func TestEveryCommandNeedsTheAgentAndSaysSo(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program.wasm")
	// The smallest module: magic number and version (WebAssembly §5.5.16) are
	// not enough for a command, so submitting stops before the agent is asked.
	if err := os.WriteFile(program, []byte("\x00asm\x01\x00\x00\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := map[string][]string{
		"ping": {"bob"}, "ls": {"bob"}, "get": {"bob:/a/b"}, "put": {program, "bob:/a/"},
		"contacts add": {"link", "bob"}, "contacts remove": {"bob"}, "contacts block": {"bob"}, "contacts unblock": {"bob"},
		"contacts accept": {"bob"}, "contacts refuse": {"bob"}, "contacts hide": {"bob"}, "contacts show": {"bob"}, "lookup": {"bob"},
		"devices join": {"code"}, "devices revoke": {"bob"}, "backup restore": {"abandon"}, "backup save": {"x", "--passphrase-file", program}, "message": {"bob", "hello"},
		"forward": {"bob:22"}, "pipe": {"bob:22"}, "expose": {"22"}, "unexpose": {"22"},
		"shares add": {dir}, "shares remove": {"a"}, "jobs submit": {program, "--to", "bob"},
	}
	for _, cmd := range commands() {
		want := exitNotRunning
		switch cmd.name {
		case "run":
			continue
		case "version":
			want = exitOK
		case "jobs submit":
			want = exitFailed
		}
		words := append(strings.Fields(cmd.name), args[cmd.name]...)
		code, out, errOut := run(append(words, "--json", "--state", dir)...)
		if code != want || want == exitNotRunning && (out != "" || !strings.Contains(errOut, "start it with: porchlight run")) {
			t.Errorf("%s: %d %q %q, want %d", cmd.name, code, out, errOut, want)
		}
	}
}

func TestFlagsMayStandAnywhere(t *testing.T) {
	for _, c := range []struct {
		args  string
		words string
		json  bool
		state string
		err   string
	}{
		{"a b", "a b", false, "", ""},
		{"--json a b", "a b", true, "", ""},
		{"a --json b --state x", "a b", true, "x", ""},
		{"a b -state=x", "a b", false, "x", ""},
		{"a -- --json", "a --json", false, "", ""},
		{"a --json -- b --state x", "a b --state x", true, "", "4 arguments given"},
		{"-- a b", "a b", false, "", ""},
		{"a", "", false, "", "1 argument given"},
		{"a b c", "", false, "", "3 arguments given"},
		{"a b --loud", "", false, "", "-loud"},
		{"a b --state", "", false, "", "needs an argument"},
	} {
		t.Run(c.args, func(t *testing.T) {
			got := &call{args: strings.Fields(c.args), flags: flag.NewFlagSet("", flag.ContinueOnError)}
			got.flags.SetOutput(io.Discard)
			got.flags.StringVar(&got.state, "state", "", "")
			got.flags.BoolVar(&got.json, "json", false, "")
			err := got.parse(2, 2)
			if c.err != "" {
				var u usageError
				if !errors.As(err, &u) || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil || strings.Join(got.args, " ") != c.words || got.json != c.json || got.state != c.state {
				t.Errorf("%q, json %t, state %q, %v", got.args, got.json, got.state, err)
			}
		})
	}
}

func TestRemote(t *testing.T) {
	for text, want := range map[string][2]string{
		"bob":                  {"bob", ""},
		"bob:":                 {"bob:", ""},
		"bob:/":                {"bob", ""},
		"bob:/music":           {"bob", "music"},
		"bob:/music/a b/c.mp3": {"bob", "music/a b/c.mp3"},
		"bob:/music/":          {"bob", "music/"},
		"porchlight:abc:/m/f":  {"porchlight:abc", "m/f"},
		"porchlight:abc?at=1.2.3.4:5&via=x@[::1]:6:/m/f": {"porchlight:abc?at=1.2.3.4:5&via=x@[::1]:6", "m/f"},
		"porchlight:abc?at=1.2.3.4:5":                    {"porchlight:abc?at=1.2.3.4:5", ""},
	} {
		if peer, place := remote(text); peer != want[0] || place != want[1] {
			t.Errorf("%q: %q %q", text, peer, place)
		}
	}
}

func TestWords(t *testing.T) {
	for list, want := range map[string][]string{
		"":                 {},
		"nobody":           {},
		"friends":          {"friends"},
		"me, bob":          {"me", "bob"},
		",bob,,nobody,eve": {"bob", "eve"},
	} {
		if got := words(list); got == nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q", list, got)
		}
	}
}

func TestExpand(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b.txt", "a.txt", "c.log"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	for globs, want := range map[string]string{
		"":              "",
		"*.txt":         "a.txt b.txt",
		"*.txt a.*":     "a.txt b.txt",
		"c.log *.txt":   "a.txt b.txt c.log",
		"*.txt missing": "no file matches",
		"[":             "syntax error in pattern",
	} {
		got, err := expand(strings.Fields(globs))
		if err != nil && !strings.Contains(err.Error(), want) || err == nil && strings.Join(got, " ") != want {
			t.Errorf("%q: %q, %v", globs, got, err)
		}
	}
}

func TestSizesForPeople(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1 kB", 999_499: "999 kB", 999_500: "1.0 MB", 999_999: "1.0 MB", 999_949_999: "999.9 MB", 999_950_000: "1.0 GB", 1e6: "1.0 MB", 1e9: "1.0 GB", 2_500_000_000: "2.5 GB",
	} {
		if got := size(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestContactsForPeople(t *testing.T) {
	var b bytes.Buffer
	contactTable(&b, []api.Contact{
		{Name: "bob", Role: "friend", Online: true, Path: "relay", RTTMS: 41.7, Reason: api.BothRandom, SentBytes: 1_500_000},
		{Name: "carol", Role: "me", Path: "", Standing: "asked"},
		{Name: "dave\n", Online: true, Path: "relay", RTTMS: 3, Reason: api.UDPBlockedThere},
		{Name: "eve", Blocked: true, Online: true, Reason: api.NoDirect},
	})
	want := `CONTACT  ROLE    PATH      RTT    SENT    RECEIVED
bob      friend  relay     42 ms  1.5 MB  0 B
  Both routers choose ports at random, so there is no direct way. It would be
  direct if either of you switched on UPnP.
carol    me      off-line         0 B     0 B
  was asked to add you too, and has not so far
dave             relay     3 ms   0 B     0 B
  The network around dave blocks UDP, so there is no direct way.
eve              blocked          0 B     0 B
`
	if b.String() != want {
		t.Errorf("\n%s, want\n%s", b.String(), want)
	}
}

func TestPingForPeople(t *testing.T) {
	ms := 812.4
	for want, p := range map[string]api.Ping{
		"direct, first byte after 93 ms, round trip 41.2 ms, direct after 812 ms\n  host 192.168.1.2:1 → srflx 44.128.0.7:1\n": {
			Path: "direct", FirstByteMS: 92.6, RTTMS: 41.2, DirectMS: &ms, Local: "host 192.168.1.2:1", Remote: "srflx 44.128.0.7:1"},
		"relay, first byte after 93 ms, round trip 41.2 ms\n  relay → relay\n  The network around bob lets only web traffic out, so there is no direct way.\n": {
			Path: "relay", FirstByteMS: 92.6, RTTMS: 41.2, Reason: api.WebOnlyThere, Local: "relay", Remote: "relay"},
		"direct, first byte after 93 ms, round trip 41.2 ms\n  prflx 44.128.0.7:1\n": {
			Path: "direct", FirstByteMS: 92.6, RTTMS: 41.2, Remote: "prflx 44.128.0.7:1"},
	} {
		var b bytes.Buffer
		if pingText(&b, p, "bob"); b.String() != want {
			t.Errorf("\n%s, want\n%s", b.String(), want)
		}
	}
	var b bytes.Buffer
	pingText(&b, api.Ping{Path: "relay", Reason: api.PeerWish}, "porchlight:abc?at=1.2.3.4:5")
	if !strings.Contains(b.String(), "That device takes relayed traffic only.") {
		t.Error(b.String())
	}
}

func TestTheCodeIsDrawnWholeWithItsBorder(t *testing.T) {
	var b bytes.Buffer
	if err := drawQR(&b, "porchlight:4wmbhsf3u4ipnyeykm2borsz4haeke7lkrgxw3h5352thcxhvapyboab"); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	const before, after = "\x1b[30;107m", "\x1b[0m"
	var rows [][]rune
	for _, line := range lines {
		if !strings.HasPrefix(line, before) || !strings.HasSuffix(line, after) {
			t.Fatalf("%q sets no colours", line)
		}
		rows = append(rows, []rune(strings.TrimSuffix(strings.TrimPrefix(line, before), after)))
	}
	width := len(rows[0])
	for i, row := range rows {
		if len(row) != width {
			t.Errorf("line %d has %d columns, the first %d", i, len(row), width)
		}
		if border := string(row[:quietZone]) + string(row[width-quietZone:]); strings.TrimSpace(border) != "" {
			t.Errorf("line %d has no border: %q", i, border)
		}
	}
	if strings.TrimSpace(string(rows[0])+string(rows[1])) != "" {
		t.Error("no border above")
	}
	// The finder pattern's first row and second row (ISO/IEC 18004 §6.3.3).
	if got := string(rows[2][quietZone : quietZone+7]); got != "█▀▀▀▀▀█" {
		t.Errorf("corner %q", got)
	}
}
