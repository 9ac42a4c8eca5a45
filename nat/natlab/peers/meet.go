package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"time"
)

const (
	// startLimit is how long two children may take until they are ready.
	startLimit = 20 * time.Second
	// pairLimit is how long a pair may take from the start to the first byte.
	pairLimit = 15 * time.Second
	// stopLimit is how long a child may take to stop before it is killed.
	stopLimit = 3 * time.Second
)

var (
	errSlowStart = fmt.Errorf("not ready after %v", startLimit)
	errTooLate   = fmt.Errorf("no byte came back within %v", pairLimit)
)

// placer puts a command on a host of the laboratory.
type placer interface {
	Command(ctx context.Context, name string, args ...string) *exec.Cmd
}

// process is a child of this program on a host.
type process struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout io.Reader
	*reader
	*writer
	said     tail
	patience *time.Timer // kills it, once it was asked to end
}

// launch starts a child on host. Its end is that of its input, or of ctx.
func launch(ctx context.Context, program string, host placer) (*process, error) {
	p := &process{cmd: host.Command(ctx, program, childWord)}
	p.cmd.Stderr = &p.said
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if p.stdout, err = p.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	p.reader, p.writer = newReader(p.stdout), &writer{to: p.stdin}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a child: %w", err)
	}
	return p, nil
}

// endedError tells of a child that should not have ended. Its words are complete
// once the child was stopped.
type endedError struct{ child *process }

func (e endedError) Error() string { return "the child ended: " + e.child.said.String() }

// expect receives a message that has what is wanted.
func (p *process) expect(wanted func(message) bool) (message, error) {
	m, err := p.receive()
	switch {
	case err == io.EOF:
		return m, endedError{p}
	case err != nil:
		return m, err
	case m.Error != "":
		return m, errors.New(m.Error)
	case !wanted(m):
		return m, fmt.Errorf("unexpected line %+v", m)
	}
	return m, nil
}

// end asks the child to end, and sees to it that it does.
func (p *process) end() {
	p.stdin.Close()
	if p.patience == nil {
		p.patience = time.AfterFunc(stopLimit, func() { p.cmd.Process.Kill() })
	}
}

// stop ends the child and waits for it. Nobody may be reading from it.
func (p *process) stop() {
	p.end()
	_, _ = io.Copy(io.Discard, p.stdout) // Wait would cut its words off
	_ = p.cmd.Wait()
	p.patience.Stop()
}

// meeting is two children that are ready.
type meeting struct {
	caller, called *process
	ctx            context.Context
	cancel         context.CancelCauseFunc
	limit          *time.Timer
}

// prepare starts a child on each host.
func prepare(ctx context.Context, program string, a, b placer) (*meeting, error) {
	m := &meeting{}
	m.ctx, m.cancel = context.WithCancelCause(ctx)
	m.limit = time.AfterFunc(startLimit, func() { m.cancel(errSlowStart) })
	if err := m.launch(program, a, b); err != nil {
		err = m.because(err)
		m.close()
		return nil, err
	}
	m.limit.Stop()
	return m, nil
}

// launch starts both and waits until they are ready.
func (m *meeting) launch(program string, a, b placer) (err error) {
	if m.caller, err = launch(m.ctx, program, a); err != nil {
		return err
	}
	if m.called, err = launch(m.ctx, program, b); err != nil {
		return err
	}
	for _, p := range []*process{m.caller, m.called} {
		if _, err := p.expect(func(m message) bool { return m.Ready }); err != nil {
			return err
		}
	}
	return nil
}

// because prefers the reason why the children were ended.
func (m *meeting) because(err error) error {
	if cause := context.Cause(m.ctx); cause != nil {
		return cause
	}
	return err
}

// close ends both children.
func (m *meeting) close() {
	m.limit.Stop()
	var ending sync.WaitGroup
	for _, p := range []*process{m.caller, m.called} {
		if p != nil {
			ending.Go(p.stop)
		}
	}
	ending.Wait()
	m.cancel(context.Canceled)
}

// run lets the two meet and tells how that went.
func (m *meeting) run(servers []string) (r reached, err error) {
	began := time.Now()
	m.limit = time.AfterFunc(pairLimit, func() { m.cancel(errTooLate) })
	if err := m.introduce(servers); err != nil {
		return r, m.because(err)
	}
	events := make(chan event)
	heard := make(chan struct{}) // closed when nobody listens to events any more
	var pumps sync.WaitGroup
	pumps.Go(func() { pump(m.caller, m.called, events, heard) })
	pumps.Go(func() { pump(m.called, m.caller, events, heard) })
	defer func() {
		close(heard)
		m.caller.end()
		m.called.end()
		pumps.Wait()
	}()
	for !r.complete() {
		select {
		case e := <-events:
			if e.err != nil {
				return r, m.because(e.err)
			}
			r.note(e, m.caller, time.Since(began))
		case <-m.ctx.Done():
			return r, context.Cause(m.ctx)
		}
	}
	return r, nil
}

// introduce starts both, the controlled side first, and exchanges their logins in
// the same order.
func (m *meeting) introduce(servers []string) error {
	s := start{Servers: servers, User: turnUser, Password: turnPassword}
	if err := m.called.send(message{Start: &s}); err != nil {
		return err
	}
	s.Calls = true
	if err := m.caller.send(message{Start: &s}); err != nil {
		return err
	}
	isLogin := func(m message) bool { return m.Login != nil }
	ofCalled, err := m.called.expect(isLogin)
	if err != nil {
		return err
	}
	ofCaller, err := m.caller.expect(isLogin)
	if err != nil {
		return err
	}
	if err := m.called.send(ofCaller); err != nil {
		return err
	}
	return m.caller.send(ofCalled)
}

// event is a message that is not for the other side, or the error that ended a
// pump.
type event struct {
	from *process
	message
	err error
}

// pump hands candidates of one side to the other, and all else to events, until
// the child has ended.
func pump(from, to *process, events chan<- event, heard <-chan struct{}) {
	tell := func(e event) {
		select {
		case events <- e:
		case <-heard:
		}
	}
	for candidates := 0; ; {
		got, err := from.expect(func(m message) bool { return m.Candidate != "" || m.Connected != nil || m.Echoed })
		if err == nil && got.Candidate != "" {
			if candidates++; candidates > maxCandidates {
				err = fmt.Errorf("more than %d candidates", maxCandidates)
			} else {
				err = to.send(got)
			}
		} else if err == nil {
			tell(event{from: from, message: got})
		}
		if err != nil {
			tell(event{err: err})
			return
		}
	}
}

// reached is how far a pair has come.
type reached struct {
	caller, called   *selected
	connected, first time.Duration
}

func (r *reached) note(e event, caller *process, at time.Duration) {
	switch {
	case e.Echoed:
		r.first = at
	case e.from == caller:
		r.caller, r.connected = e.Connected, at
	default:
		r.called = e.Connected
	}
}

// complete reports whether nothing more is to come.
func (r *reached) complete() bool { return r.caller != nil && r.called != nil && r.first != 0 }

// relayed reports whether packets went through the TURN server. Only its owner is
// sure to know a relayed candidate as one: to the other side it may be peer
// reflexive.
func (r *reached) relayed() bool {
	for _, s := range []*selected{r.caller, r.called} {
		if s.Local == typeRelay || s.Remote == typeRelay {
			return true
		}
	}
	return false
}

// typeRelay is what the library calls a relayed candidate.
const typeRelay = "relay"
