package api

// Ping is one line of the answer to GET /api/v1/ping.
type Ping struct {
	// Path is "direct" or "relay".
	Path        string  `json:"path"`
	FirstByteMS float64 `json:"first_byte_ms"`
	// DirectMS is nil while the path is not direct.
	DirectMS *float64 `json:"direct_ms"`
	RTTMS    float64  `json:"rtt_ms"`
	Local    string   `json:"local"`
	Remote   string   `json:"remote"`
	Reason   Reason   `json:"reason"`
}

// Path is the answer of GET /api/v1/path: how packets reach a peer.
type Path struct {
	// Path is "direct", "relay" or "".
	Path   string `json:"path"`
	Local  string `json:"local"`
	Remote string `json:"remote"`
	Reason Reason `json:"reason"`
}

// Netcheck is the answer of GET /api/v1/netcheck.
type Netcheck struct {
	Verdict Verdict `json:"verdict"`
	NAT     NAT     `json:"nat"`
	// UDP says whether any helper answered by UDP.
	UDP bool `json:"udp"`
	// Public is the address helpers saw, "" if none did.
	Public string `json:"public"`
	// Candidates are the addresses that offers carry, as "host 192.168.1.2:4001".
	Candidates []string `json:"candidates"`
	Helpers    []Helper `json:"helpers"`
}

// Donate is what the owner lends.
type Donate struct {
	Enabled bool `json:"enabled"`
	// To lists for whom: "everybody", "friends", "me", or names.
	To []string `json:"to"`
}
