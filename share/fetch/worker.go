package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"porchlight/share/merkle"
)

const (
	// bufferSize and buffers bound what one connection has in flight between
	// network and disk: 256 KiB.
	bufferSize = 64 << 10
	buffers    = 4
)

// worker fetches runs of pieces over one connection at a time.
type worker struct {
	*download
	free chan []byte
	full chan []byte
	hash merkle.PieceHasher
	next int   // piece being filled
	pos  int64 // next byte wanted
	end  int64 // of the run
}

func (d *download) work(ctx context.Context) error {
	w := &worker{download: d, free: make(chan []byte, buffers)}
	for range buffers {
		w.free <- make([]byte, bufferSize)
	}
	limit := len(d.pieces.state)
	if d.opts.Parallel > 1 {
		limit = max(1, int(spanBytes/merkle.PieceSize(d.size)))
	}
	for {
		first, last, err := d.pieces.claim(ctx, limit)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		w.hash.Reset()
		w.next, w.pos, w.end = first, d.pieces.start(first), d.pieces.end(last-1)
		// After a broken connection w goes on at the byte it stands at.
		if err := d.retry(ctx, w.attempt); err != nil {
			return err
		}
	}
}

func (w *worker) attempt(ctx context.Context, tick func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	resp, err := w.ask(ctx, "", rangeOf(w.pos, w.end), http.StatusPartialContent, http.StatusOK)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := w.checkRange(resp); err != nil {
		return permanent{err}
	}
	w.full = make(chan []byte, buffers)
	var readErr error
	go func() {
		defer close(w.full)
		readErr = w.read(io.LimitReader(resp.Body, w.end-w.pos), tick)
	}()
	var takeErr error
	for b := range w.full {
		if takeErr == nil {
			if takeErr = w.take(b); takeErr != nil {
				cancel()
			}
		}
		w.free <- b[:bufferSize]
	}
	if takeErr != nil {
		return permanent{takeErr}
	}
	if w.pos < w.end {
		return fmt.Errorf("content ended at byte %d of %d: %w", w.pos, w.end, readErr)
	}
	return nil
}

// checkRange refuses an answer that is not exactly the bytes asked for.
func (w *worker) checkRange(resp *http.Response) error {
	if resp.StatusCode == http.StatusOK {
		if w.pos != 0 || w.end != w.size || resp.ContentLength != w.size {
			return fmt.Errorf("whole file of %d bytes instead of a range: %w", resp.ContentLength, ErrProtocol)
		}
		return nil
	}
	got, want := resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-%d/%d", w.pos, w.end-1, w.size)
	if got != want || resp.ContentLength >= 0 && resp.ContentLength != w.end-w.pos {
		return fmt.Errorf("Content-Range %.80q with %d bytes instead of %q: %w", got, resp.ContentLength, want, ErrProtocol)
	}
	return nil
}

// read fills buffers from the network while take empties others.
func (w *worker) read(body io.Reader, tick func()) error {
	for {
		b := <-w.free
		n, err := 0, error(nil)
		// Half a buffer at least: small reads would cost a write call each.
		for n < bufferSize/2 && err == nil {
			var m int
			if m, err = body.Read(b[n:]); m > 0 {
				n += m
				tick()
				w.firstByte.CompareAndSwap(0, int64(time.Since(w.begun)))
			}
		}
		w.full <- b[:n]
		if err != nil {
			return err
		}
	}
}

// take writes bytes to the partial file and hashes them.
func (w *worker) take(b []byte) error {
	for len(b) > 0 {
		part := b[:min(int64(len(b)), w.pieces.end(w.next)-w.pos)]
		if _, err := w.part.WriteAt(part, w.pos); err != nil {
			return diskError("write partial file", err)
		}
		w.hash.Write(part)
		w.pos += int64(len(part))
		w.fetched.Add(int64(len(part)))
		b = b[len(part):]
		if w.pos == w.pieces.end(w.next) {
			if err := w.pieces.hashed(w.next, w.hash.Sum(w.size)); err != nil {
				return err
			}
			w.hash.Reset()
			w.next++
		}
	}
	return nil
}
