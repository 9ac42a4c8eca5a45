package nat

import (
	"sync"
	"time"
)

const (
	// quicBatch is how many bytes quic-go writes at once at most (v0.65,
	// internal/protocol.MaxLargePacketBufferSize). A write with no room for one
	// more packet in them is followed by another within microseconds.
	quicBatch = 20 << 10
	// gatherBytes and gatherPackets are what one datagram for the kernel to
	// split may hold: UDP's length field over IPv6, and UDP_MAX_SEGMENTS of
	// kernels before 6.9.
	gatherBytes   = 65535 - 8 - 40
	gatherPackets = 64
	// holdTick: what is held goes out at the second tick at the latest.
	holdTick = time.Millisecond
	// minRest and maxRest are how many full writes pass unheld after one was
	// held in vain; doubled each time, from the beginning after goodStreak
	// times not in vain.
	minRest    = 64
	maxRest    = 4096
	goodStreak = 1024
)

// gather joins full writes of quic-go into larger ones: what a datagram costs
// on its way through the kernel, and through routers that keep it whole, hardly
// depends on its size. Only a full write is held back, until the next one, or
// for two ticks if quic-go came to a halt at this very place; whatever is not
// full goes out at once, with what was held before it.
type gather struct {
	peer *Peer

	mu     sync.Mutex
	route  *route
	info   controlInfo
	buf    *gatherBuf // nil if nothing is held
	closed bool

	timer  *time.Timer
	ticks  bool   // the timer runs
	began  uint32 // how often something began to be held
	seen   uint32 // began at the last tick
	rest   int    // full writes that are not to be held
	pause  int    // rest after the next vain hold
	streak int    // holds since the last vain one
}

// gatherBuf holds packets until they are sent.
type gatherBuf struct {
	data [gatherBytes]byte
	n    int
}

var gatherPool = sync.Pool{New: func() any { return new(gatherBuf) }}

// write sends b over r, or holds it for a moment.
func (g *gather) write(r *route, b []byte, info controlInfo) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	full := isFull(len(b), info.segment) && r.gathers()
	if g.buf != nil {
		if g.joins(r, len(b), info) {
			g.buf.n += copy(g.buf.data[g.buf.n:], b)
			if full && g.fits(len(b)) {
				return nil
			}
			return g.flush()
		}
		if err := g.flush(); err != nil {
			return err
		}
	}
	if !full || g.closed || !g.mayHold() {
		return g.peer.send(r, b, info)
	}
	g.hold(r, b, info)
	return nil
}

// isFull reports whether quic-go had no room for one more packet.
func isFull(n, segment int) bool {
	return segment > 0 && n%segment == 0 && n+segment > quicBatch && 2*n <= min(gatherBytes, gatherPackets*segment)
}

// joins reports whether n bytes more can be sent together with what is held.
func (g *gather) joins(r *route, n int, info controlInfo) bool {
	if info.segment == 0 && n <= g.info.segment {
		info.segment = g.info.segment // one packet, as the last
	}
	return r == g.route && info == g.info && g.fits(n)
}

// fits reports whether n bytes more can be held.
func (g *gather) fits(n int) bool {
	return g.buf.n+n <= min(gatherBytes, gatherPackets*g.info.segment)
}

func (g *gather) mayHold() bool {
	if g.rest > 0 {
		g.rest--
		return false
	}
	return true
}

func (g *gather) hold(r *route, b []byte, info controlInfo) {
	g.route, g.info = r, info
	g.buf = gatherPool.Get().(*gatherBuf)
	g.buf.n = copy(g.buf.data[:], b)
	g.began++
	if g.streak++; g.streak >= goodStreak {
		g.pause = minRest
	}
	switch {
	case g.timer == nil:
		g.timer = time.AfterFunc(holdTick, g.tick)
	case !g.ticks:
		g.timer.Reset(holdTick)
	}
	g.ticks = true
}

// tick sends what the last tick has seen held already. The timer runs on while
// there is something to do, since starting it each time would cost more than is
// gained.
func (g *gather) tick() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.buf != nil && g.seen == g.began {
		g.pause = min(max(2*g.pause, minRest), maxRest)
		g.rest, g.streak = g.pause, 0
		_ = g.flush() // of a closed socket: its owner knows
	}
	g.ticks = !g.closed && (g.buf != nil || g.seen != g.began)
	g.seen = g.began
	if g.ticks {
		g.timer.Reset(holdTick)
	}
}

// flush sends what is held; mu is held and buf is not nil.
func (g *gather) flush() error {
	buf := g.buf
	g.buf = nil
	err := g.peer.send(g.route, buf.data[:buf.n], g.info)
	g.route = nil
	gatherPool.Put(buf)
	return err
}

// close drops what is held; later writes are not held.
func (g *gather) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed, g.route = true, nil
	if g.buf != nil {
		gatherPool.Put(g.buf)
		g.buf = nil
	}
	if g.ticks {
		g.timer.Stop()
		g.ticks = false
	}
}
