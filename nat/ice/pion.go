package ice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	pion "github.com/pion/ice/v2"
	"github.com/pion/logging"
	"github.com/pion/transport/v2"
)

// How pion/ice v2 is run; see doc.go for the reasons.
const (
	checkInterval = 50 * time.Millisecond
	// maxBindingRequests is how often a pair is tried: ten minutes of
	// ticks. The attempt ends by its context, never by this.
	maxBindingRequests = 12000
	// acceptanceWait is how long a better pair may still turn up before a
	// learnt one is nominated.
	acceptanceWait = 50 * time.Millisecond
	keepalive      = 5 * time.Second
	// patience is so long that the engine never ends an attempt: the caller
	// judges when a peer is gone.
	patience = 24 * time.Hour
	// gatherTimeout bounds what takes microseconds.
	gatherTimeout = 5 * time.Second
)

// errNoNet is what the engine gets when it looks past its pipes.
var errNoNet = errors.New("the ice engine has no network of its own")

var errGather = errors.New("ice engine took none of our addresses")

// pionEngine is the engine made of pion/ice v2.
type pionEngine struct {
	agent *pion.Agent
	pipes pipes
}

// newEngine starts pion with one local candidate per address family.
func newEngine(local Description, write func([]byte, netip.AddrPort) error, log *slog.Logger) (engine, error) {
	p := newPipes(local.Candidates, write)
	if len(p) == 0 {
		return nil, ErrNoLocal
	}
	agent, err := pion.NewAgent(pionConfig(local, p, log))
	if err != nil {
		return nil, fmt.Errorf("start ice engine: %w", err)
	}
	e := &pionEngine{agent, p}
	if err := e.gather(); err != nil {
		return nil, errors.Join(err, e.close())
	}
	return e, nil
}

func pionConfig(local Description, p pipes, log *slog.Logger) *pion.AgentConfig {
	return &pion.AgentConfig{
		LocalUfrag:             local.Ufrag,
		LocalPwd:               local.Pwd,
		NetworkTypes:           []pion.NetworkType{pion.NetworkTypeUDP4, pion.NetworkTypeUDP6},
		CandidateTypes:         []pion.CandidateType{pion.CandidateTypeHost},
		UDPMux:                 p,
		MulticastDNSMode:       pion.MulticastDNSModeDisabled,
		DisableActiveTCP:       true,
		Net:                    noNet{},
		LoggerFactory:          quiet{log},
		CheckInterval:          new(checkInterval),
		MaxBindingRequests:     new(uint16(maxBindingRequests)),
		KeepaliveInterval:      new(keepalive),
		DisconnectedTimeout:    new(patience),
		FailedTimeout:          new(patience),
		HostAcceptanceMinWait:  new(time.Duration(0)),
		SrflxAcceptanceMinWait: new(time.Duration(0)),
		PrflxAcceptanceMinWait: new(acceptanceWait),
		RelayAcceptanceMinWait: new(acceptanceWait),
	}
}

// gather makes pion take the pipes, and fails if it did not: with a wrong
// configuration pion gathers nothing and says nothing.
func (e *pionEngine) gather() error {
	done := make(chan struct{})
	if err := e.agent.OnCandidate(func(c pion.Candidate) {
		if c == nil {
			close(done)
		}
	}); err != nil {
		return fmt.Errorf("start ice engine: %w", err)
	}
	if err := e.agent.GatherCandidates(); err != nil {
		return fmt.Errorf("start ice engine: %w", err)
	}
	timeout := time.NewTimer(gatherTimeout)
	defer timeout.Stop()
	select {
	case <-done:
	case <-timeout.C:
	}
	taken, err := e.agent.GetLocalCandidates()
	if err != nil || len(taken) != len(e.pipes) {
		return errors.Join(errGather, err)
	}
	return nil
}

func (e *pionEngine) put(b []byte, from netip.AddrPort) {
	if p := e.pipes.family(from.Addr().Is4()); p != nil {
		p.put(b, from)
	}
}

func (e *pionEngine) connect(ctx context.Context, remote Description, controlling bool) (netip.AddrPort, time.Duration, error) {
	for i, c := range remote.Candidates {
		candidate, err := pionCandidate(c, i)
		if err == nil {
			err = e.agent.AddRemoteCandidate(candidate)
		}
		if err != nil {
			return netip.AddrPort{}, 0, fmt.Errorf("add %v: %w", c, err)
		}
	}
	start := e.agent.Accept
	if controlling {
		start = e.agent.Dial
	}
	if _, err := start(ctx, remote.Ufrag, remote.Pwd); err != nil {
		return netip.AddrPort{}, 0, plainError(ctx, err)
	}
	return e.selected()
}

// plainError replaces pion's words for what has a name in the standard
// library.
func plainError(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, pion.ErrClosed):
		return net.ErrClosed
	case errors.Is(err, pion.ErrMultipleStart):
		return ErrUsed
	}
	return err
}

func (e *pionEngine) selected() (netip.AddrPort, time.Duration, error) {
	pair, err := e.agent.GetSelectedCandidatePair()
	if err != nil {
		return netip.AddrPort{}, 0, err
	}
	if pair == nil {
		return netip.AddrPort{}, 0, net.ErrClosed
	}
	ip, err := netip.ParseAddr(pair.Remote.Address())
	if err != nil {
		return netip.AddrPort{}, 0, fmt.Errorf("read selected pair: %w", err)
	}
	remote := netip.AddrPortFrom(ip.Unmap(), uint16(pair.Remote.Port()))
	return remote, e.roundTrip(), nil
}

// roundTrip is that of the selected pair: the only one nominated.
func (e *pionEngine) roundTrip() time.Duration {
	for _, s := range e.agent.GetCandidatePairsStats() {
		if s.Nominated && s.CurrentRoundTripTime > 0 {
			return time.Duration(s.CurrentRoundTripTime * float64(time.Second))
		}
	}
	return 0
}

func (e *pionEngine) close() error { return e.agent.GracefulClose() }

// pionCandidate translates a remote candidate. Only the type preference
// matters, and the order in which they were sorted.
func pionCandidate(c Candidate, position int) (pion.Candidate, error) {
	priority := rank(c)<<24 | uint32(65535-position)<<8 | 255
	// The engine compares addresses as net.IP prints them.
	address, port := net.IP(c.Addr.Addr().AsSlice()).String(), int(c.Addr.Port())
	if c.Kind == Host {
		return pion.NewCandidateHost(&pion.CandidateHostConfig{
			Network: "udp", Address: address, Port: port, Component: pion.ComponentRTP, Priority: priority,
		})
	}
	return pion.NewCandidateServerReflexive(&pion.CandidateServerReflexiveConfig{
		Network: "udp", Address: address, Port: port, Component: pion.ComponentRTP, Priority: priority,
	})
}

// pipes implements pion's UDPMux: at most one pipe per address family. It
// is the whole demultiplexing that is left after stun.Mux.
type pipes []*pipe

func newPipes(local []Candidate, write func([]byte, netip.AddrPort) error) pipes {
	var p pipes
	for _, is4 := range []bool{true, false} {
		for _, c := range local {
			if c.Addr.IsValid() && c.Addr.Addr().Is4() == is4 {
				p = append(p, newPipe(c.Addr, write))
				break
			}
		}
	}
	return p
}

func (p pipes) family(is4 bool) *pipe {
	for _, q := range p {
		if q.local.Addr().Is4() == is4 {
			return q
		}
	}
	return nil
}

// GetListenAddresses implements pion.UDPMux.
func (p pipes) GetListenAddresses() []net.Addr {
	var out []net.Addr
	for _, q := range p {
		out = append(out, q.LocalAddr())
	}
	return out
}

// GetConn implements pion.UDPMux.
func (p pipes) GetConn(_ string, addr net.Addr) (net.PacketConn, error) {
	for _, q := range p {
		if q.LocalAddr().String() == addr.String() {
			return q, nil
		}
	}
	return nil, net.ErrClosed
}

// RemoveConnByUfrag implements pion.UDPMux; pion closes the pipes itself.
func (p pipes) RemoveConnByUfrag(string) {}

// Close implements pion.UDPMux.
func (p pipes) Close() error { return nil }

// quiet is pion's log at our debug level. Its own debug and trace levels
// contain passwords and are dropped.
type quiet struct{ log *slog.Logger }

// NewLogger implements logging.LoggerFactory.
func (q quiet) NewLogger(string) logging.LeveledLogger { return q }

func (q quiet) say(text string) { q.log.Debug("ice engine", "text", text) }

func (quiet) Trace(string)                        {}
func (quiet) Tracef(string, ...interface{})       {}
func (quiet) Debug(string)                        {}
func (quiet) Debugf(string, ...interface{})       {}
func (q quiet) Info(s string)                     { q.say(s) }
func (q quiet) Infof(f string, a ...interface{})  { q.say(fmt.Sprintf(f, a...)) }
func (q quiet) Warn(s string)                     { q.say(s) }
func (q quiet) Warnf(f string, a ...interface{})  { q.say(fmt.Sprintf(f, a...)) }
func (q quiet) Error(s string)                    { q.say(s) }
func (q quiet) Errorf(f string, a ...interface{}) { q.say(fmt.Sprintf(f, a...)) }

// noNet is the network of an engine that may only use its pipes. Without it
// pion lists the interfaces for each agent and could open sockets.
type noNet struct{}

var _ transport.Net = noNet{}

func (noNet) ListenPacket(string, string) (net.PacketConn, error)           { return nil, errNoNet }
func (noNet) ListenUDP(string, *net.UDPAddr) (transport.UDPConn, error)     { return nil, errNoNet }
func (noNet) ListenTCP(string, *net.TCPAddr) (transport.TCPListener, error) { return nil, errNoNet }
func (noNet) Dial(string, string) (net.Conn, error)                         { return nil, errNoNet }
func (noNet) DialUDP(string, *net.UDPAddr, *net.UDPAddr) (transport.UDPConn, error) {
	return nil, errNoNet
}
func (noNet) DialTCP(string, *net.TCPAddr, *net.TCPAddr) (transport.TCPConn, error) {
	return nil, errNoNet
}
func (noNet) ResolveIPAddr(string, string) (*net.IPAddr, error)   { return nil, errNoNet }
func (noNet) ResolveUDPAddr(string, string) (*net.UDPAddr, error) { return nil, errNoNet }
func (noNet) ResolveTCPAddr(string, string) (*net.TCPAddr, error) { return nil, errNoNet }

// Interfaces names none, which pion takes for an answer.
func (noNet) Interfaces() ([]*transport.Interface, error)          { return nil, nil }
func (noNet) InterfaceByIndex(int) (*transport.Interface, error)   { return nil, errNoNet }
func (noNet) InterfaceByName(string) (*transport.Interface, error) { return nil, errNoNet }
func (noNet) CreateDialer(*net.Dialer) transport.Dialer            { return noNet{} }
