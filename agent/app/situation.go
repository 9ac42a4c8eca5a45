package app

import (
	"slices"

	"porchlight/agent/join"
	"porchlight/agent/reach"
)

// situation tells the search for devices what the keeper knows.
type situation struct {
	*reach.Keeper
	stun *stunServers
}

// Network implements join.Situation. The servers of the configuration come
// last: of the rendezvous it is known that they answer. Where the router moves
// running flows to other ports, no UDP path lasts, and TCP is better.
func (s situation) Network() join.Network {
	state := s.State()
	return join.Network{
		Mapping: state.NAT.Mapping,
		NoUDP:   state.NoUDP || state.Rotates,
		Public:  state.Public,
		Servers: slices.Concat(s.Servers(), s.stun.addresses()),
		TCP:     s.TCPCandidates(),
	}
}
