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
// last: of the rendezvous it is known that they answer.
func (s situation) Network() join.Network {
	state := s.State()
	return join.Network{
		Mapping: state.NAT.Mapping,
		NoUDP:   state.NoUDP,
		Public:  state.Public,
		Servers: slices.Concat(s.Servers(), s.stun.addresses()),
		TCP:     s.TCPCandidates(),
	}
}
