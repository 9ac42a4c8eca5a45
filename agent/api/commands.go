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

	// Doubt says that the verdict is about to be checked again.
	Doubt bool `json:"doubt"`
	// CheckedUnixMS is when the verdict was last confirmed, 0 if never.
	CheckedUnixMS int64 `json:"checked_unix_ms"`
	// PublicIPv6 is the IPv6 address helpers saw, "" if none did.
	PublicIPv6 string `json:"public_ipv6"`
	// UDPBlocked says that helpers are reached by TCP only, Captive that a
	// portal answers in their place.
	UDPBlocked bool `json:"udp_blocked"`
	Captive    bool `json:"captive"`
	// Doors are the ways in from outside that are tested.
	Doors []Door `json:"doors"`
	// Ports is how the router chooses ports.
	Ports  Ports  `json:"ports"`
	Router Router `json:"router"`
}

// Door is one way in from outside, and what knocks at it showed.
type Door struct {
	// Transport is "udp" or "tcp", Family "ipv4" or "ipv6".
	Transport string `json:"transport"`
	Family    string `json:"family"`
	// At is the address outside, or only ":port" while that is not known.
	At string `json:"at"`
	// Mapped says that a port mapping leads here.
	Mapped    bool  `json:"mapped"`
	Reachable bool  `json:"reachable"`
	Proof     Proof `json:"proof"`
	// KnockUnixMS is when the last knock came in, TestUnixMS when somebody
	// was last asked to knock; 0 if never.
	KnockUnixMS int64 `json:"knock_unix_ms"`
	TestUnixMS  int64 `json:"test_unix_ms"`
	// Missed counts the tests since in which none came.
	Missed int `json:"missed"`
}

// Ports is how the router chooses the ports that the device is seen at.
type Ports struct {
	// Preserved says that the port outside is the one inside.
	Preserved bool `json:"preserved"`
	// Delta is the constant step between ports of successive destinations,
	// 0 if there is none.
	Delta int `json:"delta"`
	// Rotates says that the router moves living flows to other ports from time
	// to time, as some carriers do: no port outside holds.
	Rotates bool `json:"rotates"`
	// Seen are the ports in the order they were made.
	Seen []int `json:"seen"`
	// Hairpin says whether the device reaches itself at its address outside:
	// "yes", "no" or "unknown".
	Hairpin string `json:"hairpin"`
	// LifetimeS is how long an idle mapping lives at least, in seconds; 0 if
	// that was not measured, or is less than 28.
	LifetimeS int `json:"lifetime_s"`
}

// Router is what the router says of itself and opened.
type Router struct {
	// Address is the default router, "" if there is none.
	Address string `json:"address"`
	// Name is make and model as UPnP tells them, "" if unknown.
	Name string `json:"name"`
	// Settled says that every method of opening ports was tried.
	Settled bool `json:"settled"`
	// Outcomes tell for each method ("pcp", "nat-pmp", "upnp-igd2",
	// "upnp-igd1") what it came to: "pending", "silent", "refused",
	// "broken", "offered" (not needed beside a better one) or "granted".
	Outcomes map[string]string `json:"outcomes"`
	Mappings []Mapping         `json:"mappings"`
}

// Mapping is a port that the router keeps open.
type Mapping struct {
	Method    string `json:"method"`
	Transport string `json:"transport"`
	Internal  string `json:"internal"`
	External  string `json:"external"`
	// LeftS is how long the router keeps it unless it is renewed, in
	// seconds; 0 for ever.
	LeftS int64 `json:"left_s"`
}

// Donate is what the owner lends.
type Donate struct {
	Enabled bool `json:"enabled"`
	// To lists for whom: "everybody", "friends", "me", or names.
	To []string `json:"to"`
}
