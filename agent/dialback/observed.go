package dialback

import (
	"net"
	"net/netip"

	"porchlight/agent/identity"
	"porchlight/agent/overlay"
	"porchlight/nat"
)

// Observed tells where the packets of devices come from: the address of the
// direct path that their session uses, which has answered, or the far end of
// its TCP connection. A relayed session tells nothing.
func Observed(o *overlay.Overlay) func(identity.Address) (netip.AddrPort, bool) {
	return func(a identity.Address) (netip.AddrPort, bool) {
		session := o.Current(a)
		if session == nil {
			return netip.AddrPort{}, false
		}
		return observed(session.Peer().Path())
	}
}

func observed(path nat.Path) (netip.AddrPort, bool) {
	if path.Kind != nat.KindDirect {
		return netip.AddrPort{}, false
	}
	if path.Carrier == nil {
		return path.Addr, path.Addr.IsValid()
	}
	framed, ok := path.Carrier.(interface{ RemoteAddr() net.Addr })
	if !ok {
		return netip.AddrPort{}, false
	}
	tcp, ok := framed.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	return tcp.AddrPort(), true
}
