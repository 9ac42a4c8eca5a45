package dht

import "time"

// Sizes of what comes from strangers.
const (
	// MaxDatagram is the largest datagram read, in bytes. A value of 1000
	// bytes with its signature and sixteen nodes of both families has 1700.
	MaxDatagram = 2048
	// MaxAnswer is the largest datagram sent as an answer; nodes are left out
	// until it fits. It passes every usual link in one piece.
	MaxAnswer = 1400
	// MaxValue is the largest bencoded value (BEP 44), so a byte string may
	// have 996 bytes: its "996:" counts.
	MaxValue = 1000
	// MaxSalt is the largest salt in bytes (BEP 44).
	MaxSalt = 64
	// MaxToken is the largest write token taken from others, in bytes.
	MaxToken = 64
	// MaxTransaction is the largest transaction id that is sent back, in bytes.
	MaxTransaction = 32
	// MaxNodesPerAnswer is how many nodes of each family are read out of one
	// answer, MaxPeersPerAnswer how many peers.
	MaxNodesPerAnswer = 8
	MaxPeersPerAnswer = 64
)

// Bounds of a look-up.
const (
	// K is how many nodes keep a value, and how many nodes an answer names.
	K = 8
	// Alpha is how many queries of a look-up are on the way at once in each
	// family; those older than SlowAfter don't count.
	Alpha = 4
	// MaxQueried is how many nodes of each family a look-up asks at most,
	// whatever lists it is given.
	MaxQueried = 64
	// MaxPerAddress is how many ports of one public address a look-up asks,
	// so that lists that name a victim make no gun of it; MaxPerPrivate the
	// same for addresses of private networks, where a NAT inside a village may
	// hide several. Loopback is bounded by MaxQueried alone.
	MaxPerAddress = 2
	MaxPerPrivate = 8
	// MaxReferrals is how many more dead nodes than live ones a node may name
	// before the rest of what it named has to wait for all others.
	MaxReferrals = 3
	// QueryTimeout is how long an answer may take.
	QueryTimeout = 1500 * time.Millisecond
	// SlowAfter is when a query gives its place to the next.
	SlowAfter = 500 * time.Millisecond
	// LookupTime bounds the search of every operation; writing adds at most
	// WriteTime.
	LookupTime = 5 * time.Second
	WriteTime  = 4 * time.Second
	// EnoughEqual is how many equal answers end a [Core.Get].
	EnoughEqual = 3
	// MaxPeers is how many peers [Core.Peers] returns.
	MaxPeers = 128
	// MaxLookups is how many operations run at once; more are refused with
	// ErrBusy.
	MaxLookups = 32
	// MaxPending is how many queries wait for an answer at once.
	MaxPending = 128
)

// What is known of others.
const (
	// MaxNodes is how many nodes of each family are known at once.
	MaxNodes = 64
	// MaxPerNetwork is how many of them may share a public /24 or /56, once
	// there are 2*K; a small network may consist of neighbours.
	MaxPerNetwork = 4
	// MaxSeeds is how many addresses given by Add are remembered.
	MaxSeeds = 64
	// maxSpare is how many nodes wait for a place, or for their first ping.
	maxSpare = 8
	// maxShunned is how many silent addresses are remembered, for shunTime.
	maxShunned = 32
	shunTime   = 2 * time.Minute
	// maxVotes is how many opinions on our own address count.
	maxVotes = 8
)

// What is kept for others.
const (
	// ItemLife and PeerLife are how long items and peers are kept.
	ItemLife = 2 * time.Hour
	PeerLife = 30 * time.Minute
	// MaxItems and MaxItemBytes bound all items; beyond, the farthest from our
	// own id goes.
	MaxItems     = 1024
	MaxItemBytes = 768 << 10
	// MaxItemsPerIP and MaxItemsPerNetwork bound what one address and one /24
	// or /56 may keep here; beyond, new items are refused.
	MaxItemsPerIP      = 64
	MaxItemsPerNetwork = 256
	// MaxPeersKept bounds all peers, MaxPeersPerHash those of one infohash;
	// beyond, the oldest goes. MaxPeersPerIP bounds what one address may
	// announce; beyond, announces are refused.
	MaxPeersKept    = 2048
	MaxPeersPerHash = 64
	MaxPeersPerIP   = 64
	// tokenLife is how often the secret behind write tokens changes; the
	// previous one is honoured, so a token is good for 5 to 10 minutes.
	tokenLife = 5 * time.Minute
)

// Rates.
const (
	// DefaultRate is how many queries leave a second; burstSeconds of them may
	// leave at once.
	DefaultRate  = 10
	burstSeconds = 4
	// answersPerIP, PerNetwork (/24, /56) and All are bytes of answers a
	// second; answerBurst seconds of them may leave at once.
	answersPerIP      = 4 << 10
	answersPerNetwork = 8 << 10
	answersAll        = 64 << 10
	answerBurst       = 4
	// verifiesAll is how many signatures of strangers are checked a second.
	verifiesAll = 16
)
