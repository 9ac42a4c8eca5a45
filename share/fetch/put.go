package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"porchlight/share/merkle"
	"porchlight/share/wire"
)

// putStall is how long a peer may take to hash what it has kept of an upload,
// and to sync a finished one to a slow disk.
const putStall = 10 * time.Minute

// PutOptions are the choices of a Put. The zero value is useful.
type PutOptions struct {
	// Overwrite replaces an existing file.
	Overwrite bool
	// GiveUpAfter is how long to wait for a peer that is away, by default
	// DefaultGiveUp.
	GiveUpAfter time.Duration
	// Progress, if set, is called about five times a second and at the end,
	// never concurrently.
	Progress func(Progress)
}

// putting is one Put under way.
type putting struct {
	client *Client
	remote string
	opts   PutOptions
	patience
	meter *meter

	file  *os.File
	info  *merkle.Info
	sent  atomic.Int64
	pos   atomic.Int64
	tries int
}

// Put sends the local file to remote, as "SHARE/DIR/FILE". The file is hashed
// first: the peer stores it under its name only if it arrived as it is, and an
// upload that breaks off goes on where it ended, also in a later Put. Errors
// wrap this package's sentinels. Result.Fetched counts bytes sent.
func (c *Client) Put(ctx context.Context, name, remote string, opts PutOptions) (Result, error) {
	u := &putting{client: c, remote: remote, opts: opts, meter: newMeter(opts.Progress)}
	u.patience = patience{client: c, stall: max(putStall, c.stall()), giveUp: opts.GiveUpAfter, waiting: u.meter.waiting}
	if u.giveUp <= 0 {
		u.giveUp = DefaultGiveUp
	}
	res, err := u.run(ctx, name)
	if err != nil {
		return Result{}, fmt.Errorf("put %q: %w", remote, err)
	}
	return res, nil
}

func (u *putting) run(ctx context.Context, name string) (Result, error) {
	begun := time.Now()
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return Result{}, diskError("open file", err)
	}
	defer f.Close()
	u.file = f
	defer u.meter.start(u.snapshot)()
	u.meter.set(Hashing)
	if err := u.hash(ctx); err != nil {
		return Result{}, err
	}
	u.meter.set(Transferring)
	if err := u.retry(ctx, u.attempt); err != nil {
		return Result{}, err
	}
	return Result{
		Bytes: u.info.Size, Seconds: time.Since(begun).Seconds(), Root: u.info.Root.String(),
		Fetched: u.sent.Load(), Resumed: u.sent.Load() < u.info.Size,
	}, nil
}

func (u *putting) hash(ctx context.Context) error {
	fi, err := u.file.Stat()
	if err != nil {
		return diskError("look at file", err)
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file; name a file", u.file.Name())
	}
	tree, buf := merkle.NewHasher(fi.Size()), make([]byte, bufferSize)
	for tree.Len() < fi.Size() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n := min(int64(len(buf)), fi.Size()-tree.Len())
		if _, err := u.file.ReadAt(buf[:n], tree.Len()); err != nil {
			return diskError("read file", err)
		}
		if _, err := tree.Write(buf[:n]); err != nil {
			return err
		}
		u.pos.Store(tree.Len())
	}
	info, err := tree.Info()
	if err != nil {
		return err
	}
	u.meter.do(func() { u.info = info })
	u.pos.Store(0)
	return nil
}

// attempt asks how much is there and sends the rest.
func (u *putting) attempt(ctx context.Context, tick func()) error {
	u.tries++
	first, err := u.kept(ctx)
	if err != nil {
		return err
	}
	u.pos.Store(first)
	err = u.send(ctx, first, tick)
	if errors.Is(err, ErrChanged) && !u.opts.Overwrite {
		// 412: the name is taken. It may be by ourselves, if the answer to an
		// earlier attempt got lost.
		if u.tries > 1 && u.isThere(ctx) {
			return nil
		}
		return permanent{fmt.Errorf("%s %w", u.remote, ErrExists)}
	}
	return err
}

// kept asks how much of this upload the peer has.
func (u *putting) kept(ctx context.Context) (int64, error) {
	if u.info.Size == 0 {
		return 0, nil
	}
	req, err := u.client.request(ctx, http.MethodHead, u.remote, wire.QueryUpload+"="+u.info.Root.String())
	if err != nil {
		return 0, err
	}
	resp, err := u.client.do(req, http.StatusOK)
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	n, err := strconv.ParseUint(resp.Header.Get(wire.HeaderOffset), 10, 63)
	if err != nil {
		return 0, permanent{fmt.Errorf("%s %.40q: %w", wire.HeaderOffset, resp.Header.Get(wire.HeaderOffset), ErrProtocol)}
	}
	// A range cannot be empty: the last byte is sent again.
	return min(int64(n), u.info.Size-1), nil
}

func (u *putting) send(ctx context.Context, first int64, tick func()) error {
	req, err := u.client.request(ctx, http.MethodPut, u.remote, "")
	if err != nil {
		return err
	}
	size := u.info.Size
	req.Header.Set(wire.HeaderRoot, u.info.Root.String())
	req.Header.Set("Expect", "100-continue")
	if !u.opts.Overwrite {
		req.Header.Set("If-None-Match", "*")
	}
	if first > 0 {
		req.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, size-1, size))
	}
	if req.ContentLength = size - first; size > first {
		body := &sending{u: u, r: io.NewSectionReader(u.file, first, size-first), tick: tick}
		req.Body = body
	}
	resp, err := u.client.do(req, http.StatusCreated, http.StatusNoContent, http.StatusConflict)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusConflict {
		return u.conflict(ctx, first, statusError(resp))
	}
	u.pos.Store(size)
	return nil
}

// conflict tells an upload that stands elsewhere than it did a moment ago,
// which passes, from a folder that is missing or in the way.
func (u *putting) conflict(ctx context.Context, first int64, said error) error {
	if now, err := u.kept(ctx); err == nil && now != first {
		return plain(said)
	}
	return said
}

// isThere says whether the remote file is the one we are sending.
func (u *putting) isThere(ctx context.Context) bool {
	req, err := u.client.request(ctx, http.MethodGet, u.remote, wire.QueryMerkle)
	if err != nil {
		return false
	}
	resp, err := u.client.do(req, http.StatusOK)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	info, err := merkle.Read(resp.Body, u.info.Size)
	return err == nil && info.Root == u.info.Root
}

// sending is the body of a PUT.
type sending struct {
	u    *putting
	r    io.Reader
	tick func()
	shut atomic.Bool
}

// Close ends the body; the transport may call it while it reads.
func (s *sending) Close() error {
	s.shut.Store(true)
	return nil
}

func (s *sending) Read(b []byte) (int, error) {
	if s.shut.Load() {
		return 0, os.ErrClosed
	}
	n, err := s.r.Read(b)
	s.u.sent.Add(int64(n))
	s.u.pos.Add(int64(n))
	s.tick()
	return n, err
}

func (u *putting) snapshot(p *Progress) {
	p.Done, p.Moved = u.pos.Load(), u.sent.Load()
	if u.info != nil {
		p.Size = u.info.Size
	}
}
