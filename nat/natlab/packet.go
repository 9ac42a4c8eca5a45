package natlab

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// describe names an IP packet in a few words for the sequence diagram, from its
// first bytes (as kept by the capture): ports and what it carries.
func describe(packet []byte) string {
	switch {
	case len(packet) >= 20 && packet[0]>>4 == 4:
		return describeIPv4(packet)
	case len(packet) >= ipv6HeaderLen && packet[0]>>4 == 6:
		return describePayload(packet[6], packet[ipv6HeaderLen:])
	}
	return "not IP"
}

// describeIPv4 reads RFC 791 §3.1.
func describeIPv4(packet []byte) string {
	header := int(packet[0]&15) * 4
	if header < 20 || header > len(packet) {
		return "damaged IPv4"
	}
	if binary.BigEndian.Uint16(packet[6:])&0x1fff != 0 {
		return "later fragment"
	}
	return describePayload(packet[9], packet[header:])
}

// describePayload names what IP carries, by its protocol number. Extension headers
// of IPv6 are named by theirs.
func describePayload(protocol byte, payload []byte) string {
	switch protocol {
	case 1:
		return describeICMP(payload)
	case 6:
		return describeTCP(payload)
	case 17:
		return describeUDP(payload)
	case 58:
		return describeICMPv6(payload)
	}
	return fmt.Sprintf("IP protocol %d", protocol)
}

// describeICMP reads RFC 792.
func describeICMP(p []byte) string {
	if len(p) < 2 {
		return "ICMP"
	}
	switch {
	case p[0] == 3 && p[1] == 3:
		return "ICMP port unreachable"
	case p[0] == 3:
		return "ICMP unreachable"
	case p[0] == 8:
		return "ICMP echo"
	case p[0] == 0:
		return "ICMP echo reply"
	case p[0] == 11:
		return "ICMP time exceeded"
	}
	return fmt.Sprintf("ICMP type %d", p[0])
}

// describeICMPv6 reads RFC 4443.
func describeICMPv6(p []byte) string {
	if len(p) < 2 {
		return "ICMPv6"
	}
	switch {
	case p[0] == 1 && p[1] == 4:
		return "ICMPv6 port unreachable"
	case p[0] == 1:
		return "ICMPv6 unreachable"
	case p[0] == 2:
		return "ICMPv6 packet too big"
	case p[0] == 3:
		return "ICMPv6 time exceeded"
	case p[0] == 128:
		return "ICMPv6 echo"
	case p[0] == 129:
		return "ICMPv6 echo reply"
	}
	return fmt.Sprintf("ICMPv6 type %d", p[0])
}

// describeTCP reads the ports and flags of RFC 9293 §3.1.
func describeTCP(p []byte) string {
	if len(p) < 20 {
		return "TCP"
	}
	const fin, syn, rst, ack = 1, 2, 4, 16
	what := "segment"
	switch flags := p[13]; {
	case flags&syn != 0 && flags&ack != 0:
		what = "SYN ACK"
	case flags&syn != 0:
		what = "SYN"
	case flags&rst != 0:
		what = "RST"
	case flags&fin != 0:
		what = "FIN"
	}
	return fmt.Sprintf("TCP %s %s", what, ports(p))
}

func describeUDP(p []byte) string {
	if len(p) < 8 {
		return "UDP"
	}
	length := int(binary.BigEndian.Uint16(p[4:])) - 8
	return describeDatagram(p[8:], length) + " " + ports(p)
}

func ports(p []byte) string {
	return fmt.Sprintf("%d→%d", binary.BigEndian.Uint16(p), binary.BigEndian.Uint16(p[2:]))
}

// quicShortest is the least size of a QUIC packet with a short header (RFC 9000
// §10.3: what looks shorter cannot be one).
const quicShortest = 21

// describeDatagram tells what a datagram of length bytes, of which p is the
// beginning, carries.
func describeDatagram(p []byte, length int) string {
	switch {
	case len(p) == 0:
		return "UDP empty"
	case p[0] < 4:
		return describeSTUN(p)
	case p[0]&0xf0 == 0x40 && len(p) >= 4 && channelDataFits(p, length):
		return "TURN channel data"
	case bytes.HasPrefix(p, []byte("d1:")):
		return "DHT message"
	case p[0]&0x80 != 0 && len(p) >= 5:
		return describeQUICLong(p)
	case p[0]&0x40 != 0 && length >= quicShortest:
		return "QUIC 1-RTT"
	}
	return "UDP"
}

// channelDataFits compares the length field of RFC 8656 §12.4 with the datagram,
// as QUIC short headers begin alike.
func channelDataFits(p []byte, length int) bool {
	n := int(binary.BigEndian.Uint16(p[2:])) + 4
	return n == length || (n+3)&^3 == length
}

// describeQUICLong reads the long header of RFC 9000 §17.2.
func describeQUICLong(p []byte) string {
	if binary.BigEndian.Uint32(p[1:]) == 0 {
		return "QUIC version negotiation"
	}
	return "QUIC " + [...]string{"Initial", "0-RTT", "Handshake", "Retry"}[p[0]>>4&3]
}

// stunMethods are those of RFC 8489 §18.2 and RFC 8656 §17.
var stunMethods = map[uint16]string{
	1: "STUN binding", 3: "TURN allocate", 4: "TURN refresh", 6: "TURN send",
	7: "TURN data", 8: "TURN create permission", 9: "TURN channel bind",
}

// describeSTUN reads the header of RFC 8489 §5.
func describeSTUN(p []byte) string {
	if len(p) < 20 || binary.BigEndian.Uint32(p[4:]) != 0x2112a442 {
		return "UDP"
	}
	t := binary.BigEndian.Uint16(p)
	name, ok := stunMethods[t&0xf|t>>1&0x70|t>>2&0xf80]
	if !ok {
		name = "STUN"
	}
	return name + [...]string{" request", " indication", " success", " error"}[t>>4&1|t>>7&2]
}
