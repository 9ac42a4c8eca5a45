package fetch

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"porchlight/share/merkle"
	"porchlight/share/wire"
)

// localFile writes a file to be sent.
func localFile(t *testing.T, b []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "local")
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func (p *peer) stored(name string, want []byte) {
	p.Helper()
	got, err := os.ReadFile(filepath.Join(p.dir, name))
	if err != nil || string(got) != string(want) {
		p.Fatalf("stored %d bytes, want %d: %v", len(got), len(want), err)
	}
	if left, _ := filepath.Glob(filepath.Join(p.dir, wire.PutPrefix+"*")); left != nil {
		p.Fatalf("left behind: %v", left)
	}
}

func TestPutOfEverySize(t *testing.T) {
	for _, n := range []int{0, 1, 16385, 3*merkle.MinPieceSize + 1} {
		p := newPeer(t, nil)
		b := pattern(n, 1)
		var last Progress
		res, err := p.client.Put(t.Context(), localFile(t, b), "s/a b", PutOptions{Progress: func(q Progress) { last = q }})
		if err != nil || res.Bytes != int64(n) || res.Fetched != int64(n) || res.Root != root(b).Root.String() || res.Resumed {
			t.Errorf("%d bytes: %+v, %v", n, res, err)
		}
		if last.Done != int64(n) || last.Size != int64(n) {
			t.Errorf("%d bytes: progress %+v", n, last)
		}
		p.stored("a b", b)
	}
}

func TestPutRefusals(t *testing.T) {
	p := newPeer(t, nil)
	p.file("f", []byte("theirs"))
	name := localFile(t, []byte("ours"))
	if _, err := p.client.Put(t.Context(), name, "s/f", PutOptions{}); !errors.Is(err, ErrExists) {
		t.Errorf("existing: %v", err)
	}
	p.stored("f", []byte("theirs"))
	if _, err := p.client.Put(t.Context(), name, "s/no/f", PutOptions{}); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "make it first") {
		t.Errorf("no folder: %v", err)
	}
	if _, err := p.client.Put(t.Context(), name, "t/f", PutOptions{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("no share: %v", err)
	}
	if _, err := p.client.Put(t.Context(), t.TempDir(), "s/g", PutOptions{}); err == nil {
		t.Error("a folder was sent")
	}
	if _, err := p.client.Put(t.Context(), name, "s/f", PutOptions{Overwrite: true}); err != nil {
		t.Errorf("overwrite: %v", err)
	}
	p.stored("f", []byte("ours"))
}

// TestPutGoesOnAfterBrokenConnections breaks uploads off on the peer's side.
func TestPutGoesOnAfterBrokenConnections(t *testing.T) {
	var puts atomic.Int64
	fourth := make(chan int64, 1)
	p := newPeer(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut {
				if puts.Add(1) <= 3 {
					r.Body = http.MaxBytesReader(w, r.Body, 100000)
				} else {
					var first int64
					fmt.Sscanf(r.Header.Get("Content-Range"), "bytes %d-", &first)
					fourth <- first
				}
			}
			h.ServeHTTP(w, r)
		})
	})
	b := pattern(1<<20, 1)
	if res, err := p.client.Put(t.Context(), localFile(t, b), "s/f", PutOptions{}); err != nil || puts.Load() != 4 {
		t.Errorf("%+v, %v after %d", res, err, puts.Load())
	}
	if first := <-fourth; first != 300000 {
		t.Errorf("the fourth began at %d", first)
	}
	p.stored("f", b)
}

func TestPutWhoseAnswerGotLostSucceeds(t *testing.T) {
	var lost atomic.Bool
	p := newPeer(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut && lost.CompareAndSwap(false, true) {
				h.ServeHTTP(discard{}, r)
				panic(http.ErrAbortHandler)
			}
			h.ServeHTTP(w, r)
		})
	})
	b := pattern(100000, 1)
	if _, err := p.client.Put(t.Context(), localFile(t, b), "s/f", PutOptions{}); err != nil {
		t.Fatal(err)
	}
	p.stored("f", b)
}

// discard is a ResponseWriter into the void.
type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) WriteHeader(int)             {}

func TestPutOfAFileThatChangesIsNotStored(t *testing.T) {
	b := pattern(100000, 1)
	name := localFile(t, b)
	p := newPeer(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead {
				os.WriteFile(name, pattern(100000, 2), 0o644)
			}
			h.ServeHTTP(w, r)
		})
	})
	if _, err := p.client.Put(t.Context(), name, "s/f", PutOptions{}); !errors.Is(err, ErrSpoiled) {
		t.Errorf("%v", err)
	}
	if all, _ := os.ReadDir(p.dir); len(all) != 0 {
		t.Errorf("left behind: %v", all)
	}
}
