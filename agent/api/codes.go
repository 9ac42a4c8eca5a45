package api

// Verdict says whether, and how, people can reach this device.
type Verdict string

// The verdicts this device can reach by itself. More are added as ways in are.
const (
	Checking   Verdict = "checking"
	Public     Verdict = "public"
	Forwarded  Verdict = "forwarded"
	NATEasy    Verdict = "nat_easy"
	NATHard    Verdict = "nat_hard"
	DoubleNAT  Verdict = "double_nat"
	CGNAT      Verdict = "cgnat"
	UDPBlocked Verdict = "udp_blocked"
	NoHelper   Verdict = "no_helper"
	NoNetwork  Verdict = "no_network"
	Private    Verdict = "private"
)

// Reason says why a path is relayed.
type Reason string

// The reasons a path is not direct.
const (
	Trying          Reason = "trying"
	BothRandom      Reason = "both_random"
	UDPBlockedHere  Reason = "udp_blocked_here"
	UDPBlockedThere Reason = "udp_blocked_there"
	NoCommonIP      Reason = "no_common_ip"
	PeerWish        Reason = "peer_wish"
	OwnWish         Reason = "own_wish"
	// NoDirect: every direct way was tried and none answered; the next try
	// follows by itself.
	NoDirect Reason = "no_direct"
)
