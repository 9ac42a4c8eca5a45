package main

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sync/errgroup"

	"porchlight/nat/natlab"
)

// homesAtOnce are built at the same time.
const homesAtOnce = 4

// world is a laboratory with a TURN server and two homes of each kind.
type world struct {
	program string // this one
	lab     *natlab.Lab
	turn    *coturn

	callers, called map[natlab.Kind]*natlab.Host
}

// newWorld builds a laboratory. The caller closes it.
func newWorld(ctx context.Context, kinds []natlab.Kind) (w *world, err error) {
	w = &world{}
	if w.program, err = os.Executable(); err != nil {
		return nil, err
	}
	if w.lab, err = natlab.New(ctx, natlab.Options{}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	server, err := w.lab.Host("coturn")
	if err != nil {
		return nil, err
	}
	if w.turn, err = startCoturn(ctx, server); err != nil {
		return nil, err
	}
	if w.callers, err = homes(w.lab, "a-", kinds); err != nil {
		return nil, err
	}
	w.called, err = homes(w.lab, "b-", kinds)
	return w, err
}

// homes adds a home of each kind.
func homes(lab *natlab.Lab, prefix string, kinds []natlab.Kind) (map[natlab.Kind]*natlab.Host, error) {
	hosts := make([]*natlab.Host, len(kinds))
	var building errgroup.Group
	building.SetLimit(homesAtOnce)
	for i, kind := range kinds {
		building.Go(func() (err error) {
			hosts[i], err = lab.Home(prefix+string(kind), kind)
			return err
		})
	}
	err := building.Wait()
	byKind := map[natlab.Kind]*natlab.Host{}
	for i, kind := range kinds {
		byKind[kind] = hosts[i]
	}
	return byKind, err
}

// close removes everything.
func (w *world) close() error {
	if w.turn != nil {
		w.turn.stop()
	}
	return w.lab.Close()
}

// meet fills in what becomes of a pair.
func (w *world) meet(ctx context.Context, o *outcome) {
	m, err := prepare(ctx, w.program, w.callers[o.A], w.called[o.B])
	if err != nil {
		o.settle(reached{}, err)
		return
	}
	r, err := m.run(w.turn.servers())
	m.close()
	o.settle(r, err)
}
