// Package join finds ways to devices and betters them while they are in use.
//
// Promise: the first way that works carries the first bytes; a direct one is
// looked for at once and for as long as the session lives, and takes over
// beneath running streams; where none can exist the reason is told.
//
//	Find ─┬─► hints: STUN answers at an at= address? ── direct (UDP, else TCP)
//	      └─► offer by rendezvous ─┬─► ICE (nat/ice) ── direct
//	                               ├─► TCP to who accepts it ── direct
//	                               └─► probe through a relayed address ── relay
//	Answer ── the same for who is called         │
//	      ┌──────────────────────────────────────┘
//	      └─► second exchange over the session ─┬─► nat/spray ── direct
//	                                            └─► nat/tcppunch ── direct
//	              way.use(path): better than before? ─► nat.Peer.SetPath
//
// The second exchange follows where a router chooses a port for each
// destination, or where there is no UDP: by then both sides know what stands in
// the way, measure their routers anew, and begin at the same time.
//
// One way (type way) exists for each device with a session or an attempt; it
// ends with the last of them. Whoever called betters it: after 2, 10 and 60 s
// and then each minute while it is relayed (every ten where nothing direct can
// exist) and used, and at once when it falls silent.
// Half a second of silence makes a device look whether its own address outside
// is another; both sides forget a path that has brought nothing for 2 s while
// packets were sent, so that a relayed one may take its place.
//
// Beside places at rendezvous there is one at the owner's TURN server
// (stock.go); homes of different IP versions meet by families.go.
//
// Caveats: a device that answers at a hinted address may be another; the
// session's handshake finds out, and the hint is not used again for a while.
// After a silence the session itself goes on with its next retransmission,
// which by then may be seconds away (RFC 9002 §6.2). A path over TCP is not
// exchanged for UDP while it works.
package join
