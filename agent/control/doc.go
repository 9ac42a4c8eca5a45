// Package control is the daemon's side of the command line: the JSON API on a
// unix socket in the state folder.
//
// Promise: whoever may open the socket is the owner (mode 0600, checked by the
// kernel); answers are those of package api; errors are one sentence with what
// to do next.
//
//	porchlight status ─► STATE/control.sock ─► Server ─► Agent (contacts, overlay, shares, …)
//	porchlight get    ─► GET /api/v1/dial, Upgrade ─► a raw stream to a service of a peer
//
// The routes that the console may use too are those of Routes; dialling is for
// the socket alone.
//
// Caveats: a command that fetches runs in its own process with its user's
// rights, the daemon only carries its streams.
package control
