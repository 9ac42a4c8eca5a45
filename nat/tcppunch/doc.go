// Package tcppunch makes a direct TCP connection between two homes whose
// routers let nothing in, for networks that let no UDP out.
//
// It promises that
//
//   - both ends get the same connection, and only one whose other end has proved
//     that it knows the credentials of this session;
//   - it costs a round trip more than a connection to an open port where both
//     routers keep their mappings, whatever they do with unwanted packets: drop
//     them, refuse them, or take them in;
//   - nobody is bothered: at most MaxSYNs attempts in PunchTime, to at most
//     MaxMapped public addresses, and strangers are told nothing.
//
// # Data flow
//
//	home A                       public devices                       home B
//
//	Prepare ── SYN from port p ──▶ framed TCP entry ◀── SYN from port q ── Prepare
//	        ── Binding request ──▶ stun.Answer
//	        ◀─ "you are P" ──────                   (RFC 8489 in RFC 4571 frames)
//	Local{P} ═══════════ by a relayed session, the caller's part ═══════▶ Local{Q}
//
//	Punch (asking)                                            Punch (answering)
//	                        ✕◀───────── SYN, TTL 4, opens B's router ── q
//	p ── SYN ──────────────────────────────────────────────────────────▶ q
//	p ◀───────────────────────────── SYN, ACK: simultaneous open ─────── q
//	p ── question ─────────────────────────────────────────────────────▶
//	  ◀──────────────────────────────────────────── question, answer ───
//	  ── answer = nomination, then the caller's bytes ─────────────────▶
//
// # Learning
//
// The servers are connected to from one port, one SYN right behind the other.
// Where two agree, the router keeps its mapping (RFC 5382 REQ-1). Where they
// don't, more connections from other ports show whether it counts them; then
// the next ports are foreseen. The connections from the port stay open, and the
// mapping with them.
//
// # Meeting
//
// Simultaneous open (RFC 9293 §3.5, RFC 5382 REQ-2, RFC 6544 §6.1): both ends
// connect from their learnt ports to the other's. A router passes the peer's SYN
// once its own home has sent one, and a socket that has sent a SYN takes another
// for an answer. What can go wrong, and what is done:
//
//   - The first SYN always finds a closed router. One that drops it makes no
//     harm. One that refuses it (OpenWrt) ends the attempt at the sender, and the
//     state in the sender's router with it. One without a filter notes a flow of
//     its own, which then may cost the home behind it its mapping. So the
//     answering end, which begins first, sends its first SYN with a TTL that
//     ends between the routers; the asking end begins when the answer arrives
//     and finds an open router. Later attempts of both have the usual TTL, for
//     paths shorter than thought. (With the usual TTL from the beginning a home
//     behind a router that refuses was reached in 0.31 s instead of 0.08 s.)
//   - Ends that are refused try again after 25–50 ms, ends that hear nothing
//     after 300 ms or one and a half round trips: the kernel's own second SYN
//     comes after 1 s, and a new one before the answer would spoil it.
//   - Both also listen: a SYN that arrives between two attempts is taken, and so
//     is one at a port that the router forwards (Config.External).
//   - Breaking an attempt off after the peer's SYN has come would reset the
//     peer's connection: such attempts get more time.
//   - Behind a router that counts, several connections leave from fresh ports,
//     and the other end opens a window of ports ahead of Last.
//
// # Who it is
//
// Over each connection goes one nat/probe question and answer in each direction.
// Who was connected to is silent until it was asked rightly. The asking end
// gives its answer on one connection only, the first that is proved; that is the
// nomination, and both return that connection.
//
// # Sources
//
// RFC 5382, RFC 6544, RFC 8489, RFC 4571, RFC 9293, nf_conntrack_proto_tcp.c of
// Linux for what routers remember, and the measurements of lab_test.go.
//
// # Caveats
//
//   - Linux only.
//   - Routers that map every connection to a random port are ErrHopeless: ports
//     would have to be guessed at a rate that routers take for an attack.
//   - An asking end may return a connection that broke before its nomination
//     arrived; the other end then returns an error. The caller's handshake sees
//     it.
//   - Two devices behind one router meet only if the router sends packets for
//     its own outer address back inside. Private addresses are not exchanged:
//     devices in one network have UDP between them.
//   - Where all routers of the path together are fewer than the opener's TTL the
//     first SYN arrives after all. Routers that refuse it cost 250 ms then.
//   - On Linux 6.18 as a router, a SYN that was taken in and refused no longer
//     costs a TCP flow its port, as the laboratory shows; that older ones behave
//     like they do with UDP is an assumption.
//   - A framed TCP entry counts connections: each Prepare holds one at each of
//     up to MaxServers until Close, and behind a router that depends on the
//     destination makes up to five more, shortly.
//   - Of Config.Servers the first MaxServers are asked: where both families
//     matter, two of each should go first.
package tcppunch
