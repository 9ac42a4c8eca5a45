package memfs

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	experimentalsys "github.com/tetratelabs/wazero/experimental/sys"
)

const create = experimentalsys.O_RDWR | experimentalsys.O_CREAT

func mustOpen(t *testing.T, f *FS, name string, flag experimentalsys.Oflag) experimentalsys.File {
	t.Helper()
	o, errno := f.OpenFile(name, flag, 0)
	if errno != 0 {
		t.Fatalf("open %s: %v", name, errno)
	}
	return o
}

func content(t *testing.T, f *FS) string {
	t.Helper()
	var out strings.Builder
	for _, file := range f.Files() {
		b, err := io.ReadAll(file.Open())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%s=%s;", file.Name, b)
	}
	return out.String()
}

func TestWriteSeekTruncateRename(t *testing.T) {
	f := New(100, 10)
	if errno := f.Mkdir("d", 0); errno != 0 {
		t.Fatal(errno)
	}
	o := mustOpen(t, f, "d/a", create)
	o.Write([]byte("hello world"))
	o.Seek(6, io.SeekStart)
	o.Write([]byte("W"))
	o.Truncate(8)
	o.Pwrite([]byte("!"), 9)
	if errno := f.Rename("d/a", "b"); errno != 0 {
		t.Fatal(errno)
	}
	if got, want := content(t, f), "b=hello Wo\x00!;"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestQuotaOfBytesBelowAtAndAbove(t *testing.T) {
	for _, n := range []int{9, 10, 11} {
		o := mustOpen(t, New(10, 1), "a", create)
		wrote, errno := o.Write(make([]byte, n))
		if (errno == 0) != (n <= 10) || n <= 10 && wrote != n {
			t.Errorf("%d of 10 bytes: wrote %d, %v", n, wrote, errno)
		}
	}
	o := mustOpen(t, New(10, 1), "a", create)
	if _, errno := o.Pwrite([]byte("x"), 1<<40); errno == 0 {
		t.Error("a sparse file passed the quota")
	}
	if _, errno := o.Pwrite([]byte("xx"), 1<<63-1); errno == 0 {
		t.Error("an offset overflowed")
	}
	if errno := o.Truncate(11); errno == 0 {
		t.Error("truncate passed the quota")
	}
}

func TestQuotaComesBack(t *testing.T) {
	f := New(10, 1)
	for range 3 {
		o := mustOpen(t, f, "a", create)
		if _, errno := o.Write(make([]byte, 10)); errno != 0 {
			t.Fatal(errno)
		}
		f.Unlink("a")
		if _, errno := mustOpen(t, f, "b", create).Write([]byte("x")); errno == 0 {
			t.Error("bytes of a removed file that is open were given back")
		}
		f.Unlink("b")
		o.Close()
		o.Close()
	}
	if f.bytes != 10 || f.entries != 1 {
		t.Errorf("%d bytes, %d entries left", f.bytes, f.entries)
	}
}

func TestQuotaOfEntries(t *testing.T) {
	f := New(10, 2)
	f.Mkdir("a", 0)
	mustOpen(t, f, "a/b", create)
	if _, errno := f.OpenFile("c", create, 0); errno == 0 {
		t.Error("a third entry was made")
	}
}

func TestSingleIsReadOnly(t *testing.T) {
	f := Single("in.txt", bytes.NewReader([]byte("hello")), 5)
	o := mustOpen(t, f, "/in.txt", experimentalsys.O_RDONLY)
	b := make([]byte, 10)
	if n, errno := o.Read(b); errno != 0 || string(b[:n]) != "hello" {
		t.Errorf("read %q, %v", b[:n], errno)
	}
	if n, errno := o.Read(b); n != 0 || errno != 0 {
		t.Errorf("at the end: %d, %v", n, errno)
	}
	_, create := f.OpenFile("x", create, 0)
	_, write := f.OpenFile("in.txt", experimentalsys.O_WRONLY, 0)
	for what, errno := range map[string]experimentalsys.Errno{
		"create": create, "write": write, "unlink": f.Unlink("in.txt"), "mkdir": f.Mkdir("d", 0),
		"rename": f.Rename("in.txt", "b"), "chmod": f.Chmod("in.txt", 0), "write to it": func() experimentalsys.Errno {
			_, errno := o.Write([]byte("x"))
			return errno
		}(),
	} {
		if errno == 0 {
			t.Errorf("%s was allowed", what)
		}
	}
}

func TestPathsStayInside(t *testing.T) {
	f := New(10, 10)
	for i, name := range []string{"../../a", "/../b", "x/../../c"} {
		mustOpen(t, f, name, create)
		if got := f.Files(); len(got) != i+1 || strings.Contains(got[i].Name, "..") {
			t.Errorf("%s became %+v", name, got)
		}
	}
}

func TestFolders(t *testing.T) {
	f := New(10, 10)
	f.Mkdir("d", 0)
	mustOpen(t, f, "d/b", create)
	mustOpen(t, f, "d/a", create)
	o := mustOpen(t, f, "d", experimentalsys.O_RDONLY)
	first, _ := o.Readdir(1)
	rest, _ := o.Readdir(-1)
	if len(first) != 1 || first[0].Name != "a" || len(rest) != 1 || rest[0].Name != "b" {
		t.Errorf("listed %v then %v", first, rest)
	}
	tests := []struct {
		name  string
		errno experimentalsys.Errno
		want  experimentalsys.Errno
	}{
		{"rmdir full", f.Rmdir("d"), experimentalsys.ENOTEMPTY},
		{"unlink folder", f.Unlink("d"), experimentalsys.EISDIR},
		{"rmdir file", f.Rmdir("d/a"), experimentalsys.ENOTDIR},
		{"mkdir again", f.Mkdir("d", 0), experimentalsys.EEXIST},
		{"below a file", f.Mkdir("d/a/x", 0), experimentalsys.ENOTDIR},
		{"absent", f.Unlink("nothing"), experimentalsys.ENOENT},
		{"rename folder", f.Rename("d", "e"), experimentalsys.ENOTSUP},
		{"root", f.Unlink("/"), experimentalsys.EINVAL},
	}
	for _, tt := range tests {
		if tt.errno != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, tt.errno, tt.want)
		}
	}
}
