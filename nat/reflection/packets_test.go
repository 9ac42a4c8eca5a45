package reflection

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pion/stun/v2"
	"github.com/quic-go/quic-go"

	"porchlight/nat"
	"porchlight/nat/probe"
	"porchlight/nat/relay"
)

// row is one thing a stranger may send.
type row struct {
	name    string
	to      netip.AddrPort
	packets [][]byte
	// answered: something must come back. Without such rows, a measurement
	// that hears nothing would pass.
	answered bool
}

// build makes a STUN message.
func build(set ...stun.Setter) []byte {
	m, err := stun.Build(append([]stun.Setter{stun.TransactionID}, set...)...)
	if err != nil {
		panic(err)
	}
	return bytes.Clone(m.Raw)
}

func raw(typ stun.AttrType, value ...byte) stun.Setter {
	return stun.RawAttribute{Type: typ, Value: value}
}

// pad adds an attribute of n bytes in all.
func pad(n int) stun.Setter {
	return stun.RawAttribute{Type: stun.AttrOrigin, Value: make([]byte, n-4)}
}

func request(m stun.Method) stun.Setter { return stun.NewType(m, stun.ClassRequest) }

// change asks for an answer from elsewhere (RFC 5780 §7.2).
func change(flags byte) stun.Setter { return raw(stun.AttrChangeRequest, 0, 0, 0, flags) }

const (
	changeIP   = 4
	changePort = 2
)

func (d *device) stunRows() []row {
	to, alt := d.port(), addrOf(d.alt.LocalAddr())
	binding, key := request(stun.MethodBinding), stun.NewShortTermIntegrity(strings.Repeat("x", 26))
	ufrag := d.agent.Local().Ufrag
	question, _, err := probe.Ask(probe.Credentials{Ufrag: ufrag, Pwd: "wrong"}, "stranger")
	if err != nil {
		panic(err)
	}
	one := func(name string, b []byte) row { return row{name: "STUN " + name, to: to, packets: [][]byte{b}} }
	heard := func(r row) row { r.answered = true; return r }
	rows := []row{
		one("Binding, 20 bytes", build(binding)),
		one("Binding with FINGERPRINT", build(binding, stun.Fingerprint)),
		heard(one("Binding, padded", build(binding, pad(100)))),
		heard(one("Binding, padded to 1200", build(binding, pad(1180)))),
		one("Binding, CHANGE-REQUEST port", build(binding, change(changePort))),
		one("Binding, CHANGE-REQUEST address", build(binding, change(changeIP))),
		heard(one("Binding, CHANGE-REQUEST port, padded", build(binding, change(changePort), pad(100)))),
		one("Binding, CHANGE-REQUEST both, padded", build(binding, change(changePort|changeIP), pad(100))),
		one("Binding, RESPONSE-PORT, padded", build(binding, raw(stun.AttrResponsePort, 0, 53, 0, 0), pad(100))),
		one("Binding, PADDING of 1000", build(binding, raw(stun.AttrPadding, make([]byte, 1000)...))),
		one("Binding, unknown attribute", build(binding, raw(0x7FFF, 1, 2, 3, 4), pad(100))),
		one("Binding indication", build(stun.NewType(stun.MethodBinding, stun.ClassIndication), pad(100))),
		one("Binding success", build(stun.BindingSuccess, pad(100))),
		one("Binding error", build(stun.BindingError, raw(stun.AttrErrorCode, 0, 0, 4, 0), pad(100))),
		one("Allocate on the shared port", build(request(stun.MethodAllocate), pad(200))),
		one("check, unknown ufrag", build(binding, stun.NewUsername("nobody:stranger"), key, stun.Fingerprint)),
		one("check, known ufrag, no integrity", build(binding, stun.NewUsername(ufrag+":stranger"), pad(100))),
		one("check, known ufrag, wrong key", build(binding, stun.NewUsername(ufrag+":stranger"), key, stun.Fingerprint)),
		one("probe, known ufrag, wrong key", question),
	}
	atAlt := one("Binding at the second port, padded", build(binding, pad(100)))
	atAlt.to, atAlt.answered = alt, true
	return append(append(rows, atAlt), malformed(to)...)
}

// malformed are messages that the gate refuses, each in its own way.
func malformed(to netip.AddrPort) []row {
	good := build(request(stun.MethodBinding), pad(100))
	edit := func(name string, f func(b []byte) []byte) row {
		return row{name: "STUN malformed: " + name, to: to, packets: [][]byte{f(bytes.Clone(good))}}
	}
	return []row{
		edit("no cookie", func(b []byte) []byte { b[4] ^= 1; return b }),
		edit("length one word short", func(b []byte) []byte { binary.BigEndian.PutUint16(b[2:], uint16(len(b)-24)); return b }),
		edit("length one word long", func(b []byte) []byte { binary.BigEndian.PutUint16(b[2:], uint16(len(b)-16)); return b }),
		edit("length 65532", func(b []byte) []byte { binary.BigEndian.PutUint16(b[2:], 65532); return b }),
		edit("cut after 19 bytes", func(b []byte) []byte { return b[:19] }),
		edit("attribute over the end", func(b []byte) []byte { binary.BigEndian.PutUint16(b[22:], 2000); return b }),
		edit("wrong FINGERPRINT", func([]byte) []byte {
			return build(request(stun.MethodBinding), pad(100), raw(stun.AttrFingerprint, 1, 2, 3, 4))
		}),
		edit("empty XOR-MAPPED-ADDRESS", func([]byte) []byte {
			return build(stun.BindingSuccess, raw(stun.AttrXORMappedAddress))
		}),
		edit("25 attributes", func([]byte) []byte {
			return build(append([]stun.Setter{request(stun.MethodBinding)}, slices.Repeat([]stun.Setter{pad(8)}, 25)...)...)
		}),
	}
}

func (d *device) turnRows() []row {
	ticket := d.relay.Ticket(relay.Grant{Client: "friend"})
	udp := raw(stun.AttrRequestedTransport, 17, 0, 0, 0)
	peer := raw(stun.AttrXORPeerAddress, 0, 1, 0x21, 0x12, 0x0D, 0x92, 0xA4, 0x43)
	number := raw(stun.AttrChannelNumber, 0x40, 0, 0, 0)
	signed := func(m stun.Method, username string, set ...stun.Setter) []byte {
		all := append([]stun.Setter{request(m)}, set...)
		return build(append(all, stun.NewUsername(username), stun.NewRealm(ticket.Realm), stun.NewNonce(ticket.Nonces[0]),
			stun.NewLongTermIntegrity(username, ticket.Realm, "wrong"), stun.Fingerprint)...)
	}
	stale := build(request(stun.MethodAllocate), udp, stun.NewUsername(ticket.Username), stun.NewRealm(ticket.Realm),
		stun.NewNonce(strings.Repeat("0", 80)), stun.NewShortTermIntegrity("wrong"))
	one := func(name string, b []byte) row { return row{name: "TURN " + name, to: d.turn, packets: [][]byte{b}} }
	heard := func(r row) row { r.answered = true; return r }
	indication := func(m stun.Method) stun.Setter { return stun.NewType(m, stun.ClassIndication) }
	return []row{
		one("Allocate, bare", build(request(stun.MethodAllocate), udp)),
		heard(one("Allocate, padded", build(request(stun.MethodAllocate), udp, pad(150)))),
		one("Allocate, IPv6", build(request(stun.MethodAllocate), udp, raw(stun.AttrRequestedAddressFamily, 2, 0, 0, 0))),
		heard(one("Allocate, ticket, wrong password", signed(stun.MethodAllocate, ticket.Username, udp))),
		heard(one("Allocate, no ticket", signed(stun.MethodAllocate, "stranger", udp))),
		heard(one("Allocate, stale nonce", stale)),
		one("Refresh, bare", build(request(stun.MethodRefresh))),
		one("Refresh, wrong password", signed(stun.MethodRefresh, ticket.Username)),
		one("CreatePermission, bare", build(request(stun.MethodCreatePermission), peer)),
		one("CreatePermission, wrong password", signed(stun.MethodCreatePermission, ticket.Username, peer)),
		one("ChannelBind, bare", build(request(stun.MethodChannelBind), number, peer)),
		one("ChannelBind, wrong password", signed(stun.MethodChannelBind, ticket.Username, number, peer)),
		one("Connect (RFC 6062)", build(request(stun.MethodConnect), peer, pad(100))),
		one("Send", build(indication(stun.MethodSend), peer, raw(stun.AttrData, make([]byte, 500)...))),
		one("Data", build(indication(stun.MethodData), peer, raw(stun.AttrData, make([]byte, 500)...))),
		one("Binding, 20 bytes", build(request(stun.MethodBinding))),
		heard(one("Binding, padded", build(request(stun.MethodBinding), pad(100)))),
		one("ChannelData", append([]byte{0x40, 0, 1, 0}, make([]byte, 256)...)),
		one("ChannelData, wrong length", []byte{0x40, 0, 1, 0}),
		one("DTLS hello", append([]byte{22, 254, 253}, make([]byte, 200)...)),
		one("QUIC Initial", append([]byte{0xC0, 0, 0, 0, 1, 8}, make([]byte, 1194)...)),
		one("empty datagram", nil),
	}
}

// long makes the beginning of a long header packet (RFC 8999 §5.1), of random
// bytes to a size.
func long(first byte, version uint32, size int) []byte {
	b := random(size)
	b[0] = first
	binary.BigEndian.PutUint32(b[1:], version)
	b[5], b[14] = 8, 8 // lengths of the connection IDs
	rest := b[23:]
	if first&0xF0 == 0xC0 { // an Initial has a token, here of length 0
		rest[0], rest = 0, rest[1:]
	}
	binary.BigEndian.PutUint16(rest, 0x4000|uint16(len(rest)-2))
	return b
}

func short(size int) []byte {
	b := random(size)
	b[0] = b[0]&0x3F | 0x40
	return b
}

func random(size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

func (d *device) quicRows(t *testing.T) []row {
	flight := firstFlight(t)
	initial := flight[0]
	edit := func(f func(b []byte)) []byte { b := bytes.Clone(initial); f(b); return b }
	version := func(v uint32) []byte { return edit(func(b []byte) { binary.BigEndian.PutUint32(b[1:], v) }) }
	one := func(name string, b []byte) row { return row{name: "QUIC " + name, to: d.port(), packets: [][]byte{b}} }
	heard := func(r row) row { r.answered = true; return r }
	rows := []row{
		heard(one("Initial of 1200 bytes", initial)),
		heard(row{name: fmt.Sprintf("QUIC first flight, %d packets", len(flight)), to: d.port(), packets: flight}),
		one("Initial cut to 1199 bytes", initial[:1199]),
		one("Initial cut to 100 bytes", initial[:100]),
		one("Initial, altered", edit(func(b []byte) { b[len(b)-1] ^= 1 })),
		one("Initial, empty connection ID", edit(func(b []byte) { b[5] = 0 })),
		heard(one("Initial, random after the header", long(0xC0, 1, 1200))),
		heard(one("unknown version, 1200 bytes", version(0xDEADBEEF))),
		one("unknown version, 1199 bytes", version(0xDEADBEEF)[:1199]),
		heard(one("version 2, 1200 bytes", version(0x6B3343CF))),
		heard(one("reserved version 0x1a2a3a4a", version(0x1A2A3A4A))),
		one("Version Negotiation", version(0)),
		one("0-RTT", long(0xD0, 1, 1200)),
		one("Handshake", long(0xE0, 1, 1200)),
		one("Retry", long(0xF0, 1, 1200)),
		one("Initial with another's Retry token", d.stolenToken(t)),
	}
	for _, n := range []int{1, 8, 9, 21, 41, 42, 43, 100, 1200, 1400} {
		r := one(fmt.Sprintf("short header, %d bytes", n), short(n))
		r.answered = n > 42 // a stateless reset
		rows = append(rows, r)
	}
	return rows
}

// otherRows look like other protocols, or like none.
func (d *device) otherRows() []row {
	rows := []row{
		{name: "DNS query ANY", packets: [][]byte{append([]byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, "\x07example\x03org\x00\x00\xFF\x00\x01"...)}},
		{name: "DNS query with id 0x4040", packets: [][]byte{append([]byte{0x40, 0x40, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, "\x07example\x03org\x00\x00\xFF\x00\x01"...)}},
		{name: "DHCP discover", packets: [][]byte{append([]byte{1, 1, 6, 0}, make([]byte, 296)...)}},
		{name: "DHT ping", packets: [][]byte{[]byte("d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe")}},
		{name: "SSDP search", packets: [][]byte{[]byte("M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: ssdp:all\r\n\r\n")}},
		{name: "NTP monlist", packets: [][]byte{append([]byte{0x17, 0, 3, 0x2A}, make([]byte, 4)...)}},
		{name: "memcached stats", packets: [][]byte{append([]byte{0, 0, 0, 0, 0, 1, 0, 0}, "stats\r\n"...)}},
		{name: "NAT-PMP", packets: [][]byte{{0, 0}}},
		{name: "empty datagram", packets: [][]byte{{}}},
	}
	for _, first := range []byte{0, 3, 4, 22, 63, 64, 127, 128, 191, 192, 255} {
		for _, size := range []int{1, 60, 1200} {
			b := random(size)
			b[0] = first
			rows = append(rows, row{name: fmt.Sprintf("random, first byte %d, %d bytes", first, size), packets: [][]byte{b}})
		}
	}
	for i := range rows {
		rows[i].to = d.port()
	}
	return rows
}

// client is a QUIC client that talks to a socket of ours in place of a server.
func client(t *testing.T) (server *net.UDPConn, hangUp func()) {
	t.Helper()
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: loopback.AsSlice()})
	if err != nil {
		t.Fatal(err)
	}
	own, err := net.ListenUDP("udp4", &net.UDPAddr{IP: loopback.AsSlice()})
	if err != nil {
		t.Fatal(err)
	}
	server.SetDeadline(time.Now().Add(patience))
	tr, ended := &quic.Transport{Conn: own}, make(chan struct{})
	go func() {
		defer close(ended)
		tr.Dial(t.Context(), server.LocalAddr(), tlsConfig(), quicConfig())
	}()
	return server, func() { tr.Close(); own.Close(); server.Close(); <-ended }
}

// firstFlight is what a client sends before it has heard anything: a hello
// with a post-quantum key needs two packets.
func firstFlight(t *testing.T) [][]byte {
	server, hangUp := client(t)
	defer hangUp()
	var flight [][]byte
	b := make([]byte, 2000)
	for len(flight) < 2 {
		n, err := server.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		flight = append(flight, bytes.Clone(b[:n]))
	}
	if len(flight[0]) != nat.PacketSize {
		t.Fatalf("the first packet has %d bytes", len(flight[0]))
	}
	return flight
}

// stolenToken is an Initial with a Retry token that the device gave to another
// address.
func (d *device) stolenToken(t *testing.T) []byte {
	server, hangUp := client(t)
	defer hangUp()
	owner := source(t, 999)
	owner.SetDeadline(time.Now().Add(patience))
	b := make([]byte, 2000)
	n, from, err := server.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatal(err)
	}
	first := bytes.Clone(b[:n])
	if _, err := owner.WriteToUDPAddrPort(first, d.port()); err != nil {
		t.Fatal(err)
	}
	if n, err = owner.Read(b); err != nil || n >= 1200 {
		t.Fatalf("no Retry but %d bytes, %v", n, err)
	}
	if _, err := server.WriteToUDPAddrPort(b[:n], from); err != nil {
		t.Fatal(err)
	}
	for { // the rest of the first flight, then the Initial with the token
		n, err := server.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		if b[0]&0xF0 == 0xC0 && !bytes.Equal(b[6:14], first[6:14]) {
			return bytes.Clone(b[:n])
		}
	}
}
