package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// recorded is a child that has said all it will say; what it is told is kept.
func recorded(said string) (*process, *bytes.Buffer) {
	var told bytes.Buffer
	return &process{reader: newReader(strings.NewReader(said)), writer: &writer{to: &told}}, &told
}

func TestPumpHandsOnCandidatesUpToTheirLimit(t *testing.T) {
	const line = `{"candidate":"c"}` + "\n"
	for n, want := range map[int]string{
		maxCandidates - 1: endedError{&process{}}.Error(),
		maxCandidates:     endedError{&process{}}.Error(),
		maxCandidates + 1: fmt.Sprintf("more than %d candidates", maxCandidates),
	} {
		from, _ := recorded(strings.Repeat(line, n))
		to, told := recorded("")
		events := make(chan event, 1)
		pump(from, to, events, nil)
		if e := <-events; e.err == nil || !strings.HasPrefix(e.err.Error(), want) {
			t.Errorf("%d candidates: %v, want %q", n, e.err, want)
		}
		if got := strings.Count(told.String(), line); got != min(n, maxCandidates) {
			t.Errorf("%d of %d candidates were handed on", got, n)
		}
	}
}

func TestPumpTellsOfAllElse(t *testing.T) {
	from, _ := recorded(`{"connected":{"local":"host","remote":"prflx"}}` + "\n" + `{"echoed":true}` + "\n" + `{"error":"no way"}` + "\n")
	to, told := recorded("")
	events := make(chan event, 3)
	pump(from, to, events, nil)
	if e := <-events; e.from != from || e.Connected == nil || e.Connected.Remote != "prflx" {
		t.Errorf("first %+v", e)
	}
	if e := <-events; e.from != from || !e.Echoed {
		t.Errorf("then %+v", e)
	}
	if e := <-events; e.err == nil || e.err.Error() != "no way" {
		t.Errorf("at last %+v", e)
	}
	if told.Len() > 0 {
		t.Errorf("the other side was told %q", told)
	}
}

func TestPumpEndsWhenNobodyListens(t *testing.T) {
	from, _ := recorded(strings.Repeat(`{"echoed":true}`+"\n", 3))
	to, _ := recorded("")
	heard := make(chan struct{})
	close(heard)
	pump(from, to, make(chan event), heard)
}

// script is a child in the words of the shell, on this machine.
type script string

// Command implements placer.
func (s script) Command(ctx context.Context, _ string, _ ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "sh", "-c", string(s))
	cmd.WaitDelay = time.Second
	return cmd
}

const (
	// loggedIn is a child until it has told its login, and read the other's.
	loggedIn = `echo '{"ready":true}'; read start; echo '{"login":{"ufrag":"u","pwd":"p"}}'; read login; `
	// untilEnd waits for the end of the input.
	untilEnd = `while read line; do :; done`
)

func TestMeetingFailsWithTheReason(t *testing.T) {
	for name, tc := range map[string]struct{ a, b script }{
		"it does not start":            {a: `echo the road is closed >&2`, b: loggedIn},
		"it starts with another word":  {a: `echo '{"error":"the road is closed"}'`, b: loggedIn},
		"it ends before its login":     {a: loggedIn, b: `echo '{"ready":true}'; read start; echo the road is closed >&2`},
		"it ends after its login":      {a: loggedIn + untilEnd, b: loggedIn + `echo the road is closed >&2`},
		"it tells of an error":         {a: loggedIn + `echo '{"error":"the road is closed"}';` + untilEnd, b: loggedIn + untilEnd},
		"the other tells of an error":  {a: loggedIn + untilEnd, b: loggedIn + `echo '{"error":"the road is closed"}';` + untilEnd},
		"it does not end when it must": {a: loggedIn + `echo '{"error":"the road is closed"}'; exec sleep 60`, b: loggedIn + untilEnd},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, err := prepare(t.Context(), "", tc.a, tc.b)
			if err == nil {
				_, err = m.run(nil)
				m.close()
			}
			if err == nil || !strings.Contains(err.Error(), "the road is closed") {
				t.Error(err)
			}
		})
	}
}

func TestMeetingThatTakesTooLongIsEnded(t *testing.T) {
	m, err := prepare(t.Context(), "", script(loggedIn+`exec sleep 60`), script(loggedIn+untilEnd))
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	// As the timer does, some time after the logins.
	stop := time.AfterFunc(100*time.Millisecond, func() { m.cancel(errTooLate) })
	defer stop.Stop()
	if _, err := m.run(nil); !errors.Is(err, errTooLate) {
		t.Error(err)
	}
}

func TestMeetingOfTwoScripts(t *testing.T) {
	caller := script(loggedIn + `echo '{"candidate":"a"}'; read candidate;
		echo "{\"connected\":{\"local\":\"host\",\"remote\":\"prflx\"}}"; echo '{"echoed":true}'; ` + untilEnd)
	called := script(loggedIn + `read candidate; [ "$candidate" = '{"candidate":"a"}' ] || exit 1;
		echo '{"candidate":"b"}'; echo '{"connected":{"local":"relay","remote":"host"}}'; ` + untilEnd)
	m, err := prepare(t.Context(), "", caller, called)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	r, err := m.run([]string{"stun:192.0.2.1:3478"})
	if err != nil {
		t.Fatal(err)
	}
	if *r.caller != (selected{"host", "prflx"}) || *r.called != (selected{"relay", "host"}) || !r.relayed() {
		t.Errorf("%+v and %+v", r.caller, r.called)
	}
	if r.first <= 0 || r.connected <= 0 || r.connected > r.first {
		t.Errorf("connected after %v, first byte after %v", r.connected, r.first)
	}
}
