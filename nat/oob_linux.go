package nat

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ecnMask are the two ECN bits of the TOS and traffic class bytes, RFC 3168 §5.
const ecnMask = 0x3

// controlInfo is what the control messages of one datagram say.
type controlInfo struct {
	// segment is the size of the datagrams a large one is made of: from
	// UDP_SEGMENT when sending, UDP_GRO when receiving; 0 if it is one.
	segment int
	// ecn holds the two ECN bits; hasECN tells whether they were given.
	ecn    byte
	hasECN bool
	// local is the address of this host the datagram came to or leaves from,
	// ifIndex the interface; invalid and 0 if not given.
	local   netip.Addr
	ifIndex uint32
}

// parseControl reads the control messages that the kernel delivers and that
// quic-go attaches. Messages it does not know, or with unexpected sizes, are
// left out: nothing here is worth losing a datagram for.
func parseControl(oob []byte) controlInfo {
	var c controlInfo
	for len(oob) >= unix.SizeofCmsghdr {
		hdr, body, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return c
		}
		c.add(hdr.Level, hdr.Type, body)
		oob = rest
	}
	return c
}

func (c *controlInfo) add(level, typ int32, body []byte) {
	switch level {
	case unix.IPPROTO_UDP:
		c.addUDP(typ, body)
	case unix.IPPROTO_IP:
		switch {
		case typ == unix.IP_TOS && len(body) >= 1:
			c.ecn, c.hasECN = body[0]&ecnMask, true
		case typ == unix.IP_PKTINFO && len(body) == unix.SizeofInet4Pktinfo:
			c.ifIndex = binary.NativeEndian.Uint32(body)
			// ipi_addr, or ipi_spec_dst of a message that was made for sending.
			if c.local = netip.AddrFrom4([4]byte(body[8:12])); c.local.IsUnspecified() {
				c.local = netip.AddrFrom4([4]byte(body[4:8]))
			}
		}
	case unix.IPPROTO_IPV6:
		switch {
		case typ == unix.IPV6_TCLASS && len(body) >= 4:
			c.ecn, c.hasECN = byte(binary.NativeEndian.Uint32(body))&ecnMask, true
		case typ == unix.IPV6_PKTINFO && len(body) == unix.SizeofInet6Pktinfo:
			c.ifIndex = binary.NativeEndian.Uint32(body[16:])
			c.local = netip.AddrFrom16([16]byte(body[:16])).Unmap()
		}
	}
}

// addUDP reads the segment size. UDP_SEGMENT is 16 bits wide; UDP_GRO is an
// int in the kernel, while some emulators deliver 16 bits.
func (c *controlInfo) addUDP(typ int32, body []byte) {
	if typ != unix.UDP_SEGMENT && typ != unix.UDP_GRO {
		return
	}
	switch {
	case len(body) >= 4:
		if n := binary.NativeEndian.Uint32(body); n <= maxDatagram {
			c.segment = int(n)
		}
	case len(body) >= 2:
		c.segment = int(binary.NativeEndian.Uint16(body))
	}
}

// appendReceived appends c as quic-go's reader wants it: ECN and packet info,
// in the family of the local address, no segment size.
func (c controlInfo) appendReceived(b []byte) []byte {
	v4 := c.local.Is4()
	if c.hasECN {
		b = appendECN(b, v4, c.ecn)
	}
	if c.local.IsValid() {
		b = appendPacketInfo(b, c.local, c.ifIndex, true)
	}
	return b
}

// appendSent appends c for a datagram to an address of the given family.
// quic-go chooses the form of the ECN message by the constant address, which
// says nothing about the family of the path.
func (c controlInfo) appendSent(b []byte, v4 bool) []byte {
	if c.segment > 0 {
		b = appendMessage(b, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 2, func(body []byte) {
			binary.NativeEndian.PutUint16(body, uint16(c.segment))
		})
	}
	if c.hasECN {
		b = appendECN(b, v4, c.ecn)
	}
	if c.local.IsValid() && c.local.Is4() == v4 {
		b = appendPacketInfo(b, c.local, c.ifIndex, false)
	}
	return b
}

// appendECN: the kernel delivers one byte for IPv4 and an int for IPv6, and
// accepts the same.
func appendECN(b []byte, v4 bool, ecn byte) []byte {
	if v4 {
		return appendMessage(b, unix.IPPROTO_IP, unix.IP_TOS, 1, func(body []byte) { body[0] = ecn })
	}
	return appendMessage(b, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 4, func(body []byte) {
		binary.NativeEndian.PutUint32(body, uint32(ecn))
	})
}

// appendTTL limits how many hops one datagram lives: an int for either family,
// ip(7), ipv6(7). A dual-stack socket takes the IPv4 form for IPv4 addresses.
func appendTTL(b []byte, v4 bool, ttl int) []byte {
	level, typ := int32(unix.IPPROTO_IPV6), int32(unix.IPV6_HOPLIMIT)
	if v4 {
		level, typ = unix.IPPROTO_IP, unix.IP_TTL
	}
	return appendMessage(b, level, typ, 4, func(body []byte) {
		binary.NativeEndian.PutUint32(body, uint32(ttl))
	})
}

// appendPacketInfo appends struct in_pktinfo or in6_pktinfo. The former holds
// two addresses: ipi_spec_dst, read by the kernel when sending, and ipi_addr,
// read by us when received.
func appendPacketInfo(b []byte, local netip.Addr, ifIndex uint32, received bool) []byte {
	if local.Is4() {
		return appendMessage(b, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo, func(body []byte) {
			ip := local.As4()
			binary.NativeEndian.PutUint32(body, ifIndex)
			if received {
				copy(body[8:], ip[:])
			} else {
				copy(body[4:], ip[:])
			}
		})
	}
	return appendMessage(b, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo, func(body []byte) {
		ip := local.As16()
		copy(body, ip[:])
		binary.NativeEndian.PutUint32(body[16:], ifIndex)
	})
}

// appendMessage appends one control message of n bytes, filled by fill.
func appendMessage(b []byte, level, typ int32, n int, fill func(body []byte)) []byte {
	start := len(b)
	b = append(b, make([]byte, unix.CmsgSpace(n))...)
	var h unix.Cmsghdr
	h.Level, h.Type = level, typ
	h.SetLen(unix.CmsgLen(n))
	copy(b[start:], unsafe.Slice((*byte)(unsafe.Pointer(&h)), unix.SizeofCmsghdr))
	fill(b[start+unix.CmsgLen(0) : start+unix.CmsgLen(n)])
	return b
}

// enableGRO asks the kernel to hand datagrams of one flow over joined, with
// their size in a control message. Linux ≥ 5.0, udp(7).
func enableGRO(c syscall.RawConn) error {
	var serr error
	if err := c.Control(func(fd uintptr) {
		serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	}); err != nil {
		return err
	}
	if serr != nil {
		return fmt.Errorf("set UDP_GRO: %w", serr)
	}
	return nil
}

// limitUnsent keeps the kernel from buffering megabytes that were not sent
// yet: a TCP carrier should drop early, as a bottleneck router would.
func limitUnsent(conn net.Conn, bytes int) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	// Refused by kernels before 3.12: the queue is longer then.
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, bytes)
	})
}
