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

func udpBlocked(string) string {
	return masquerade("") + filter("meta l4proto udp counter drop", "drop", "drop")
}
