package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"porchlight/share/merkle"
	"porchlight/share/wire"
)

const (
	// MaxParallel is the largest number of connections one Get uses.
	MaxParallel = 8
	// spanBytes is about how much one of several connections asks for.
	spanBytes = 8 << 20
	// layerStall is how long the peer may hash before the next piece hash: a
	// piece of a terabyte file on a slow router, in turn with others.
	layerStall = 10 * time.Minute
)

// Options are the choices of a Get. The zero value is useful.
type Options struct {
	// Overwrite replaces an existing destination.
	Overwrite bool
	// SHA256 asks for the plain SHA-256 of the whole file.
	SHA256 bool
	// Root, if set, is the content that is wanted.
	Root *merkle.Hash
	// Parallel is the number of connections, by default 1, at most MaxParallel.
	Parallel int
	// GiveUpAfter is how long to wait for a peer that is away or silent, by
	// default DefaultGiveUp.
	GiveUpAfter time.Duration
	// Progress, if set, is called about five times a second and at the end,
	// never concurrently.
	Progress func(Progress)
}

// Result is what a Get did.
type Result struct {
	// Bytes is the length of the file.
	Bytes int64
	// Seconds is the time from the call to the finished file, FirstByte to
	// the first byte of content; 0 if none had to be fetched.
	Seconds, FirstByte float64
	// SHA256 is the plain hash in hexadecimal, if asked for.
	SHA256 string
	// Root is the file's BEP 52 root in hexadecimal.
	Root string
	// Fetched is the number of bytes of content that came over the network.
	Fetched int64
	// Resumed says that verified pieces of an earlier run were used.
	Resumed bool
}

// download is one Get under way.
type download struct {
	client *Client
	remote string
	opts   Options
	patience

	size   int64
	etag   string
	part   *os.File
	pieces *pieces
	meter  *meter

	begun     time.Time
	fetched   atomic.Int64
	firstByte atomic.Int64 // nanoseconds after begun
}

// Get fetches the file remote, as "SHARE/DIR/FILE", into the file dst. Errors
// wrap this package's sentinels; what has arrived stays in dst+".porchlight-part"
// and is used by the next Get to dst.
func (c *Client) Get(ctx context.Context, remote, dst string, opts Options) (Result, error) {
	d := &download{client: c, remote: remote, opts: opts, begun: time.Now(), meter: newMeter(opts.Progress)}
	d.opts.Parallel = max(1, min(opts.Parallel, MaxParallel))
	d.patience = patience{client: c, stall: c.stall(), giveUp: opts.GiveUpAfter, waiting: d.meter.waiting}
	if d.giveUp <= 0 {
		d.giveUp = DefaultGiveUp
	}
	res, err := d.run(ctx, dst)
	if err != nil {
		return Result{}, fmt.Errorf("get %q: %w", remote, err)
	}
	return res, nil
}

func (d *download) run(ctx context.Context, dst string) (Result, error) {
	if err := checkDestination(dst, d.opts.Overwrite); err != nil {
		return Result{}, err
	}
	defer d.meter.start(d.snapshot)()
	if err := d.retry(ctx, d.stat); err != nil {
		return Result{}, err
	}
	part, have, err := openPart(dst+wire.PartSuffix, d.size)
	if err != nil {
		return Result{}, err
	}
	defer part.Close()
	d.part = part
	d.meter.do(func() { d.pieces = newPieces(d.size, have) })
	d.meter.set(Transferring)
	if err := d.transfer(ctx); err != nil {
		return Result{}, err
	}
	d.meter.set(Finishing)
	return d.finish(ctx, dst)
}

// stat asks for size and ETag, which every later answer must have too.
func (d *download) stat(ctx context.Context, tick func()) error {
	req, err := d.client.request(ctx, http.MethodHead, d.remote, "")
	if err != nil {
		return err
	}
	resp, err := d.client.do(req, http.StatusOK, http.StatusMovedPermanently)
	if err != nil {
		return err
	}
	resp.Body.Close()
	tick()
	d.size, d.etag = resp.ContentLength, resp.Header.Get("ETag")
	switch {
	case resp.StatusCode != http.StatusOK:
		return permanent{fmt.Errorf("this is a folder, get the files in it one by one: %w", ErrProtocol)}
	case d.size < 0 || d.size > merkle.MaxSize || len(d.etag) < 2 || d.etag[0] != '"':
		return permanent{fmt.Errorf("no usable size or ETag: %w", ErrProtocol)}
	}
	return nil
}

// transfer runs until all pieces are verified or one part fails.
func (d *download) transfer(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	run := func(f func(context.Context) error) {
		wg.Go(func() {
			if err := f(ctx); err != nil {
				cancel(err)
			}
		})
	}
	run(d.readLayer)
	run(d.rehash)
	for range d.opts.Parallel {
		run(d.work)
	}
	wg.Wait()
	return context.Cause(ctx)
}

// readLayer receives the peer's piece hashes. An empty file has none.
func (d *download) readLayer(ctx context.Context) error {
	if d.size == 0 {
		return d.pieces.finish(merkle.Hash{}, d.opts.Root)
	}
	patient := d.patience
	patient.stall = max(layerStall, d.stall)
	patient.waiting = d.meter.layerWaiting
	return patient.retry(ctx, func(ctx context.Context, tick func()) error {
		resp, err := d.ask(ctx, wire.QueryMerkle, "", http.StatusOK)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		return d.takeLayer(resp.Body, tick)
	})
}

func (d *download) takeLayer(body io.Reader, tick func()) error {
	r, err := merkle.NewReader(body, d.size)
	if errors.Is(err, merkle.ErrFormat) || errors.Is(err, merkle.ErrSize) || err == nil && r.Size() != d.size {
		return permanent{fmt.Errorf("piece hashes are of another file: %w", ErrWrongLayer)}
	}
	for i := 0; err == nil; i++ {
		var h merkle.Hash
		if h, err = r.Next(); err != nil {
			break
		}
		tick()
		if err := d.pieces.expect(i, h); err != nil {
			return permanent{err}
		}
	}
	if !errors.Is(err, io.EOF) || r == nil {
		return err
	}
	root, err := r.Root()
	if err != nil {
		return err
	}
	if err := d.pieces.finish(root, d.opts.Root); err != nil {
		return permanent{err}
	}
	return nil
}

// ask makes a GET for the file in the state we know.
func (d *download) ask(ctx context.Context, query, rang string, want ...int) (*http.Response, error) {
	req, err := d.client.request(ctx, http.MethodGet, d.remote, query)
	if err != nil {
		return nil, err
	}
	req.Header.Set("If-Match", d.etag)
	if rang != "" {
		req.Header.Set("Range", rang)
	}
	resp, err := d.client.do(req, want...)
	if err != nil {
		return nil, err
	}
	if got := resp.Header.Get("ETag"); got != d.etag {
		resp.Body.Close()
		return nil, permanent{fmt.Errorf("ETag is now %.80q: %w", got, ErrChanged)}
	}
	return resp, nil
}

// rehash hashes what an earlier run left.
func (d *download) rehash(ctx context.Context) error {
	buf := make([]byte, bufferSize)
	for i := range d.pieces.state {
		if !d.pieces.isLocal(i) {
			continue
		}
		var h merkle.PieceHasher
		for pos := d.pieces.start(i); pos < d.pieces.end(i); pos += h.Len() - (pos - d.pieces.start(i)) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			n := min(int64(len(buf)), d.pieces.end(i)-pos)
			if _, err := d.part.ReadAt(buf[:n], pos); err != nil {
				return diskError("read partial file", err)
			}
			h.Write(buf[:n])
		}
		if err := d.pieces.hashed(i, h.Sum(d.size)); err != nil {
			return err
		}
	}
	return nil
}

// isLocal says whether piece i waits for rehash, which alone takes pieces out
// of that state.
func (p *pieces) isLocal(i int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state[i] == local
}

// finish gives the verified file its name.
func (d *download) finish(ctx context.Context, dst string) (Result, error) {
	res := Result{
		Bytes: d.size, Root: d.pieces.root.String(), Fetched: d.fetched.Load(),
		FirstByte: time.Duration(d.firstByte.Load()).Seconds(), Resumed: d.pieces.kept > 0,
	}
	if d.opts.SHA256 {
		sum, err := plainSHA256(ctx, d.part)
		if err != nil {
			return Result{}, err
		}
		res.SHA256 = sum
	}
	if err := publish(d.part, dst, d.opts.Overwrite); err != nil {
		return Result{}, err
	}
	res.Seconds = time.Since(d.begun).Seconds()
	return res, nil
}

func plainSHA256(ctx context.Context, f *os.File) (string, error) {
	h, buf := sha256.New(), make([]byte, bufferSize)
	for pos := int64(0); ; {
		n, err := f.ReadAt(buf, pos)
		h.Write(buf[:n])
		pos += int64(n)
		switch {
		case errors.Is(err, io.EOF):
			return hex.EncodeToString(h.Sum(nil)), nil
		case err != nil:
			return "", diskError("read finished file", err)
		case ctx.Err() != nil:
			return "", context.Cause(ctx)
		}
	}
}

// rangeOf is a Range header for bytes first to before last.
func rangeOf(first, last int64) string {
	return "bytes=" + strconv.FormatInt(first, 10) + "-" + strconv.FormatInt(last-1, 10)
}
