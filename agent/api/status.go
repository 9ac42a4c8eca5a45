package api

// Status is what one device knows about itself at one moment. It is the
// answer of GET /api/v1/status and the data of each console event.
type Status struct {
	// Address is the device's address, 56 base32 characters.
	Address string `json:"address"`
	// Name is what the owner calls the device.
	Name string `json:"name"`
	// Version is the version of the running binary.
	Version string `json:"version"`
	// Reachability is one of the Verdict codes.
	Reachability Verdict `json:"reachability"`
	// Doubt says that it is about to be checked again.
	Doubt bool `json:"doubt"`
	// CheckedUnixMS is when Reachability was last confirmed, 0 if never.
	CheckedUnixMS int64 `json:"checked_unix_ms"`
	// NAT is what behaviour discovery (RFC 5780) found.
	NAT NAT `json:"nat"`
	// Listen is the UDP address the device listens on, Public the address
	// others observed, both "" when unknown.
	Listen string `json:"listen"`
	Public string `json:"public"`
	// Link is the device's link, to be given to others.
	Link string `json:"link"`
	// RSSBytes is the resident memory of the daemon.
	RSSBytes int64 `json:"rss_bytes"`
	// UptimeMS is how long the daemon has been running.
	UptimeMS int64 `json:"uptime_ms"`
	// Owner is the address of the person the device belongs to, "" if nobody's.
	Owner string `json:"owner"`
	// Contacts lists every contact, by name.
	Contacts []Contact `json:"contacts"`
	// Requests lists who asks to become one.
	Requests []Request `json:"requests"`
	// Helpers lists the rendezvous nodes a session is kept to.
	Helpers []Helper `json:"helpers"`
	// Transfers lists what moves at this moment.
	Transfers []Transfer `json:"transfers"`
	// Shares lists the folders served.
	Shares []Share `json:"shares"`
	// Work is what the device computes for others.
	Work Work `json:"work"`
	// Traffic counts bytes since the daemon started.
	Traffic Traffic `json:"traffic"`
}

// NAT names the router's behaviour in the words of RFC 4787: "endpoint-independent",
// "address-dependent", "address-and-port-dependent", "none" or "unknown".
type NAT struct {
	Mapping   string `json:"mapping"`
	Filtering string `json:"filtering"`
}

// Contact is a contact and the path packets to it take at this moment.
type Contact struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	// Role is "me", "friend" or "".
	Role    string `json:"role"`
	Blocked bool   `json:"blocked"`
	// Hidden says that the contact does not see whether this device is on-line.
	Hidden bool `json:"hidden"`
	// Standing is "asked" while the contact was asked and has not answered,
	// "mutual" when it has this device among its contacts, else "".
	Standing string `json:"standing"`
	Online   bool   `json:"online"`
	// Devices are those of a person; one for a contact that is a device.
	Devices []Member `json:"devices"`
	// Unread counts messages that were not read.
	Unread int `json:"unread"`
	// LastSeenUnixMS is 0 if the contact was never seen.
	LastSeenUnixMS int64 `json:"last_seen_unix_ms"`
	// Path is "direct", "relay" or "" while there is none.
	Path string `json:"path"`
	// Local and Remote are the candidate kinds and addresses of the path, as
	// "host 192.168.1.2:4001", "srflx 44.128.0.7:4001", "relay …".
	Local  string `json:"local"`
	Remote string `json:"remote"`
	// RTTMS is the smoothed round-trip time in milliseconds, 0 if unknown.
	RTTMS float64 `json:"rtt_ms"`
	// Reason says why Path is not direct; "" when it is.
	Reason Reason `json:"reason"`
	// SentBytes and ReceivedBytes count since the daemon started.
	SentBytes     int64 `json:"sent_bytes"`
	ReceivedBytes int64 `json:"received_bytes"`
}

// Helper is a rendezvous node that introduces this device to others.
type Helper struct {
	Address string  `json:"address"`
	Name    string  `json:"name"`
	Online  bool    `json:"online"`
	RTTMS   float64 `json:"rtt_ms"`
	// Transport is "udp" or "tcp".
	Transport string `json:"transport"`
}

// Transfer is one file on its way.
type Transfer struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// Direction is "in" or "out".
	Direction string `json:"direction"`
	// Peer is the contact's name, or its address where it has none.
	Peer       string `json:"peer"`
	Bytes      int64  `json:"bytes"`
	TotalBytes int64  `json:"total_bytes"`
	// BytesPerSecond is the rate over the last seconds.
	BytesPerSecond float64 `json:"bytes_per_second"`
}

// Share is a folder that is served.
type Share struct {
	Name string `json:"name"`
	Dir  string `json:"dir"`
	// Read and Write list who may: "everybody", "friends", "me", or names.
	Read  []string `json:"read"`
	Write []string `json:"write"`
}

// Work is what the device computes for others.
type Work struct {
	// Enabled says whether the owner lends processor time.
	Enabled bool `json:"enabled"`
	Running int  `json:"running"`
	// Done and Stopped count tasks since the daemon started; Stopped are
	// those that hit a limit.
	Done    int64 `json:"done"`
	Stopped int64 `json:"stopped"`
	CPUMS   int64 `json:"cpu_ms"`
}

// Traffic counts bytes since the daemon started.
type Traffic struct {
	SentBytes     int64 `json:"sent_bytes"`
	ReceivedBytes int64 `json:"received_bytes"`
	// RelayedBytes is what was passed on for others.
	RelayedBytes int64 `json:"relayed_bytes"`
}
