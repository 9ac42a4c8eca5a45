package nat

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
)

// oobPool holds buffers for control messages: system call arguments escape to
// the heap, and a write happens for every few packets.
var oobPool = sync.Pool{New: func() any { return new([128]byte) }}

// WriteMsgUDP sends b, one packet or several of the size given in oob, to a
// real address or over the path of the peer with that constant address. It
// fails only in ways quic-go can bear: what one path refuses is a lost packet
// to it, counted in [Stats], not the end of the session.
func (s *Socket) WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	to := addrPortOf(addr)
	if p := s.peers.at(to); p != nil {
		return len(b), len(oob), p.write(b, oob)
	}
	if isAlias(to.Addr()) {
		s.count.noPath.Add(1)
		return len(b), len(oob), nil
	}
	return len(b), len(oob), s.writePlain(b, oob, to)
}

// WriteTo sends one packet. Part of net.PacketConn.
func (s *Socket) WriteTo(b []byte, addr net.Addr) (int, error) {
	udp, ok := addr.(*net.UDPAddr)
	if !ok {
		return 0, &net.AddrError{Err: "not a UDP address", Addr: addr.String()}
	}
	n, _, err := s.WriteMsgUDP(b, nil, udp)
	return n, err
}

// writePlain sends to an address no peer is known at. Lack of segmentation
// offload is reported, as quic-go has its own remedy; other troubles of the
// way there are not, since quic-go would end the session over them.
func (s *Socket) writePlain(b, oob []byte, to netip.AddrPort) error {
	_, _, err := s.conn.WriteMsgUDPAddrPort(b, oob, to)
	if errors.Is(err, syscall.EPERM) {
		// The first sendmsg of a socket sometimes gets it: golang/go#63322.
		_, _, err = s.conn.WriteMsgUDPAddrPort(b, oob, to)
	}
	switch {
	case err == nil:
		s.countWrite(len(b), parseControl(oob).segment)
		return nil
	case s.fatal(err), errors.Is(err, syscall.EIO), errors.Is(err, syscall.EMSGSIZE):
		return err
	default:
		s.count.writeErrors.Add(1)
		return nil
	}
}

// fatal tells errors of the socket itself from those of one datagram.
func (s *Socket) fatal(err error) bool {
	return s.isClosed() || errors.Is(err, net.ErrClosed)
}

func (s *Socket) countWrite(n, segment int) {
	s.count.writes.Add(1)
	if segment > 0 && segment < n {
		s.count.gsoWrites.Add(1)
	}
}

// write sends b over the path of the moment.
func (p *Peer) write(b, oob []byte) error {
	r := p.route.Load()
	if r == nil {
		p.count.noPath.Add(1)
		p.socket.count.noPath.Add(1)
		return nil
	}
	return p.out.write(r, b, p.info(r, len(b), parseControl(oob)))
}

// info adapts what quic-go asks for to the path.
func (p *Peer) info(r *route, n int, info controlInfo) controlInfo {
	if info.segment >= n {
		info.segment = 0
	}
	if r.path.Carrier != nil {
		info.local, info.ifIndex = netip.Addr{}, 0
		return info
	}
	// quic-go's idea of the local address belongs to the path the session
	// began on; ours is what the peer's own packets were sent to.
	if local, ifIndex := r.binding.localAddr(); local.IsValid() || r.path.Addr != p.alias || r.binding.moved.Load() {
		info.local, info.ifIndex = local, ifIndex
	}
	return info
}

// gathers reports whether r takes many packets at once.
func (r *route) gathers() bool {
	if r.path.Carrier != nil {
		_, ok := r.path.Carrier.(SegmentCarrier)
		return ok
	}
	return !r.noGSO.Load()
}

// send sends the packets b is made of over r.
func (p *Peer) send(r *route, b []byte, info controlInfo) error {
	if r.path.Carrier != nil {
		p.writeCarrier(r, b, info)
		return nil
	}
	if info.segment > 0 && r.noGSO.Load() {
		return p.writeSegments(r, b, info)
	}
	return p.writeDirect(r, b, info)
}

// writeDirect sends b with one system call, and repairs what can be repaired.
func (p *Peer) writeDirect(r *route, b []byte, info controlInfo) error {
	err := p.sendmsg(r, b, info)
	switch {
	case err == nil:
		p.count.of(r.path.Kind).sent(len(b), info.segment)
		p.socket.countWrite(len(b), info.segment)
		return nil
	case p.socket.fatal(err):
		return err
	case info.local.IsValid() && isAny(err, wrongSource):
		// The address may be gone after roaming: let routing choose.
		r.binding.forgetLocal()
		info.local, info.ifIndex = netip.Addr{}, 0
		return p.writeDirect(r, b, info)
	case info.segment > 0 && isAny(err, noSegmentation):
		r.noGSO.Store(true)
		return p.writeSegments(r, b, info)
	case errors.Is(err, syscall.EMSGSIZE):
		p.count.tooLarge.Add(1)
		p.socket.count.tooLarge.Add(1)
	default:
		p.count.writeErrors.Add(1)
		p.socket.count.writeErrors.Add(1)
	}
	return nil
}

var (
	// wrongSource are the errors of a datagram that names a local address or
	// interface which is gone, or from which no route leads there.
	wrongSource = []error{
		syscall.EINVAL, syscall.ENETUNREACH, syscall.EHOSTUNREACH,
		syscall.EADDRNOTAVAIL, syscall.ENODEV, syscall.ENXIO,
	}
	// noSegmentation are the errors of a joined datagram whose packets may
	// pass one by one. EIO: no checksum offload there. EINVAL, EMSGSIZE: the
	// packets are larger than the interface's MTU, or an emulator is at work.
	noSegmentation = []error{syscall.EIO, syscall.EINVAL, syscall.EMSGSIZE}
)

func isAny(err error, list []error) bool {
	for _, e := range list {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// writeSegments sends the packets b is made of one by one.
func (p *Peer) writeSegments(r *route, b []byte, info controlInfo) error {
	segment := info.segment
	info.segment = 0
	for first := range segments(b, segment) {
		if err := p.writeDirect(r, first, info); err != nil {
			return err
		}
	}
	return nil
}

func (p *Peer) sendmsg(r *route, b []byte, info controlInfo) error {
	buf := oobPool.Get().(*[128]byte)
	defer oobPool.Put(buf)
	oob := info.appendSent(buf[:0], r.path.Addr.Addr().Is4())
	_, _, err := p.socket.conn.WriteMsgUDPAddrPort(b, oob, r.path.Addr)
	return err
}

// writeCarrier gives the packets b is made of to the carrier, together if it
// can. Its errors are lost packets.
func (p *Peer) writeCarrier(r *route, b []byte, info controlInfo) {
	if c, ok := r.path.Carrier.(SegmentCarrier); ok {
		err := c.WriteSegments(b, info.segment, info.ecn)
		p.countCarried(r, len(b), info.segment, err)
		return
	}
	for one := range segments(b, info.segment) {
		err := r.path.Carrier.WritePacket(one)
		p.countCarried(r, len(one), 0, err)
	}
}

// countCarried counts n bytes in packets of size segment that a carrier took
// or, with an error, refused.
func (p *Peer) countCarried(r *route, n, segment int, err error) {
	packets := int64(packetsIn(n, segment))
	if err != nil {
		p.count.carrier.Add(packets)
		p.socket.count.carrier.Add(packets)
		return
	}
	p.count.of(r.path.Kind).sent(n, segment)
	p.socket.count.carrierOut.Add(packets)
}

// segments yields the packets of size segment that b is made of, the last of
// which may be shorter; b itself if segment is 0.
func segments(b []byte, segment int) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(b) > 0 {
			n := len(b)
			if segment > 0 {
				n = min(n, segment)
			}
			if !yield(b[:n:n]) {
				return
			}
			b = b[n:]
		}
	}
}
