// Package overlay is the encrypted connection between two devices and what
// crosses it: byte streams named by a service, and HTTP over such streams.
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
// Caveats: two devices that dial each other at the same instant have two
// sessions for a while; both work, new streams use the newer, the other is
// closed when it has been without streams for a minute. A blocked device is
// refused in the handshake's last step, after it has proved its key.
package overlay
