package share

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"porchlight/share/merkle"
	"porchlight/share/wire"
)

const (
	// putBuffer is the memory in bytes of one upload.
	putBuffer = 128 << 10
	// putStall is how long an upload may be silent before it is ended.
	putStall = time.Minute
	// keepPartial is how long a broken-off upload may be taken up again.
	keepPartial = 7 * 24 * time.Hour
	// sweepEntries bounds how much of a folder is searched for old partials.
	sweepEntries = 4096
)

// upload is a PUT request as understood.
type upload struct {
	name    string // final name below the share's root
	partial string // where the bytes gather
	root    merkle.Hash
	kept    bool  // a broken-off upload is kept, as root names it
	first   int64 // offset of the first byte in the body
	total   int64
}

// parseUpload reads what the headers say.
func (h *Handler) parseUpload(r *http.Request, p wire.Path) (*upload, error) {
	u := &upload{name: p.Rest, total: r.ContentLength}
	if p.Dir || p.Rest == "." {
		return nil, refusal{http.StatusConflict, "this names a folder; put a file name behind it"}
	}
	if r.ContentLength < 0 {
		return nil, refusal{http.StatusLengthRequired, "an upload needs a Content-Length"}
	}
	if root := r.Header.Get(wire.HeaderRoot); root != "" {
		var err error
		if u.root, err = merkle.ParseHash(root); err != nil {
			return nil, refusal{http.StatusBadRequest, wire.HeaderRoot + ": " + err.Error()}
		}
		u.kept = true
	}
	if cr := r.Header.Get("Content-Range"); cr != "" {
		if err := u.parseRange(cr, r.ContentLength); err != nil {
			return nil, err
		}
	}
	if u.total > min(h.cfg.MaxUpload, merkle.MaxSize) {
		return nil, refusal{http.StatusRequestEntityTooLarge, fmt.Sprintf("files up to %d bytes are taken here", h.cfg.MaxUpload)}
	}
	u.partial = partialName(u)
	return u, nil
}

// parseRange reads "bytes FIRST-LAST/TOTAL" with LAST = TOTAL-1.
func (u *upload) parseRange(s string, length int64) error {
	bad := refusal{http.StatusBadRequest, "Content-Range must be bytes FIRST-LAST/TOTAL up to the file's end, with " + wire.HeaderRoot}
	spec, ok := strings.CutPrefix(s, "bytes ")
	span, total, ok2 := strings.Cut(spec, "/")
	first, last, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 || !u.kept {
		return bad
	}
	var v [3]int64
	for i, text := range []string{first, last, total} {
		n, err := strconv.ParseUint(text, 10, 63)
		if err != nil {
			return bad
		}
		v[i] = int64(n)
	}
	if v[0] > v[1] || v[1] != v[2]-1 || v[1]-v[0] != length-1 {
		return bad
	}
	u.first, u.total = v[0], v[2]
	return nil
}

// partialName is random, or for an upload that may be taken up again made of
// its root and its name.
func partialName(u *upload) string {
	id := make([]byte, 16)
	if u.kept {
		sum := sha256.Sum256(append(u.root[:], u.name...))
		copy(id, sum[:])
	} else {
		rand.Read(id) // never fails
	}
	return path.Join(path.Dir(u.name), wire.PutPrefix+hex.EncodeToString(id))
}

// uploadState answers HEAD with ?upload=ROOT.
func (h *Handler) uploadState(w http.ResponseWriter, r *http.Request, root *os.Root, p wire.Path) {
	want, err := merkle.ParseHash(r.URL.Query().Get(wire.QueryUpload))
	if err != nil || r.Method != http.MethodHead {
		h.fail(w, r, refusal{http.StatusBadRequest, "ask with HEAD and ?" + wire.QueryUpload + "=ROOT"})
		return
	}
	var size int64
	fi, err := root.Lstat(partialName(&upload{name: p.Rest, root: want, kept: true}))
	if err == nil && fi.Mode().IsRegular() {
		size = fi.Size()
	}
	w.Header().Set(wire.HeaderOffset, strconv.FormatInt(size, 10))
}

func (h *Handler) put(w http.ResponseWriter, r *http.Request, root *os.Root, p wire.Path) {
	u, err := h.parseUpload(r, p)
	if err == nil {
		err = h.admit(r, root, u)
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	rc := http.NewResponseController(w)
	claim, err := h.uploads.claim(r.Context(), path.Join(root.Name(), u.partial), rc)
	if err != nil {
		return // the client is gone
	}
	defer claim.release()
	created, etag, err := h.receive(r, root, p, u, claim)
	if err != nil {
		h.failPut(w, r, root, u, err)
		return
	}
	w.Header().Set("ETag", etag)
	if created {
		w.WriteHeader(http.StatusCreated)
	} else {
		w.WriteHeader(http.StatusNoContent)
	}
}

// admit refuses, before a byte is read, what cannot succeed.
func (h *Handler) admit(r *http.Request, root *os.Root, u *upload) error {
	dir, err := root.Stat(path.Dir(u.name))
	if err != nil || !dir.IsDir() {
		return refusal{http.StatusConflict, "the folder is not there; make it first"}
	}
	if err := h.condition(r, root, u.name); err != nil {
		return err
	}
	free, known := freeBytes(root, path.Dir(u.name))
	if known && free-max(0, h.cfg.MinFree) < u.total-u.first {
		return refusal{http.StatusInsufficientStorage, fmt.Sprintf("the disk has %d bytes free, of which %d are kept free; nothing was stored", free, max(0, h.cfg.MinFree))}
	}
	return nil
}

// condition checks If-Match and If-None-Match against the file as it is now
// (RFC 9110 §13.1) and that no folder is in the way.
func (h *Handler) condition(r *http.Request, root *os.Root, name string) error {
	fi, err := root.Lstat(name)
	exists := err == nil
	if exists && fi.IsDir() {
		return refusal{http.StatusConflict, "there is a folder of that name"}
	}
	var etag string
	if exists && fi.Mode().IsRegular() {
		etag = keyOf(fi).etag()
	}
	failed := refusal{http.StatusPreconditionFailed, "there is such a file already, or it is not the one you know"}
	if want := r.Header.Get("If-Match"); want != "" && !matches(want, etag, exists) {
		return failed
	}
	if not := r.Header.Get("If-None-Match"); not != "" && matches(not, etag, exists) {
		return failed
	}
	return nil
}

func matches(list, etag string, exists bool) bool {
	if strings.TrimSpace(list) == "*" {
		return exists
	}
	for part := range strings.SplitSeq(list, ",") {
		if exists && etag != "" && strings.TrimSpace(part) == etag {
			return true
		}
	}
	return false
}

// freeBytes returns the room on the disk of dir. It is not known where the
// file system does not say, as a tmpfs without limit.
func freeBytes(root *os.Root, dir string) (int64, bool) {
	f, err := root.Open(dir)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	var st unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &st) != nil || st.Blocks == 0 {
		return 0, false
	}
	return int64(uint64(st.Bavail) * uint64(st.Bsize)), true
}

// receive takes the body in and publishes the file.
func (h *Handler) receive(r *http.Request, root *os.Root, p wire.Path, u *upload, c *claim) (created bool, etag string, err error) {
	sweep(root, path.Dir(u.name))
	f, err := openPartial(root, u.partial)
	if err != nil {
		return false, "", err
	}
	defer f.Close()
	tree, err := u.resume(f)
	if err != nil {
		return false, "", err
	}
	end := h.begin(r, p, u.total, f)
	err = copyBody(f, tree, r.Body, c, u.total-u.first)
	end()
	if err != nil {
		return false, "", err
	}
	if err := u.verify(tree); err != nil {
		return false, "", err
	}
	if err := f.Sync(); err != nil {
		return false, "", err
	}
	return h.publish(r, root, u, f)
}

// openPartial opens or makes the partial. os.Root follows links within the
// root whatever the flags, so what was opened must be what has the name.
func openPartial(root *os.Root, name string) (*os.File, error) {
	f, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE|syscall.O_NONBLOCK, 0o644)
	if err != nil {
		return nil, err
	}
	named, err := root.Lstat(name)
	opened, err2 := f.Stat()
	if err = errors.Join(err, err2); err == nil && (!named.Mode().IsRegular() || !os.SameFile(named, opened)) {
		err = errNotHere
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// resume brings the partial to the length the client goes on from and hashes
// what is kept. Without a root there is no tree.
func (u *upload) resume(f *os.File) (*merkle.Hasher, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if fi.Size() < u.first {
		return nil, refusal{http.StatusConflict, fmt.Sprintf("%d bytes of this upload are kept; go on from there", fi.Size())}
	}
	if err := f.Truncate(u.first); err != nil {
		return nil, err
	}
	if !u.kept {
		return nil, nil
	}
	tree := merkle.NewHasher(u.total)
	if _, err := io.CopyBuffer(onlyWriter{tree}, onlyReader{f}, make([]byte, putBuffer)); err != nil {
		return nil, err
	}
	return tree, nil
}

// onlyReader and onlyWriter keep io.CopyBuffer to its buffer.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)

func (u *upload) verify(tree *merkle.Hasher) error {
	if tree == nil {
		return nil
	}
	info, err := tree.Info()
	if err != nil {
		return err
	}
	if info.Root != u.root {
		return refusal{http.StatusUnprocessableEntity, "the bytes that arrived do not have the announced root; nothing was stored, send again"}
	}
	return nil
}

// errBody wraps an error of the connection, after which a kept upload stays.
var errBody = errors.New("upload broken off")

func copyBody(f *os.File, tree *merkle.Hasher, body io.Reader, c *claim, left int64) error {
	buf := make([]byte, min(putBuffer, left+1))
	for left > 0 {
		c.extend()
		n, err := body.Read(buf[:min(int64(len(buf)), left)])
		if n > 0 {
			if _, werr := f.Write(buf[:n]); werr != nil {
				return werr
			}
			if tree != nil {
				if _, herr := tree.Write(buf[:n]); herr != nil {
					return herr
				}
			}
			left -= int64(n)
		}
		if err != nil && left > 0 {
			return errors.Join(errBody, err)
		}
	}
	return nil
}

// publish gives the finished partial its name, if the conditions still hold.
func (h *Handler) publish(r *http.Request, root *os.Root, u *upload, f *os.File) (created bool, etag string, err error) {
	h.uploads.publish.Lock()
	defer h.uploads.publish.Unlock()
	if err := h.condition(r, root, u.name); err != nil {
		return false, "", err
	}
	_, err = root.Lstat(u.name)
	created = errors.Is(err, fs.ErrNotExist)
	if err := root.Rename(u.partial, u.name); err != nil {
		return false, "", err
	}
	if err := syncDir(root, path.Dir(u.name)); err != nil {
		return false, "", err
	}
	fi, err := f.Stat()
	if err != nil {
		return false, "", err
	}
	return created, keyOf(fi).etag(), nil
}

func syncDir(root *os.Root, dir string) error {
	d, err := root.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	// Some file systems cannot sync a folder; they say EINVAL.
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}

// failPut answers and removes the partial, unless it may be taken up again.
func (h *Handler) failPut(w http.ResponseWriter, r *http.Request, root *os.Root, u *upload, err error) {
	var ref refusal
	behind := errors.As(err, &ref) && ref.status == http.StatusConflict
	if !u.kept || !errors.Is(err, errBody) && !behind {
		if rerr := root.Remove(u.partial); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			h.cfg.Log.Warn("partial upload stays", "path", r.URL.Path, "error", rerr)
		}
	}
	if errors.Is(err, errBody) {
		err = refusal{http.StatusRequestTimeout, "the upload broke off"}
	}
	h.fail(w, r, err)
}

// sweep removes broken-off uploads that nobody took up again.
func sweep(root *os.Root, dir string) {
	d, err := openDir(root, dir)
	if err != nil {
		return
	}
	defer d.Close()
	names, _ := d.names(sweepEntries)
	for _, name := range names {
		if !strings.HasPrefix(name, wire.PutPrefix) {
			continue
		}
		if fi, err := d.here.Lstat(name); err == nil && time.Since(fi.ModTime()) > keepPartial {
			_ = d.here.Remove(name)
		}
	}
}

// uploads sees to it that a partial has one writer, the latest.
type uploads struct {
	publish sync.Mutex // decides conditions and renames

	mu     sync.Mutex
	active map[string]*claim
}

// claim is the right to write one partial.
type claim struct {
	owner   *uploads
	key     string
	rc      *http.ResponseController
	stopped atomic.Bool
	done    chan struct{}
}

// claim waits until the partial is free. Who has it is cut off: a client that
// comes again has given up its earlier connection, which the device may not
// have noticed yet.
func (u *uploads) claim(ctx context.Context, key string, rc *http.ResponseController) (*claim, error) {
	c := &claim{owner: u, key: key, rc: rc, done: make(chan struct{})}
	for {
		u.mu.Lock()
		other := u.active[key]
		if other == nil {
			if u.active == nil {
				u.active = map[string]*claim{}
			}
			u.active[key] = c
			u.mu.Unlock()
			return c, nil
		}
		other.stopped.Store(true)
		_ = other.rc.SetReadDeadline(time.Unix(1, 0))
		u.mu.Unlock()
		select {
		case <-other.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// extend gives the client putStall to send more, none if the claim is lost.
func (c *claim) extend() {
	_ = c.rc.SetReadDeadline(time.Now().Add(putStall))
	if c.stopped.Load() {
		_ = c.rc.SetReadDeadline(time.Unix(1, 0))
	}
}

func (c *claim) release() {
	c.owner.mu.Lock()
	defer c.owner.mu.Unlock()
	if !c.stopped.Load() {
		_ = c.rc.SetReadDeadline(time.Time{})
	}
	delete(c.owner.active, c.key)
	close(c.done)
}
