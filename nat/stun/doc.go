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
// # Caveats
//
//   - STUN servers can lie. A mapped address is a hint until two servers
//     agree or somebody has come in by it.
//   - The filtering test needs a socket that has not yet sent to the server's
//     other addresses. [DiscoverOn] takes such a socket; [Mux.Discover] looks
//     at what the Mux itself has sent and says Unknown if in doubt, but it
//     cannot see what else leaves by the shared socket.
//   - Several NATs in a row are seen as one.
//   - A plain 20-byte Binding request gets no answer: it would have to be
//     larger than the request. Our own requests have [MinRequest] bytes.
//   - The Client of pion/stun is not used: it spins on a closed socket and
//     compares no source address.
package stun
