package igd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/huin/goupnp/dcps/internetgateway2"
)

// ErrForbidden says that the firewall takes no pinholes.
var ErrForbidden = errors.New("router allows no pinholes")

// MaxPinholeLease is the longest lease of a pinhole (WANIPv6FirewallControl:1
// §2.3.7).
const MaxPinholeLease = 24 * time.Hour

// Firewall opens pinholes for IPv6.
type Firewall struct {
	conn *internetgateway2.WANIPv6FirewallControl1
}

// Open opens a pinhole from anywhere to the address and port, and returns its
// number. protocol is IANA's.
func (f *Firewall) Open(ctx context.Context, to netip.AddrPort, protocol uint16, lease time.Duration) (uint16, error) {
	_, allowed, err := f.conn.GetFirewallStatusCtx(ctx)
	if err == nil && !allowed {
		return 0, fmt.Errorf("open pinhole to port %d: %w", to.Port(), ErrForbidden)
	}
	seconds := uint32(min(lease, MaxPinholeLease) / time.Second)
	id, err := f.conn.AddPinholeCtx(ctx, "", 0, to.Addr().String(), to.Port(), protocol, seconds)
	if err != nil {
		return 0, fmt.Errorf("open pinhole to port %d: %w", to.Port(), fault(err))
	}
	return id, nil
}

// Extend renews the lease of a pinhole.
func (f *Firewall) Extend(ctx context.Context, id uint16, lease time.Duration) error {
	if err := f.conn.UpdatePinholeCtx(ctx, id, uint32(min(lease, MaxPinholeLease)/time.Second)); err != nil {
		return fmt.Errorf("extend pinhole %d: %w", id, fault(err))
	}
	return nil
}

// Check asks whether a pinhole is still there. One that is gone is
// [NoSuchPinhole]; that the router has seen no packet yet is no error.
func (f *Firewall) Check(ctx context.Context, id uint16) error {
	_, err := f.conn.GetPinholePacketsCtx(ctx, id)
	if err = fault(err); errors.Is(err, NoSuchPinhole) {
		return fmt.Errorf("check pinhole %d: %w", id, err)
	}
	var known Fault
	if errors.As(err, &known) {
		return nil // an optional action that this router lacks
	}
	return err
}

// Close closes a pinhole.
func (f *Firewall) Close(ctx context.Context, id uint16) error {
	if err := f.conn.DeletePinholeCtx(ctx, id); err != nil && !errors.Is(fault(err), NoSuchPinhole) {
		return fmt.Errorf("close pinhole %d: %w", id, fault(err))
	}
	return nil
}
