package forward

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"porchlight/agent/overlay"
)

const (
	// MaxFlows is how many sources a UDP listener serves at once.
	MaxFlows = 256
	// reopenFirst and reopenMost are how long a flow waits before it is opened
	// once more, the first time and at most.
	reopenFirst = 250 * time.Millisecond
	reopenMost  = 5 * time.Second
)

// flow is what one local source sends and gets.
type flow struct {
	source netip.AddrPort
	queue  *overlay.Queue
	last   lastPacket
	cancel context.CancelFunc
}

// packetListener is a UDP port with its flows.
type packetListener struct {
	*listener
	udp     *net.UDPConn
	running sync.WaitGroup

	mu    sync.Mutex
	flows map[netip.AddrPort]*flow
}

// servePackets carries the packets of a port until ctx ends.
func (l *listener) servePackets(ctx context.Context, udp *net.UDPConn) {
	p := &packetListener{listener: l, udp: udp, flows: map[netip.AddrPort]*flow{}}
	defer context.AfterFunc(ctx, func() { udp.Close() })()
	defer udp.Close()
	defer p.running.Wait()
	buffer := make([]byte, overlay.MaxPacket+1)
	for {
		n, source, err := udp.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			pause(ctx, acceptPause)
			continue
		}
		f := p.flow(ctx, source)
		if n > overlay.MaxPacket || f == nil {
			l.f.dropped.Add(1)
			continue
		}
		f.last.touch()
		f.queue.Put(append(make([]byte, 0, n), buffer[:n]...))
	}
}

// flow returns the flow of a source, a new one if need be; nil if there are too
// many.
func (p *packetListener) flow(ctx context.Context, source netip.AddrPort) *flow {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.flows[source]; f != nil {
		return f
	}
	if len(p.flows) >= MaxFlows && !p.makeRoom() {
		return nil
	}
	f := &flow{source: source, queue: overlay.NewQueue(), last: lastPacket{began: time.Now()}}
	ctx, f.cancel = context.WithCancel(ctx)
	p.flows[source] = f
	p.running.Go(func() {
		defer p.forget(f)
		p.run(ctx, f)
	})
	return f
}

// makeRoom ends the flow that has been quiet the longest.
func (p *packetListener) makeRoom() bool {
	var quietest *flow
	for _, f := range p.flows {
		if quietest == nil || f.last.quiet() > quietest.last.quiet() {
			quietest = f
		}
	}
	if quietest.last.quiet() < quietLimit {
		return false
	}
	quietest.cancel()
	delete(p.flows, quietest.source)
	return true
}

func (p *packetListener) forget(f *flow) {
	f.cancel()
	p.f.dropped.Add(f.queue.Dropped())
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.flows[f.source] == f {
		delete(p.flows, f.source)
	}
}

// run keeps a flow open until it is idle, or the other device ends it: then the
// source's next packet begins another.
func (p *packetListener) run(ctx context.Context, f *flow) {
	wait := reopenFirst
	for ctx.Err() == nil && f.last.quiet() < p.f.idle {
		err := p.carryFlow(ctx, f, func() { wait = reopenFirst })
		if err == nil || ctx.Err() != nil {
			return
		}
		level := slog.LevelInfo
		if wait > reopenFirst {
			level = slog.LevelDebug // it was said
		}
		p.f.log.Log(ctx, level, "forward: flow not connected", "peer", p.to.Short(), "name", p.name, "err", err)
		pause(ctx, wait)
		wait = min(2*wait, reopenMost)
	}
}

// carryFlow opens a flow and carries it. No error means that it came to its
// end, an error that it is to be opened again.
func (p *packetListener) carryFlow(ctx context.Context, f *flow, opened func()) error {
	opening, cancel := context.WithTimeout(ctx, openLimit)
	remote, err := Dial(opening, p.f.dialer, p.to, p.network, p.name)
	cancel()
	if err != nil {
		return err
	}
	opened()
	defer context.AfterFunc(ctx, func() { remote.Close() })()
	defer remote.Close()
	if packets, ok := remote.(*overlay.Packets); ok {
		defer func() { p.f.dropped.Add(packets.Dropped()) }()
	}
	ended := make(chan error, 1)
	go func() { ended <- p.toSource(f, remote) }()
	err = p.fromSource(f, remote, ended)
	if err == io.EOF {
		return nil
	}
	return err
}

// toSource brings the source what comes for it until the remote side ends.
func (p *packetListener) toSource(f *flow, remote net.Conn) error {
	buffer := make([]byte, overlay.MaxPacket)
	for {
		n, err := remote.Read(buffer)
		if err != nil {
			return err
		}
		f.last.touch()
		if _, err := p.udp.WriteToUDPAddrPort(buffer[:n], f.source); err != nil {
			p.f.dropped.Add(1)
		}
	}
}

// fromSource takes what the source sent to the remote side, until that ends or
// the flow is idle, and waits for toSource.
func (p *packetListener) fromSource(f *flow, remote net.Conn, ended <-chan error) error {
	idle := time.NewTimer(p.f.idle)
	defer idle.Stop()
	for {
		if b, ok := f.queue.Get(); ok {
			remote.Write(b) // an error ends toSource too
			continue
		}
		select {
		case <-f.queue.Ready():
		case err := <-ended:
			return err
		case <-idle.C:
			if left := p.f.idle - f.last.quiet(); left > 0 {
				idle.Reset(left)
				continue
			}
			remote.Close()
			<-ended
			return nil
		}
	}
}
