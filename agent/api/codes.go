package api

// Verdict says whether, and how, people can reach this device.
type Verdict string

// The verdicts. The first four say that strangers get in; the next seven that
// helpers introduce callers; the rest that nobody gets in, or that nothing is
// known yet.
const (
	Mapped    Verdict = "mapped"    // through a port mapping, shown by a knock
	Forwarded Verdict = "forwarded" // through the router, without a mapping of ours
	Public    Verdict = "public"    // at an address of the device's own
	IPv6Only  Verdict = "ipv6_only" // by IPv6, not by IPv4

	NATEasy    Verdict = "nat_easy"
	NATHard    Verdict = "nat_hard"
	DoubleNAT  Verdict = "double_nat"
	CGNAT      Verdict = "cgnat"
	MapLies    Verdict = "map_lies" // the router maps a port that leads nowhere
	Refused    Verdict = "refused"  // the router refuses to map one
	UDPBlocked Verdict = "udp_blocked"
	WebOnly    Verdict = "web_only" // only TCP port 443 leaves

	NoHelper   Verdict = "no_helper"
	NoInternet Verdict = "no_internet"
	Captive    Verdict = "captive" // a portal answers in place of everybody
	Blocked    Verdict = "blocked" // what leaves is refused on its way
	NoNetwork  Verdict = "no_network"
	Private    Verdict = "private"
	Checking   Verdict = "checking"
)

// Proof says what showed that a door is open from outside.
type Proof string

// The proofs.
const (
	// Unproven: no knock came in.
	Unproven Proof = ""
	// SameAddress: a knock came in from a new port of an address that the
	// device talks to: a router that lets in whomever its devices talk to
	// passes that too.
	SameAddress Proof = "same_address"
	// Stranger: a knock came in from an address never contacted.
	Stranger Proof = "stranger"
	// OwnersWord: the owner says so.
	OwnersWord Proof = "owners_word"
)

// Reason says why a path is relayed.
type Reason string

// The reasons a path is not direct.
const (
	Trying          Reason = "trying"
	BothRandom      Reason = "both_random"
	UDPBlockedHere  Reason = "udp_blocked_here"
	UDPBlockedThere Reason = "udp_blocked_there"
	WebOnlyThere    Reason = "web_only_there"
	NoCommonIP      Reason = "no_common_ip"
	PeerWish        Reason = "peer_wish"
	OwnWish         Reason = "own_wish"
	// Busy: the search would disturb this router, and waits.
	Busy Reason = "busy"
	// NoDirect: every direct way was tried and none answered; the next try
	// follows by itself.
	NoDirect Reason = "no_direct"
)
