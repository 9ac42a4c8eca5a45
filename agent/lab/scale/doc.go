// Package scale lets thousands of devices live in one process, with a network
// and a clock of their own, to see what ten thousand of them cost each other:
// look-ups, traffic, the load of the busiest rendezvous, and what happens when
// 30 % leave at once.
//
// Promise: one seed gives one history and the same report, byte for byte;
// nothing is averaged that the devices do themselves; what is modelled is named
// here.
//
//	Config ─► world: devices, addresses, contacts ─┐
//	     events in order of time, one random source┴─► start, restart, move, vanish
//	         │                                              │
//	         ▼                                              ▼
//	  send ─► delay, loss, NAT ─► dht.Core.Receive   keeper ─► register ─► rendezvous
//	         │                                       directory ─► Seal, Put, Get, Open
//	         ▼                                       presence ─► notes, watches, hints
//	  counts by purpose ─► Report.Write
//
// # What is real
//
//   - Each device runs a dht.Core, and each of its datagrams is made, carried
//     and parsed. Tables, tokens, rates, stores and upkeep are those of the
//     agent.
//   - Records are encoded, sealed and signed; the nodes that store them check
//     the signatures, and whoever looks one up opens, verifies and decodes it.
//     The blinded key that a look-up asks for is computed once for each address
//     and period instead of by everybody.
//   - reach.Fellows remembers the rendezvous.
//
// # What is modelled
//
// The keeper of registrations, the publisher's schedule, presence, watches and
// the rendezvous follow the rules of packages reach, directory, people,
// introduce, join and app with their constants, by the names they have there.
// The rules of these packages have sockets and goroutines around them, so they
// are written down again:
//
//   - A renewal of a registration is no event: what it costs is added up by
//     time (21 datagrams a minute, counted in the laboratory by package reach),
//     and who is affected by a failure learns it at the instant at which its
//     next renewal would have failed. Bytes of sessions and notes are estimates
//     from the sizes of what they carry; those of the DHT are exact.
//   - A note is decided at the instant at which it is sent: by who is there
//     then. Its datagrams are charged to both ends and to the rendezvous.
//   - A session is lost or found, not congested; losses cost QUIC nothing here.
//   - Devices know the time. Public devices know that they are public.
//
// # The network
//
// 8 % of the devices are public: they serve the DHT, introduce and relay. The
// others sit behind NATs that let in only what answers them, each with an
// address of its own, and are read-only nodes. The one-way delay of a pair is
// 10 to 150 ms, always the same; 0.5 % of the datagrams of the DHT are lost. Each
// device has 20 contacts, all the same number, anybody with anybody. A thousand
// devices start in a minute, each with the link of one that is registered, if
// possible of a contact, and the bare addresses of its other contacts; two are
// contacts from when the second of them starts. Nobody
// knows any other node, and the DHT has no nodes but these: an island, where
// all of the load that the mainline DHT would carry falls on the public ones.
// Devices restart every three days, in order, within ten seconds, and get
// another address once a day, each at another time.
//
// # On paper
//
// With C contacts, R = 3 registrations, a share s of public devices:
//
//	packets a private device an hour  = R·21·60 + C·2.67/2·(10+2·4) at most + D
//	D, the DHT for itself             = 1.2·(search + store) + search + 12 pings ≈ 150
//	registrations of a rendezvous     = R/s in the mean: 37.5 with 8 %
//	packets a public device an hour   = (R + R/s)·21·60 + D/s + notes
//	bytes of a registration an hour   = 60·(60/14·(request + answer) + 21 headers)
//
// A search asks about two dozen nodes, and an item is stored at eight. A pair
// of contacts exchanges a note when the first of two leases of 22.5 to 37.5
// minutes ends, at most 2.67 times an hour. Registrations are nearly all of it,
// and neither depends on the number of devices: only the length of a search
// does, by its logarithm. The report prints these beside what was simulated.
//
// # Caveats
//
// Bytes of sessions and the memory of a rendezvous are estimates. While all
// come up the DHT grows a thousandfold in minutes, faster than items move: some
// records lie where nobody looks any more until they are put again, within the
// hour. Look-ups are measured only for devices that have published a record.
package scale
