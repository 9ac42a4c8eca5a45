package fetch

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"porchlight/share"
	"porchlight/share/merkle"
	"porchlight/share/wire"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		childMain()
		return
	}
	goleak.VerifyTestMain(m)
}

type everybody struct{}

func (everybody) Allows(*http.Request, []string) bool { return true }

type memStore struct{ list []share.Share }

func (m *memStore) Load() ([]share.Share, error) { return m.list, nil }
func (m *memStore) Save(l []share.Share) error   { m.list = slices.Clone(l); return nil }

func handlerFor(t testing.TB, dir string) *share.Handler {
	t.Helper()
	shares, err := share.Open(&memStore{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := shares.Add(dir, "s", nil, nil); err != nil {
		t.Fatal(err)
	}
	return share.NewHandler(share.Config{Shares: shares, Grants: everybody{}, MinFree: -1})
}

// peer is a served folder and a client of it.
type peer struct {
	testing.TB
	dir    string // served
	dst    string // where the file goes
	client *Client
	srv    *httptest.Server
}

// newPeer serves a folder; around, if set, stands between client and handler.
func newPeer(t testing.TB, around func(http.Handler) http.Handler) *peer {
	t.Helper()
	p := &peer{TB: t, dir: t.TempDir(), dst: filepath.Join(t.TempDir(), "got")}
	var h http.Handler = handlerFor(t, p.dir)
	if around != nil {
		h = around(h)
	}
	p.srv = httptest.NewServer(h)
	tr := &http.Transport{}
	t.Cleanup(func() { tr.CloseIdleConnections(); p.srv.Close() })
	p.client = &Client{HTTP: &http.Client{Transport: tr}, Base: p.srv.URL}
	return p
}

func pattern(n int, seed uint32) []byte {
	b, x := make([]byte, n), seed
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

func (p *peer) file(name string, content []byte) {
	p.Helper()
	full := filepath.Join(p.dir, name)
	old := time.Now().Add(-time.Minute)
	if err := errors.Join(os.WriteFile(full, content, 0o644), os.Chtimes(full, old, old)); err != nil {
		p.Fatal(err)
	}
}

func (p *peer) get(opts Options) (Result, error) {
	ctx, cancel := context.WithTimeout(p.Context(), 30*time.Second)
	defer cancel()
	return p.client.Get(ctx, "s/f", p.dst, opts)
}

// holds checks that the destination has exactly these bytes and nothing else
// lies beside it.
func (p *peer) holds(want []byte) {
	p.Helper()
	got, err := os.ReadFile(p.dst)
	if err != nil || string(got) != string(want) {
		p.Fatalf("destination has %d bytes, want %d: %v", len(got), len(want), err)
	}
	if all, _ := os.ReadDir(filepath.Dir(p.dst)); len(all) != 1 {
		p.Fatalf("left behind: %v", all)
	}
}

func (p *peer) absent() {
	p.Helper()
	if _, err := os.Lstat(p.dst); !errors.Is(err, os.ErrNotExist) {
		p.Fatalf("something is under the final name: %v", err)
	}
}

func root(b []byte) *merkle.Info {
	h := merkle.NewHasher(int64(len(b)))
	h.Write(b)
	info, err := h.Info()
	if err != nil {
		panic(err)
	}
	return info
}

func TestGetOfEverySize(t *testing.T) {
	const k = merkle.MinPieceSize
	for _, n := range []int{0, 1, 16383, 16384, 16385, k - 1, k, k + 1, 3 * k, 40*k + 17} {
		for _, parallel := range []int{0, 3} {
			t.Run(fmt.Sprintf("%d bytes, parallel %d", n, parallel), func(t *testing.T) {
				p := newPeer(t, nil)
				b := pattern(n, 1)
				p.file("f", b)
				in := root(b)
				res, err := p.get(Options{SHA256: true, Parallel: parallel, Root: &in.Root})
				if err != nil {
					t.Fatal(err)
				}
				p.holds(b)
				if res.Bytes != int64(n) || res.Fetched != int64(n) || res.Resumed || res.Root != in.Root.String() ||
					res.SHA256 != fmt.Sprintf("%x", sha256.Sum256(b)) || res.Seconds <= 0 || (n > 0) != (res.FirstByte > 0) {
					t.Errorf("%+v", res)
				}
			})
		}
	}
}

func TestGetRefusals(t *testing.T) {
	p := newPeer(t, nil)
	p.file("f", pattern(100, 1))
	other := root([]byte("other")).Root
	if _, err := p.get(Options{Root: &other}); !errors.Is(err, ErrWrongContent) {
		t.Errorf("another root: %v", err)
	}
	p.absent()
	if _, err := p.client.Get(t.Context(), "s/absent", p.dst, Options{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("absent: %v", err)
	}
	if _, err := p.client.Get(t.Context(), "s", p.dst, Options{}); !errors.Is(err, ErrProtocol) {
		t.Errorf("folder: %v", err)
	}
	if err := os.WriteFile(p.dst, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := p.get(Options{}); !errors.Is(err, ErrExists) {
		t.Errorf("existing: %v", err)
	}
	if _, err := p.client.Get(t.Context(), "s/f", t.TempDir(), Options{Overwrite: true}); !errors.Is(err, ErrExists) {
		t.Errorf("folder as destination: %v", err)
	}
	if _, err := p.get(Options{Overwrite: true}); err != nil {
		t.Errorf("overwrite: %v", err)
	}
	p.holds(pattern(100, 1))
}

func TestGetLeavesADestinationThatAppearedMeanwhile(t *testing.T) {
	var p *peer
	p = newPeer(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			os.WriteFile(p.dst, []byte("mine"), 0o644)
			h.ServeHTTP(w, r)
		})
	})
	p.file("f", pattern(100, 1))
	if _, err := p.get(Options{}); !errors.Is(err, ErrExists) {
		t.Errorf("%v", err)
	}
	if b, _ := os.ReadFile(p.dst); string(b) != "mine" {
		t.Error("replaced")
	}
}

// served counts the bytes of content that each Range header asked for.
type served struct {
	mu     sync.Mutex
	ranges []string
}

func (s *served) around(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g := r.Header.Get("Range"); g != "" {
			s.mu.Lock()
			s.ranges = append(s.ranges, g)
			s.mu.Unlock()
		}
		h.ServeHTTP(w, r)
	})
}

func TestGetKeepsWhatIsThereAndRight(t *testing.T) {
	const k = merkle.MinPieceSize
	b := pattern(10*k+100, 1)
	spoiled := slices.Clone(b)
	spoiled[3*k+5] ^= 1
	for _, c := range []struct {
		name    string
		part    []byte
		fetched int64
		resumed bool
	}{
		{"nothing", nil, 10*k + 100, false},
		{"half a piece", b[:k/2], 10*k + 100, false},
		{"four pieces and a half", b[:4*k+k/2], 6*k + 100, true},
		{"everything", b, 0, true},
		{"everything and more", append(slices.Clone(b), 1, 2, 3), 0, true},
		{"a spoiled piece", spoiled, k, true},
		{"another file", pattern(10*k+100, 2), 10*k + 100, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s served
			p := newPeer(t, s.around)
			p.file("f", b)
			if err := os.WriteFile(p.dst+wire.PartSuffix, c.part, 0o644); err != nil {
				t.Fatal(err)
			}
			res, err := p.get(Options{})
			if err != nil || res.Fetched != c.fetched || res.Resumed != c.resumed {
				t.Errorf("%+v, %v; want %d fetched (%v)", res, err, c.fetched, s.ranges)
			}
			p.holds(b)
		})
	}
}

// TestBrokenConnectionsCostNothing cuts every answer after a few kilobytes.
func TestBrokenConnectionsCostNothing(t *testing.T) {
	var cuts atomic.Int64
	p := newPeer(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && cuts.Add(1) < 8 {
				w = &cutter{ResponseWriter: w, left: 50000}
			}
			h.ServeHTTP(w, r)
		})
	})
	p.client.HTTP.Transport.(*http.Transport).DisableKeepAlives = true
	b := pattern(12*merkle.MinPieceSize, 1)
	p.file("f", b)
	res, err := p.get(Options{})
	if err != nil || res.Fetched != int64(len(b)) {
		t.Errorf("%+v, %v", res, err)
	}
	p.holds(b)
}

// cutter ends the connection after left bytes of body.
type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(b []byte) (int, error) {
	if len(b) > c.left {
		c.ResponseWriter.Write(b[:c.left])
		http.NewResponseController(c.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(b)
	return c.ResponseWriter.Write(b)
}

func TestFileThatChangesIsNotMixed(t *testing.T) {
	const k = merkle.MinPieceSize
	old, now := pattern(20*k, 1), pattern(20*k, 2)
	var p *peer
	var once sync.Once
	p = newPeer(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") != "" {
				w = &cutter{ResponseWriter: w, left: 5*k + 1000}
				defer once.Do(func() { p.file("f", now) })
			}
			h.ServeHTTP(w, r)
		})
	})
	p.file("f", old)
	if _, err := p.get(Options{}); !errors.Is(err, ErrChanged) {
		t.Errorf("%v", err)
	}
	p.absent()
}

func TestNextGetAfterAChangeFetchesWhatDiffers(t *testing.T) {
	const k = merkle.MinPieceSize
	p := newPeer(t, nil)
	b := pattern(20*k, 1)
	if err := os.WriteFile(p.dst+wire.PartSuffix, b[:15*k], 0o644); err != nil {
		t.Fatal(err)
	}
	b[7*k]++
	p.file("f", b)
	res, err := p.get(Options{})
	if err != nil || res.Fetched != 6*k {
		t.Errorf("%+v, %v", res, err)
	}
	p.holds(b)
}

func TestTwoGetsToOnePlace(t *testing.T) {
	p := newPeer(t, nil)
	p.file("f", pattern(1000, 1))
	part, _, err := openPart(p.dst+wire.PartSuffix, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.get(Options{}); !errors.Is(err, ErrBusy) {
		t.Errorf("%v", err)
	}
	part.Close()
	if _, err := p.get(Options{}); err != nil {
		t.Error(err)
	}
}

func TestProgressTellsTheTruth(t *testing.T) {
	p := newPeer(t, nil)
	b := pattern(8<<20, 1)
	p.file("f", b)
	var seen []Progress
	if _, err := p.get(Options{Progress: func(q Progress) { seen = append(seen, q) }}); err != nil {
		t.Fatal(err)
	}
	last := seen[len(seen)-1]
	if last.State != Finishing || last.Size != int64(len(b)) || last.Done != last.Size || last.Verified != last.Size || last.Moved != last.Size {
		t.Errorf("%+v", last)
	}
	for i := range seen[1:] {
		if seen[i+1].Verified < seen[i].Verified {
			t.Errorf("went back: %+v", seen)
		}
	}
}

func TestCancelledGetKeepsItsPart(t *testing.T) {
	p := newPeer(t, nil)
	p.file("f", pattern(8<<20, 1))
	ctx, cancel := context.WithCancel(t.Context())
	_, err := p.client.Get(ctx, "s/f", p.dst, Options{Progress: func(Progress) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	p.absent()
}

func TestHeapStaysSmall(t *testing.T) {
	t.Setenv("TMPDIR", "/dev/shm") // large files are slow on some disks
	p := newPeer(t, nil)
	full := filepath.Join(p.dir, "f")
	if err := errors.Join(os.WriteFile(full, nil, 0o644), os.Truncate(full, 96<<20)); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	os.Chtimes(full, old, old)
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	var peak uint64
	_, err := p.get(Options{Progress: func(Progress) {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		peak = max(peak, m.HeapAlloc-min(m.HeapAlloc, before.HeapAlloc))
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("heap grew by %d KiB, both ends", peak>>10)
	if peak > 8<<20 {
		t.Errorf("heap grew by %d KiB", peak>>10)
	}
}

func TestListAndEach(t *testing.T) {
	p := newPeer(t, nil)
	p.file("f", []byte("xyz"))
	for path, want := range map[string]string{"": "s", "/": "s", "s": "f", "/s/": "f"} {
		es, err := p.client.List(t.Context(), path)
		if err != nil || len(es) != 1 || es[0].Name != want {
			t.Errorf("%q: %+v, %v", path, es, err)
		}
	}
	if _, err := p.client.List(t.Context(), "s/absent"); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
}

func TestListStopsAtItsLimit(t *testing.T) {
	for n, want := range map[int]error{MaxListed - 1: nil, MaxListed: nil, MaxListed + 1: ErrTooMany} {
		p := newPeer(t, func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				l := wire.NewListWriter(w)
				for range n {
					l.Add(wire.Entry{Name: "a"})
				}
				l.Close()
			})
		})
		es, err := p.client.List(t.Context(), "s")
		if !errors.Is(err, want) || want == nil && len(es) != n {
			t.Errorf("%d entries: %d, %v", n, len(es), err)
		}
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	var foreign atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { foreign.Add(1) }))
	defer other.Close()
	p := newPeer(t, func(http.Handler) http.Handler { return http.RedirectHandler(other.URL, http.StatusFound) })
	if _, err := p.get(Options{}); !errors.Is(err, ErrProtocol) {
		t.Errorf("get: %v", err)
	}
	if _, err := p.client.List(t.Context(), "s"); !errors.Is(err, ErrProtocol) {
		t.Errorf("list: %v", err)
	}
	if foreign.Load() != 0 {
		t.Error("followed")
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	p := newPeer(t, nil)
	_, err := p.get(Options{})
	if err == nil || !strings.Contains(err.Error(), "list the folder above") {
		t.Errorf("%v", err)
	}
}
