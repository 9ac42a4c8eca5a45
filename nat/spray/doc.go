// Package spray finds a direct UDP way between two devices where ICE cannot:
// when the NAT of one or both gives each remote endpoint another port (RFC
// 4787 §4.1: address-dependent, or address- and port-dependent mapping).
//
// It promises that
//
//   - what it returns was confirmed in both directions by packets that only
//     the two devices can make, and both sides return the two ends of the
//     same way, whatever is lost, doubled or reordered in between;
//   - it sends at most [MaxProbes] probes at [MaxRate] a second to one public
//     address that an authenticated peer has named, opens at most
//     [MaxSockets] sockets, whose openers end a few routers away from us, and
//     stops at the first way;
//   - nothing is answered that does not know our password, and no answer is
//     larger than its question;
//   - [Budget] keeps a device from doing so often.
//
// # What the two do
//
// Both already talk to each other over a relay. The asker sends its [Side],
// the other answers with its own and starts; the asker starts when it has the
// answer. [Decide] makes plans that fit together from the two descriptions:
//
//	one NAT           the other                 method
//	easy              hard, random ports        Birthday
//	easy              hard, sequential ports    Window
//	hard, sequential  hard, sequential          Predict
//	hard              hard, one of them random  ErrHopeless: a relay
//	easy              easy                      ErrEasy: ICE
//
//	Birthday: the hard side opens 256 sockets, the easy side tries ports
//
//	easy side                   its NAT       hard NAT        hard side
//	                                          port ◀── opener, TTL 3 ── socket 1
//	                                          port ◀── opener, TTL 3 ── socket 2 …
//	shared socket ── question to a random port ─▶ ✗
//	shared socket ── question to a random port ─▶ port ──────────────▶ socket k
//	     answer in  ◀────────────────────────────────── answer, question ──┘
//	choice: "this one" ──── question with USE-CANDIDATE ─────────────▶ socket k
//
// With uniform ports and 256 sockets 50 % are found after 175 probes, 99 %
// after 1159. A Window is a Birthday in which the ports are known but for a
// shift, and Predict lets both sides open towards each other's next ports.
//
// One side chooses: the easy one, or the asker. It takes the first link on
// which an answer to a question of its own came in, which proves both
// directions, and tells so until it is acknowledged or two seconds have
// passed. The other side takes the link on which it hears the choice.
//
// # Sources
//
//	RFC 8489 §9.1          questions and answers, as in nat/probe   wire.go
//	RFC 8445 §7.1.2, §8    USE-CANDIDATE as the choice              wire.go, receive.go
//	RFC 4787 §4            what mappings depend on                  side.go
//	ip(7), epoll(7)        IP_TTL; one reader for all sockets       sockets.go
//
// # Use
//
//	end, err := budget.Begin(peer)              // both sides, each its own
//	side, err := spray.Sample(ctx, open, servers, side) // if side.Hard()
//	plan, err := spray.Decide(side, theirs, asking)
//	endpoint, err := mux.Register(ours.Ufrag, func(b []byte, from netip.AddrPort) {
//		<-ready // closed once run is set
//		run.Handle(b, from)
//	}) // if plan.Sprays
//	run, err := spray.New(spray.Config{Plan: plan, Shared: endpoint, …})
//	hit, err := run.Find(ctx)
//	end(err == nil)
//	// Close run and endpoint after spray.Linger.
//
// # Data flow
//
//	Sample ─▶ Side ─▶ (peer's Side) ─▶ Decide ─▶ Plan ─▶ New ─▶ Find ─▶ Hit
//
//	ports.go ─▶ schedule.go ─▶ wire.ask ─▶ shared socket | sockets.go
//	sockets.go | stun.Mux ─▶ Run.receive ─▶ wire.read ─▶ receive.go ─▶ Hit
//
// # Caveats
//
//   - IPv4 only. NATs with IPv6 of these kinds are not in use.
//   - Openers must end before the other side's router. A router that does
//     not filter would take one that arrives for a flow of its own and move
//     the other side's probe to another port. TTL 3 and 4 pass two and three
//     NATs of ours; peers in the same small network could be nearer.
//   - A NAT that changes its public address between flows cannot be met.
//   - The kernel's limit of open files may leave fewer than 256 sockets.
//   - Keep the Run of the side that chooses open for [Linger] after Find.
//   - The user name comes first in our questions, and only such are read.
package spray
