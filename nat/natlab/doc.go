// Package natlab is a small internet in network namespaces of one Linux machine:
// public hosts, and homes behind NAT routers of every usual kind, with delay. It
// serves tests, the demo and the NAT matrix. It needs root.
//
// Every public host and the outermost router of every home has a TUN device
// instead of an uplink. The other end of all TUN devices is one forwarder in this
// process, which is the internet: it delays each packet (20 ms by default), may
// lose some, counts all, and remembers the heads of the first and last ones for a
// capture file and a sequence diagram.
//
//	"alice", a home             "bob", a home behind CGNAT       "rendezvous"   "stun"
//
//	┌──────────────────────┐    ┌────────────────────────────┐   ┌────────────┐ ┌────────────┐
//	│ device 192.168.1.3   │    │ device 192.168.1.6         │   │            │ │ (the lab's │
//	└─eth0─────────────────┘    └─eth0───────────────────────┘   │            │ │  own)      │
//	   │ veth                      │ veth                        │            │ │            │
//	┌─lan──────────────────┐    ┌─lan────────────────────────┐   │            │ │            │
//	│ router 192.168.1.1   │    │ router 192.168.1.1         │   │            │ │            │
//	│ nftables rules of    │    │ port-restricted rules      │   │            │ │            │
//	│ the kind             │    └─wan 100.64.0.2─────────────┘   │            │ │            │
//	│                      │       │ veth                        │            │ │            │
//	│                      │    ┌─lan 100.64.0.1─────────────┐   │            │ │            │
//	│                      │    │ carrier, full-cone rules   │   │            │ │            │
//	└─wan 44.128.2.10──────┘    └─wan 44.128.5.10────────────┘   └─wan .1.10──┘ └─wan .3.10──┘
//	   │ TUN                       │ TUN                            │ TUN          │ TUN .4.10
//	┌──┴───────────────────────────┴────────────────────────────────┴──────────────┴─────────┐
//	│         forwarder in this process: judge → capture → delay line → deliver              │
//	└────────────────────────────────────────────────────────────────────────────────────────┘
//
// Each box is a network namespace; nothing touches the machine's own one, except
// that the namespaces have names (ip netns list shows porchlab-…). Names carry the
// process that made them, so several labs run side by side, and [New] removes what
// a killed process has left.
//
// The kinds of NAT are named in [Kind] and follow RFC 4787 §4 and §5. None is
// believed: the first home of each kind in a process is measured after RFC 5780
// §4.3 and §4.4 against STUN servers of the lab before [Lab.Home] returns it.
//
// # Addresses
//
// The internet is 44.128.0.0/16, a /24 for each party. The documentation blocks
// would be the polite choice, but several libraries refuse them as not public. All
// homes use 192.168.1.0/24 and carriers 100.64.0.0/10, so that private addresses
// cannot lead from one home to another by accident.
//
// # Caveats
//
//   - IPv4 only. IPv6 is off on all devices of a lab but loopback.
//   - The delay is the same between any two parties and there is no bottleneck: the
//     only queue is 8 MiB of packets under way per party.
//   - The kernel hands over up to 64 KB in one piece where a sender uses TCP or UDP
//     segmentation offload; such a piece travels, is counted and is captured as
//     one. With Options.Loss above zero offload is off and packets are single.
//   - The forwarder counts as five routers, which drop a packet silently when its
//     TTL ends.
//   - The kernel keeps source ports where it can. Symmetric kinds therefore use
//     random or counted ports explicitly, and full cones are exact for one device
//     per home only.
//   - FullCone and AddressRestricted treat UDP so; their TCP is port-restricted.
//   - One home per carrier: no hairpin inside a carrier's network.
//   - Commands see the machine's own /sys, with its list of interfaces, because
//     hiding it would hide the control groups too.
//   - Processes are told apart by process id and start time; machines that share
//     /run/netns between process-id namespaces must not run labs in both.
package natlab
