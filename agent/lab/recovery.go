package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"porchlight/agent/api"
	"porchlight/nat/natlab"
)

const (
	// recoverySize is the file that is under way while something happens, in
	// bytes, and recoverySpeed how fast it may go, in bits per second: long
	// enough to see what comes after.
	recoverySize  = 64 << 20
	recoverySpeed = 60e6
	// recoveryStart is how much must have arrived before something happens.
	recoveryStart = 8 << 20
	// recoveryLimit ends one transfer.
	recoveryLimit = 90 * time.Second
	// glance is how often the growing file is looked at.
	glance = 10 * time.Millisecond
)

// couple is two homes with a transfer from one to the other: cabin serves,
// attic fetches.
type couple struct {
	world                *world
	attic, cabin         *agent
	atticHost, cabinHost *natlab.Host
	elsewhere            *natlab.Host // a home of another kind
	sha256               string
	gets                 int
}

// incident is something that happens to a home while a file is under way.
type incident struct {
	name   string
	long   bool // left out of the short table
	happen func(context.Context, *couple) error
}

// incidents are what homes live through.
var incidents = []incident{
	{"new public address, fetching side", true, func(_ context.Context, c *couple) error { return c.atticHost.Renumber() }},
	{"new public address, serving side", true, func(_ context.Context, c *couple) error { return c.cabinHost.Renumber() }},
	{"new public address, both at once", false, func(_ context.Context, c *couple) error {
		return both(c.atticHost.Renumber, c.cabinHost.Renumber)
	}},
	{"NAT flushed, both at once", false, func(_ context.Context, c *couple) error {
		return both(c.atticHost.FlushNAT, c.cabinHost.FlushNAT)
	}},
	{"router off for 3 s, fetching side", false, func(ctx context.Context, c *couple) error { return c.atticHost.Reboot(ctx, 3*time.Second) }},
	{"interface swapped, fetching side", false, func(_ context.Context, c *couple) error { return c.atticHost.SwapLAN() }},
	{"interface swapped, serving side", true, func(_ context.Context, c *couple) error { return c.cabinHost.SwapLAN() }},
	{"carried to another home, serving side", false, func(_ context.Context, c *couple) error { return c.cabinHost.MoveTo(c.elsewhere) }},
	{"asleep for 60 s, NAT forgotten", true, func(ctx context.Context, c *couple) error {
		if err := c.cabin.process.Process.Signal(syscall.SIGSTOP); err != nil {
			return err
		}
		pause(ctx, time.Minute)
		return errors.Join(c.cabinHost.FlushNAT(), c.cabin.process.Process.Signal(syscall.SIGCONT))
	}},
}

// both does two things at the same time.
func both(x, y func() error) error {
	var all sync.WaitGroup
	var errX, errY error
	all.Go(func() { errX = x() })
	all.Go(func() { errY = y() })
	all.Wait()
	return errors.Join(errX, errY)
}

// recovered is how a transfer went on after an incident.
type recovered struct {
	incident string
	// stall is the longest time without a byte from the beginning of the
	// incident on, and back the time from its end to the next byte.
	stall, back time.Duration
	path        string // in the end
	sessions    int    // begun with the other since the transfer began
}

func (r recovered) line() string {
	return fmt.Sprintf("%s\t%.2f\t%.2f\t%s\t%d", r.incident, r.stall.Seconds(), r.back.Seconds(), r.path, r.sessions)
}

// recovery lets incidents happen to two homes of a kind while one fetches a
// file from the other, and prints how soon each transfer went on.
func recovery(ctx context.Context, out io.Writer, dir, program string, kind natlab.Kind, short bool) (err error) {
	w, err := newWorld(ctx, natlab.Options{Dir: dir}, program, 2)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.lab.Dump(dir, "recovery"))
			err = fmt.Errorf("%w\nlogs, capture and diagram: %s", err, dir)
		}
		err = errors.Join(err, w.close())
	}()
	c, err := newCouple(ctx, w, kind)
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "two %s homes, a file under way at %.0f Mbit/s\tlongest stall (s)\tback after (s)\tpath in the end\tnew sessions\n", kind, recoverySpeed/1e6)
	for _, i := range incidents {
		if short && i.long {
			continue
		}
		r, err := c.suffer(ctx, i)
		if err != nil {
			return errors.Join(fmt.Errorf("%s: %w", i.name, err), t.Flush())
		}
		fmt.Fprintln(t, r.line())
	}
	return t.Flush()
}

// newCouple adds two homes that are friends, and a file that one serves.
func newCouple(ctx context.Context, w *world, kind natlab.Kind) (*couple, error) {
	c := &couple{world: w}
	var err error
	if c.attic, c.atticHost, err = w.home(ctx, "attic", kind); err != nil {
		return nil, err
	}
	if c.cabin, c.cabinHost, err = w.home(ctx, "cabin", kind); err != nil {
		return nil, err
	}
	if err := c.atticHost.Limit(recoverySpeed); err != nil {
		return nil, err
	}
	if c.elsewhere, err = w.lab.Home("elsewhere", natlab.FullCone); err != nil {
		return nil, err
	}
	share := filepath.Join(w.dir, "films")
	if err := os.MkdirAll(share, 0o755); err != nil {
		return nil, err
	}
	name := filepath.Join(share, "film.bin")
	file, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	_, err = io.CopyN(file, rand.NewChaCha8([32]byte{}), recoverySize)
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	if c.sha256, err = hashOf(name); err != nil {
		return nil, err
	}
	return c, errors.Join(introduce(ctx, c.attic, c.cabin),
		c.cabin.run(ctx, nil, "shares", "add", share, "--name", "films", "--read", "friends"))
}

// suffer starts a transfer over a direct path, has the incident happen, and
// watches until the whole file is there.
func (c *couple) suffer(ctx context.Context, i incident) (r recovered, err error) {
	r.incident = i.name
	ctx, cancel := context.WithTimeout(ctx, recoveryLimit+time.Minute)
	defer cancel()
	var ping api.Ping
	if err := c.attic.run(ctx, &ping, "ping", c.cabin.name, "--until-direct", "--timeout", pairLimit.String()); err != nil {
		return r, err
	}
	began, err := c.begun()
	if err != nil {
		return r, err
	}
	c.gets++
	target := filepath.Join(c.world.dir, fmt.Sprintf("film-%d.bin", c.gets))
	defer os.Remove(target)
	get := make(chan error, 1)
	var got transfer
	go func() { get <- c.attic.run(ctx, &got, "get", c.cabin.name+":/films/film.bin", "-o", target) }()
	if err := awaitBytes(ctx, target, recoveryStart, get); err != nil {
		return r, err
	}
	watch := newGrowth(target)
	if err := errors.Join(watch.during(ctx, func() error { return i.happen(ctx, c) })); err != nil {
		return r, err
	}
	if err := watch.until(ctx, get); err != nil {
		return r, err
	}
	r.stall, r.back, r.path = watch.stall, watch.back, got.Path
	now, err := c.begun()
	r.sessions = now - began
	if got.SHA256 != c.sha256 {
		err = errors.Join(err, fmt.Errorf("arrived with sha256 %s, want %s", got.SHA256, c.sha256))
	}
	if again, hashErr := hashOf(target); again != c.sha256 {
		err = errors.Join(err, fmt.Errorf("the file has sha256 %s, want %s", again, c.sha256), hashErr)
	}
	return r, err
}

// begun counts the sessions that the fetching side began or accepted with the
// other so far.
func (c *couple) begun() (int, error) {
	status, err := c.cabin.status(context.Background())
	if err != nil {
		return 0, err
	}
	return sessionsBegun(c.attic, status.Address)
}

// arrived is how many bytes of a file under way are on disk.
func arrived(target string) int64 {
	info, err := os.Stat(target + ".porchlight-part")
	if err != nil {
		return 0
	}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		return sys.Blocks * 512 // pieces arrive in any order: the size tells little
	}
	return info.Size()
}

// awaitBytes waits for n bytes to arrive; it is an error if the transfer ends
// before.
func awaitBytes(ctx context.Context, target string, n int64, end <-chan error) error {
	for arrived(target) < n {
		select {
		case err := <-end:
			return errors.Join(errors.New("the transfer was over before anything happened"), err)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(glance):
		}
	}
	return nil
}

// growth watches how a file grows.
type growth struct {
	target string
	size   int64
	at     time.Time // when it last grew
	ended  time.Time // when the incident was over; zero before
	stall  time.Duration
	back   time.Duration
}

func newGrowth(target string) *growth {
	return &growth{target: target, size: arrived(target), at: time.Now()}
}

// look notes whether the file has grown.
func (g *growth) look() {
	size, now := arrived(g.target), time.Now()
	if size <= g.size {
		return
	}
	g.stall = max(g.stall, now.Sub(g.at))
	if !g.ended.IsZero() && g.back == 0 {
		g.back = now.Sub(g.ended)
	}
	g.size, g.at = size, now
}

// during watches while something happens.
func (g *growth) during(ctx context.Context, happen func() error) error {
	done := make(chan error, 1)
	go func() { done <- happen() }()
	for {
		select {
		case err := <-done:
			g.look()
			g.ended = time.Now()
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(glance):
			g.look()
		}
	}
}

// until watches until the transfer has ended.
func (g *growth) until(ctx context.Context, end <-chan error) error {
	for {
		select {
		case err := <-end:
			return err
		case <-ctx.Done():
			return fmt.Errorf("%d bytes arrived, nothing more for %v: %w", g.size, time.Since(g.at).Round(time.Second), ctx.Err())
		case <-time.After(glance):
			g.look()
		}
	}
}
