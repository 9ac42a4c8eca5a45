package join

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"porchlight/agent/identity"
)

// lookAfter is the head start of what is known already: the directory is other
// people's machines, which are asked only if need be.
const lookAfter = time.Second

// lookUp asks the directory where a device is, and goes there.
func (j *Joiner) lookUp(ctx context.Context, w *way, at []netip.AddrPort, via []identity.Via) error {
	if j.cfg.Directory == nil {
		return nil
	}
	if len(at)+len(via) > 0 {
		select {
		case <-time.After(lookAfter):
		case <-w.found():
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	newAt, newVia, err := j.cfg.Directory.Lookup(ctx, w.to)
	if err != nil {
		return fmt.Errorf("look up %s: %w", w.to.Short(), err)
	}
	j.Remember(identity.Link{Address: w.to, At: newAt, Via: newVia})
	newAt = slices.DeleteFunc(slices.Clone(newAt), func(a netip.AddrPort) bool { return slices.Contains(at, a) })
	newVia = slices.DeleteFunc(slices.Clone(newVia), func(v identity.Via) bool {
		return slices.ContainsFunc(via, func(old identity.Via) bool { return old.Address == v.Address })
	})
	return j.goThere(ctx, w, newAt, newVia)
}

// goThere tries new places of a device and new rendezvous at the same time.
func (j *Joiner) goThere(ctx context.Context, w *way, at []netip.AddrPort, via []identity.Via) error {
	var all sync.WaitGroup
	var hintErr, introErr error
	if len(at) > 0 {
		all.Go(func() { hintErr = j.tryHints(ctx, w, at) })
	}
	if len(via) > 0 {
		all.Go(func() {
			var rendezvous []identity.Address
			for _, v := range via[:min(len(via), maxVia)] {
				j.suggest(v)
				rendezvous = append(rendezvous, v.Address)
			}
			introErr = j.introduceBy(ctx, w, rendezvous)
		})
	}
	all.Wait()
	return errors.Join(hintErr, introErr)
}
