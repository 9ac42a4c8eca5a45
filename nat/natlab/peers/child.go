package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/pion/ice/v2"
	"github.com/pion/logging"
	"github.com/pion/stun"
)

const (
	// childWord as the first argument makes this program a child.
	childWord = "child"
	// sendAgain is how long the calling side waits for its byte to come back
	// until it sends another: a path of ICE may lose packets.
	sendAgain = 200 * time.Millisecond
)

// child is one side of one pair: it speaks the protocol until in ends. The
// library's own words go to log.
func child(in io.Reader, out, log io.Writer) error {
	w := &writer{to: out}
	err := serve(newReader(in), w, log)
	if err != nil {
		return errors.Join(err, w.send(message{Error: err.Error()}))
	}
	return nil
}

// serve waits for the word to start, and ends with the input.
func serve(r *reader, w *writer, log io.Writer) error {
	if err := w.send(message{Ready: true}); err != nil {
		return err
	}
	first, err := r.receive()
	switch {
	case err == io.EOF:
		return nil
	case err != nil:
		return err
	case first.Start == nil:
		return errors.New("the first line is not the word to start")
	}
	s, err := newSide(*first.Start, w, log)
	if err != nil {
		return err
	}
	defer s.close()
	return s.follow(r)
}

// side is an agent of the library and what belongs to it.
type side struct {
	calls  bool
	agent  *ice.Agent
	out    *writer
	ctx    context.Context // ends with close
	cancel context.CancelFunc
	meets  sync.WaitGroup
}

// newSide makes an agent and lets it gather candidates.
func newSide(s start, out *writer, log io.Writer) (*side, error) {
	config, err := configOf(s, log)
	if err != nil {
		return nil, err
	}
	agent, err := ice.NewAgent(config)
	if err != nil {
		return nil, fmt.Errorf("make an agent: %w", err)
	}
	side := &side{calls: s.Calls, agent: agent, out: out}
	side.ctx, side.cancel = context.WithCancel(context.Background())
	if err := side.gather(); err != nil {
		side.close()
		return nil, err
	}
	return side, nil
}

// configOf is the library's default configuration, and what it does not work
// without: NetworkTypes, and servers.
func configOf(s start, log io.Writer) (*ice.AgentConfig, error) {
	words := logging.NewDefaultLoggerFactory()
	words.Writer = log // by default the standard output, which is ours
	config := &ice.AgentConfig{
		NetworkTypes: []ice.NetworkType{
			ice.NetworkTypeUDP4, ice.NetworkTypeUDP6, ice.NetworkTypeTCP4, ice.NetworkTypeTCP6,
		},
		LoggerFactory: words,
	}
	for _, server := range s.Servers {
		u, err := stun.ParseURI(server)
		if err != nil {
			return nil, fmt.Errorf("server %q: %w", server, err)
		}
		u.Username, u.Password = s.User, s.Password
		config.Urls = append(config.Urls, u)
	}
	return config, nil
}

// gather tells the other side our login, and then each candidate as it is found.
func (s *side) gather() error {
	var l login
	var err error
	if l.Ufrag, l.Pwd, err = s.agent.GetLocalUserCredentials(); err != nil {
		return err
	}
	if err := s.out.send(message{Login: &l}); err != nil {
		return err
	}
	err = s.agent.OnCandidate(func(c ice.Candidate) {
		if c != nil {
			s.tell(message{Candidate: c.Marshal()})
		}
	})
	if err != nil {
		return err
	}
	return s.agent.GatherCandidates()
}

// tell sends a message. If nobody listens any more, the input has ended too.
func (s *side) tell(m message) { _ = s.out.send(m) }

// follow does what the other side's lines call for.
func (s *side) follow(r *reader) error {
	met := false
	for {
		m, err := r.receive()
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case m.Login != nil && !met:
			met = true
			s.meets.Go(func() { s.meet(*m.Login) })
		case m.Candidate != "":
			c, err := ice.UnmarshalCandidate(m.Candidate)
			if err != nil {
				return fmt.Errorf("candidate %q: %w", m.Candidate, err)
			}
			if err := s.agent.AddRemoteCandidate(c); err != nil {
				return fmt.Errorf("candidate %q: %w", m.Candidate, err)
			}
		default:
			return errors.New("neither the first login nor a candidate")
		}
	}
}

// meet connects, and sends or returns a byte.
func (s *side) meet(other login) {
	if err := s.connect(other); err != nil && s.ctx.Err() == nil {
		s.tell(message{Error: err.Error()})
	}
}

func (s *side) connect(other login) error {
	connect := s.agent.Accept
	if s.calls {
		connect = s.agent.Dial
	}
	conn, err := connect(s.ctx, other.Ufrag, other.Pwd)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	pair, err := s.agent.GetSelectedCandidatePair()
	if err != nil {
		return fmt.Errorf("selected pair: %w", err)
	}
	if pair == nil {
		return errors.New("connected without a selected pair")
	}
	s.tell(message{Connected: &selected{Local: pair.Local.Type().String(), Remote: pair.Remote.Type().String()}})
	if !s.calls {
		return echo(conn)
	}
	if err := call(s.ctx, conn); err != nil {
		return err
	}
	s.tell(message{Echoed: true})
	return nil
}

// echo returns all that comes until conn is closed.
func echo(conn io.ReadWriter) error {
	_, err := io.Copy(conn, conn)
	return err
}

// call sends bytes until one has come back.
func call(ctx context.Context, conn io.ReadWriter) error {
	answer := make(chan error, 1)
	go func() { // ends with the agent
		_, err := conn.Read(make([]byte, 1))
		answer <- err
	}()
	again := time.NewTicker(sendAgain)
	defer again.Stop()
	for {
		if _, err := conn.Write([]byte{'?'}); err != nil {
			return fmt.Errorf("send a byte: %w", err)
		}
		select {
		case err := <-answer:
			return err
		case <-again.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// close ends the agent and all that wait for it.
func (s *side) close() {
	s.cancel()
	_ = s.agent.Close()
	s.meets.Wait()
}
