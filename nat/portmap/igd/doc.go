// Package igd asks home routers for ports by UPnP: WANIPConnection 1 and 2,
// WANPPPConnection 1, and WANIPv6FirewallControl 1 for pinholes.
//
// Whoever is on the LAN can claim to be a router. The package promises that
//
//   - an answer to the search counts only from an address on our own subnet,
//     which must be the router's subnet too, and only if its LOCATION names
//     that very address as a literal;
//   - every HTTP connection goes to the address that answered, whatever URLs,
//     redirects, proxies or names say;
//   - a reply is at most [MaxBody] bytes, [MaxDepth] levels and [MaxElements]
//     elements, headers at most [MaxHeader]; it is read whole and counted
//     before an XML decoder builds anything from it;
//   - one request at a time goes to one device, each at most [MaxRequest] long,
//     and everything ends with the context;
//   - error loops of a router (718, 724, 725) end after [MaxTries].
//
// # Sources
//
//	UPnP Device Architecture 1.1 §1.3   search                     ssdp.go
//	UPnP Device Architecture 1.1 §2     description                device.go
//	WANIPConnection:1, :2               AddPortMapping and others  service.go
//	WANIPv6FirewallControl:1            AddPinhole and others      firewall.go
//
// Actions and descriptions are those of github.com/huin/goupnp.
//
// # Data flow
//
//	M-SEARCH ─▶ 239.255.255.250, [ff02::c], the router itself
//	             │ answers, filtered by sender and LOCATION
//	             ▼
//	describe ─▶ cage ─▶ goupnp.RootDevice ─▶ Service, Firewall ─▶ goupnp SOAP ─▶ cage ─▶ router
//
// # Caveats
//
//   - goupnp's own discovery is not used: it waits its whole window even if the
//     router answers at once, one interface without multicast fails it, it logs
//     what strangers send, and it fetches by the global goupnp.HTTPClientDefault,
//     which has no limits. So no global of goupnp is read or changed here; its
//     SOAP clients get the caged HTTP client one by one.
//   - goupnp's generated actions have no way to ask for ISO-8859-1. The cage
//     turns replies that are not UTF-8 into it, taking them for ISO-8859-1.
//   - No events are subscribed to: there is no server for anybody to call.
//   - A pinhole is asked for from the address that it is for, over IPv6;
//     routers refuse others.
package igd
