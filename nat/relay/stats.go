package relay

import "sync/atomic"

// reason says why something was refused or dropped.
type reason uint8

const (
	malformed    reason = iota // not one well-formed STUN message or ChannelData
	unprovenRate               // too many datagrams from a network without allocation
	controlRate                // too many requests on one allocation
	shortRequest               // the reply would have been longer than the request
	noAllocation               // data or indication from a source without allocation
	unsupported                // TCP allocation, EVEN-PORT, reservation, short lifetime
	noFamily                   // a relayed address of an IP version we do not have
	forged                     // ticket not ours
	otherStart                 // ticket from another start of the relay
	expired                    // ticket expired
	replayed                   // ticket used before
	wrongUser                  // another ticket on a running or just ended allocation
	badRequest                 // wrong password, or a request that makes no sense
	allFull                    // Limits.Allocations, or the table of used tickets
	perClient                  // Limits.PerClient
	perPrefix                  // Limits.PerPrefix
	connections                // Limits.Connections, Limits.ConnectionsPerPrefix
	noPort                     // no port for the relayed socket
	quota                      // ClassLimits.BytesPerDay
	peerAddress                // private, own, multicast … or not the ticket's peer
	peerPort                   // a port below 1024
	peers                      // Limits.Peers
	unsolicited                // from an address without permission
	overRateDrop               // ClassLimits.BytesPerSecond
	oversize                   // payload above MaxPayload
	idle                       // closed: no payload for ClassLimits.Idle
	lapsed                     // closed: not refreshed
	replaced                   // closed: silent, and its client needed room for a new one
	sendFailed                 // the kernel refused to send or receive
	reasonCount
)

// reasonNames are the keys of Stats.Refused.
var reasonNames = [reasonCount]string{
	"malformed", "unproven_rate", "control_rate", "short_request", "no_allocation",
	"unsupported", "family", "forged", "other_start", "expired", "replayed", "wrong_user",
	"bad_request", "full", "per_client", "per_prefix", "connections", "no_port",
	"quota", "peer_address", "peer_port", "peers", "unsolicited", "rate",
	"oversize", "idle", "lapsed", "replaced", "send_failed",
}

// code is the error code of an Allocate that was refused (RFC 8656 §19); 0
// for pion's own choice, 508 Insufficient Capacity.
func (r reason) code() uint16 {
	switch r {
	case noFamily:
		return 440 // Address Family not Supported
	case perClient, perPrefix, quota:
		return 486 // Allocation Quota Reached
	}
	return 0
}

// Stats is a snapshot. Counters run since the start of the server.
type Stats struct {
	Allocations int `json:"allocations"` // now
	Connections int `json:"connections"` // TCP and TLS, now

	BytesToPeers     int64 `json:"bytes_to_peers"` // payload
	BytesToClients   int64 `json:"bytes_to_clients"`
	PacketsToPeers   int64 `json:"packets_to_peers"`
	PacketsToClients int64 `json:"packets_to_clients"`

	// Refused counts messages, requests and packets not served, and
	// allocations closed by the server, by reason. Only reasons that occurred.
	Refused map[string]int64 `json:"refused,omitempty"`
}

type counters struct {
	bytesToPeers, bytesToClients     atomic.Int64
	packetsToPeers, packetsToClients atomic.Int64
	refused                          [reasonCount]atomic.Int64
}

func (c *counters) refuse(r reason) { c.refused[r].Add(1) }

func (c *counters) snapshot() Stats {
	s := Stats{
		BytesToPeers:     c.bytesToPeers.Load(),
		BytesToClients:   c.bytesToClients.Load(),
		PacketsToPeers:   c.packetsToPeers.Load(),
		PacketsToClients: c.packetsToClients.Load(),
		Refused:          make(map[string]int64),
	}
	for r := range c.refused {
		if n := c.refused[r].Load(); n > 0 {
			s.Refused[reasonNames[r]] = n
		}
	}
	return s
}
