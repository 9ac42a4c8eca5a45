package natlab

import (
	"fmt"
	"strings"
)

// The rules of the routers, for nft -f. A router's interfaces are called wan and
// lan. Counters are there for the text file that Dump writes.

// masquerade gives packets the router's WAN address and keeps their source port if
// that is free, which makes the mapping endpoint-independent for one device. Plain
// masquerade is therefore no model of a symmetric NAT; "fully-random" is.
func masquerade(flags string) string {
	return fmt.Sprintf(`
table ip nat {
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		oifname "wan" masquerade %s
	}
}`, flags)
}

// filter lets in what belongs to known flows and what the NAT has an open port for;
// input and forward are verdicts for the rest from the WAN, firstForward a rule
// before all others.
func filter(firstForward, unwantedInput, unwantedForward string) string {
	return fmt.Sprintf(`
table ip filter {
	chain input {
		type filter hook input priority filter; policy accept;
		ct state established,related accept
		iifname "wan" counter %s
	}
	chain forward {
		type filter hook forward priority filter; policy accept;
		%s
		ct state established,related accept
		iifname "wan" ct status dnat counter accept
		iifname "wan" counter %s
		ct state invalid counter drop
	}
}`, unwantedInput, firstForward, unwantedForward)
}

// openPorts notes, after the translation, which device uses which outer UDP port,
// and sends there what comes in for that port and fulfils the condition. In flows
// that began outside, the device is the source of the replies. A port stays open
// for 5 minutes after its last packet (RFC 4787 REQ-5).
func openPorts(sets, note, condition string) string {
	return fmt.Sprintf(`
table ip nat {
	map cone {
		type inet_service : ipv4_addr . inet_service
		flags dynamic,timeout
		timeout 5m
		size 65535
	}
	%s
	chain note {
		type filter hook postrouting priority srcnat + 1; policy accept;
		oifname "wan" meta l4proto udp ct direction original update @cone { udp sport : ct original ip saddr . ct original proto-src }
		oifname "wan" meta l4proto udp ct direction reply update @cone { udp sport : ct reply ip saddr . ct reply proto-src }
		%s
	}
	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		iifname "wan" meta l4proto udp %s dnat to udp dport map @cone
	}
}`, sets, note, condition)
}

func portRestricted(string) string {
	return masquerade("") + filter("", "drop", "drop")
}

// portRestrictedReject answers as OpenWrt's fw4 does.
func portRestrictedReject(string) string {
	const reject = `meta l4proto tcp reject with tcp reset
		iifname "wan" counter reject with icmp type port-unreachable`
	return masquerade("") + filter("", reject, reject)
}

func openInput(string) string { return masquerade("") }

func symmetric(string) string {
	return masquerade("fully-random") + filter("", "drop", "drop")
}

// sequentialPorts is how many ports a sequential router counts through, from
// sequentialFirst on.
const (
	sequentialFirst = 40000
	sequentialPorts = 4096
)

// symmetricSequential counts ports up, over all flows of the router. The map is
// there for the byte order: numgen alone counts in the machine's own.
func symmetricSequential(wan string) string {
	var ports strings.Builder
	for i := range sequentialPorts {
		fmt.Fprintf(&ports, "%d : %d, ", i, sequentialFirst+i)
	}
	return fmt.Sprintf(`
table ip nat {
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		oifname "wan" meta l4proto { tcp, udp } snat to %s : numgen inc mod %d map { %s }
		oifname "wan" masquerade
	}
}`, wan, sequentialPorts, ports.String()) + filter("", "drop", "drop")
}

func fullCone(string) string {
	return masquerade("") + openPorts("", "", "") + filter("", "drop", "drop")
}

// hairpin turns back what a device sends to an open port of the router's own
// address; the packet then comes from that address too (RFC 4787 REQ-9a), from the
// port that the sender has outside.
func hairpin(wan string) string {
	return fullCone(wan) + fmt.Sprintf(`
table ip nat {
	chain turn {
		type nat hook prerouting priority dstnat; policy accept;
		iifname "lan" ip daddr %[1]s meta l4proto udp dnat to udp dport map @cone
	}
	chain turned {
		type nat hook postrouting priority srcnat; policy accept;
		iifname "lan" oifname "lan" meta l4proto udp ct status dnat snat to %[1]s
	}
	chain noteturned {
		type filter hook postrouting priority srcnat + 1; policy accept;
		iifname "lan" oifname "lan" meta l4proto udp ct direction original update @cone { udp sport : ct original ip saddr . ct original proto-src }
	}
}`, wan)
}

func addressRestricted(string) string {
	const (
		set = `set known {
		type ipv4_addr . inet_service
		flags dynamic,timeout
		timeout 5m
		size 65535
	}`
		note = `oifname "wan" meta l4proto udp update @known { ip daddr . udp sport }`
	)
	return masquerade("") + openPorts(set, note, "ip saddr . udp dport @known") + filter("", "drop", "drop")
}

// portMask permutes ports: each has its own image, none keeps its number, and those
// of the kernel's ephemeral range stay above 32767. Neighbours don't stay neighbours
// in order, so that the ports of new flows form no row.
const portMask = 0x2aaa

// permutedBy is what a router does that maps UDP port p to p xor mask.
func permutedBy(wan string, mask int) string {
	return fmt.Sprintf(`
table ip nat {
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		oifname "wan" meta l4proto udp snat to %[1]s : udp sport ^ %[2]d
		oifname "wan" meta l4proto tcp snat to %[1]s : tcp sport ^ %[2]d
		oifname "wan" masquerade
	}
}`, wan, mask)
}

func permuted(wan string) string {
	return permutedBy(wan, portMask) + filter("", "drop", "drop")
}

// rotate makes the rules that replace chain postrouting of table ip nat in round n.
type rotate func(wan string, n int) string

// udpMark marks UDP flows, so that they alone can be forgotten.
const udpMark = 1

func rotating(wan string) string {
	return permutedBy(wan, portMask) + filter(fmt.Sprintf("meta l4proto udp ct mark set %d", udpMark), "drop", "drop")
}

// rotatedPorts moves UDP to other ports; TCP keeps its own, as its flows would not
// outlive a change.
func rotatedPorts(wan string, n int) string {
	mask := portMask ^ (n*0x1357)&0x3fff
	if mask == 0 {
		mask = portMask
	}
	return fmt.Sprintf(`
flush chain ip nat postrouting
add rule ip nat postrouting oifname "wan" meta l4proto udp snat to %[1]s : udp sport ^ %[2]d
add rule ip nat postrouting oifname "wan" meta l4proto tcp snat to %[1]s : tcp sport ^ %[3]d
add rule ip nat postrouting oifname "wan" masquerade
`, wan, mask, portMask)
}

// filter6 lets IPv6 in only where it was asked for. Neighbour discovery is for
// labs whose middle has it.
const filter6 = `
table ip6 filter {
	chain input {
		type filter hook input priority filter; policy accept;
		ct state established,related accept
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
		iifname "wan" counter drop
	}
	chain forward {
		type filter hook forward priority filter; policy accept;
		ct state established,related accept
		iifname "wan" counter drop
		ct state invalid counter drop
	}
}`

func firewall(string) string { return filter("", "drop", "drop") + filter6 }

func symmetricFirewall6(wan string) string { return symmetric(wan) + filter6 }

// mappingTable is where miniupnpd puts its rules. It works only if the table and its
// three chains exist before it starts.
const mappingTable = `
table inet miniupnpd {
	chain mappings_forward { }
	chain mappings_in { }
	chain mappings_out { }
	chain prerouting {
		type nat hook prerouting priority dstnat - 1; policy accept;
		jump mappings_in
	}
	chain postrouting {
		type nat hook postrouting priority srcnat - 1; policy accept;
		jump mappings_out
	}
}`

// reloaded puts rules in the place of a router's earlier ones, in one step; what the
// kernel learned into their sets is gone, what miniupnpd made stays.
func reloaded(text string) string {
	const tables = "table ip nat {}\ndelete table ip nat\n" +
		"table ip filter {}\ndelete table ip filter\n" +
		"table ip6 filter {}\ndelete table ip6 filter\n"
	return tables + text
}

func udpBlocked(string) string {
	return masquerade("") + filter("meta l4proto udp counter drop", "drop", "drop")
}
