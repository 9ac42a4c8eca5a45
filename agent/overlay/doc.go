// Package overlay is the encrypted connection between two devices and what
// crosses it: byte streams named by a service, datagrams beside such a stream,
// and HTTP over them.
//
// Promise: whoever answers has proved, by mutual TLS 1.3 inside QUIC v1, to
// hold the key that was dialled; everything else is refused. Services see
// ordinary net.Conn, net.Listener, http.Handler and http.Client.
//
//	Client("share").Get("http://ADDRESS/…")       Serve("share", handler)
//	        │                                              ▲
//	     Dial(ctx, address, service)                    Listen(service)
//	        │  stream: [length][service name] …  ──►       │   first byte of the answer: 0 or a refusal
//	     session (one preferred per device)  ◄── Finder finds a path, nat.Socket carries the packets
//
//	Conn.Packets()                                Conn.Packets()
//	 Write │ ▲ Read        up to 1,150 bytes       Read ▲ │ Write
//	   Queue Queue  ◄── datagrams [id of the stream][packet] ──►  Queue Queue
//	      └────────  ◄── stream: [length][packet], the larger ones ──►
//
// Packets keep their borders and never wait: a queue of 64 of them, 64 KiB, on
// each side drops the oldest when the path, or who reads, is slower, and counts
// them. Sources: RFC 9000, RFC 9221, RFC 9297 §2.1 for the ids.
//
// Caveats: two devices that dial each other at the same instant have two
// sessions for a while; both work, new streams use the newer, the other is
// closed when it has been without streams for a minute. A session that nobody
// has used for two minutes is closed; who wants the device then calls it anew. A blocked device is
// refused in the handshake's last step, after it has proved its key.
package overlay
