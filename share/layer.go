package share

import (
	"container/list"
	"context"
	"errors"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"

	"porchlight/share/merkle"
	"porchlight/share/wire"
)

const (
	// LayerCacheBytes is how much memory piece layers may take: those of
	// eight files of a gigabyte, or of hundreds of small ones.
	LayerCacheBytes = 4 << 20
	// layerOverhead is what a cached layer takes besides its hashes: the
	// unfinished trees.
	layerOverhead = 8 << 10
	// maxLayerRequests is the largest number of layers sent at one time; more
	// are told to come back.
	maxLayerRequests = 32
	// hashStep is how many bytes are hashed before somebody else has a turn.
	hashStep = 1 << 20
	// hashBuffer is the memory in bytes of one who hashes.
	hashBuffer = 64 << 10
	// flushEvery bounds how long finished hashes wait to be sent.
	flushEvery = 100 * time.Millisecond
)

// errChanged says that a file is not the one it was when its hashing began.
var errChanged = errors.New("changed while it was hashed")

// layerCache holds the most recently used piece layers, finished or not.
type layerCache struct {
	turn     chan struct{} // one token for each who may hash now
	requests chan struct{} // one token for each answer being sent

	mu        sync.Mutex
	max, used int64
	order     list.List // of *layer, last used in front
	byKey     map[fileKey]*list.Element
}

func newLayerCache(maxBytes int64) *layerCache {
	return &layerCache{
		max: maxBytes, byKey: map[fileKey]*list.Element{},
		turn:     make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
		requests: make(chan struct{}, maxLayerRequests),
	}
}

// layer is a file's tree under construction. Nobody owns it: whoever needs a
// piece hash that is missing hashes up to it. So a file is never hashed for
// nobody, and a broken-off request leaves its work to the next.
type layer struct {
	key    fileKey
	lock   chan struct{} // full while somebody hashes or looks
	hasher *merkle.Hasher
}

func (l *layer) weight() int64 { return merkle.EncodedLen(l.key.size) + layerOverhead }

// get returns the layer of the file in that state. One that changed a moment
// ago is not kept, as its key may not show the next change.
func (c *layerCache) get(key fileKey) *layer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.byKey[key]; ok {
		c.order.MoveToFront(e)
		return e.Value.(*layer)
	}
	l := &layer{key: key, lock: make(chan struct{}, 1), hasher: merkle.NewHasher(key.size)}
	if !key.settled() {
		return l
	}
	c.byKey[key] = c.order.PushFront(l)
	c.used += l.weight()
	for c.used > c.max {
		c.remove(c.order.Back())
	}
	return l
}

func (c *layerCache) drop(key fileKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.byKey[key]; ok {
		c.remove(e)
	}
}

func (c *layerCache) remove(e *list.Element) {
	l := c.order.Remove(e).(*layer)
	delete(c.byKey, l.key)
	c.used -= l.weight()
}

// reader is one request's view of a layer.
type reader struct {
	cache *layerCache
	layer *layer
	file  *os.File
	buf   []byte
}

// with runs use with the layer's tree, hashed up to n pieces. wait is called
// before any hashing.
func (r *reader) with(ctx context.Context, n int, wait func(), use func(*merkle.Hasher) error) error {
	select {
	case r.layer.lock <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-r.layer.lock }()
	for len(r.layer.hasher.Layer()) < n {
		wait()
		if err := r.step(ctx); err != nil {
			return err
		}
	}
	return use(r.layer.hasher)
}

// step hashes up to hashStep bytes when it is this file's turn.
func (r *reader) step(ctx context.Context) error {
	select {
	case r.cache.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-r.cache.turn }()
	h, size := r.layer.hasher, r.layer.key.size
	for done := 0; done < hashStep && h.Len() < size; {
		n := min(int64(len(r.buf)), size-h.Len())
		if _, err := r.file.ReadAt(r.buf[:n], h.Len()); err != nil {
			return errors.Join(errChanged, err)
		}
		if _, err := h.Write(r.buf[:n]); err != nil {
			return err
		}
		done += int(n)
	}
	if h.Len() == size && !unchanged(r.file, r.layer.key) {
		return errChanged
	}
	return nil
}

// serveLayer sends a file's piece hashes, as they are computed where they are
// not known yet.
func (h *Handler) serveLayer(w http.ResponseWriter, r *http.Request, f *os.File, key fileKey) {
	if want := r.Header.Get("If-Match"); want != "" && want != "*" && want != key.etag() {
		h.fail(w, r, refusal{http.StatusPreconditionFailed, "the file has changed"})
		return
	}
	if key.size > merkle.MaxSize {
		h.fail(w, r, errNotHere)
		return
	}
	select {
	case h.layers.requests <- struct{}{}:
		defer func() { <-h.layers.requests }()
	default:
		w.Header().Set("Retry-After", "1")
		h.fail(w, r, refusal{http.StatusServiceUnavailable, "busy hashing for others"})
		return
	}
	w.Header().Set("Content-Type", wire.MerkleType)
	w.Header().Set("Content-Length", strconv.FormatInt(merkle.EncodedLen(key.size), 10))
	if r.Method == http.MethodHead {
		return
	}
	lr := &reader{h.layers, h.layers.get(key), f, make([]byte, hashBuffer)}
	err := lr.send(r.Context(), w)
	if errors.Is(err, errChanged) {
		h.layers.drop(key)
	}
	if err != nil {
		h.cfg.Log.Debug("piece layer ended early", "path", r.URL.Path, "error", err)
		panic(http.ErrAbortHandler)
	}
}

func (r *reader) send(ctx context.Context, w http.ResponseWriter) error {
	size := r.layer.key.size
	if _, err := w.Write(merkle.AppendHeader(nil, size)); err != nil {
		return err
	}
	var flushed time.Time
	flush := func() {
		if now := time.Now(); now.Sub(flushed) > flushEvery {
			flushed = now
			// A writer that cannot flush sends when its buffer is full.
			_ = http.NewResponseController(w).Flush()
		}
	}
	var hash merkle.Hash
	for i := range merkle.Pieces(size) {
		err := r.with(ctx, i+1, flush, func(t *merkle.Hasher) error {
			hash = t.Layer()[i]
			return nil
		})
		if err != nil {
			return err
		}
		if _, err := w.Write(hash[:]); err != nil {
			return err
		}
	}
	err := r.with(ctx, 0, flush, func(t *merkle.Hasher) error {
		info, err := t.Info()
		if err == nil {
			hash = info.Root
		}
		return err
	})
	if err == nil {
		_, err = w.Write(hash[:])
	}
	return err
}
