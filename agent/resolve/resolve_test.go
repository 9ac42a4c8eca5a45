package resolve_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/overlay"
	"porchlight/agent/resolve"
)

func device(n byte) identity.Address {
	seed := make([]byte, 32)
	seed[0] = n
	return identity.FromSeed(seed).Address()
}

func person(n byte) identity.Address {
	return identity.NewAddress(device(n).Key(), identity.KindOwner)
}

// calls answers for some devices after a while and notes who was called.
type calls struct {
	after  map[identity.Address]time.Duration
	called chan identity.Address
}

func (c *calls) Current(identity.Address) *overlay.Session { return nil }

func (c *calls) Session(ctx context.Context, a identity.Address) (*overlay.Session, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	c.called <- a
	after, ok := c.after[a]
	if !ok {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	select {
	case <-time.After(after):
		return nil, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func TestThePersonsBestDeviceIsCalled(t *testing.T) {
	tests := []struct {
		name   string
		known  []identity.Address
		link   []identity.Address
		found  []identity.Address
		online identity.Address
		after  map[identity.Address]time.Duration
		want   identity.Address
		first  identity.Address // who is called first
		err    error
	}{
		{name: "the only one", known: []identity.Address{device(1)}, after: map[identity.Address]time.Duration{device(1): 0}, want: device(1), first: device(1)},
		{name: "who is on-line comes first", known: []identity.Address{device(1), device(2)}, online: device(2),
			after: map[identity.Address]time.Duration{device(1): 0, device(2): time.Millisecond}, want: device(2), first: device(2)},
		{name: "one that is silent does not keep the others", known: []identity.Address{device(1), device(2)},
			after: map[identity.Address]time.Duration{device(2): time.Second}, want: device(2), first: device(1)},
		{name: "the link's own", link: []identity.Address{device(3)}, after: map[identity.Address]time.Duration{device(3): 0}, want: device(3), first: device(3)},
		{name: "the directory's", found: []identity.Address{device(4)}, after: map[identity.Address]time.Duration{device(4): 0}, want: device(4), first: device(4)},
		{name: "nobody", err: resolve.ErrNoDevice},
		{name: "nobody answers", known: []identity.Address{device(1)}, err: context.DeadlineExceeded, first: device(1)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &calls{after: tt.after, called: make(chan identity.Address, 8)}
				r := resolve.New(resolve.Config{
					Sessions: c,
					Devices:  func(identity.Address) []identity.Address { return tt.known },
					Lookup: func(context.Context, identity.Address) ([]identity.Address, error) {
						return tt.found, nil
					},
					Online:   func(a identity.Address) bool { return a == tt.online },
					Direct:   func(identity.Address) bool { return false },
					Remember: func(identity.Link) {},
				})
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				got, err := r.Device(ctx, identity.Link{Address: person(9), Devices: tt.link})
				if got != tt.want || !errors.Is(err, tt.err) {
					t.Errorf("Device = %s, %v; want %s, %v", got.Short(), err, tt.want.Short(), tt.err)
				}
				if !tt.first.IsZero() {
					if first := <-c.called; first != tt.first {
						t.Errorf("%s was called first, want %s", first.Short(), tt.first.Short())
					}
				}
				cancel()
				synctest.Wait()
			})
		})
	}
}

func TestADeviceIsItself(t *testing.T) {
	r := resolve.New(resolve.Config{})
	if got, err := r.Device(t.Context(), identity.Link{Address: device(1)}); err != nil || got != device(1) {
		t.Errorf("Device = %v, %v", got, err)
	}
}
