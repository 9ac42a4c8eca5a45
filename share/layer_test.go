package share

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"porchlight/share/merkle"
	"porchlight/share/wire"
)

func content(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>8) ^ byte(i) ^ seed
	}
	return b
}

func rootOf(t testing.TB, b []byte) *merkle.Info {
	t.Helper()
	h := merkle.NewHasher(int64(len(b)))
	h.Write(b)
	info, err := h.Info()
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func (s *site) layer(path string, header ...string) *merkle.Info {
	s.Helper()
	a := s.do("GET", path+"?"+wire.QueryMerkle, nil, header...)
	if a.status != 200 || a.err != nil {
		s.Fatalf("%s: %d %v %q", path, a.status, a.err, a.body)
	}
	info, err := merkle.Read(bytes.NewReader(a.body), merkle.MaxSize)
	if err != nil {
		s.Fatal(err)
	}
	return info
}

func TestLayerIsThatOfTheFile(t *testing.T) {
	s := newSite(t)
	for _, n := range []int{0, 1, merkle.MinPieceSize, 3*merkle.MinPieceSize + 5, 2 * hashStep} {
		b := content(n, 1)
		s.file("f", b)
		if got, want := s.layer("/s/f"), rootOf(t, b); got.Root != want.Root {
			t.Errorf("%d bytes: root %v, want %v", n, got.Root, want.Root)
		}
	}
}

func TestLayerIsHashedOnceForMany(t *testing.T) {
	s := newSite(t)
	b := content(20*merkle.MinPieceSize+9, 2)
	full := s.file("f", b)
	want := rootOf(t, b)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if got := s.layer("/s/f"); got.Root != want.Root {
				t.Errorf("root %v", got.Root)
			}
		})
	}
	wg.Wait()
	// Other bytes behind the same state prove that nothing is read again.
	fi, _ := os.Stat(full)
	f, _ := os.OpenFile(full, os.O_WRONLY, 0)
	f.WriteAt([]byte("changed"), 100)
	f.Close()
	os.Chtimes(full, fi.ModTime(), fi.ModTime())
	if got := s.layer("/s/f"); got.Root != want.Root {
		t.Error("hashed again")
	}
	// A new time of change is a new file.
	os.Chtimes(full, fi.ModTime(), fi.ModTime().Add(-time.Hour))
	if got := s.layer("/s/f"); got.Root == want.Root {
		t.Error("a changed file has its old root")
	}
}

func TestLayerOfAFileChangedAMomentAgoIsNotKept(t *testing.T) {
	s := newSite(t)
	full := s.file("f", content(1000, 3))
	now := time.Now()
	os.Chtimes(full, now, now)
	s.layer("/s/f")
	if n := s.handler.layers.order.Len(); n != 0 {
		t.Errorf("%d layers kept", n)
	}
}

func TestLayerOfAChangingFileBreaksOff(t *testing.T) {
	s := newSite(t)
	full := s.file("f", content(1<<20, 4))
	f, key, err := func() (*os.File, fileKey, error) {
		root, err := os.OpenRoot(s.dir)
		if err != nil {
			return nil, fileKey{}, err
		}
		defer root.Close()
		return openFile(root, "f")
	}()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := &reader{s.handler.layers, s.handler.layers.get(key), f, make([]byte, hashBuffer)}
	if err := os.Truncate(full, 1<<20-1); err != nil {
		t.Fatal(err)
	}
	err = r.with(t.Context(), 16, func() {}, func(*merkle.Hasher) error { return nil })
	if !errors.Is(err, errChanged) {
		t.Errorf("%v", err)
	}
}

func TestLayerHonoursConditionsAndCapacity(t *testing.T) {
	s := newSite(t)
	s.file("f", content(1000, 5))
	if a := s.do("GET", "/s/f?merkle", nil, "If-Match", `"x"`); a.status != http.StatusPreconditionFailed {
		t.Errorf("another ETag: %d", a.status)
	}
	a := s.do("HEAD", "/s/f?merkle", nil)
	if a.status != 200 || a.header.Get("Content-Length") != "88" || a.header.Get("Content-Type") != wire.MerkleType {
		t.Errorf("HEAD: %d %v", a.status, a.header)
	}
	for range maxLayerRequests {
		s.handler.layers.requests <- struct{}{}
	}
	if a := s.do("GET", "/s/f?merkle", nil); a.status != 503 || a.header.Get("Retry-After") == "" {
		t.Errorf("too many: %d", a.status)
	}
	<-s.handler.layers.requests
	s.layer("/s/f")
}

func TestLayerCacheForgetsTheOldest(t *testing.T) {
	one := merkle.EncodedLen(1<<20) + layerOverhead
	key := func(i int) fileKey { return fileKey{ino: uint64(i), size: 1 << 20, mtime: 1} }
	for _, c := range []struct {
		max  int64
		want int
	}{{one - 1, 0}, {one, 1}, {3*one - 1, 2}, {3 * one, 3}, {3*one + 1, 3}} {
		cache := newLayerCache(c.max)
		for i := range 10 {
			cache.get(key(i))
			cache.get(key(0)) // stays in use
		}
		if cache.order.Len() != c.want || len(cache.byKey) != c.want || cache.used != int64(c.want)*one {
			t.Errorf("room for %d: %d kept", c.max, cache.order.Len())
		}
		if _, ok := cache.byKey[key(0)]; ok != (c.want > 1) && c.want != 1 {
			t.Errorf("room for %d: the one in use is gone", c.max)
		}
		cache.drop(key(0))
		cache.drop(key(0))
	}
}

func TestContentFlowsWhileItIsHashed(t *testing.T) {
	s := newSite(t)
	b := content(4<<20, 6)
	s.file("f", b)
	// Somebody else has every turn: no hash can be computed.
	for range cap(s.handler.layers.turn) {
		s.handler.layers.turn <- struct{}{}
	}
	req, _ := http.NewRequest("GET", s.url+"/s/f?merkle", nil)
	req.Header.Set("Who", "rw")
	resp, err := http.DefaultClient.Do(req) // returns with the header
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if a := s.do("GET", "/s/f", nil); sha256.Sum256(a.body) != sha256.Sum256(b) {
		t.Error("content differs")
	}
	for range cap(s.handler.layers.turn) {
		<-s.handler.layers.turn
	}
	if info, err := merkle.Read(resp.Body, merkle.MaxSize); err != nil || info.Root != rootOf(t, b).Root {
		t.Errorf("layer: %v", err)
	}
}
