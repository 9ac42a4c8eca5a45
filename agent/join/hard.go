package join

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/introduce"
	"porchlight/nat"
	"porchlight/nat/ice"
	"porchlight/nat/probe"
	"porchlight/nat/spray"
	"porchlight/nat/stun"
	"porchlight/nat/tcppunch"
)

// What ICE cannot do is tried in a second exchange, which goes over the
// relayed session: by then both sides know what stands in the way, have
// measured their routers' next ports a moment ago, and begin at the same time.

const (
	// hardAfter is how long ICE alone may try before the second exchange,
	// where a router chooses a port for each destination.
	hardAfter = 400 * time.Millisecond
	// hardLimit ends one second exchange: 1750 probes at 500 a second, and
	// what it takes to prepare.
	hardLimit = 10 * time.Second
	// hardBegins is how long a session for the second exchange is waited for.
	hardBegins = 5 * time.Second
	// sprayPrefix keeps the user names of sprays apart from those of ICE.
	sprayPrefix = "spray"
)

// needsHard reports whether ICE alone will hardly find a direct path, and
// something else may.
func needsHard(ours, theirs introduce.Offer) bool {
	if !sameFamily(ours, theirs) {
		return false
	}
	return ours.NoUDP || theirs.NoUDP || dependent(ours.Mapping) || dependent(theirs.Mapping)
}

// goOn starts the second exchange as soon as there is a session to carry it,
// unless a direct path is found before.
func (j *Joiner) goOn(w *way, wait time.Duration) {
	j.start(func() {
		ctx, cancel := context.WithTimeout(j.ctx, hardBegins)
		defer cancel()
		select {
		case <-time.After(wait):
		case <-w.done:
			return
		case <-ctx.Done():
			return
		}
		if w.direct() {
			return
		}
		if _, err := j.cfg.Sessions.Session(ctx, w.to); err == nil {
			j.upgrade(w)
		}
	})
}

// upgrade looks for a better way with an offer over the session itself.
func (j *Joiner) upgrade(w *way) {
	if !w.beginUpgrade() {
		return
	}
	defer w.endUpgrade()
	ctx, cancel := context.WithTimeout(j.ctx, searchLimit)
	defer cancel()
	if err := j.offer(ctx, w, w.to, func() {}); err != nil {
		j.cfg.Logger.Debug("still no direct path", "peer", w.to.Short(), "err", err)
	}
}

// bring adds to our side of a second exchange what it takes against the
// routers of both sides, as far as they are known.
func (a *attempt) bring(ctx context.Context, theirs introduce.Offer) {
	n := a.j.cfg.Situation.Network()
	var err error
	switch {
	case n.NoUDP || theirs.NoUDP:
		err = a.bringTCP(ctx, n)
	case dependent(n.Mapping) || dependent(theirs.Mapping):
		err = a.bringSpray(ctx, n)
	}
	if err != nil {
		a.j.cfg.Logger.Debug("nothing to bring against the routers", "peer", a.w.to.Short(), "err", err)
	}
}

func (a *attempt) bringTCP(ctx context.Context, n Network) (err error) {
	a.punch, err = tcppunch.Prepare(ctx, tcppunch.Config{
		Servers: n.Servers,
		Filter:  ice.Filter{Loopback: a.j.cfg.Loopback},
		Logger:  a.j.cfg.Logger,
	})
	if err != nil {
		return err
	}
	local := a.punch.Local()
	a.ours.TCP = &local
	return nil
}

// turnLimit is how long a device that is asked waits for its turn to spray; who
// asks waits as long as the exchange lasts.
const turnLimit = time.Second

// bringSpray takes our turn before the other side takes its own, or one would
// spray while the other waits.
func (a *attempt) bringSpray(ctx context.Context, n Network) (err error) {
	turn := ctx
	if !a.calling {
		var cancel context.CancelFunc
		turn, cancel = context.WithTimeout(ctx, turnLimit)
		defer cancel()
	}
	end, err := a.j.sprays.Begin(turn, a.w.to.String())
	if err != nil {
		a.busy = true
		return err
	}
	mapping := stun.Dependence(n.Mapping)
	if mapping == "" || mapping == stun.Unknown {
		// With one server to ask nothing tells how the router maps: most do it
		// independently of where packets go.
		mapping = stun.EndpointIndependent
	}
	side := spray.Side{
		Mapping: mapping,
		Mapped:  n.Public,
		Sockets: spray.DefaultSockets(),
	}
	if side.Hard() {
		side, err = spray.Sample(ctx, openUDP, fourOnly(n.Servers), side)
	}
	if err == nil {
		err = side.Validate()
	}
	if err != nil {
		end(true, 0)
		return err
	}
	a.ours.Spray, a.turn = &side, end
	return nil
}

// fourOnly leaves out IPv6 servers: sprays are for IPv4, whose routers translate.
func fourOnly(servers []netip.AddrPort) []netip.AddrPort {
	return slices.DeleteFunc(slices.Clone(servers), func(a netip.AddrPort) bool { return !a.Addr().Unmap().Is4() })
}

func openUDP() (*net.UDPConn, error) { return net.ListenUDP("udp4", nil) }

// beyond tries what the two sides brought against their routers.
func (a *attempt) beyond(ctx context.Context, theirs introduce.Offer, asking bool) error {
	ctx, cancel := context.WithTimeout(ctx, hardLimit)
	defer cancel()
	a.w.explain(api.Trying, false)
	var err error
	if a.ours.TCP != nil && theirs.TCP != nil {
		err = a.punchTCP(ctx, theirs, asking)
	} else {
		err = a.spray(ctx, theirs, asking)
	}
	if err == nil {
		a.linger()
		return nil
	}
	hopeless := errors.Is(err, spray.ErrHopeless) || errors.Is(err, tcppunch.ErrHopeless)
	a.w.explain(verdict(a.ours, theirs), hopeless)
	return fmt.Errorf("no direct path: %w", err)
}

// credentials are those of ICE under a name of their own.
func credentials(d ice.Description) probe.Credentials {
	return probe.Credentials{Ufrag: sprayPrefix + d.Ufrag, Pwd: d.Pwd}
}

func (a *attempt) spray(ctx context.Context, theirs introduce.Offer, asking bool) error {
	plan, err := spray.Decide(*a.ours.Spray, *theirs.Spray, asking)
	if err != nil {
		return err
	}
	ours := credentials(a.ours.ICE)
	var running atomic.Pointer[spray.Run]
	endpoint, err := a.j.cfg.Mux.Register(ours.Ufrag, func(b []byte, from netip.AddrPort) {
		if run := running.Load(); run != nil {
			run.Handle(b, from)
		}
	})
	if err != nil {
		return fmt.Errorf("prepare to spray: %w", err)
	}
	defer endpoint.Close()
	run, err := spray.New(spray.Config{
		Plan:   plan,
		Ours:   ours,
		Theirs: credentials(theirs.ICE),
		Shared: endpoint,
		Open:   openUDP,
		Logger: a.j.cfg.Logger,
	})
	if err != nil {
		return err
	}
	defer run.Close()
	running.Store(run)
	hit, err := run.Find(ctx)
	a.turn(err == nil, int(run.Counts().Sent))
	if err != nil {
		return err
	}
	if err := a.useHit(hit); err != nil {
		return err
	}
	// The other side may not have heard yet which way was chosen.
	select {
	case <-time.After(spray.Linger):
	case <-a.j.ctx.Done():
	}
	return nil
}

// useHit switches to what a spray has found: the shared socket to a port that
// nobody could have signalled, or one of many sockets.
func (a *attempt) useHit(hit spray.Hit) error {
	r := directRoute(ice.Candidate{Kind: ice.Learnt, Addr: hit.Remote})
	if hit.Conn == nil {
		if peer := a.w.first(); peer != nil {
			peer.Accept(hit.Remote)
		}
		a.w.use(r)
		return nil
	}
	side := nat.NewSide(hit.Conn, hit.Remote, nat.SideConfig{Logger: a.j.cfg.Logger})
	r.path = nat.Path{Kind: nat.KindDirect, Carrier: side}
	err := a.w.useCarrier(r, func(peer *nat.Peer) error { return peer.UseSide(side, nat.KindDirect) })
	if err != nil {
		side.Close()
	}
	return err
}

func (a *attempt) punchTCP(ctx context.Context, theirs introduce.Offer, asking bool) error {
	conn, err := a.punch.Punch(ctx, *theirs.TCP, credentials(a.ours.ICE), credentials(theirs.ICE), asking)
	if err != nil {
		return err
	}
	framed := nat.NewFramed(conn, nat.FrameConfig{})
	err = a.w.useCarrier(tcpRoute(conn.RemoteAddr(), framed), func(peer *nat.Peer) error {
		return peer.UseFramed(framed, nat.KindDirect)
	})
	if err != nil {
		framed.Close()
		return err
	}
	return greet(framed)
}

// greet sends a null packet (RFC 4571 §2) over a path that may have nothing else
// to carry yet: whoever hears nothing for some seconds takes the connection for
// a stranger's, and ends it.
func greet(f *nat.Framed) error { return f.WritePacket(nil) }
