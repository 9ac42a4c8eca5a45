package dialback

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"porchlight/nat/ice"
	"porchlight/nat/probe"
)

const (
	// MaxPlaces is how many ports one request has knocked at; it is also how
	// many packets are sent to an address before it has answered.
	MaxPlaces = 3
	// MaxMet is how many addresses a request can say that it met.
	MaxMet = 64

	// minBody and maxBody bound a request's body in bytes. The lower bound is
	// more than all that the request makes anybody send to the address in
	// question, so that nobody gains by having others knock.
	minBody, maxBody = 512, 1024
	// maxReport is the size of the largest answer, in bytes.
	maxReport = 512

	// Credentials have the lengths of RFC 8445 §5.3; a place's number is
	// appended to the user name.
	minUfrag, maxUfrag = 8, 32
	minPwd, maxPwd     = 22, 64

	// httpsPort is the one port below firstPort that may be knocked at.
	httpsPort, firstPort = 443, 1024
)

// Networks of a [Place].
const (
	UDP = "udp"
	TCP = "tcp"
)

// Place is a port of the device that asks.
type Place struct {
	Network string `json:"network"` // UDP or TCP
	Port    uint16 `json:"port"`
}

// By says who knocked, and so what a knock that came in proves.
type By string

// The values of [By].
const (
	// Stranger is a device that the asking one says it never met.
	Stranger By = "stranger"
	// Helper is the device that was asked, from a fresh port.
	Helper By = "helper"
)

// Outcome is what became of one knock, as the one who knocked saw it.
type Outcome string

// The values of [Outcome].
const (
	Sent     Outcome = "sent"     // UDP: nobody answers it
	Answered Outcome = "answered" // TCP: by the device, with the key
	Wrong    Outcome = "wrong"    // TCP: something else is there
	Refused  Outcome = "refused"  // TCP: nobody listens
	Silent   Outcome = "silent"   // TCP: no answer in time
	Unable   Outcome = "unable"   // the packet did not leave
)

// ErrRequest is wrapped by errors about a request's content.
var ErrRequest = errors.New("unusable request")

// doors is what both requests carry: where to knock, and with what key.
type doors struct {
	Ufrag  string  `json:"ufrag"`
	Pwd    string  `json:"pwd"`
	Places []Place `json:"places"`
	// Pad makes the body as large as minBody.
	Pad string `json:"pad"`
}

// ask is the body of POST /v1/ask.
type ask struct {
	doors
	// Salt and Met tell whom the device met: two bytes for each address.
	Salt []byte `json:"salt"`
	Met  []byte `json:"met"`
	// At, if set, is where the device says it is by the other IP family. It
	// is knocked at there if it answers a question at this address first.
	At netip.AddrPort `json:"at"`
}

// proofKey returns the credentials of that question.
func (d doors) proofKey() probe.Credentials { return d.key(MaxPlaces) }

// knock is the body of POST /v1/knock.
type knock struct {
	doors
	// IP is where the helper sees the device.
	IP netip.Addr `json:"ip"`
}

// report is the answer to both.
type report struct {
	By By `json:"by"`
	// IP is where the helper sees the device.
	IP netip.Addr `json:"ip"`
	// Outcomes are those of the places, in their order.
	Outcomes []Outcome `json:"outcomes"`
}

// newDoors makes fresh credentials for places.
func newDoors(places []Place) doors {
	return doors{Ufrag: rand.Text()[:16], Pwd: rand.Text(), Places: places}
}

// key returns the credentials for the place with a number.
func (d doors) key(i int) probe.Credentials {
	return probe.Credentials{Ufrag: d.Ufrag + strconv.Itoa(i), Pwd: d.Pwd}
}

func (d doors) check() error {
	if !plain(d.Ufrag, minUfrag, maxUfrag) || !plain(d.Pwd, minPwd, maxPwd) {
		return fmt.Errorf("%w: credentials", ErrRequest)
	}
	if len(d.Places) == 0 || len(d.Places) > MaxPlaces {
		return fmt.Errorf("%w: %d places", ErrRequest, len(d.Places))
	}
	for _, p := range d.Places {
		if p.Network != UDP && p.Network != TCP {
			return fmt.Errorf("%w: network %q", ErrRequest, p.Network)
		}
		if !portAllowed(p.Port) {
			return fmt.Errorf("%w: port %d", ErrRequest, p.Port)
		}
	}
	return nil
}

func portAllowed(port uint16) bool { return port >= firstPort || port == httpsPort }

// plain says whether s consists of letters and digits.
func plain(s string, shortest, longest int) bool {
	if len(s) < shortest || len(s) > longest {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

func parseAsk(b []byte) (a ask, err error) {
	if err := decode(b, &a); err != nil {
		return ask{}, err
	}
	if err := a.check(); err != nil {
		return ask{}, err
	}
	if len(a.Salt) > saltSize || len(a.Met)%2 != 0 || len(a.Met) > 2*MaxMet {
		return ask{}, fmt.Errorf("%w: %d bytes of addresses", ErrRequest, len(a.Met))
	}
	if a.At.IsValid() && !portAllowed(a.At.Port()) {
		return ask{}, fmt.Errorf("%w: port %d", ErrRequest, a.At.Port())
	}
	return a, nil
}

func parseKnock(b []byte) (k knock, err error) {
	if err := decode(b, &k); err != nil {
		return knock{}, err
	}
	return k, k.check()
}

func decode(b []byte, v any) error {
	if len(b) < minBody || len(b) > maxBody {
		return fmt.Errorf("%w: %d bytes instead of %d to %d", ErrRequest, len(b), minBody, maxBody)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %w", ErrRequest, err)
	}
	return nil
}

// encode makes the body of a request, d being the doors within it.
func encode(v any, d *doors) ([]byte, error) {
	d.Pad = ""
	b, err := json.Marshal(v)
	if err != nil || len(b) >= minBody {
		return b, err
	}
	d.Pad = strings.Repeat("-", minBody-len(b))
	return json.Marshal(v)
}

// knockable says whether anybody may be made to send packets to an address:
// only public ones, and loopback for agents on one machine.
func knockable(a netip.Addr, loopback bool) bool {
	return ice.Filter{Loopback: loopback}.Allow(netip.AddrPortFrom(a, httpsPort))
}

const saltSize = 8

// Met is what a device tells about the addresses it sent packets to. The salt
// stays the same for as long as the device runs: with many salts a helper
// could narrow the addresses down.
type Met struct{ salt [saltSize]byte }

// NewMet returns a Met with a salt of its own.
func NewMet() *Met {
	m := &Met{}
	rand.Read(m.salt[:])
	return m
}

// tell fills a request in; of more than MaxMet addresses it tells the first.
func (m *Met) tell(a *ask, met []netip.Addr) {
	a.Salt = m.salt[:]
	for _, addr := range met[:min(len(met), MaxMet)] {
		a.Met = append(a.Met, digest(a.Salt, addr)...)
	}
}

// met says whether a request names an address, or another with its digest.
func (a ask) met(addr netip.Addr) bool {
	want := digest(a.Salt, addr)
	for i := 0; i < len(a.Met); i += 2 {
		if bytes.Equal(a.Met[i:i+2], want) {
			return true
		}
	}
	return false
}

func digest(salt []byte, addr netip.Addr) []byte {
	b := addr.Unmap().As16()
	sum := sha256.Sum256(append(bytes.Clone(salt), b[:]...))
	return binary.BigEndian.AppendUint16(nil, binary.BigEndian.Uint16(sum[:]))
}
