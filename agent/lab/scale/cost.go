package scale

import (
	"encoding/json"
	"net/netip"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/introduce"
	"porchlight/nat/relay"
)

// What agent/reach and agent/people counted in the laboratory, in datagrams
// both ways together, and what they weigh by the sizes of their contents.
const (
	// A registration with its bindings: 21 datagrams a minute, of which six are
	// bindings. Bytes: see renewalBytes.
	renewedPerMinute = 21
	bindingsPerMin   = 3
	bindingBytes     = 2 * (60 + headers)
	// opened is what it takes to begin a session and end it: 14 - 4 (doc of
	// agent/people); openedBytes is two padded Initials (RFC 9000 §14.1), two
	// certificates of 600 bytes and what confirms them.
	opened      = 10
	openedBytes = 2*1228 + 2*600 + 6*80 + opened*headers
	// An exchange over a session: 4 datagrams. request is one of HTTP without
	// its body, quicBytes what QUIC adds to a datagram.
	exchange  = 4
	request   = 220
	quicBytes = 30
	// silentPackets are sent to an address where nobody is.
	silentPackets = 6
	silentBytes   = silentPackets * (100 + headers)
)

// answerSize is the size of what a rendezvous answers to a registration: the
// same types with values as long as real ones.
func answerSize(d *device) float64 {
	type fellow struct {
		Address identity.Address `json:"address"`
		At      netip.AddrPort   `json:"at"`
	}
	at := netip.MustParseAddrPort("198.51.100.123:4001")
	body := struct {
		Ticket *relay.Ticket  `json:"ticket"`
		Others []fellow       `json:"others"`
		You    netip.AddrPort `json:"you"`
		UnixS  int64          `json:"unix_s"`
	}{You: at, UnixS: epoch.Unix(), Ticket: &relay.Ticket{
		Username: "1800000000:" + d.self.Address().String(), Realm: "porchlight",
		UDP: []string{at.String()}, TCP: []string{at.String()},
	}}
	for range introduce.MaxOthers {
		body.Others = append(body.Others, fellow{d.self.Address(), at})
	}
	b, err := json.Marshal(body)
	if err != nil {
		return 0
	}
	return float64(len(b))
}

// renewalBytes is what a minute of a registration weighs.
func (w *world) renewalBytes() float64 {
	renewals := float64(time.Minute) / float64(registerEvery)
	each := request + 80 + request/2 + w.answerSize
	datagrams := renewedPerMinute - 2*bindingsPerMin
	return renewals*each + float64(datagrams)*(quicBytes+headers) + bindingsPerMin*bindingBytes
}

// settleCounts adds up what registrations cost until now.
func (w *world) settleCounts(d *device) {
	s := (w.now - d.counted).Seconds()
	d.counted = w.now
	minutes := float64(d.held+d.served) * s / 60
	d.spent[forRegistration].add(minutes*renewedPerMinute, minutes*w.renewalBytes())
}
