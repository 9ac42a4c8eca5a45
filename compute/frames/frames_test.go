package frames

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// memory is a Sink that keeps everything as text.
type memory struct {
	log  strings.Builder
	fail error
}

func (m *memory) Stdout(p []byte) error { fmt.Fprintf(&m.log, "o%s;", p); return m.fail }
func (m *memory) Stderr(p []byte) error { fmt.Fprintf(&m.log, "e%s;", p); return nil }
func (m *memory) Notice(p []byte) error { fmt.Fprintf(&m.log, "n%s;", p); return nil }
func (m *memory) File(name string, size int64, r io.Reader) error {
	b, err := io.ReadAll(r)
	fmt.Fprintf(&m.log, "f%s %d %s;", name, size, b)
	return err
}

var wide = Limits{Stdout: 1 << 20, Stderr: 1 << 20, FileBytes: 1 << 20, Files: 10, Notices: 10}

func stream(t testing.TB, f func(w *Writer) error) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := f(NewWriter(&b)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func sample(w *Writer) error {
	return errors.Join(w.Notice(1), w.Stdout([]byte("out")), w.Stderr([]byte("err")),
		w.File("a/b", 3, strings.NewReader("abc")), w.File("empty", 0, strings.NewReader("")), w.End("end"))
}

func TestRoundTrip(t *testing.T) {
	var m memory
	end, err := Read(iotest.OneByteReader(bytes.NewReader(stream(t, sample))), wide, &m)
	if err != nil || string(end) != `"end"` {
		t.Fatalf("end %q, %v", end, err)
	}
	if want := "n1;oout;eerr;fa/b 3 abc;fempty 0 ;"; m.log.String() != want {
		t.Errorf("got %s, want %s", m.log.String(), want)
	}
}

func TestLongOutputIsSplitAndJoined(t *testing.T) {
	long := bytes.Repeat([]byte("x"), MaxPayload*2+1)
	b := stream(t, func(w *Writer) error {
		return errors.Join(w.Stdout(long), w.File("f", int64(len(long)), bytes.NewReader(long)), w.End(nil))
	})
	var m memory
	if _, err := Read(bytes.NewReader(b), wide, &m); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(m.log.String(), "x"); got != 2*len(long) {
		t.Errorf("%d bytes came through, want %d", got, 2*len(long))
	}
}

func TestEveryTruncationIsNoticed(t *testing.T) {
	b := stream(t, sample)
	for n := range b {
		var m memory
		if _, err := Read(bytes.NewReader(b[:n]), wide, &m); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("after %d of %d bytes: %v", n, len(b), err)
		}
	}
}

func TestLimitsBelowAtAndAbove(t *testing.T) {
	tests := []struct {
		name string
		f    func(w *Writer, n int) error
		set  func(l *Limits)
	}{
		{"standard output", func(w *Writer, n int) error { return w.Stdout(make([]byte, n)) }, func(l *Limits) { l.Stdout = 5 }},
		{"standard error", func(w *Writer, n int) error { return w.Stderr(make([]byte, n)) }, func(l *Limits) { l.Stderr = 5 }},
		{"file bytes", func(w *Writer, n int) error {
			return w.File("f", int64(n), bytes.NewReader(make([]byte, n)))
		}, func(l *Limits) { l.FileBytes = 5 }},
		{"files", func(w *Writer, n int) error {
			for i := range n {
				if err := w.File(fmt.Sprint("f", i), 0, nil); err != nil {
					return err
				}
			}
			return nil
		}, func(l *Limits) { l.Files = 5 }},
		{"notices", func(w *Writer, n int) error {
			for range n {
				if err := w.Notice(0); err != nil {
					return err
				}
			}
			return nil
		}, func(l *Limits) { l.Notices = 5 }},
	}
	for _, tt := range tests {
		for _, n := range []int{4, 5, 6} {
			l := wide
			tt.set(&l)
			b := stream(t, func(w *Writer) error { return errors.Join(tt.f(w, n), w.End(nil)) })
			_, err := Read(bytes.NewReader(b), l, &memory{})
			if (err == nil) != (n <= 5) || err != nil && !errors.Is(err, ErrTooMuch) {
				t.Errorf("%s: %d of 5: %v", tt.name, n, err)
			}
		}
	}
}

func frame(k byte, size uint32, payload string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{k}, size), payload...)
}

func header(name string, size int64) []byte {
	p := fmt.Sprintf(`{"name":%q,"size":%d}`, name, size)
	return frame('f', uint32(len(p)), p)
}

func TestLiesAreRefused(t *testing.T) {
	tests := map[string][]byte{
		"frame above the largest": frame('o', MaxPayload+1, ""),
		"unknown kind":            frame('q', 0, ""),
		"data without file":       frame('d', 1, "x"),
		"negative size":           header("a", -1),
		"more data than said":     append(header("a", 1), frame('d', 2, "xx")...),
		"empty data":              append(header("a", 1), frame('d', 0, "")...),
		"output within a file":    append(header("a", 1), frame('o', 1, "x")...),
		"name twice":              append(header("a", 0), header("a", 0)...),
		"name that climbs":        header("../a", 0),
		"name that is absolute":   header("/etc/passwd", 0),
		"header that is no JSON":  frame('f', 1, "x"),
	}
	for name, b := range tests {
		if _, err := Read(bytes.NewReader(b), wide, &memory{}); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSinkErrorsEndTheReading(t *testing.T) {
	full := errors.New("disk full")
	_, err := Read(bytes.NewReader(stream(t, sample)), wide, &memory{fail: full})
	if !errors.Is(err, full) {
		t.Errorf("%v, want the sink's error", err)
	}
}

func TestCheckName(t *testing.T) {
	good := []string{"a", "a/b.txt", "über/straße", ".hidden", "a b", strings.Repeat("x", 100), strings.Repeat("a/", MaxDepth-1) + "b"}
	bad := []string{"", ".", "..", "/a", "a/", "a//b", "a/../b", "./a", `a\b`, "c:a", "a\x00", "a\nb", "a\u202eb", "\xff",
		"a.", "a /b", strings.Repeat("x", 101), strings.Repeat("a/", MaxDepth) + "b", strings.Repeat("abcd/", 48) + "x"}
	for _, n := range good {
		if err := CheckName(n); err != nil {
			t.Errorf("%q: %v", n, err)
		}
	}
	for _, n := range bad {
		if CheckName(n) == nil {
			t.Errorf("%q was accepted", n)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(stream(f, sample))
	f.Add(header("a", 5))
	f.Fuzz(func(t *testing.T, b []byte) {
		lim := Limits{Stdout: 100, Stderr: 100, FileBytes: 100, Files: 2, Notices: 2}
		var m memory
		_, _ = Read(bytes.NewReader(b), lim, &m)
		if m.log.Len() > 2*MaxPayload+2000 {
			t.Errorf("%d bytes passed on", m.log.Len())
		}
	})
}
