// Package ice finds the pair of addresses over which two devices reach each
// other directly (RFC 8445), on one UDP socket that it does not own.
//
// It promises that
//
//   - [Agent.Connect] returns the pair both sides have agreed on, whichever
//     side starts first and however long before the other;
//   - nothing is sent to an address the peer merely names but a thin, bounded
//     number of checks (see [MaxCandidates] and the pacer), and nothing is
//     answered that does not know our password;
//   - no byte of user data passes here: the caller's transport uses the same
//     socket with the address found.
//
// The engine is pion/ice v2, seen by nobody but pion.go. Replacing it means
// replacing that file.
//
// # Data flow
//
//	signalling ── Description ──▶ Connect ─▶ filter (Accept, ≤ 16) ─▶ engine
//
//	socket ─▶ stun.Mux ─▶ Agent.receive ─ password right? ─▶ pipe ─▶ engine
//	                          │ first time: OnRemote
//	socket ◀─ stun.Endpoint ◀─ pacer ◀─ pipe ◀── checks, answers ─── engine
//
// All local addresses belong to one socket, and the kernel chooses the way
// out. So the engine is told one local address per family, and the mapped
// ones are only signalled: a check that comes in by a mapping looks to the
// engine like any other, and the answer leaves by the same socket.
//
// # What pion/ice v2 does and what holds it
//
//   - It gives up on a pair after seven checks and never tries again, so a
//     late peer is never found: the limit is raised to ten minutes of checks.
//   - It nominates a reflexive pair after 0.5–1 s at the earliest: lowered to
//     [acceptanceWait].
//   - It finds nothing at all, without an error, if NetworkTypes is nil:
//     newEngine fails instead.
//   - It opens an mDNS socket per agent: switched off; it lists interfaces and
//     could open sockets: it is given a network that has none.
//   - It takes any remote candidate: Filter.
//   - It pings every pair at every tick: the pacer thins that out.
//   - It writes passwords to its debug log: those levels are dropped.
//   - Its Conn loses what is written before a pair is there, without an
//     error: the Conn never leaves pion.go, and is never written to.
//
// # Caveats
//
//   - One Agent is one attempt. For another attempt make another Agent; the
//     old pair is not touched by it.
//   - Keep an Agent open for a few seconds after Connect has returned. The
//     peer may still be waiting for answers to the checks it needs.
//   - Both sides may say that they control; the tie is broken as RFC 8445
//     §7.3.1.1 says, but it costs a round.
package ice
