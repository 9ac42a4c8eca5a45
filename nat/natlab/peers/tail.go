package main

import (
	"strings"
	"sync"
)

// maxTail is how many bytes of a program's words are kept.
const maxTail = 2 << 10

// tail keeps the last words of a program.
type tail struct {
	mu   sync.Mutex
	text []byte
}

// Write implements io.Writer and never fails.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if more := len(t.text) - maxTail; more > 0 {
		t.text = append([]byte(nil), t.text[more:]...)
	}
	return len(b), nil
}

// String returns what was kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.text))
}
