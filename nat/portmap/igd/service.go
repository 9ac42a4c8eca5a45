package igd

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/huin/goupnp"
	"github.com/huin/goupnp/dcps/internetgateway2"
	"github.com/huin/goupnp/soap"
)

// MaxTries is how often one Add asks for a mapping, whatever the router says.
const MaxTries = 6

// leaseSlack is how much of a lease may have run before it is read back.
const leaseSlack = 5 * time.Second

// description is what the router's own page shows beside the mapping.
const description = "Porchlight"

// Fault is an error that a router tells by number (WANIPConnection:2 §2.5,
// WANIPv6FirewallControl:1 §2.5).
type Fault int

// The faults that need an answer of ours.
const (
	InvalidArgs      Fault = 402
	ActionFailed     Fault = 501
	NotAuthorized    Fault = 606
	NoSuchPinhole    Fault = 704
	NoSuchEntry      Fault = 714
	Conflict         Fault = 718
	SamePortOnly     Fault = 724
	OnlyPermanent    Fault = 725
	NoPortsAvailable Fault = 728
	ConflictOther    Fault = 729
)

// Error says the number; routers' texts are not repeated.
func (f Fault) Error() string { return "upnp error " + strconv.Itoa(int(f)) }

// ErrNoReply says that a request brought no reply that is one: the connection
// failed, or what came was refused by the cage or the decoder.
var ErrNoReply = errors.New("no proper reply from the upnp router")

// fault brings goupnp's errors into our form; goupnp keeps only the text of
// what the HTTP client says.
func fault(err error) error {
	var f *soap.SOAPFaultError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &f):
		return Fault(f.Detail.UPnPError.Errorcode)
	}
	return fmt.Errorf("%w: %w", ErrNoReply, err)
}

// connection is what the three generated clients have in common.
type connection interface {
	AddPortMappingCtx(ctx context.Context, remote string, external uint16, protocol string, internal uint16,
		client string, enabled bool, description string, lease uint32) error
	DeletePortMappingCtx(ctx context.Context, remote string, external uint16, protocol string) error
	GetExternalIPAddressCtx(ctx context.Context) (string, error)
	GetSpecificPortMappingEntryCtx(ctx context.Context, remote string, external uint16, protocol string) (
		internal uint16, client string, enabled bool, description string, lease uint32, err error)
}

// Service makes mappings on one WAN connection of a router.
type Service struct {
	// Version is 2 for WANIPConnection:2, else 1.
	Version int

	conn connection
	// addAny asks version 2 for any free port; nil in version 1.
	addAny func(ctx context.Context, m Mapping, lease uint32) (uint16, error)
}

func newService(urn string, c goupnp.ServiceClient) *Service {
	switch urn {
	case internetgateway2.URN_WANIPConnection_2:
		v2 := &internetgateway2.WANIPConnection2{ServiceClient: c}
		return &Service{2, v2, func(ctx context.Context, m Mapping, lease uint32) (uint16, error) {
			return v2.AddAnyPortMappingCtx(ctx, "", m.External, protocol(m.Transport), m.Internal.Port(),
				m.Internal.Addr().String(), true, description, lease)
		}}
	case internetgateway2.URN_WANIPConnection_1:
		return &Service{1, &internetgateway2.WANIPConnection1{ServiceClient: c}, nil}
	}
	return &Service{1, &internetgateway2.WANPPPConnection1{ServiceClient: c}, nil}
}

// protocol is "udp" or "tcp" as UPnP spells it.
func protocol(transport string) string { return strings.ToUpper(transport) }

// Mapping is one port of a router.
type Mapping struct {
	// Transport is "udp" or "tcp".
	Transport string
	// Internal is where the mapping leads.
	Internal netip.AddrPort
	// External is the router's port.
	External uint16
	// Lease is what is left of it, in whole seconds; 0 is for ever.
	Lease time.Duration
}

// ExternalAddress asks for the router's outside address.
func (s *Service) ExternalAddress(ctx context.Context) (netip.Addr, error) {
	text, err := s.conn.GetExternalIPAddressCtx(ctx)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("ask for the external address: %w", fault(err))
	}
	a, err := netip.ParseAddr(strings.TrimSpace(text))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("external address: %w", ErrNonsense)
	}
	return a.Unmap(), nil
}

// Add makes or renews a mapping. It begins with the external port and lease
// in m and gives way where the router wants it: another port after 718 and
// 729, a permanent lease after 725 and 402, the internal port after 724. What
// was made comes back; with an error, what was tried last.
func (s *Service) Add(ctx context.Context, m Mapping) (Mapping, error) {
	samePort := false
	var err error
	for range MaxTries {
		if err = fault(s.add(ctx, &m)); err == nil {
			return s.confirm(ctx, m)
		}
		var next Mapping
		var ok bool
		if next, ok = yielded(m, err, &samePort); !ok {
			break
		}
		m = next
	}
	return m, fmt.Errorf("map %s port %d: %w", m.Transport, m.Internal.Port(), err)
}

// add asks once; if the port is not ours to choose any more, version 2 chooses.
func (s *Service) add(ctx context.Context, m *Mapping) error {
	lease := uint32(m.Lease / time.Second)
	if s.addAny != nil && m.External == 0 {
		port, err := s.addAny(ctx, *m, lease)
		if err == nil && port != 0 {
			m.External = port
		}
		return err
	}
	if m.External == 0 {
		m.External = randomPort()
	}
	return s.conn.AddPortMappingCtx(ctx, "", m.External, protocol(m.Transport), m.Internal.Port(),
		m.Internal.Addr().String(), true, description, lease)
}

// yielded is the next thing to ask for after err; false if there is none.
func yielded(m Mapping, err error, samePort *bool) (Mapping, bool) {
	var f Fault
	if !errors.As(err, &f) {
		return m, false
	}
	switch f {
	case OnlyPermanent, InvalidArgs:
		if m.Lease == 0 {
			return m, false
		}
		m.Lease = 0
	case SamePortOnly:
		if m.External == m.Internal.Port() {
			return m, false
		}
		*samePort = true
		m.External = m.Internal.Port()
	case Conflict, ConflictOther, ActionFailed, NoPortsAvailable:
		if *samePort {
			return m, false
		}
		m.External = 0
	default:
		return m, false
	}
	return m, true
}

// randomPort is one of the ports above 1023.
func randomPort() uint16 {
	var b [2]byte
	rand.Read(b[:])
	return 1024 + binary.BigEndian.Uint16(b[:])%(65535-1024)
}

// confirm reads the mapping back, because routers shorten leases without
// saying so and give ports away that lead to others. Many cannot be asked;
// then the yes counts.
func (s *Service) confirm(ctx context.Context, m Mapping) (Mapping, error) {
	real, err := s.Lookup(ctx, m.Transport, m.External)
	if err != nil {
		return m, ctx.Err()
	}
	if real.Internal != m.Internal {
		return m, fmt.Errorf("map %s port %d: router gave it to %s: %w", m.Transport, m.External, real.Internal, Conflict)
	}
	if real.Lease == 0 || real.Lease+leaseSlack < m.Lease {
		m.Lease = real.Lease
	}
	return m, nil
}

// Lookup asks where an external port leads. A mapping that is gone is
// [NoSuchEntry].
func (s *Service) Lookup(ctx context.Context, transport string, external uint16) (Mapping, error) {
	port, client, enabled, _, lease, err := s.conn.GetSpecificPortMappingEntryCtx(ctx, "", external, protocol(transport))
	if err != nil {
		return Mapping{}, fmt.Errorf("look up %s port %d: %w", transport, external, fault(err))
	}
	a, err := netip.ParseAddr(strings.TrimSpace(client))
	if err != nil || !enabled {
		return Mapping{}, fmt.Errorf("look up %s port %d: %w", transport, external, ErrNonsense)
	}
	return Mapping{transport, netip.AddrPortFrom(a.Unmap(), port), external, time.Duration(lease) * time.Second}, nil
}

// Delete removes a mapping of ours. One that leads elsewhere, or is gone, is
// left alone.
func (s *Service) Delete(ctx context.Context, m Mapping) error {
	real, err := s.Lookup(ctx, m.Transport, m.External)
	if errors.Is(err, NoSuchEntry) || err == nil && real.Internal != m.Internal {
		return nil
	}
	if err := s.conn.DeletePortMappingCtx(ctx, "", m.External, protocol(m.Transport)); err != nil {
		return fmt.Errorf("remove %s port %d: %w", m.Transport, m.External, fault(err))
	}
	return nil
}
