package share

import (
	"io"
	"net/http"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"porchlight/share/wire"
)

// Transfer is one file on its way to or from a peer.
type Transfer struct {
	// ID tells transfers apart while the process lives.
	ID int64
	// Peer is what Config.Peer returned.
	Peer string
	// Path is SHARE/DIR/FILE.
	Path string
	// Upload says that the peer is sending.
	Upload bool
	// Size is the length of the whole file in bytes, Position how far in it
	// the transfer is, First where it began.
	Size, First, Position int64
	Started               time.Time
}

// Bytes returns how many bytes of the file this transfer has moved.
func (t Transfer) Bytes() int64 { return max(0, t.Position-t.First) }

// transfers tracks what moves without touching the bytes: the position of the
// open file, which sendfile advances as well whenever the socket is full, is
// read when somebody asks.
type transfers struct {
	mu     sync.Mutex
	last   int64
	active map[int64]*tracked
}

type tracked struct {
	Transfer
	file *os.File
}

func (t *tracked) now() Transfer {
	out := t.Transfer
	if pos, err := t.file.Seek(0, io.SeekCurrent); err == nil {
		out.Position = pos
	}
	return out
}

// Transfers returns what is moving at this moment, in no order.
func (h *Handler) Transfers() []Transfer {
	h.transfers.mu.Lock()
	defer h.transfers.mu.Unlock()
	out := make([]Transfer, 0, len(h.transfers.active))
	for _, t := range h.transfers.active {
		out = append(out, t.now())
	}
	return out
}

// begin registers a transfer; the function it returns ends it, and must be
// called before f is closed.
func (h *Handler) begin(r *http.Request, p wire.Path, size int64, f *os.File) (end func()) {
	t := &tracked{file: f, Transfer: Transfer{
		Peer: h.cfg.Peer(r), Path: path.Join(p.Share, p.Rest), Upload: r.Method == http.MethodPut,
		Size: size, Started: time.Now(),
	}}
	if !t.Upload {
		t.First = firstByte(r.Header.Get("Range"))
	} else {
		t.First = t.now().Position
	}
	s := &h.transfers
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active == nil {
		s.active = map[int64]*tracked{}
	}
	s.last++
	t.ID = s.last
	s.active[t.ID] = t
	return func() {
		s.mu.Lock()
		delete(s.active, t.ID)
		s.mu.Unlock()
		if h.cfg.OnTransfer != nil {
			h.cfg.OnTransfer(t.now())
		}
	}
}

// firstByte reads A from a Range of "bytes=A-…", 0 from any other.
func firstByte(rangeHeader string) int64 {
	spec, ok := strings.CutPrefix(rangeHeader, "bytes=")
	first, _, _ := strings.Cut(spec, "-")
	n, err := strconv.ParseInt(first, 10, 64)
	if !ok || err != nil {
		return 0
	}
	return n
}
