package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"porchlight/share/wire"
)

const (
	// DefaultStall is how long a connection may be silent.
	DefaultStall = 30 * time.Second
	// DefaultGiveUp is how long a transfer may go without progress.
	DefaultGiveUp = 5 * time.Minute
	// MaxListed is the largest number of entries List returns.
	MaxListed = 1 << 16

	firstWait   = 200 * time.Millisecond
	longestWait = 10 * time.Second
	// maxErrorText is how much is read of a peer's explanation.
	maxErrorText = 512
)

var (
	// ErrNotFound says that there is no such file or folder, or that the peer
	// does not let us see it.
	ErrNotFound = errors.New("not there, or not for you: list the folder above, or ask its owner for access")
	// ErrNotAllowed says that the peer refused.
	ErrNotAllowed = errors.New("refused; ask its owner for access")
	// ErrChanged says that the file changed while it was transferred.
	ErrChanged = errors.New("changed while fetching; run the same command again, what is unchanged is kept")
	// ErrWrongBytes says that content did not match its piece hashes, again
	// and again.
	ErrWrongBytes = errors.New("the peer sends bytes that do not match its own hashes; its disk or memory may be failing")
	// ErrWrongLayer says that the piece hashes contradict themselves.
	ErrWrongLayer = errors.New("the peer sends hashes that contradict themselves; do not trust it with this file")
	// ErrWrongContent says that the file is not the one of Options.Root.
	ErrWrongContent = errors.New("the peer has another file under this name; ask for the new content id")
	// ErrProtocol says that an answer makes no sense.
	ErrProtocol = errors.New("the peer's answer makes no sense; it may run another version, update both")
	// ErrExists says that the destination is there already.
	ErrExists = errors.New("is there already; choose another name or ask to overwrite it")
	// ErrBusy says that another Get writes to the same destination.
	ErrBusy = errors.New("another transfer writes there; wait for it or choose another name")
	// ErrDiskFull says that this device's disk is full.
	ErrDiskFull = errors.New("this disk is full; make room and run the same command again, what has arrived is kept")
	// ErrPeerFull says that the peer's disk is full or its quota reached.
	ErrPeerFull = errors.New("the peer has no room for it; ask its owner")
	// ErrConflict says that a file cannot be put where it was to go.
	ErrConflict = errors.New("cannot be put there; list the folder above to see what is there")
	// ErrSpoiled says that what arrived at the peer is not what was sent.
	ErrSpoiled = errors.New("what arrived is not the file: it changed while it was sent, or was spoiled on the way; run the same command again")
	// ErrGaveUp says that nothing moved for Options.GiveUpAfter.
	ErrGaveUp = errors.New("gave up waiting; run the same command again when the peer is back, what has arrived is kept")
	// ErrTooMany says that a folder has more than MaxListed entries.
	ErrTooMany = errors.New("too many entries to list at once; list a folder below")

	errStalled = errors.New("connection fell silent")
)

// Client talks to the shares of one peer.
type Client struct {
	// HTTP makes the requests; its Transport decides how the peer is reached.
	// Its CheckRedirect and Timeout are not used.
	HTTP *http.Client
	// Base is the URL of the peer's share handler, as "http://host".
	Base string
	// Stall is how long a connection may be silent, by default DefaultStall.
	Stall time.Duration
}

// permanent marks an error that trying again cannot mend.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// List returns a folder's entries, "" or "/" for the list of shares.
func (c *Client) List(ctx context.Context, path string) ([]wire.Entry, error) {
	var out []wire.Entry
	err := c.Each(ctx, path, func(e wire.Entry) error {
		if len(out) == MaxListed {
			return ErrTooMany
		}
		out = append(out, e)
		return nil
	})
	return out, err
}

// Each calls f for each entry of a folder as it arrives, and stops with f's
// first error. Memory does not grow with the folder.
func (c *Client) Each(ctx context.Context, path string, f func(wire.Entry) error) error {
	path = strings.Trim(path, "/") + "/"
	if path == "/" {
		path = ""
	}
	err := c.watch(ctx, c.stall(), func(ctx context.Context, tick func()) error {
		req, err := c.request(ctx, http.MethodGet, path, "")
		if err != nil {
			return err
		}
		req.Header.Set("Accept", "application/json")
		resp, err := c.do(req, http.StatusOK)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		for e, err := range wire.Entries(resp.Body) {
			if err != nil {
				return err
			}
			tick()
			if err := f(e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list %q: %w", path, plain(err))
	}
	return nil
}

func plain(err error) error {
	var p permanent
	if errors.As(err, &p) {
		return p.error
	}
	return err
}

func (c *Client) stall() time.Duration {
	if c.Stall > 0 {
		return c.Stall
	}
	return DefaultStall
}

func (c *Client) request(ctx context.Context, method, path, query string) (*http.Request, error) {
	u := strings.TrimSuffix(c.Base, "/") + wire.EscapePath(path)
	if query != "" {
		u += "?" + query
	}
	req, err := http.NewRequestWithContext(ctx, method, u, nil)
	if err != nil {
		return nil, permanent{err}
	}
	req.Header.Set("Accept-Encoding", "identity")
	return req, nil
}

// do makes a request and turns every status but those wanted into an error.
func (c *Client) do(req *http.Request, want ...int) (*http.Response, error) {
	hc := http.Client{Transport: c.HTTP.Transport, Jar: c.HTTP.Jar, CheckRedirect: noRedirect}
	resp, err := hc.Do(req)
	if err != nil {
		if cause := context.Cause(req.Context()); cause != nil {
			err = cause
		}
		return nil, err
	}
	for _, status := range want {
		if resp.StatusCode == status {
			return resp, nil
		}
	}
	defer resp.Body.Close()
	return nil, statusError(resp)
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// statusError says what a status means for a transfer. 408, 429 and 5xx other
// than 507 pass; the rest is permanent.
func statusError(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorText))
	said := fmt.Errorf("peer answers %d %.200q", resp.StatusCode, strings.TrimSpace(string(text)))
	var kind error
	switch s := resp.StatusCode; {
	case s == http.StatusNotFound:
		kind = ErrNotFound
	case s == http.StatusForbidden, s == http.StatusUnauthorized, s == http.StatusMethodNotAllowed:
		kind = ErrNotAllowed
	case s == http.StatusPreconditionFailed, s == http.StatusRequestedRangeNotSatisfiable:
		kind = ErrChanged
	case s == http.StatusInsufficientStorage, s == http.StatusRequestEntityTooLarge:
		kind = ErrPeerFull
	case s == http.StatusConflict:
		kind = ErrConflict
	case s == http.StatusUnprocessableEntity:
		kind = ErrSpoiled
	case s == http.StatusTooManyRequests, s == http.StatusRequestTimeout, s >= 500:
		return said
	default:
		kind = ErrProtocol
	}
	return permanent{fmt.Errorf("%w: %w", said, kind)}
}

// watch runs try with a context that ends when tick was not called for stall.
func (c *Client) watch(ctx context.Context, stall time.Duration, try func(ctx context.Context, tick func()) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(stall, func() { cancel(errStalled) })
	defer timer.Stop()
	err := try(ctx, func() { timer.Reset(stall) })
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		return errStalled
	}
	return err
}

// patience is how a transfer deals with what passes.
type patience struct {
	client  *Client
	stall   time.Duration
	giveUp  time.Duration
	waiting func(error) // told why, nil when bytes move again
}

// retry runs try until it succeeds, fails for good, or giveUp has passed
// without a tick. Waits grow from firstWait to longestWait.
func (p *patience) retry(ctx context.Context, try func(ctx context.Context, tick func()) error) error {
	wait := firstWait
	// A transport may go on reading a request's body after its answer, so
	// ticks can come from any goroutine.
	var last atomic.Pointer[time.Time]
	note := func() { now := time.Now(); last.Store(&now) }
	note()
	for {
		var moved atomic.Bool
		err := p.client.watch(ctx, p.stall, func(ctx context.Context, tick func()) error {
			return try(ctx, func() {
				if moved.CompareAndSwap(false, true) {
					p.waiting(nil)
				}
				note()
				tick()
			})
		})
		var perm permanent
		switch {
		case err == nil:
			p.waiting(nil)
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &perm):
			return perm.error
		case time.Since(*last.Load()) >= p.giveUp:
			return fmt.Errorf("no progress for %v, last: %w: %w", p.giveUp, err, ErrGaveUp)
		}
		p.waiting(err)
		if moved.Load() {
			wait = firstWait
		}
		select {
		case <-time.After(wait/2 + rand.N(wait/2)):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		wait = min(2*wait, longestWait)
	}
}
