package share

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"porchlight/share/merkle"
	"porchlight/share/wire"
)

// byHeader grants what the header Who names.
type byHeader struct{}

func (byHeader) Allows(r *http.Request, who []string) bool {
	return slices.Contains(who, r.Header.Get("Who"))
}

// site is a share "s" in dir, readable and writable by "rw", readable by
// "ro", writable only by "wo", served over loopback.
type site struct {
	*testing.T
	dir     string
	handler *Handler
	url     string
}

func newSite(t *testing.T, edit ...func(*Config)) *site {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "shared")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	shares, err := Open(&memStore{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := shares.Add(dir, "s", []string{"rw", "ro"}, []string{"rw", "wo"}); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Shares: shares, Grants: byHeader{}, MinFree: -1}
	for _, f := range edit {
		f(&cfg)
	}
	h := NewHandler(cfg)
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return &site{t, dir, h, srv.URL}
}

// file makes a file last changed a minute ago.
func (s *site) file(name string, content []byte) string {
	s.Helper()
	full := filepath.Join(s.dir, name)
	old := time.Now().Add(-time.Minute)
	err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, content, 0o644), os.Chtimes(full, old, old))
	if err != nil {
		s.Fatal(err)
	}
	return full
}

// sparse makes a file of zeros.
func (s *site) sparse(name string, size int64) string {
	s.Helper()
	full := s.file(name, nil)
	old := time.Now().Add(-time.Minute)
	if err := errors.Join(os.Truncate(full, size), os.Chtimes(full, old, old)); err != nil {
		s.Fatal(err)
	}
	return full
}

type answer struct {
	status int
	header http.Header
	body   []byte
	err    error // of reading the body
}

// do makes a request; headers come in pairs.
func (s *site) do(method, path string, body io.Reader, header ...string) answer {
	s.Helper()
	return s.send(s.request(method, path, body, header...))
}

func (s *site) request(method, path string, body io.Reader, header ...string) *http.Request {
	s.Helper()
	req, err := http.NewRequest(method, s.url+path, body)
	if err != nil {
		s.Fatalf("%s %q: %v", method, path, err)
	}
	req.Header.Set("Who", "rw")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return req
}

func (s *site) send(req *http.Request) answer {
	s.Helper()
	c := http.Client{Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Do(req)
	if err != nil {
		s.Fatalf("%s %q: %v", req.Method, req.URL, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, b, err}
}

func (s *site) names(a answer) (names []string) {
	s.Helper()
	for e, err := range wire.Entries(bytes.NewReader(a.body)) {
		if err != nil {
			s.Fatalf("%v in %q", err, a.body)
		}
		names = append(names, e.Name)
	}
	return names
}

func TestWhoMayWhat(t *testing.T) {
	s := newSite(t)
	s.file("f", []byte("x"))
	for _, c := range []struct {
		who, method, path string
		want              int
	}{
		{"rw", "GET", "/s/f", 200}, {"ro", "GET", "/s/f", 200}, {"ro", "HEAD", "/s/f", 200},
		{"ro", "PUT", "/s/g", 403}, {"ro", "HEAD", "/s/g?upload=" + merkle.Hash{}.String(), 403},
		{"wo", "GET", "/s/f", 403}, {"wo", "PUT", "/s/w", 201},
		{"no", "GET", "/s/f", 404}, {"no", "PUT", "/s/g", 404}, {"no", "GET", "/s/", 404}, {"no", "GET", "/s/?upload", 404},
		{"rw", "GET", "/absent/f", 404}, {"rw", "PUT", "/absent/f", 404}, {"rw", "PUT", "/", 404},
		{"rw", "POST", "/s/f", 405}, {"no", "DELETE", "/s/f", 405}, {"no", "PROPFIND", "/absent", 405}, {"no", "OPTIONS", "/s/f", 405},
	} {
		if got := s.do(c.method, c.path, nil, "Who", c.who); got.status != c.want {
			t.Errorf("%s: %s %s: %d, want %d", c.who, c.method, c.path, got.status, c.want)
		}
	}
}

func TestNotAllowedLooksLikeAbsent(t *testing.T) {
	s := newSite(t)
	s.file("f", []byte("x"))
	secret, absent := s.do("GET", "/s/f", nil, "Who", "no"), s.do("GET", "/t/f", nil, "Who", "no")
	secret.header.Del("Date")
	absent.header.Del("Date")
	if fmt.Sprint(secret) != fmt.Sprint(absent) {
		t.Errorf("%v\n%v", secret, absent)
	}
	if got := s.names(s.do("GET", "/", nil, "Who", "no")); got != nil {
		t.Errorf("list of shares: %v", got)
	}
	if got := s.names(s.do("GET", "/", nil, "Who", "wo")); len(got) != 1 {
		t.Errorf("list of shares for a writer: %v", got)
	}
}

// hostilePaths is test 37 of the threat model as request targets.
func hostilePaths() []string {
	var out []string
	climbs := []string{"..", "%2e%2e", "%2E.", ".%2e", "%252e%252e", "..%00", "%00..", "..%5c", "%5c..", "．．", "%ef%bc%8e%ef%bc%8e",
		"%c0%ae%c0%ae", "%e0%80%ae%e0%80%ae", "‥", "․․", "...", "....", ".. ", ". .", "..;", "..%0a", "..%09", "..%c2%a0", "%u002e%u002e"}
	tails := []string{"etc/passwd", "secret", "../../../../etc/passwd", "", "etc%2fpasswd", "%2fetc%2fpasswd"}
	for _, c := range climbs {
		for _, tail := range tails {
			out = append(out, "/s/"+c+"/"+tail, "/s/sub/"+c+"/"+c+"/"+tail)
		}
	}
	out = append(out, "//etc/passwd", "/s//etc/passwd", "/s/%2fetc%2fpasswd", "/s/sub/..%2f..%2fsecret", "/s/..%5c..%5csecret",
		"/%2e%2e/secret", "/s/secret%00.txt", "/s/"+strings.Repeat("a/", 3000), "/s/"+strings.Repeat("a", 5000),
		"/s/"+strings.Repeat("../", 500)+"etc/passwd", "/s/etc-link/passwd", "/s/passwd-link", "/s/up-link/secret", "/s/rel-link/secret",
		"/s/proc-link/etc/passwd", "/s/loop/x", "/s/loop", "/s/fifo", "/s/fifo/", "/s/fifo?merkle", "/s/sock", "/s/null", "/s/.hidden", "/s/.porchlight-put-1",
		"/s/f.porchlight-part", "/s/sub/.git/config", "/s/f/", "/s/f/x", "/s/f./", "/s/f%20", "/s/f.", "/s/CON", "/s/NUL.txt", "/s/f::$DATA",
		"/.", "/..", "/s/.", "/s/./f", "/s/sub/./", "/s/~root", "/s/$HOME", "/s/*", "/S/f", "/s%2ff%00", "/s/dead-link", "/s/fd-link/0",
		"/s/%", "/s/%zz", "/s/\x7f")
	return out
}

func (s *site) hostileFolder() {
	s.Helper()
	s.file("f", []byte("public"))
	s.file("sub/g", []byte("public"))
	s.file("../secret", []byte("SECRET"))
	s.file(".hidden", []byte("SECRET"))
	s.file(".porchlight-put-1", []byte("SECRET"))
	s.file("f.porchlight-part", []byte("SECRET"))
	s.file("sub/.git/config", []byte("SECRET"))
	at := func(n string) string { return filepath.Join(s.dir, n) }
	err := errors.Join(os.Symlink("/etc", at("etc-link")), os.Symlink("/etc/passwd", at("passwd-link")),
		os.Symlink(filepath.Dir(s.dir), at("up-link")), os.Symlink("..", at("rel-link")),
		os.Symlink("/proc/self/root", at("proc-link")), os.Symlink("/proc/self/fd", at("fd-link")), os.Symlink("loop", at("loop")),
		os.Symlink("absent", at("dead-link")), os.Symlink("sub/g", at("good-link")), os.Symlink("/dev/null", at("null")),
		syscall.Mkfifo(at("fifo"), 0o644), syscall.Mknod(at("sock"), syscall.S_IFSOCK|0o644, 0))
	if err != nil {
		s.Fatal(err)
	}
}

func TestNothingEscapesAndNothingHangs(t *testing.T) {
	s := newSite(t)
	s.hostileFolder()
	before := tree(t, filepath.Dir(s.dir))
	paths := hostilePaths()
	if len(paths) < 300 {
		t.Fatalf("only %d names", len(paths))
	}
	for _, p := range paths {
		for _, method := range []string{"GET", "HEAD", "PUT"} {
			var body io.Reader
			if method == "PUT" {
				if p == "/s/f." || p == "/s/CON" || p == "/s/NUL.txt" || p == "/s/f::$DATA" || p == "/s/~root" || p == "/s/$HOME" || p == "/s/*" ||
					p == "/s/loop" || p == "/s/fifo" || p == "/s/fifo?merkle" || p == "/s/sock" || p == "/s/null" || p == "/s/dead-link" || p == "/s/passwd-link" || p == "/s/f%20" {
					continue // names a writer may use, or replace
				}
				body = strings.NewReader("EVIL")
			}
			req := httptest.NewRequest(method, "http://h/", body)
			req.Header.Set("Who", "rw")
			target, query, _ := strings.Cut(p, "?")
			if err := setPath(req, target, query); err != nil {
				continue // net/http refuses it itself
			}
			w := httptest.NewRecorder()
			done := make(chan struct{})
			go func() { defer close(done); s.handler.ServeHTTP(w, req) }()
			select {
			case <-done:
			case <-time.After(5 * time.Second):
				t.Fatalf("%s %q hangs", method, p)
			}
			if w.Code < 400 || strings.Contains(w.Body.String(), "SECRET") || strings.Contains(w.Body.String(), "root:") {
				t.Errorf("%s %q: %d %.80q", method, p, w.Code, w.Body)
			}
		}
	}
	if after := tree(t, filepath.Dir(s.dir)); after != before {
		t.Errorf("files changed:\n%s\n%s", before, after)
	}
	if a := s.do("GET", "/s/good-link", nil); a.status != 200 || string(a.body) != "public" {
		t.Errorf("link inside the share: %d", a.status)
	}
	if got := fmt.Sprint(s.names(s.do("GET", "/s/", nil))); got != "[f good-link sub]" {
		t.Errorf("listing: %s", got)
	}
}

// setPath puts the target in as it came, as a server does: the client side of
// net/http would resolve dots.
func setPath(r *http.Request, target, query string) error {
	decoded, err := url.PathUnescape(target)
	*r.URL = url.URL{Path: decoded, RawPath: target, RawQuery: query}
	return err
}

// tree prints names, sizes and modes of everything below dir.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.Walk(dir, func(p string, fi os.FileInfo, err error) error {
		if err == nil && !fi.IsDir() {
			fmt.Fprintln(&b, p, fi.Size(), fi.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestLinkSwappedWhileServing(t *testing.T) {
	s := newSite(t)
	s.file("../secret", []byte("SECRET"))
	s.file("a", []byte("public"))
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		x, tmp := filepath.Join(s.dir, "x"), filepath.Join(s.dir, "tmp")
		targets := []string{"a", "../secret", filepath.Join(filepath.Dir(s.dir), "secret")}
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			os.Remove(tmp)
			if i%4 == 3 {
				syscall.Mkfifo(tmp, 0o644)
			} else {
				os.Symlink(targets[i%4], tmp)
			}
			os.Rename(tmp, x)
		}
	}()
	for range 1000 {
		w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/s/x", nil)
		r.Header.Set("Who", "rw")
		s.handler.ServeHTTP(w, r)
		if strings.Contains(w.Body.String(), "SECRET") {
			t.Fatal("escaped")
		}
	}
	close(stop)
	<-done
}

func TestConditionsAndRanges(t *testing.T) {
	s := newSite(t)
	s.file("f", []byte("0123456789"))
	etag := s.do("HEAD", "/s/f", nil).header.Get("ETag")
	if !strings.HasPrefix(etag, `"`) {
		t.Fatalf("ETag %q is not strong", etag)
	}
	many := "bytes=0-0" + strings.Repeat(",0-0", 9999)
	for _, c := range []struct {
		name   string
		header []string
		status int
		body   string
	}{
		{"range", []string{"Range", "bytes=2-4"}, 206, "234"},
		{"suffix", []string{"Range", "bytes=-2"}, 206, "89"},
		{"beyond the end", []string{"Range", "bytes=10-"}, 416, ""},
		{"If-Range of this file", []string{"Range", "bytes=2-4", "If-Range", etag}, 206, "234"},
		{"If-Range of another", []string{"Range", "bytes=2-4", "If-Range", `"x"`}, 200, "0123456789"},
		{"If-Match", []string{"If-Match", etag}, 200, "0123456789"},
		{"If-Match of another", []string{"If-Match", `"x"`}, 412, ""},
		{"If-None-Match", []string{"If-None-Match", etag}, 304, ""},
		{"10,000 ranges", []string{"Range", many}, 200, "0123456789"},
		{"ranges that overlap", []string{"Range", "bytes=0-9,0-9,0-9"}, 200, "0123456789"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := s.do("GET", "/s/f", nil, c.header...)
			if a.status != c.status || c.body != "" && string(a.body) != c.body {
				t.Errorf("%d %q, want %d %q", a.status, a.body, c.status, c.body)
			}
		})
	}
	s.file("f", []byte("0123456780!"))
	if a := s.do("GET", "/s/f", nil, "If-Match", etag); a.status != 412 {
		t.Errorf("changed file: %d", a.status)
	}
}

func TestListings(t *testing.T) {
	s := newSite(t)
	for _, n := range []string{"b", "a:b <i>", "c/d", "é"} {
		s.file(n, []byte("xyz"))
	}
	if err := os.WriteFile(filepath.Join(s.dir, "bad\xffname"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(s.names(s.do("GET", "/s/", nil))); got != "[a:b <i> b c é]" {
		t.Errorf("listing %s", got)
	}
	a := s.do("GET", "/s", nil)
	if a.status != 301 || a.header.Get("Location") != "./s/" {
		t.Errorf("folder without slash: %d %q", a.status, a.header.Get("Location"))
	}
	a = s.do("GET", "/s/", nil, "Accept", "text/html,application/xhtml+xml,*/*")
	if !strings.Contains(string(a.body), `href="./a:b%20%3Ci%3E">a:b &lt;i&gt;</a>`) {
		t.Errorf("page: %s", a.body)
	}
	if a := s.do("HEAD", "/s/c/", nil); a.status != 200 || len(a.body) != 0 {
		t.Errorf("HEAD of a folder: %d", a.status)
	}
}

func TestLargeFolderIsListedCompletely(t *testing.T) {
	t.Setenv("TMPDIR", "/dev/shm") // thousands of files are slow on some disks
	s := newSite(t)
	const n = sortedEntries + 2*batchEntries + 3
	for i := range n {
		if err := os.WriteFile(filepath.Join(s.dir, fmt.Sprint("f", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got := s.names(s.do("GET", "/s/", nil))
	slices.Sort(got)
	if len(slices.Compact(got)) != n {
		t.Errorf("%d names of %d", len(got), n)
	}
}

func TestUnpluggedDiskIsTemporary(t *testing.T) {
	s := newSite(t)
	s.file("f", []byte("x"))
	if err := os.Rename(s.dir, s.dir+"-away"); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"/s/f", "/s/"} {
		if a := s.do("GET", p, nil); a.status != 503 {
			t.Errorf("%s: %d", p, a.status)
		}
	}
	if a := s.do("GET", "/s/f", nil, "Who", "no"); a.status != 404 {
		t.Errorf("for a stranger: %d", a.status)
	}
	if err := os.Rename(s.dir+"-away", s.dir); err != nil {
		t.Fatal(err)
	}
	if a := s.do("GET", "/s/f", nil); a.status != 200 {
		t.Errorf("plugged in again: %d", a.status)
	}
}

func TestFileThatShrinksWhileSentEndsTheConnection(t *testing.T) {
	s := newSite(t)
	full := s.sparse("f", 64<<20)
	req, _ := http.NewRequest("GET", s.url+"/s/f", nil)
	req.Header.Set("Who", "rw")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := os.Truncate(full, 1<<20); err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, resp.Body)
	if !errors.Is(err, io.ErrUnexpectedEOF) || n == 64<<20 {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestTransfersAreSeenWhileTheyLast(t *testing.T) {
	ended := make(chan Transfer, 10)
	s := newSite(t, func(c *Config) {
		c.OnTransfer = func(t Transfer) { ended <- t }
		c.Peer = func(r *http.Request) string { return "peer " + r.Header.Get("Who") }
	})
	s.sparse("d/f", 64<<20)
	req, _ := http.NewRequest("GET", s.url+"/s/d/f", nil)
	req.Header.Set("Who", "ro")
	req.Header.Set("Range", "bytes=1048576-")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.CopyN(io.Discard, resp.Body, 8<<20); err != nil {
		t.Fatal(err)
	}
	// The kernel advances the position when sendfile has filled the socket.
	var now []Transfer
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		if now = s.handler.Transfers(); len(now) == 1 && now[0].Bytes() >= 8<<20 {
			break
		}
	}
	if len(now) != 1 || now[0].Bytes() < 8<<20 || now[0].Bytes() > 63<<20 || now[0].Path != "s/d/f" || now[0].Peer != "peer ro" || now[0].Size != 64<<20 {
		t.Errorf("under way: %+v", now)
	}
	io.Copy(io.Discard, resp.Body)
	if got := <-ended; got.Bytes() != 63<<20 || got.First != 1<<20 || got.Upload {
		t.Errorf("ended: %+v", got)
	}
	s.do("PUT", "/s/up", bytes.NewReader(make([]byte, 1000)))
	if got := <-ended; got.Bytes() != 1000 || !got.Upload || got.Path != "s/up" {
		t.Errorf("upload ended: %+v", got)
	}
	if now = s.handler.Transfers(); len(now) != 0 {
		t.Errorf("still there: %+v", now)
	}
}

func TestNoHandlerOutlivesItsClient(t *testing.T) {
	s := newSite(t)
	s.sparse("f", 256<<20)
	for _, path := range []string{"/s/f", "/s/f?merkle"} {
		req, _ := http.NewRequest("GET", s.url+path, nil)
		req.Header.Set("Who", "rw")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	for end := time.Now().Add(5 * time.Second); len(s.handler.Transfers())+len(s.handler.layers.requests) > 0; {
		if time.Now().After(end) {
			t.Fatal("a handler is still at work")
		}
	}
}
