package api

// Request is somebody who asks to become a contact.
type Request struct {
	// Address is who asks, a person or a device; Name is what they call
	// themselves, Note what they wrote. Both are a stranger's words.
	Address        string `json:"address"`
	Name           string `json:"name"`
	Note           string `json:"note"`
	Link           string `json:"link"`
	ReceivedUnixMS int64  `json:"received_unix_ms"`
}

// Member is one device of a person.
type Member struct {
	Address string `json:"address"`
	// Name is what the device calls itself, "" if it never said.
	Name           string `json:"name"`
	Online         bool   `json:"online"`
	LastSeenUnixMS int64  `json:"last_seen_unix_ms"`
	// This says that it is the one that answers.
	This bool `json:"this"`
}

// Devices is the answer of GET /api/v1/devices: the owner's own.
type Devices struct {
	// Owner is the owner's address, "" while the device belongs to nobody;
	// Link is the one to give to others, which leads to the owner's best device.
	Owner string `json:"owner"`
	Link  string `json:"link"`
	// HoldsKey says that the owner's key lies on this device: it alone brings
	// in devices and revokes them.
	HoldsKey bool     `json:"holds_key"`
	Devices  []Member `json:"devices"`
}

// Invitation brings one device under its owner, once.
type Invitation struct {
	// Code is what people type, Link the same for a QR code.
	Code     string `json:"code"`
	Link     string `json:"link"`
	ExpiresS int64  `json:"expires_s"`
}

// Message is one short text between this owner and a contact.
type Message struct {
	ID string `json:"id"`
	// Peer is the contact's name, or its address where it has none.
	Peer string `json:"peer"`
	// Out says that it was sent from here.
	Out  bool   `json:"out"`
	Text string `json:"text"`
	// UnixMS is when it was written, by the writer's clock.
	UnixMS int64 `json:"unix_ms"`
	// State of what was sent: "waiting", "stored" (at a helper), "delivered"
	// or "expired"; "" of what was received.
	State string `json:"state"`
}

// Service is something on this device, or in its network, that contacts may
// connect to.
type Service struct {
	// Name is what others ask for: a port number or a word.
	Name string `json:"name"`
	// Network is "tcp" or "udp", Target where it answers, as "127.0.0.1:22".
	Network string `json:"network"`
	Target  string `json:"target"`
	// To lists who may: "everybody", "friends", "me", or names.
	To []string `json:"to"`
}

// Lookup is the answer of GET /api/v1/lookup: where a device was found.
type Lookup struct {
	// Address is the device's, or that of a person's device.
	Address string `json:"address"`
	// Source is "session", "lan" (a beacon), "link" (the contact's own),
	// "cache" (what was found before) or "dht".
	Source string `json:"source"`
	// MS is how long it took.
	MS float64 `json:"ms"`
	// At lists where the device itself may be reached, Via who introduces it
	// ("ADDRESS@IP:PORT").
	At  []string `json:"at"`
	Via []string `json:"via"`
}
