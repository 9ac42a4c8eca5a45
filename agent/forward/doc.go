// Package forward carries TCP connections and UDP datagrams to services that a
// device exposes, and lets them be used from a port of another device.
//
// Promise: nothing is exposed until the owner names it, with an IP address and
// a port; who may use it is asked for every connection and flow, and asked
// again twice a second while it lasts. Who may not is told the same as who asks
// for what does not exist. Each direction of a connection ends by itself, as
// TCP has it, and what is cut short never looks complete.
//
//	program ─ TCP ─▶ Forwarder.Listen ┐                       ┌ Server.Handle ─ TCP ─▶ 127.0.0.1:22
//	program ─ UDP ─▶  one flow for    ├ service "forward" ────┤   Table: name → target, who
//	                  each source     │  over the overlay     │   one socket for each flow ─ UDP ─▶
//	ssh ─ pipe ─ control socket ─ Ask ┘                       └
//
// # Wire
//
// A stream of the service begins with a question and its answer:
//
//	0      version, 1
//	1      what: 1 TCP, 2 UDP; with 0x80 set it is only asked whether it is offered
//	2      length n of the name, 1 to 32
//	3      name: a port in decimal, or a word of a–z, 0–9 and "-"
//
//	0      answer: 0 yes, 1 not offered to you, 2 nothing listens at the target,
//	       3 the target does not answer, 4 too many at once
//
// After a yes the stream is the connection, or carries the packets of one UDP
// flow as overlay.Packets describes.
//
// # Flows
//
// UDP has no connections: a flow is what one local address and port sends and
// gets. It ends after two minutes without a packet in either direction (RFC
// 4787 REQ-5), or to make room when its device has 64 of them and this one has
// been quiet the longest, for 5 s at least. When the session is lost the flow
// is opened again, and again, and keeps the newest packets meanwhile.
//
// # Caveats
//
//   - A port that Listen opens can be used by every program on its machine, web
//     pages in a browser there included, as with any port forwarding.
//   - A target sees connections from this device, not from who is behind them:
//     what it lets in by address, it lets in for all whom the owner granted it.
//   - Protocols that name addresses inside (FTP, SIP without its own NAT
//     traversal) need each of those ports exposed too.
//   - Packets of more than overlay.MaxPacket bytes are dropped and counted.
package forward
