// Peers lets another ICE library meet itself across the laboratory of
// porchlight/nat/natlab, so that the agent's matrix has something to be compared
// with: between two homes of every kind it runs plain github.com/pion/ice/v2 with
// a stock coturn as STUN and TURN server (UDP and TCP), as an ordinary user of that
// library would.
//
//	peers [-kinds a,b] [-repeat n] [-json]
//
// It needs root and Debian's coturn. It is a module of its own, so that nothing it
// needs enters the agent; what it tells others are lines of JSON, one a pair:
//
//	{"round":1,"a":"public","b":"symmetric","result":"direct","first_s":0.5,"connected_s":0.46,"candidates":"host prflx"}
//
// The clock starts when both processes are told to start, and ends for connected_s
// when the calling one is in the state Connected, gathering included, and for
// first_s when one byte has come back to it. A pair that has not come so far after
// 15 s has failed.
//
//	                        this program, clock and go-between
//	                           │ ▲                      │ ▲
//	     JSON lines on stdin,  │ │ login, candidates,   │ │  on its stdout
//	     login and candidates  │ │ connected, echoed    │ │
//	     of the other side     ▼ │                      ▼ │
//	┌─ home "a-…" ───────────────────┐      ┌─ home "b-…" ───────────────────┐
//	│ peers child: calls, controlling│      │ peers child: controlled, echoes│
//	└────────────┬───────────────────┘      └────────────┬───────────────────┘
//	          router                                  router
//	             └──────────── the laboratory ───────────┘
//	                                 │
//	                      public host "coturn", port 3478
//
// Every pair has two new processes; homes serve for all pairs and rounds, and no
// home is in two pairs at a time. Logins and candidates of the two sides reach each
// other without delay, the controlled side's first, which is better than any real
// signalling.
//
// # Caveats
//
//   - The library keeps the pair of candidates it selected first: what is relayed
//     stays so, and one result per pair tells all.
//   - The controlling side waits 1 s before it takes a peer-reflexive candidate and
//     2 s for a relayed one, so who calls matters: a public caller needs 1.2 s to a
//     translated home, which calls it in 0.13 s.
//   - natlab.OpenInput × natlab.OpenInput is direct only because the first packets
//     of both sides leave within one one-way delay. With candidates of one side
//     100 ms late, which is little for signalling, it is relayed.
//   - The library has no ICE-TCP listener unless its user opens one, and does not
//     ask routers for port mappings. Nobody here does that for it.
//   - It reaches STUN and TURN servers over IPv4 here. Homes without IPv4
//     (natlab.IPv6Only) have no relay, and fail with homes without IPv6.
//   - The delay between the two processes and the go-between counts too.
package main
