// Package stun finds out how the world sees one UDP socket, and tells others
// how we see theirs.
//
// It promises that
//
//   - no datagram reaches a decoder before [Check] has seen that every
//     attribute stays inside it;
//   - an answer is believed only with a transaction id of ours, drawn from
//     crypto/rand, and from the address that was asked;
//   - an answer of ours is never larger than the request, and each network
//     (/24, /56) gets a bounded number of them a second;
//   - whatever is malformed, unknown or unasked for is dropped in silence and
//     counted.
//
// # Sources
//
//	RFC 8489  messages, retransmission, FINGERPRINT      gate.go, client.go
//	RFC 5780  mapping and filtering tests, the server    behaviour.go, server.go
//	          lifetime §4.6, hairpin §4.5                lifetime.go, hairpin.go
//	RFC 8445  whose connectivity check a message is      mux.go
//	RFC 5769  test vectors                               rfc5769_test.go
//
// # Data flow
//
//	one UDP socket ──(first byte 0–3)──▶ Mux.Handle ─▶ Check
//	                                        │
//	      response, id known, right source ─┼─▶ our client (Bind, Discover, Mapping)
//	                                        ├─▶ the endpoint that sent the check
//	   request with USERNAME "ufrag:peer"  ─┼─▶ the endpoint registered for ufrag
//	   request without USERNAME            ─┼─▶ responder ─▶ answer ≤ request
//	   anything else                       ─┴─▶ dropped, counted
//
//	fresh sockets (Opener) ─▶ DiscoverFresh, Lifetime, Hairpin, PortSamples
//	successive Binds ──────▶ Rotation            Lifetime ─▶ Keepalive ─▶ when to send
//	a transport of its own ▶ Request, Answer, ParseMapped
//
// # Caveats
//
//   - STUN servers can lie. A mapped address is a hint until two servers
//     agree or somebody has come in by it.
//   - The filtering test needs a socket that has not yet sent to the server's
//     other addresses. [DiscoverOn] takes such a socket; [Mux.Discover] looks
//     at what the Mux itself has sent and says Unknown if in doubt, but it
//     cannot see what else leaves by the shared socket.
//   - A router without a filter of its own gives the port of a packet that it
//     did not want to that packet, and ours another one. Tests of the filter
//     send such packets, so that behind those routers a mapping can look as if
//     it depended on the endpoint. What such strays may explain is called
//     Unknown; with fresh sockets for the filter (Config.Open, [DiscoverFresh])
//     there are none.
//   - A server with one IP stays one: it can't be paired with another node for
//     CHANGE-REQUEST. The other node would have to send wherever it is told
//     to, which is what nobody may have from us without proof. Such a server
//     refuses to change the IP (420) and names in OTHER-ADDRESS only its own
//     second port; the client then says what one IP can tell (MappingAtMost,
//     FilteringAtMost). The mapping is completed by asking several nodes, see
//     [Mux.Mapping].
//   - RESPONSE-PORT is served to ports from 1024 on of the address that asks,
//     within the same rate as all answers. PADDING is refused.
//   - [Lifetime] takes minutes and makes mappings of its own: once for each
//     network and at idle times.
//   - Several NATs in a row are seen as one.
//   - A plain 20-byte Binding request gets no answer: it would have to be
//     larger than the request. Our own requests have [MinRequest] bytes.
//   - The Client of pion/stun is not used: it spins on a closed socket and
//     compares no source address.
package stun
