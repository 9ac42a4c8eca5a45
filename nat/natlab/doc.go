// Package natlab is a small internet in network namespaces of one Linux machine:
// public hosts, and homes behind NAT routers and firewalls of every usual kind, with
// delay, over IPv4 and IPv6. It serves tests, the demo and the NAT matrix. It needs
// root.
//
// Every public host and the outermost router of every home has a TUN device
// instead of an uplink. The other end of all TUN devices is one forwarder in this
// process, which is the internet: it delays each packet (20 ms by default), may
// lose some or let some overtake, counts all, and remembers the heads of the first
// and last ones for a capture file and a sequence diagram.
//
//	"alice", a home             "bob", a home behind CGNAT       "rendezvous"   "stun"
//
//	┌──────────┐ ┌─────────┐    ┌────────────────────────────┐   ┌────────────┐ ┌────────────┐
//	│ device   │ │ another │    │ device 192.168.1.6         │   │            │ │ (the lab's │
//	│ .1.3     │ │ .1.254  │    │                            │   │            │ │  own)      │
//	└─eth0─────┘ └─eth0────┘    └─eth0───────────────────────┘   │            │ │            │
//	   │ veth       │              │ veth                        │            │ │            │
//	┌─lan, a bridge────────┐    ┌─lan────────────────────────┐   │            │ │            │
//	│ router 192.168.1.1   │    │ router 192.168.1.1         │   │            │ │            │
//	│ nftables rules of    │    │ port-restricted rules      │   │            │ │            │
//	│ the kind, and        │    └─wan 100.64.0.2─────────────┘   │            │ │            │
//	│ miniupnpd in some    │       │ veth                        │            │ │            │
//	│                      │    ┌─lan 100.64.0.1─────────────┐   │            │ │            │
//	│                      │    │ carrier, full-cone rules   │   │            │ │            │
//	└─wan 44.128.2.10──────┘    └─wan 44.128.5.10────────────┘   └─wan .1.10──┘ └─wan .3.10──┘
//	   │ TUN                       │ TUN                            │ TUN          │ TUN .4.10
//	┌──┴───────────────────────────┴────────────────────────────────┴──────────────┴─────────┐
//	│   forwarder in this process: judge → capture → bottlenecks → delay line → deliver      │
//	└────────────────────────────────────────────────────────────────────────────────────────┘
//
// Each box is a network namespace; nothing touches the machine's own one, except
// that the namespaces have names (ip netns list shows porchlab-…). Names carry the
// process that made them, so several labs run side by side, and [New] removes what
// a killed process has left: namespaces, the programs in them, and the folder of
// that name in [os.TempDir], which holds miniupnpd's files.
//
// The kinds of NAT are named in [Kind] and follow RFC 4787 §4 and §5. None is
// believed: the first home of each kind in a process is measured after RFC 5780
// §4.3 and §4.4, over both families, against STUN servers of the lab before
// [Lab.Home] returns it; a router that should map ports on request must also answer.
//
// # Events
//
// What happens to homes happens by method: [Host.Cut] and [Lab.Part] break the
// internet, [Host.Renumber] changes the public address, [Host.FlushNAT] makes routers
// forget, [Host.Reboot] restarts one, [Host.SwapLAN] takes a device from cable to
// Wi-Fi, [Host.MoveTo] to another home, [Lab.AddDevice] puts another one beside it, [Host.Delay] and [Host.Limit]
// make a line long or narrow. Devices see what real ones see: cables without a
// signal, interfaces and addresses that come and go, by netlink too.
//
// # Addresses
//
// The internet is 44.128.0.0/16, a /24 for each party, and 3fff::/20 (RFC 9637), a
// /64 for each party: 44.128.N.0/24 and 3fff:0:N::/64 belong together. The IPv4
// documentation blocks would be the polite choice, but several libraries refuse them
// as not public. All homes use 192.168.1.0/24 and carriers 100.64.0.0/10, so that
// private addresses cannot lead from one home to another by accident. Only [Public],
// [StatefulFirewall], [IPv6Firewall] and [IPv6Only] have IPv6; addresses are set by
// hand, there are no router advertisements and no DHCP.
//
// # Labs for benchmarks
//
// With [Options].Direct a namespace in the middle takes the forwarder's place and the
// kernel carries everything: no delay, no capture, no loss. [Host.Cut], [Lab.Part]
// and all events work there too.
//
// # Caveats
//
//   - Delays and capacities belong to cables: between two parties they add up, and
//     there is no other bottleneck but 8 MiB of packets under way per party.
//   - The kernel hands over up to 64 KB in one piece where a sender uses TCP or UDP
//     segmentation offload; such a piece travels, is counted and is captured as
//     one. With Options.Loss or Options.Reorder above zero offload is off and packets
//     are single.
//   - The forwarder counts as five routers, which drop a packet silently when its
//     TTL ends; with Options.Direct it is one, which reports it by ICMP.
//   - The kernel keeps source ports where it can. Symmetric kinds therefore use
//     random or counted ports explicitly, and full cones are exact for one device
//     per home only. Two devices that use one port towards one endpoint get
//     different outer ports there, so the second's mapping is not independent.
//   - FullCone, Hairpin and AddressRestricted treat UDP so; their TCP is
//     port-restricted and not turned back.
//   - One home per carrier: no hairpin inside a carrier's network.
//   - PortRotating moves UDP only, and leaves its ports alone while it is measured.
//   - UPnP, PCP and their kin run miniupnpd 2.3.1 as it is. Only UPnPCGNAT runs a copy
//     with one entry of its table of reserved addresses changed, because that version
//     refuses an outer address of 100.64.0.0/10, which many routers do not. None of
//     them opens IPv6 pinholes.
//   - Commands see the machine's own /sys, with its list of interfaces, because
//     hiding it would hide the control groups too.
//   - A process that is itself emulated (qemu-user) cannot flush flows: its emulator
//     lacks netlink for netfilter. FlushNAT, Renumber and Reboot fail there, and
//     PortRotating stays as it is. Emulated programs inside a lab are no trouble.
//   - Processes are told apart by process id and start time; machines that share
//     /run/netns between process-id namespaces must not run labs in both.
package natlab
