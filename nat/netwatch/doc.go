// Package netwatch notices when the ways of this machine into the internet
// change: an address comes or goes, a default route comes, goes or moves, a
// cable is pulled.
//
// It promises that
//
//   - a change is reported 50 ms after the kernel has fallen silent about it,
//     and at the latest 1 s after its first sign;
//   - only changes are reported: what the kernel says is a reason to look, and
//     what was seen is compared with what was seen before. Link-local
//     addresses, neighbours, routes to networks, and whatever has come and
//     gone in between are no change;
//   - nothing is missed: when the kernel's queue overflows, everything is read
//     anew.
//
// Sources: rtnetlink(7), netlink(7), linux/rtnetlink.h, linux/if_addr.h. The
// quiet time is short because recovery waits for it: an address from DHCP and
// its route come within a few milliseconds of each other, and a second change
// right after the first costs one more look only. IPv6 addresses are announced
// when they are proven unique, about a second later, and then they are a change
// of their own.
//
// # Data flow
//
//	kernel ─multicast─▶ netlink.wait ─(may it matter?)─▶ dirty ─▶ settle ─▶ look ─▶ differs? ─▶ Changed
//	   └────dump──────▶ netlink.read ─────────────────────────────────────────┘
//	no netlink: every 10 s ─────────────────────────────▶ dirty ─▶ …   look reads /proc/net
//
// # Caveats
//
//   - Without netlink (a sandbox, user-mode emulation of another byte order)
//     of IPv4 only the address towards the internet is seen, and up to 10 s late.
//   - A router between here and the internet that gets a new address is not a
//     change of ours; that shows by STUN or by silence.
//   - The network namespace is that of the thread that calls [Watcher.Start].
package netwatch
