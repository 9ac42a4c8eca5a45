// Package pcp asks a router for ports by PCP and by its forerunner NAT-PMP.
//
// It promises that
//
//   - a request leaves at once and is repeated after 250 ms, doubling; one
//     round trip on the LAN is enough;
//   - only the router that was asked is listened to (the socket is connected),
//     and a PCP answer is believed only with the nonce, protocol and port of
//     the request;
//   - whatever does not parse is dropped and counted, and ends as
//     [ErrNonsense] if nothing better came before the time was up;
//   - every call ends with its context, and no call outlives [MaxWait].
//
// # Sources
//
//	RFC 6887 §7, §11, §12, §14  header, MAP, ANNOUNCE      message.go
//	RFC 6887 §8.5               epoch                      epoch.go
//	RFC 6886 §3                 NAT-PMP, its own epoch     natpmp.go, epoch.go
//
// # Data flow
//
//	Map, Announce ─┐                   connected UDP       ┌─▶ ParseResponse ─▶ nonce? ─▶ answer
//	               ├─▶ exchange ─▶ router:5351 ─▶ exchange ─┤
//	MapPort, … ────┘  (repeats)                            └─▶ ParseNATPMP ─▶ opcode? ─▶ answer
//	router:5351 ─▶ 224.0.0.1:5350 ─▶ Listen: "look again" (never believed by itself)
//
// # Caveats
//
//   - NAT-PMP is our own code: github.com/jackpal/go-nat-pmp v1.1.0 has no
//     context, tells result codes only as text, takes the first datagram of
//     any content for the answer, and hides the epoch rule. What remains of it
//     is 12 bytes.
//   - NAT-PMP has no nonce: whoever can forge the router's address on the LAN
//     can forge its answers.
//   - Of PCP only MAP and ANNOUNCE are spoken, without options. Options in
//     answers are checked for length and skipped.
//   - Announcements for IPv6 (ff02::1) are not listened to; a router restarts
//     for both families at once.
package pcp
