package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

// candidateLine is a line of n bytes with a candidate.
func candidateLine(n int) string {
	const frame = `{"candidate":""}`
	return `{"candidate":"` + strings.Repeat("c", n-len(frame)) + `"}`
}

func TestLinesAreReadUpToTheirLimit(t *testing.T) {
	for _, end := range []string{"\n", ""} {
		for n, want := range map[int]error{maxLine - 1: nil, maxLine: nil, maxLine + 1: bufio.ErrTooLong} {
			r := newReader(strings.NewReader(candidateLine(n) + end))
			m, err := r.receive()
			if !errors.Is(err, want) {
				t.Errorf("%d bytes, then %q: %v, want %v", n, end, err, want)
			}
			if err == nil && m.Candidate == "" {
				t.Errorf("%d bytes, then %q: nothing was read", n, end)
			}
		}
	}
}

func TestLinesAreWrittenUpToTheirLimit(t *testing.T) {
	for n, want := range map[int]bool{maxLine - 1: true, maxLine: true, maxLine + 1: false} {
		var out bytes.Buffer
		err := (&writer{to: &out}).send(message{Candidate: strings.Repeat("c", n-len(`{"candidate":""}`))})
		if written := err == nil && out.Len() == n+1; written != want {
			t.Errorf("%d bytes: %d written, %v", n, out.Len(), err)
		}
		if !want && out.Len() > 0 {
			t.Errorf("%d bytes of a refused line were written", out.Len())
		}
	}
}

func TestMessagesComeThrough(t *testing.T) {
	said := []message{
		{Ready: true},
		{Start: &start{Calls: true, Servers: []string{"stun:192.0.2.1:3478"}, User: "u", Password: "p"}},
		{Login: &login{Ufrag: "u", Pwd: "p"}},
		{Candidate: "1 1 udp 1 192.0.2.1 1 typ host"},
		{Connected: &selected{Local: "host", Remote: "prflx"}},
		{Echoed: true},
		{Error: "no way"},
	}
	var pipe bytes.Buffer
	w := &writer{to: &pipe}
	for _, m := range said {
		if err := w.send(m); err != nil {
			t.Fatal(err)
		}
	}
	r := newReader(&pipe)
	for _, want := range said {
		got, err := r.receive()
		if err != nil {
			t.Fatal(err)
		}
		if text(got) != text(want) {
			t.Errorf("%s arrived as %s", text(want), text(got))
		}
	}
	if _, err := r.receive(); err != io.EOF {
		t.Errorf("after the last message: %v", err)
	}
}

// text shows a message with what its pointers point to.
func text(m message) string {
	return fmt.Sprintf("%t %+v %+v %q %+v %t %q", m.Ready, m.Start, m.Login, m.Candidate, m.Connected, m.Echoed, m.Error)
}

func TestLinesThatAreNoMessageAreRefused(t *testing.T) {
	for _, line := range []string{
		`{}`, `null`, `{"candidate":""}`, `{"ready":true,"echoed":true}`, `{"ready":1}`, `[]`, ``, `ready`, `{"ready":true}}`, `{"something":"else"}`,
	} {
		if m, err := newReader(strings.NewReader(line + "\n")).receive(); err == nil || err == io.EOF {
			t.Errorf("%q was read as %s, %v", line, text(m), err)
		}
	}
}

func TestTheLastWordsOfAProgramAreKept(t *testing.T) {
	for _, n := range []int{0, 1, maxTail - 1, maxTail, maxTail + 1, 3 * maxTail} {
		var kept tail
		text := strings.Repeat("a", n) + "end"
		for b := []byte(text); len(b) > 0; {
			part := min(len(b), 1000)
			kept.Write(b[:part])
			b = b[part:]
		}
		if want := text[max(0, len(text)-maxTail):]; kept.String() != want {
			t.Errorf("of %d bytes %d were kept", len(text), len(kept.String()))
		}
	}
}
