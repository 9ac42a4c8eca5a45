package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

const (
	// maxLine is how many bytes a line of the protocol may have, its end not
	// counted.
	maxLine = 4 << 10
	// maxCandidates is how many candidates one side may tell the other. Homes
	// have up to ten.
	maxCandidates = 64
)

// message is one line between the program and a child: exactly one of its fields
// is set.
type message struct {
	// Ready is a child's first word.
	Ready bool `json:"ready,omitempty"`
	// Start is the answer to it.
	Start *start `json:"start,omitempty"`
	// Login and Candidate go from one child to the other. A candidate is an
	// attribute of RFC 8839 §5.1 without its name.
	Login     *login `json:"login,omitempty"`
	Candidate string `json:"candidate,omitempty"`
	// Connected is sent in the state of that name.
	Connected *selected `json:"connected,omitempty"`
	// Echoed is sent by the calling side when a byte has come back.
	Echoed bool `json:"echoed,omitempty"`
	// Error is a child's last word.
	Error string `json:"error,omitempty"`
}

// start tells a child what it is and which servers there are.
type start struct {
	// Calls makes it the controlling side, which sends the first byte.
	Calls bool `json:"calls"`
	// Servers are URIs of RFC 7064 and RFC 7065.
	Servers  []string `json:"servers"`
	User     string   `json:"user"`
	Password string   `json:"password"`
}

// login is a side's user name fragment and password (RFC 8445 §5.3).
type login struct {
	Ufrag string `json:"ufrag"`
	Pwd   string `json:"pwd"`
}

// selected are the types of the selected pair's candidates, as one side sees it:
// host, srflx, prflx or relay.
type selected struct {
	Local  string `json:"local"`
	Remote string `json:"remote"`
}

// errNothing tells of a line that is not one message.
var errNothing = errors.New("the line does not say exactly one thing")

// check refuses a message that does not say exactly one thing.
func (m message) check() error {
	said := 0
	for _, set := range []bool{m.Ready, m.Start != nil, m.Login != nil, m.Candidate != "", m.Connected != nil, m.Echoed, m.Error != ""} {
		if set {
			said++
		}
	}
	if said != 1 {
		return errNothing
	}
	return nil
}

// reader reads messages.
type reader struct{ lines *bufio.Scanner }

func newReader(r io.Reader) *reader {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine+1)
	return &reader{lines: lines}
}

// receive returns the next message. The error is io.EOF after the last one.
func (r *reader) receive() (m message, err error) {
	if !r.lines.Scan() {
		if err := r.lines.Err(); err != nil {
			return m, fmt.Errorf("read a line: %w", err)
		}
		return m, io.EOF
	}
	if err := json.Unmarshal(r.lines.Bytes(), &m); err != nil {
		return m, fmt.Errorf("read a line: %w", err)
	}
	return m, m.check()
}

// writer writes messages, from any goroutine.
type writer struct {
	mu sync.Mutex
	to io.Writer
}

func (w *writer) send(m message) error {
	line, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(line) > maxLine {
		return fmt.Errorf("a line of %d bytes: at most %d", len(line), maxLine)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err = w.to.Write(append(line, '\n'))
	return err
}
