package resolve

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/overlay"
)

const (
	// headStart is what each device is called before the next.
	headStart = 400 * time.Millisecond
	// lookupLimit ends a search for a person's devices.
	lookupLimit = 8 * time.Second
	// maxDevices is how many devices of a person are called.
	maxDevices = 16
)

// ErrNoDevice says that no device of a person is known.
var ErrNoDevice = errors.New("no device of this person is known; ask for a new link")

// Sessions begins sessions and tells which there are.
type Sessions interface {
	Current(identity.Address) *overlay.Session
	Session(context.Context, identity.Address) (*overlay.Session, error)
}

// Config is what a Resolver needs.
type Config struct {
	Sessions Sessions
	// Devices lists those known of a person; Lookup searches for them.
	Devices func(owner identity.Address) []identity.Address
	Lookup  func(ctx context.Context, owner identity.Address) ([]identity.Address, error)
	// Online says whether a device is said to be there.
	Online func(identity.Address) bool
	// Direct says whether the path to a device is direct.
	Direct func(identity.Address) bool
	// Remember keeps the hints of a link for the calls that follow.
	Remember func(identity.Link)
}

// Resolver chooses devices.
type Resolver struct{ cfg Config }

// New returns a Resolver.
func New(cfg Config) *Resolver { return &Resolver{cfg: cfg} }

// Device returns the device to call for what a link names.
func (r *Resolver) Device(ctx context.Context, link identity.Link) (identity.Address, error) {
	if link.Address.Kind() != identity.KindOwner {
		return link.Address, nil
	}
	devices, err := r.devices(ctx, link)
	if err != nil {
		return identity.Address{}, err
	}
	if best := r.connected(devices); !best.IsZero() {
		return best, nil
	}
	for _, d := range devices {
		r.cfg.Remember(identity.Link{Address: d, At: link.At, Via: link.Via})
	}
	slices.SortStableFunc(devices, func(a, b identity.Address) int {
		return rank(r.cfg.Online(a)) - rank(r.cfg.Online(b))
	})
	return r.call(ctx, devices)
}

func rank(online bool) int {
	if online {
		return 0
	}
	return 1
}

// devices returns what is known of a person, from near to far.
func (r *Resolver) devices(ctx context.Context, link identity.Link) ([]identity.Address, error) {
	devices := r.cfg.Devices(link.Address)
	if len(devices) == 0 {
		devices = link.Devices
	}
	if len(devices) == 0 {
		ctx, cancel := context.WithTimeout(ctx, lookupLimit)
		defer cancel()
		var err error
		if devices, err = r.cfg.Lookup(ctx, link.Address); err != nil {
			return nil, fmt.Errorf("%w (%w)", ErrNoDevice, err)
		}
	}
	if len(devices) == 0 {
		return nil, ErrNoDevice
	}
	return slices.Clone(devices[:min(len(devices), maxDevices)]), nil
}

// connected returns the best device there is a session with.
func (r *Resolver) connected(devices []identity.Address) (best identity.Address) {
	var least time.Duration
	direct := false
	for _, d := range devices {
		s := r.cfg.Sessions.Current(d)
		if s == nil {
			continue
		}
		now := r.cfg.Direct(d)
		if best.IsZero() || now && !direct || now == direct && s.RTT() < least {
			best, least, direct = d, s.RTT(), now
		}
	}
	return best
}

// call calls the devices, each a little after the one before, until one
// answers.
func (r *Resolver) call(ctx context.Context, devices []identity.Address) (identity.Address, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		device identity.Address
		err    error
	}
	results := make(chan result, len(devices))
	for i, d := range devices {
		go func() {
			select {
			case <-time.After(time.Duration(i) * headStart):
			case <-ctx.Done():
			}
			_, err := r.cfg.Sessions.Session(ctx, d)
			results <- result{d, err}
		}()
	}
	var first error
	for range devices {
		one := <-results
		if one.err == nil {
			return one.device, nil
		}
		if first == nil {
			first = one.err
		}
	}
	if len(devices) == 1 {
		return identity.Address{}, first
	}
	// What stopped the first is what stopped the others, mostly.
	return identity.Address{}, fmt.Errorf("none of %d devices answers; of the first: %w", len(devices), first)
}
