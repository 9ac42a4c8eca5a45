package forward_test

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"porchlight/agent/forward"
)

func TestQuestionsAreBounded(t *testing.T) {
	name := strings.Repeat("a", forward.MaxName)
	for _, tt := range []struct {
		what string
		in   string
		ok   bool
	}{
		{"tcp", "\x01\x01\x0222", true},
		{"udp", "\x01\x02\x0222", true},
		{"only asked", "\x01\x81\x0222", true},
		{"shortest name", "\x01\x01\x01a", true},
		{"longest name", "\x01\x01\x20" + name, true},
		{"name too long", "\x01\x01\x21" + name + "a", false},
		{"no name", "\x01\x01\x00", false},
		{"other version", "\x02\x01\x0222", false},
		{"no network", "\x01\x00\x0222", false},
		{"other network", "\x01\x03\x0222", false},
		{"hostile name", "\x01\x01\x02\n\n", false},
		{"cut short", "\x01\x01\x022", false},
		{"nothing", "", false},
	} {
		_, _, _, err := forward.ReadQuestion(strings.NewReader(tt.in))
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.what, err)
		}
	}
}

// FuzzQuestion: what is read is what was meant, and no byte more is taken.
func FuzzQuestion(f *testing.F) {
	f.Add([]byte("\x01\x01\x0222rest"))
	f.Add([]byte("\x01\x82\x03sip"))
	f.Add([]byte("\x01\x01\xff"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		network, name, only, err := forward.ReadQuestion(r)
		if err != nil {
			return
		}
		again, err := forward.AppendQuestion(network, name, only)
		if read := len(in) - r.Len(); err != nil || !bytes.Equal(again, in[:read]) {
			t.Errorf("%x was read, %x is meant, %v", in[:read], again, err)
		}
	})
}

// TestHostileStreams: nothing that a caller sends first is carried, or keeps
// anything.
func TestHostileStreams(t *testing.T) {
	w := newWorld(t)
	w.expose("tcp", "echo", w.tcp(echoTCP))
	for _, first := range []string{
		"", "\x01", "GET / HTTP/1.1\r\n\r\n", "\xff\xff\xff\xff", "\x01\x01\xff" + strings.Repeat("a", 255),
		"\x01\x01\x04ech", strings.Repeat("\x00", 100_000),
	} {
		conn, err := w.out.Dial(t.Context(), w.home.Address(), forward.Service)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		conn.Write([]byte(first))
		conn.(interface{ CloseWrite() error }).CloseWrite()
		if b, err := io.ReadAll(conn); len(b) > 0 {
			t.Errorf("%.10q was answered %q, %v", first, b, err)
		}
		conn.Close()
	}
	checkBack(t, w.mustDial("tcp", "echo"))
	if n, _ := w.server.Open(); n != 1 {
		t.Errorf("%d are open", n)
	}
}
