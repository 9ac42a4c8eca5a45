// Package app is the whole agent on one page: which part is made from which,
// and in which order they start and stop.
//
// Promise: everything starts within the start hooks or fails loudly, and every
// goroutine has ended when Stop returns.
//
//	config ─► state ─► device, contacts, shares
//	       └► socket ─► stun mux ─► overlay ◄─► joiner ◄─► keeper (rendezvous)
//	                                   └─► services: introduce, share, compute, ping, bench
//	       └► the owner's TURN and STUN servers, if any ─► joiner
//	                    control socket ─┴─ console
//
// Caveats: what constructors have to open (the state folder, the socket) is
// held and closed last, also when a later constructor fails; everything else
// opens and starts in OnStart, in the order of graph, and is undone in reverse.
package app
