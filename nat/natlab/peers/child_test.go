package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestChildRefusesWhatIsNotItsStart(t *testing.T) {
	for name, tc := range map[string]struct{ in, err string }{
		"candidate":        {`{"candidate":"1 1 udp 1 192.0.2.1 1 typ host"}` + "\n", "not the word to start"},
		"no message":       {"start\n", "read a line"},
		"too long":         {candidateLine(maxLine+1) + "\n", "token too long"},
		"server is no URI": {`{"start":{"servers":["192.0.2.1:3478"]}}` + "\n", `server "192.0.2.1:3478"`},
		"unknown server":   {`{"start":{"servers":["http:192.0.2.1"]}}` + "\n", `server "http:192.0.2.1"`},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			err := child(strings.NewReader(tc.in), &out, io.Discard)
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Fatalf("error %v, want %q", err, tc.err)
			}
			r := newReader(&out)
			if m, err := r.receive(); err != nil || !m.Ready {
				t.Errorf("first %s, %v", text(m), err)
			}
			if m, err := r.receive(); err != nil || !strings.Contains(m.Error, tc.err) {
				t.Errorf("then %s, %v", text(m), err)
			}
		})
	}
}

func TestChildThatIsNotNeededEndsInPeace(t *testing.T) {
	var out bytes.Buffer
	if err := child(strings.NewReader(""), &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != `{"ready":true}`+"\n" {
		t.Errorf("it said %q", got)
	}
}

func TestChildRefusesOtherLinesThanLoginAndCandidates(t *testing.T) {
	for line, want := range map[string]string{
		`{"echoed":true}`:         "neither the first login nor a candidate",
		`{"candidate":"by road"}`: "candidate \"by road\"",
		`{"candidate":"1 1 udp 1 192.0.2.1 99999 typ host"}`: "candidate",
	} {
		s := &side{out: &writer{to: io.Discard}}
		if err := s.follow(newReader(strings.NewReader(line + "\n"))); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %q", line, err, want)
		}
	}
}

// lossy is a path that returns only one of the packets sent, after a while.
type lossy struct {
	returned int // counted from 1
	after    time.Duration
	sent     int
	arrived  chan struct{}
}

func (l *lossy) Write(b []byte) (int, error) {
	if l.sent++; l.sent == l.returned {
		time.AfterFunc(l.after, func() { close(l.arrived) })
	}
	return len(b), nil
}

func (l *lossy) Read(b []byte) (int, error) {
	<-l.arrived
	return 1, nil
}

func TestCallerSendsAgainUntilAByteIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := &lossy{returned: 4, after: sendAgain / 2, arrived: make(chan struct{})}
		began := time.Now()
		if err := call(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		if took, want := time.Since(began), 3*sendAgain+sendAgain/2; took != want || path.sent != 4 {
			t.Errorf("%d bytes in %v, want 4 in %v", path.sent, took, want)
		}
	})
}

func TestCallerStopsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		path := &lossy{arrived: make(chan struct{})}
		defer close(path.arrived)
		if err := call(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}
