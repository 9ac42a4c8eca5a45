package app

import (
	"porchlight/agent/join"
	"porchlight/agent/reach"
)

// situation tells the search for devices what the keeper knows.
type situation struct{ *reach.Keeper }

// Network implements join.Situation.
func (s situation) Network() join.Network {
	state := s.State()
	return join.Network{
		Mapping: state.NAT.Mapping,
		NoUDP:   state.NoUDP,
		Public:  state.Public,
		Servers: s.Servers(),
		TCP:     s.TCPCandidates(),
	}
}
