// Package dht is a node of the mainline DHT, the directory in which devices
// publish where they are and find each other without DNS and without a server.
//
// It promises that
//
//   - nothing is believed that a stranger says without proof: an item counts
//     with the signature of its key and a seq at or above the caller's floor, an
//     answer with the transaction and from the address that was asked;
//   - an operation ends: after [LookupTime] (reading) or that and [WriteTime]
//     (writing), and after [MaxQueried] queries in each family, whatever lists
//     it is given;
//   - nobody is shot at through us: lists that name one public address cost it
//     [MaxPerAddress] packets a look-up, none if it was silent before, and
//     answers to addresses without proof are bounded in bytes (below);
//   - everything kept, known or waiting is bounded, see limits.go;
//   - it works with one serving node and nothing else, in private networks, and
//     with a clock that stands at 1970;
//   - no name is ever resolved, and a node that only asks sends less than a
//     packet a minute when nobody asks it to do anything.
//
// # Sources
//
//	BEP 5   messages, tokens, peers       message.go, serve.go, token.go
//	BEP 32  nodes6 and want               one table for each family: table.go
//	BEP 42  ids that go with addresses    id.go, upkeep.go
//	BEP 43  read-only nodes               ReadOnly
//	BEP 44  items                         item.go, store.go, operations.go
//
// # Data flow
//
//	Get, Put, Announce, Peers ─▶ Lookup ─▶ the nearest nodes, α at a time ─┐
//	Add, Bootstrap, Moved ─────▶ upkeep ─▶ find_node, ping ────────────────┤
//	                                                         bucket (Rate) │
//	          ┌────────────────────────── Core ───────────────────────────┐▼
//	Receive ─▶│ parse ─▶ answer? transaction and address ─▶ Lookup, table │─▶ Send
//	Tick ────▶│      └─▶ query? ─▶ store, peers, nearest nodes ─▶ limiter │
//	Next ◀────│                                                           │
//	          └───────────────────────────────────────────────────────────┘
//	Node = Core + UDP socket + clock + crypto/rand, behind one lock
//
// The core has no clock, socket or goroutine of its own: many of them run in
// one simulation, and the same seed gives the same packets.
//
// # Answers to those who have proved nothing
//
// KRPC has no proof of address before the first answer, and a list of eight
// nodes is larger than the question: measured, an answer has 1.1 bytes for each
// byte of a ping, 3.0 of find_node, 5.9 of get_peers and 13.6 of a get whose
// item has the full 1000 bytes. So answers are paid from three accounts: 4 KiB
// a second for an address (an IPv6 /64 has as many as it likes; the next
// account bounds it), 8 KiB for a /24 or /56, 64 KiB for all, each with four
// seconds' worth at once. Queries beyond are dropped and counted. A node that
// asks us is pinged before it enters the table, at most one a second. Writing
// needs a token, which proves the address; 16 signatures a second are checked.
//
// # Caveats
//
//   - Nodes can hide an item. Those with ids made up next to it are many in a
//     private network, where BEP 42 says nothing; a reader goes on to twice K
//     nodes before it gives up, no farther.
//   - A conflict without proof (ConflictError.Seq is -1) is the word of one
//     node. Look at the number stored.
//   - The wrong ids of BEP 42 are used in searches and written to only where
//     there are not enough right ones, as others do.
//   - An id changes when the address does, at most once in ten minutes by what
//     strangers say.
//   - Full stores: items drop the farthest from our id, announces the oldest;
//     an address or network beyond its share is refused.
//   - Peers are hearsay. Nodes on the internet can't name addresses of a LAN, but
//     they can name anybody else.
//   - The only serving node of a network has nobody who tells it its address: its
//     own announces reach its own list after SetExternal only.
//   - Enough, ReadOnly and Bootstrap run while the node is locked.
package dht
