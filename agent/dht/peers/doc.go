// Package peers tests porchlight/agent/dht against another implementation in
// Go, github.com/anacrolix/dht/v2, in both directions: its server keeps and
// returns our items, and its client reads and writes those kept by us.
//
//	our Node ── put, get, announce, get_peers ──▶ its Server
//	our Node ◀── put, get, get_peers, ping ────── its Server, exts/getput
//
// It is a module of its own, so that nothing it needs enters the agent:
//
//	go test -C agent/dht/peers ./...
//
// # Caveats
//
//   - Everything happens on loopback, where its security extension is off.
//   - Its client takes the bare word of a node for the end of a search; what it
//     does with hostile nodes is not tested here.
package peers
