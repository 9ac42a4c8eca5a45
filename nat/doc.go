// Package nat gets packets through: between two devices that may both sit
// behind routers which let nothing in.
//
// This package itself is the bottom of it: [Socket], the one UDP socket and
// port of a device, under one quic-go Transport. It promises that
//
//   - a session does not notice when its path changes, in either direction:
//     quic-go sees one constant address for each [Peer], and streams flow on;
//   - a direct path costs less than a plain *net.UDPConn: reads are batched and
//     joined by the kernel (UDP_GRO), writes are joined here and split by it
//     (UDP_SEGMENT), ECN marks are kept (BenchmarkSocketVersusUDPConn and
//     nat/bulkbench print the ratios);
//   - trouble on the way to one peer is a lost packet there, counted in
//     [Stats], and never the end of the Transport.
//
// # The folder
//
//	nat            the socket, peers, paths, packets over TCP
//	nat/stun       how the world sees the socket, and telling others: RFC 8489, 5780
//	nat/portmap    doors that the router opens when asked: PCP, NAT-PMP, UPnP
//	nat/netwatch   that addresses or routes of this machine have changed
//	nat/probe      one authenticated question and answer: does this way carry?
//	nat/ice        finding a direct path between two devices: RFC 8445
//	nat/spray      where ICE cannot: routers that give each destination a port
//	nat/tcppunch   where there is no UDP: both ends connect at the same time
//	nat/relay      carrying packets where nothing is direct: TURN, RFC 8656
//	nat/natlab     an internet with every kind of NAT, for tests
//	nat/bulkbench  what bulk costs, beside iperf3 in the same place
//	nat/reflection what strangers can make a device send, for tests
//
// # Data flow
//
//	  wire            Socket                                        session
//
//	            ┌────────────────────────────────────────────┐
//	datagram ──▶│ recvmmsg + GRO ─▶ cut ─▶ first byte        │
//	            │                          │ 0–3             │
//	            │             HandleSTUN ◀─┤                 │──▶ nat/stun Mux ─▶ nat/ice, nat/probe
//	            │                          │ 64–127, 192–255 │         │
//	            │        source ─▶ Peer ─▶ constant address ─┼─▶ quic-go Transport ─▶ streams
//	            │                          ▲                 │         │
//	 nat/relay ─┼─▶ Peer.Inject ─▶ inbox ──┘ (any other byte │         │
//	 Framed TCP │                          ▲  is dropped)    │         │
//	 Side UDP ──┼─▶ whole batches ─────────┘                 │         │
//	            │                                            │         │
//	datagram ◀──┼─ WriteMsgUDP, GSO and ECN kept ◀─┐         │         │
//	 Side UDP ◀─┼─ WriteSegments, likewise ◀───────┤         │         │
//	 nat/relay ◀┼─ WritePacket, one by one ◀───────┴─ Path of│◀────────┘
//	 Framed TCP │                                     Peer   │
//	datagram ◀──┼─ WriteSTUN ◀───────────────────────────────│◀── nat/stun, nat/ice, nat/probe
//	            └────────────────────────────────────────────┘
//
// What nat/ice finds goes to [Peer.Accept] on both sides, then to
// [Peer.SetPath]; until then, and where nothing direct exists, nat/relay is the
// path: as a carrier, or as the plain UDP address of an allocation.
//
// # Constant addresses
//
// [Socket.NewPeer] makes an address up, in fd5a:c3e1:9b07:e7d4::/64, counted
// from ::1 and never used twice; quic-go dials it as if it were real.
// [Socket.Adopt] keeps the real address that an incoming session was first
// seen from. Without constant addresses a QUIC server would validate each new
// source as a migration, a client could not follow at all, and no server may
// migrate (RFC 9000 §9).
//
// # Packet size
//
// Sessions must be configured with
//
//	quic.Config{InitialPacketSize: nat.PacketSize, DisablePathMTUDiscovery: true}
//
// quic-go raises its packet size when probes arrive, and lowers it only when it
// sees a migration, which constant addresses hide. After a switch from a path
// of 1452 bytes to one of less (a relay, a tunnel, a mobile network) every full
// packet would be lost, without end. 1200 bytes pass everywhere. The price,
// printed by the benchmark as "fixed" beside "probing", is about an eighth of
// the speed of a CPU-bound transfer, and still faster than a plain socket that
// probes. Packets a carrier cannot take are dropped and counted; [Framed] takes
// up to [MaxPacket].
//
// # Many packets at once
//
// What a datagram costs on its way through the kernel, through a router's too,
// hardly depends on its size. quic-go hands over 20 KiB of packets at most; of
// such full writes up to three are held back and sent as one, since the next
// one follows within microseconds. When it does not, because congestion control
// came to a halt at this very place, what is held leaves after 1–2 ms, and is
// held ever more rarely. Anything but a full write is sent at once, so slower
// transfers (less than some 80 Mbit/s) and single messages never wait.
//
// # Side sockets
//
// Of many sockets that were opened to find a way through a NAT which gives each
// destination another port, one gets through. It becomes a [Side], the path of
// a peer by [Peer.UseSide]. It has a goroutine of its own that reads batches as
// the socket does and hands each over whole: no packet is copied for that, and
// the socket's reader is woken once for a batch.
//
// # Packets over TCP
//
// Where UDP is blocked, [Framed] carries packets over a TCP connection, each
// behind its length (RFC 4571). The dialling side gives it to [Peer.UseFramed],
// the accepting one calls [Socket.AcceptFramed]. What TCP takes too slowly is
// dropped early, so that QUIC slows down instead of filling buffers.
//
// # Sources
//
// RFC 9443 (first bytes), RFC 9000 §9 and §14, RFC 4571, RFC 3168, udp(7) for
// UDP_GRO and UDP_SEGMENT, and quic-go v0.65 sys_conn_oob.go, which reads
// through ReadBatch where the Conn has it.
//
// # Caveats
//
//   - Linux only.
//   - Both ends should Accept a new address before either end sends over it. A
//     server that sees a session's packets from an unbound source migrates: the
//     session lives on, but its RemoteAddr is then that source, past the Peer.
//   - A Peer's adopted address belongs to it until Close, even when the peer
//     has moved away: another device that gets the same address and port from
//     its router meanwhile cannot be answered.
//   - TURN on this socket is impossible (its channel numbers look like QUIC),
//     and so is the DHT (its packets begin with 'd'); both have their own.
//   - Under qemu-user on big-endian machines the kernel refuses UDP_SEGMENT:
//     set QUIC_GO_DISABLE_GSO=true there. Little-endian ones do as they should.
package nat
