package share

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"porchlight/share/merkle"
	"porchlight/share/wire"
)

// in reads a file of the share, "" if absent.
func (s *site) in(name string) string {
	b, _ := os.ReadFile(filepath.Join(s.dir, name))
	return string(b)
}

// partials lists the broken-off uploads in the share's own folder.
func (s *site) partials() []string {
	names, err := filepath.Glob(filepath.Join(s.dir, wire.PutPrefix+"*"))
	if err != nil {
		s.Fatal(err)
	}
	return names
}

func TestPutWritesWholeFiles(t *testing.T) {
	s := newSite(t)
	a := s.do("PUT", "/s/f", strings.NewReader("one"))
	if a.status != 201 || s.in("f") != "one" {
		t.Fatalf("new: %d", a.status)
	}
	etag := a.header.Get("ETag")
	if got := s.do("HEAD", "/s/f", nil).header.Get("ETag"); got != etag || etag == "" {
		t.Errorf("ETag %q, later %q", etag, got)
	}
	for _, c := range []struct {
		name   string
		header []string
		status int
		after  string
	}{
		{"If-None-Match *", []string{"If-None-Match", "*"}, 412, "one"},
		{"If-None-Match of this", []string{"If-None-Match", `"x", ` + etag}, 412, "one"},
		{"If-Match of another", []string{"If-Match", `"x"`}, 412, "one"},
		{"If-Match of this", []string{"If-Match", etag}, 204, "two"},
		{"If-Match *", []string{"If-Match", "*"}, 204, "two"},
		{"no condition", nil, 204, "two"},
	} {
		if a := s.do("PUT", "/s/f", strings.NewReader("two"), c.header...); a.status != c.status || s.in("f") != c.after {
			t.Errorf("%s: %d, file %q", c.name, a.status, s.in("f"))
		}
	}
	if got := s.partials(); got != nil {
		t.Errorf("left behind: %v", got)
	}
}

func TestPutRefusals(t *testing.T) {
	s := newSite(t, func(c *Config) { c.MaxUpload = 100 })
	s.file("d/f", nil)
	root := rootOf(t, []byte("other")).Root.String()
	for _, c := range []struct {
		name, path string
		body       io.Reader
		header     []string
		status     int
	}{
		{"at the limit", "/s/a", bytes.NewReader(make([]byte, 100)), nil, 201},
		{"above the limit", "/s/b", bytes.NewReader(make([]byte, 101)), nil, 413},
		{"no length", "/s/b", io.MultiReader(strings.NewReader("x")), nil, 411},
		{"no folder", "/s/no/b", strings.NewReader("x"), nil, 409},
		{"a file as folder", "/s/a/b", strings.NewReader("x"), nil, 409},
		{"onto a folder", "/s/d", strings.NewReader("x"), nil, 409},
		{"a folder's path", "/s/d/", strings.NewReader("x"), nil, 409},
		{"the share", "/s", strings.NewReader("x"), nil, 409},
		{"hidden name", "/s/.profile", strings.NewReader("x"), nil, 404},
		{"partial's name", "/s/.porchlight-put-00", strings.NewReader("x"), nil, 404},
		{"wrong root", "/s/b", strings.NewReader("x"), []string{wire.HeaderRoot, root}, 422},
		{"root that is none", "/s/b", strings.NewReader("x"), []string{wire.HeaderRoot, "abc"}, 400},
		{"range without root", "/s/b", strings.NewReader("x"), []string{"Content-Range", "bytes 0-0/1"}, 400},
		{"range not to the end", "/s/b", strings.NewReader("x"), []string{"Content-Range", "bytes 0-0/2", wire.HeaderRoot, root}, 400},
		{"range of another length", "/s/b", strings.NewReader("xy"), []string{"Content-Range", "bytes 0-0/1", wire.HeaderRoot, root}, 400},
		{"range beyond what is kept", "/s/b", strings.NewReader("x"), []string{"Content-Range", "bytes 1-1/2", wire.HeaderRoot, root}, 409},
		{"negative range", "/s/b", strings.NewReader("x"), []string{"Content-Range", "bytes -1-0/1", wire.HeaderRoot, root}, 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			if a := s.do("PUT", c.path, c.body, c.header...); a.status != c.status {
				t.Errorf("%d %q, want %d", a.status, a.body, c.status)
			}
		})
	}
	if s.in("b") != "" {
		t.Error("a refused upload has its name")
	}
}

func FuzzParseRange(f *testing.F) {
	for _, s := range []string{"bytes 0-9/10", "bytes 5-9/10", "bytes 9223372036854775806-9223372036854775806/9223372036854775807", "bytes */10"} {
		f.Add(s, int64(10))
	}
	f.Fuzz(func(t *testing.T, s string, length int64) {
		u := &upload{kept: true}
		if u.parseRange(s, length) != nil {
			return
		}
		if u.first < 0 || u.total-u.first != length || length <= 0 {
			t.Fatalf("%q of %d: %+v", s, length, u)
		}
	})
}

// breakOff sends the head and part of the body of a PUT, then hangs up.
func (s *site) breakOff(path string, total int, part []byte, header ...string) {
	s.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		s.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: h\r\nWho: rw\r\nContent-Length: %d\r\n", path, total)
	for i := 0; i < len(header); i += 2 {
		fmt.Fprintf(conn, "%s: %s\r\n", header[i], header[i+1])
	}
	conn.Write(append([]byte("\r\n"), part...))
	// Half-closed, the server sees all of it and answers before it hangs up.
	conn.(*net.TCPConn).CloseWrite()
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	bufio.NewReader(conn).ReadString('\n')
}

func TestBrokenOffUploadGoesOn(t *testing.T) {
	s := newSite(t)
	b := content(300000, 7)
	root := rootOf(t, b).Root.String()
	state := func() string {
		return s.do("HEAD", "/s/f?upload="+root, nil).header.Get(wire.HeaderOffset)
	}
	if got := state(); got != "0" {
		t.Fatalf("before: %s", got)
	}
	s.breakOff("/s/f", len(b), b[:100000], wire.HeaderRoot, root)
	if got := state(); got != "100000" || s.in("f") != "" {
		t.Fatalf("kept %s bytes", got)
	}
	// Going on from further behind than what is kept is allowed.
	s.breakOff("/s/f", len(b)-90000, b[90000:200000], wire.HeaderRoot, root, "Content-Range", fmt.Sprintf("bytes 90000-%d/%d", len(b)-1, len(b)))
	if got := state(); got != "200000" {
		t.Fatalf("kept %s bytes", got)
	}
	a := s.do("PUT", "/s/f", bytes.NewReader(b[200000:]), wire.HeaderRoot, root, "Content-Range", fmt.Sprintf("bytes 200000-%d/%d", len(b)-1, len(b)))
	if a.status != 201 || s.in("f") != string(b) || len(s.partials()) != 0 {
		t.Errorf("%d %q, left %v", a.status, a.body, s.partials())
	}
}

func TestBrokenOffUploadWithoutRootLeavesNothing(t *testing.T) {
	s := newSite(t)
	s.breakOff("/s/f", 1000, make([]byte, 500))
	if len(s.partials()) != 0 || s.in("f") != "" {
		t.Errorf("left behind: %v", s.partials())
	}
}

func TestSpoiledPartialIsNotPublished(t *testing.T) {
	s := newSite(t)
	b := content(100000, 8)
	root := rootOf(t, b).Root.String()
	s.breakOff("/s/f", len(b), b[:50000], wire.HeaderRoot, root)
	part, err := os.OpenFile(s.partials()[0], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	part.WriteAt([]byte("x"), 77)
	part.Close()
	a := s.do("PUT", "/s/f", bytes.NewReader(b[50000:]), wire.HeaderRoot, root, "Content-Range", "bytes 50000-99999/100000")
	if a.status != 422 || s.in("f") != "" || len(s.partials()) != 0 {
		t.Errorf("%d, left %v", a.status, s.partials())
	}
}

func TestLaterUploadTakesOverFromADeadConnection(t *testing.T) {
	s := newSite(t)
	b := content(100000, 9)
	root := rootOf(t, b).Root.String()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "PUT /s/f HTTP/1.1\r\nHost: h\r\nWho: rw\r\nContent-Length: %d\r\n%s: %s\r\n\r\nabc", len(b), wire.HeaderRoot, root)
	for end := time.Now().Add(5 * time.Second); len(s.handler.Transfers()) == 0 && time.Now().Before(end); {
	}
	if a := s.do("PUT", "/s/f", bytes.NewReader(b), wire.HeaderRoot, root); a.status != 201 || s.in("f") != string(b) {
		t.Errorf("%d %q", a.status, a.body)
	}
}

func TestPartialThatIsALinkIsNotFollowed(t *testing.T) {
	s := newSite(t)
	root := rootOf(t, []byte("EVIL")).Root
	part := partialName(&upload{name: "f", root: root, kept: true})
	victim := s.file("../victim", []byte("whole"))
	for _, target := range []string{victim, "inside"} {
		s.file("inside", []byte("whole"))
		os.Remove(filepath.Join(s.dir, part))
		if err := os.Symlink(target, filepath.Join(s.dir, part)); err != nil {
			t.Fatal(err)
		}
		s.do("PUT", "/s/f", strings.NewReader("EVIL"), wire.HeaderRoot, root.String())
		if s.in("../victim") != "whole" || s.in("inside") != "whole" {
			t.Fatalf("wrote through a link to %s", target)
		}
	}
}

func TestOldPartialsAreSwept(t *testing.T) {
	s := newSite(t)
	old := s.file(wire.PutPrefix+"old", nil)
	s.file(wire.PutPrefix+"new", nil)
	long := time.Now().Add(-keepPartial - time.Hour)
	if err := os.Chtimes(old, long, long); err != nil {
		t.Fatal(err)
	}
	s.do("PUT", "/s/f", strings.NewReader("x"))
	if got := s.partials(); len(got) != 1 || !strings.HasSuffix(got[0], "new") {
		t.Errorf("%v", got)
	}
}

// smallDisk mounts a tmpfs over the share.
func (s *site) smallDisk(options string) {
	s.Helper()
	if os.Getuid() != 0 {
		s.Skip("mounting a small disk needs root")
	}
	if err := unix.Mount("tmpfs", s.dir, "tmpfs", 0, options); err != nil {
		s.Fatalf("mount: %v", err)
	}
	s.Cleanup(func() {
		if err := unix.Unmount(s.dir, unix.MNT_DETACH); err != nil {
			s.Error(err)
		}
	})
}

func TestFullDiskLeavesNothingBehind(t *testing.T) {
	s := newSite(t, func(c *Config) { c.MinFree = 64 << 10 })
	s.smallDisk("size=1m")
	big := content(2<<20, 1)
	if a := s.do("PUT", "/s/f", bytes.NewReader(big)); a.status != 507 || !strings.Contains(string(a.body), "free") {
		t.Errorf("announced: %d %q", a.status, a.body)
	}
	fits := content(1<<20-(64<<10)-8192, 1)
	if a := s.do("PUT", "/s/fits", bytes.NewReader(fits)); a.status != 201 {
		t.Errorf("what fits: %d %q", a.status, a.body)
	}
	os.Remove(filepath.Join(s.dir, "fits"))
	// The disk fills up by another hand while the upload is under way.
	half := content(900<<10, 2)
	s.handler.cfg.MinFree = -1
	filled := make(chan struct{})
	fill := readFunc(func() {
		defer close(filled)
		os.WriteFile(filepath.Join(s.dir, "other"), make([]byte, 800<<10), 0o644)
	})
	body := io.MultiReader(bytes.NewReader(half[:64<<10]), fill, bytes.NewReader(half[64<<10:]))
	a := s.putSized("/s/f", body, len(half), wire.HeaderRoot, rootOf(t, half).Root.String())
	<-filled
	if a.status != 507 || len(s.partials()) != 0 || s.in("f") != "" {
		t.Errorf("filled up: %d %q, left %v", a.status, a.body, s.partials())
	}
	os.Remove(filepath.Join(s.dir, "other"))
	if a := s.do("PUT", "/s/f", bytes.NewReader(half), wire.HeaderRoot, rootOf(t, half).Root.String()); a.status != 201 {
		t.Errorf("after making room: %d %q", a.status, a.body)
	}
}

func TestDiskWithoutInodes(t *testing.T) {
	s := newSite(t)
	s.smallDisk("size=1m,nr_inodes=3")
	for i := range 2 {
		os.WriteFile(filepath.Join(s.dir, fmt.Sprint(i)), nil, 0o644)
	}
	if a := s.do("PUT", "/s/f", strings.NewReader("x")); a.status != 507 {
		t.Errorf("%d %q", a.status, a.body)
	}
}

// readFunc is an empty reader that does something when reached.
type readFunc func()

func (f readFunc) Read([]byte) (int, error) { f(); return 0, io.EOF }

// putSized is do for a body of known length that is no bytes.Reader.
func (s *site) putSized(path string, body io.Reader, n int, header ...string) answer {
	s.Helper()
	req := s.request("PUT", path, body, header...)
	req.ContentLength = int64(n)
	return s.send(req)
}

func TestRootInTheHeaderMakesItVerified(t *testing.T) {
	s := newSite(t)
	for _, n := range []int{0, 1, merkle.MinPieceSize + 1} {
		b := content(n, 3)
		if a := s.do("PUT", "/s/f", bytes.NewReader(b), wire.HeaderRoot, rootOf(t, b).Root.String()); a.status/100 != 2 || s.in("f") != string(b) {
			t.Errorf("%d bytes: %d %q", n, a.status, a.body)
		}
	}
}
