package config

import (
	"fmt"
	"net/netip"
)

// maxNodes is how many nodes a configuration may name.
const maxNodes = 64

// wellKnown are nodes of the mainline DHT that have had the same addresses for
// years (those of two client makers and one library). They are asked only while
// no other node is known, as from links, the LAN and earlier runs; one that is
// gone costs a few packets.
var wellKnown = []string{
	"212.129.33.59:6881",
	"87.98.162.88:6881",
	"67.215.246.10:6881",
	"82.221.103.244:6881",
	"185.157.221.247:25401",
}

// Nodes returns the nodes of the DHT to begin with.
func (c Config) Nodes() ([]netip.AddrPort, error) {
	list := c.DHTNodes
	switch {
	case len(list) == 0 && c.Loopback:
		return nil, nil // nothing leaves this machine
	case len(list) == 0:
		list = wellKnown
	case len(list) == 1 && list[0] == "none":
		return nil, nil
	case len(list) > maxNodes:
		return nil, fmt.Errorf("dht_nodes: more than %d", maxNodes)
	}
	var nodes []netip.AddrPort
	for _, text := range list {
		node, err := netip.ParseAddrPort(text)
		if err != nil || node.Port() == 0 {
			return nil, fmt.Errorf("dht_nodes: %q is not IP:PORT with a literal IP address", text)
		}
		nodes = append(nodes, netip.AddrPortFrom(node.Addr().Unmap(), node.Port()))
	}
	return nodes, nil
}
