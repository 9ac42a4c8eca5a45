// Package portmap has the home's router keep ports open for this device: by
// PCP, NAT-PMP and UPnP for IPv4, and pinholes by PCP and UPnP for IPv6.
//
// It promises that
//
//   - all methods are asked at the same time; a router that speaks PCP has
//     given its mapping after one round trip, everything is settled after
//     [SettleTime];
//   - the best is kept: an external address that is public beats one that is
//     not, then PCP, NAT-PMP, IGD 2, IGD 1; of two mappings for the same port
//     the other is removed from the router;
//   - mappings are renewed at half of their life, re-made when the router has
//     forgotten them (noticed within a minute, with PCP's announcements at
//     once), re-made elsewhere when they turn out not to work ([Mapper.Distrust]),
//     and removed by [Mapper.Close];
//   - what is read from the LAN is bounded in size, count, depth and time; no
//     request goes to an address that is not a router of ours.
//
// # Sources
//
//	RFC 6887, RFC 6886                   pcp
//	UPnP IGD 1 and 2, by goupnp          igd
//	proc(5), Linux net/ipv4/fib_trie.c   route.go
//
// # Data flow
//
//	/proc/net ─▶ Route ─┬─▶ PCP ─────── MAP ───────────────────┐
//	                    ├─▶ NAT-PMP ─── address ─▶ wait ─ map ─┼─▶ slot (transport × family)
//	                    └─▶ UPnP ────── search ──▶ wait ─ add ─┘     │ the better is kept,
//	                          asked only, while a better one          │ the other removed
//	                          is being answered                       ▼
//	Refresh, Distrust, timer, 224.0.0.1:5350 ─▶ keep: renew, check ─▶ State, Changed
//
// Asking and mapping are two steps. The questions go out in parallel; a mapping
// is made by the next best method only when the better ones have answered no,
// or not begun to grant within 100 ms. The methods of one router often share
// one table: making the same mapping by all of them and then deleting all but
// one would delete the one. Where a slow answer made two methods map all the
// same, only the better is kept in mind; if the router does not let it be
// removed, it is removed by the other.
//
// # Caveats
//
//   - A router's yes is not a way in. It may map nothing, be behind another
//     NAT, or lie about its address. Compare with STUN, and have somebody come
//     in by it.
//   - After a crash the router still has the mapping, and PCP may give it only
//     to who knows its nonce (RFC 6887 §11.3; miniupnpd is generous). Set
//     [Config.Secret] to get it back; without it, such a router refuses until
//     the lease is over, and NAT-PMP or UPnP is used.
//   - miniupnpd 2.3.1 does not let a pinhole be closed by PCP once it has been
//     renewed. It gets the shortest lease instead, two minutes by default.
//   - A pinhole of UPnP outlives a crash by up to its lease; the router opens a
//     second one.
//   - UPnP is not searched for on a link where our own IPv4 address is public:
//     there is nothing to map, and the neighbours are strangers.
//   - Only the default routes of the main table are looked at, at most
//     [MaxRoutes] for each family; and only Linux has /proc.
package portmap
