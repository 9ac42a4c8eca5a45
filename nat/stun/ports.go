package stun

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
)

const (
	// MinPortSamples is how many samples a pattern needs.
	MinPortSamples = 4
	// MaxPortSamples is how many [PortSamples] takes at most: each is a mapping
	// in the NAT for half a minute or longer.
	MaxPortSamples = 64

	// maxSkipped is how many ports other traffic may take between two of ours.
	maxSkipped = 8
)

// Samples are mapped ports in the order in which they were made.
type Samples struct {
	Ports []uint16
	// Delta is the step from one new mapping to the next, 0 if there is no
	// pattern. Other traffic may have taken some ports in between.
	Delta int
	// Preserved means that each mapped port was the local one, so that the
	// next is known without a pattern.
	Preserved bool
	// PerSocket means that a socket kept its port towards another server, so
	// that only fresh sockets make new mappings.
	PerSocket bool
	// Addresses is how many public addresses were seen.
	Addresses int
}

// PortSamples takes n samples, from [MinPortSamples] to [MaxPortSamples]: the
// first socket asks all servers, then each fresh socket asks one of them in
// turn. A socket that keeps its port counts once. The sockets stay open until
// the end, as a freed port may be given again.
//
// Servers that do not answer are passed over; [ErrTooFewServers] if fewer than
// MinPortSamples answers were had in n tries.
func PortSamples(ctx context.Context, open Opener, servers []netip.AddrPort, n int) (Samples, error) {
	if len(servers) == 0 {
		return Samples{}, fmt.Errorf("sample mapped ports: %w", ErrTooFewServers)
	}
	s := sampler{Samples: Samples{Preserved: true}, addresses: make(map[netip.Addr]bool)}
	defer s.close()
	n = min(max(n, MinPortSamples), MaxPortSamples)
	for tries := 0; len(s.Ports) < n && tries < 2*n && ctx.Err() == nil; tries++ {
		ask := []netip.AddrPort{servers[tries%len(servers)]}
		if tries == 0 {
			ask = servers[:min(len(servers), n)]
		}
		if err := s.sample(ctx, open, ask); err != nil {
			return s.Samples, fmt.Errorf("sample mapped ports: %w", err)
		}
	}
	s.Addresses = len(s.addresses)
	if len(s.Ports) < MinPortSamples {
		return s.Samples, fmt.Errorf("sample mapped ports: %w", errors.Join(ErrTooFewServers, s.last, ctx.Err()))
	}
	if !s.Preserved && s.Addresses == 1 {
		s.Delta = looseDelta(s.Ports)
	}
	return s.Samples, nil
}

// sampler collects samples over sockets that stay open.
type sampler struct {
	Samples
	addresses map[netip.Addr]bool
	opened    []net.PacketConn
	last      error // of a server that did not answer
}

func (s *sampler) close() {
	for _, pc := range s.opened {
		_ = pc.Close()
	}
}

// sample asks servers from one fresh socket.
func (s *sampler) sample(ctx context.Context, open Opener, servers []netip.AddrPort) error {
	pc, err := open()
	if err != nil {
		return err
	}
	s.opened = append(s.opened, pc)
	local, err := localAddrPort(pc.LocalAddr())
	if err != nil {
		return err
	}
	return onSocket(pc, func(c *client) error {
		var before netip.AddrPort
		for _, server := range servers {
			a, _, err := prober{client: c}.ask(ctx, server)
			if err != nil {
				s.last = err
				continue
			}
			if a.mapped == before {
				s.PerSocket = true
				continue
			}
			before = a.mapped
			s.Ports = append(s.Ports, a.mapped.Port())
			s.addresses[a.mapped.Addr()] = true
			s.Preserved = s.Preserved && a.mapped.Port() == local.Port()
		}
		return nil
	})
}

// looseDelta returns the step of ports made one after the other, when there
// may be others between them: the smallest step, if all others are multiples
// of it, in the same direction and not much larger.
func looseDelta(ports []uint16) int {
	if len(ports) < MinPortSamples {
		return 0
	}
	step := 0
	for i := 1; i < len(ports); i++ {
		d := int(ports[i]) - int(ports[i-1])
		if step == 0 || abs(d) < abs(step) {
			step = d
		}
	}
	for i := 1; i < len(ports) && step != 0; i++ {
		d := int(ports[i]) - int(ports[i-1])
		if d%step != 0 || d/step < 1 || d/step > maxSkipped+1 {
			return 0
		}
	}
	return step
}

func abs(n int) int { return max(n, -n) }

// Rotation tells whether a NAT gives a living flow another port from time to
// time, as some carriers do. No mapping holds there, so that a relay is the
// way. The zero value is ready; it is not for concurrent use.
type Rotation struct {
	seen map[netip.AddrPort]*rotationView
}

type rotationView struct {
	mapped netip.AddrPort
	recent [rotationWindow]bool // whether the port was another than before
	next   int
}

const (
	// rotationWindow is how many results are looked at, rotationChanges how
	// many of them have to differ from the one before: one change alone can
	// be a restarted router.
	rotationWindow  = 6
	rotationChanges = 2
	// maxRotationServers bounds the servers that are told apart; results of
	// others are not looked at.
	maxRotationServers = 16
)

// Observe notes what one server sees of one socket, as [Mux.Bind] returns it,
// and says whether its port rotates. Bind often enough that the mapping can't
// have ended in between, at most every [DefaultKeepalive]. A new public
// address is another network or another lease, and begins anew.
func (r *Rotation) Observe(server, mapped netip.AddrPort) bool {
	server, mapped = canonical(server), canonical(mapped)
	v := r.seen[server]
	switch {
	case v == nil && len(r.seen) >= maxRotationServers:
		return r.Rotates()
	case v == nil || v.mapped.Addr() != mapped.Addr():
		if r.seen == nil {
			r.seen = make(map[netip.AddrPort]*rotationView)
		}
		r.seen[server] = &rotationView{mapped: mapped}
		return r.Rotates()
	}
	v.recent[v.next] = v.mapped != mapped
	v.next = (v.next + 1) % rotationWindow
	v.mapped = mapped
	return r.Rotates()
}

// Rotates says what the results so far mean.
func (r *Rotation) Rotates() bool {
	for _, v := range r.seen {
		changes := 0
		for _, changed := range v.recent {
			if changed {
				changes++
			}
		}
		if changes >= rotationChanges {
			return true
		}
	}
	return false
}
