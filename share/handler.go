package share

import (
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"syscall"

	"porchlight/share/merkle"
	"porchlight/share/wire"
)

const (
	// maxRanges is the largest number of ranges answered one by one; a request
	// for more gets the whole file, as RFC 9110 §14.2 allows.
	maxRanges = 16

	// DefaultMinFree is the number of bytes that uploads leave free.
	DefaultMinFree = 16 << 20
)

// Grants decides who may do what.
type Grants interface {
	// Allows says whether the one who makes the request is meant by who, the
	// read or write list of a share.
	Allows(r *http.Request, who []string) bool
}

// Config is what a Handler needs. Shares and Grants must be set.
type Config struct {
	Shares *Shares
	Grants Grants
	// Peer names the one who makes a request, for Transfers; by default the
	// remote address.
	Peer func(*http.Request) string
	// OnTransfer, if set, is called when a transfer has ended.
	OnTransfer func(Transfer)
	// MaxUpload is the length in bytes of the largest file accepted; by
	// default merkle.MaxSize.
	MaxUpload int64
	// MinFree is the number of bytes that uploads leave free on a disk; by
	// default DefaultMinFree, none if negative.
	MinFree int64
	// Log receives facts the owner may need, by default slog.Default.
	Log *slog.Logger
}

// Handler serves shares to peers. It needs the server's own ResponseWriter:
// one that hides io.ReaderFrom loses sendfile, one that hides deadlines makes
// uploads wait for dead connections.
type Handler struct {
	cfg       Config
	layers    *layerCache
	uploads   uploads
	transfers transfers
}

// NewHandler returns a Handler. It starts nothing that would need stopping.
func NewHandler(cfg Config) *Handler {
	if cfg.Peer == nil {
		cfg.Peer = func(r *http.Request) string { return r.RemoteAddr }
	}
	if cfg.MaxUpload <= 0 {
		cfg.MaxUpload = merkle.MaxSize
	}
	if cfg.MinFree == 0 {
		cfg.MinFree = DefaultMinFree
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Handler{cfg: cfg, layers: newLayerCache(LayerCacheBytes)}
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPut:
	default:
		w.Header().Set("Allow", "GET, HEAD, PUT")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Cache-Control", "private, no-cache")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	p, ok := wire.SplitPath(r.URL.Path)
	switch {
	case !ok:
		h.fail(w, r, errNotHere)
	case p.Share == "" && r.Method == http.MethodPut:
		h.fail(w, r, errNotHere)
	case p.Share == "":
		h.serveShares(w, r)
	default:
		h.serveShare(w, r, p)
	}
}

func (h *Handler) serveShare(w http.ResponseWriter, r *http.Request, p wire.Path) {
	sh, ok := h.cfg.Shares.find(p.Share)
	if !ok {
		h.fail(w, r, errNotHere)
		return
	}
	read := h.cfg.Grants.Allows(r, sh.Read)
	write := h.cfg.Grants.Allows(r, sh.Write)
	upload := r.URL.Query().Has(wire.QueryUpload)
	switch {
	case !read && !write:
		h.fail(w, r, errNotHere)
		return
	case (r.Method == http.MethodPut || upload) && !write:
		h.fail(w, r, refusal{http.StatusForbidden, "this share is read-only for you"})
		return
	case r.Method != http.MethodPut && !upload && !read:
		h.fail(w, r, refusal{http.StatusForbidden, "this share takes files from you and shows none"})
		return
	}
	root, err := os.OpenRoot(sh.Dir)
	if err != nil {
		h.cfg.Log.Warn("shared folder is not there", "share", sh.Name, "error", err)
		h.fail(w, r, refusal{http.StatusServiceUnavailable, "the shared folder is not there at the moment; its disk may be unplugged"})
		return
	}
	defer root.Close()
	switch {
	case r.Method == http.MethodPut:
		h.put(w, r, root, p)
	case upload:
		h.uploadState(w, r, root, p)
	default:
		h.get(w, r, root, p)
	}
}

func (h *Handler) get(w http.ResponseWriter, r *http.Request, root *os.Root, p wire.Path) {
	fi, err := root.Stat(p.Rest)
	switch {
	case err != nil:
		h.fail(w, r, err)
	case fi.IsDir() && !p.Dir:
		// A relative target stays right wherever the handler is mounted.
		w.Header().Set("Location", "./"+url.PathEscape(path.Base(r.URL.Path))+"/")
		w.WriteHeader(http.StatusMovedPermanently)
	case fi.IsDir():
		h.serveDir(w, r, root, p)
	case p.Dir:
		h.fail(w, r, errNotHere)
	default:
		h.serveFile(w, r, root, p)
	}
}

func (h *Handler) serveFile(w http.ResponseWriter, r *http.Request, root *os.Root, p wire.Path) {
	f, key, err := openFile(root, p.Rest)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	defer f.Close()
	w.Header().Set("ETag", key.etag())
	if r.URL.Query().Has(wire.QueryMerkle) {
		h.serveLayer(w, r, f, key)
		return
	}
	if strings.Count(r.Header.Get("Range"), ",") >= maxRanges {
		r.Header.Del("Range")
	}
	if r.Method == http.MethodGet {
		defer h.begin(r, p, key.size, f)()
	}
	fi, err := f.Stat()
	if err != nil {
		h.fail(w, r, err)
		return
	}
	http.ServeContent(w, r, path.Base(p.Rest), fi.ModTime(), f)
	if r.Method == http.MethodGet && !unchanged(f, key) {
		// Cutting the connection is the only way left to say that the bytes
		// already sent may be of two versions.
		panic(http.ErrAbortHandler)
	}
}

// refusal is an error that knows its status code and what to tell the peer.
type refusal struct {
	status int
	text   string
}

func (e refusal) Error() string { return e.text }

// fail answers with the status that err stands for. What is not there, hidden
// or outside looks the same.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	var ref refusal
	switch {
	case errors.As(err, &ref):
	case errors.Is(err, fs.ErrPermission):
		ref = refusal{http.StatusForbidden, "the device itself may not open this file"}
	case isFull(err):
		ref = refusal{http.StatusInsufficientStorage, "the disk is full; nothing was stored"}
	case errors.Is(err, syscall.EFBIG):
		ref = refusal{http.StatusRequestEntityTooLarge, "the file is larger than this disk's file system allows"}
	case errors.Is(err, syscall.EROFS):
		ref = refusal{http.StatusForbidden, "the disk is read-only"}
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		h.cfg.Log.Warn("shared folder cannot be read", "path", r.URL.Path, "error", err)
		ref = refusal{http.StatusServiceUnavailable, "the disk does not answer"}
	default:
		ref = refusal{http.StatusNotFound, "not found"}
	}
	for _, name := range []string{"ETag", "Last-Modified"} {
		w.Header().Del(name)
	}
	http.Error(w, ref.text, ref.status)
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
