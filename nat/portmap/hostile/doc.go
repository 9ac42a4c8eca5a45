// Package hostile is a home router that misbehaves, for tests of whatever asks
// routers for something.
//
// It promises to answer SSDP, HTTP, SOAP, PCP and NAT-PMP the way a working
// router does wherever a [Gateway] does not say otherwise, so that each test
// spoils one thing and reaches it.
//
// # Sources
//
//	UPnP Device Architecture 1.1, WANIPConnection:1   upnp.go
//	RFC 6887, RFC 6886                                portcontrol.go
//
// # Data flow
//
//	M-SEARCH ─▶ :1900 ─▶ Gateway.Search    GET, POST ─▶ :random ─▶ Gateway.Describe, .Fault, .Lease
//	PCP, NAT-PMP ─▶ :5351 ─▶ Gateway.PortControl
//
// # Caveats
//
//   - It maps nothing, whatever it grants.
//   - It is not for production; nothing in it is bounded but by the test.
package hostile
