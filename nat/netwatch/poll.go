package netwatch

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxTable is how much of a file in /proc/net is read, in bytes.
	maxTable = 1 << 20
	// routeFile, route6File and address6File are what the kernel tells without
	// netlink (proc_pid_net(5)). IPv4 addresses are not in such a table.
	routeFile    = "/proc/net/route"
	route6File   = "/proc/net/ipv6_route"
	address6File = "/proc/net/if_inet6"
)

// poll looks at /proc/net from time to time.
type poll struct {
	every  time.Duration
	closed chan struct{}
	once   sync.Once
}

func newPoll(every time.Duration) *poll {
	return &poll{every: every, closed: make(chan struct{})}
}

func (p *poll) wait() error {
	timer := time.NewTimer(p.every)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-p.closed:
		return os.ErrClosed
	}
}

// Close ends wait.
func (p *poll) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// read takes together what there is. A table that is missing is empty: a
// kernel without IPv6 has none.
func (p *poll) read() (Snapshot, error) {
	var s Snapshot
	err := errors.Join(
		readTable(routeFile, s.parseRoutes),
		readTable(route6File, s.parseRoutes6),
		readTable(address6File, s.parseAddresses6),
	)
	if own := sourceTowardsInternet(); own.IsValid() {
		s.add(netip.PrefixFrom(own, own.BitLen()))
	}
	s.order()
	return s, err
}

func readTable(name string, parse func(io.Reader) error) error {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := parse(io.LimitReader(f, maxTable)); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

// sourceTowardsInternet asks the routing table which IPv4 address we would
// use: connecting a UDP socket sends nothing. The destination is reserved
// (RFC 5737).
func sourceTowardsInternet() netip.Addr {
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:9")))
	if err != nil {
		return netip.Addr{}
	}
	defer c.Close()
	if udp, ok := c.LocalAddr().(*net.UDPAddr); ok {
		return udp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// lines hands out the fields of the lines that have at least n. A line cut by
// maxTable is too short or names nothing of ours.
func lines(r io.Reader, n int, each func(fields []string)) error {
	scanner := bufio.NewScanner(r)
	for scanner.Scan() {
		if fields := strings.Fields(scanner.Text()); len(fields) >= n {
			each(fields)
		}
	}
	return scanner.Err()
}

// The fields of /proc/net/route: Iface Destination Gateway Flags RefCnt Use
// Metric Mask MTU Window IRTT. Addresses are numbers in hexadecimal, printed
// as the machine reads them from memory; the metric is decimal.
func (s *Snapshot) parseRoutes(r io.Reader) error {
	return lines(r, 11, func(f []string) {
		gateway, err := hex4(f[2])
		flags, err2 := strconv.ParseUint(f[3], 16, 32)
		metric, err3 := strconv.ParseUint(f[6], 10, 32)
		if errors.Join(err, err2, err3) != nil || f[1] != "00000000" || f[7] != "00000000" || !leadsOut(flags) {
			return
		}
		s.addRoute(Route{Gateway: gateway, Interface: f[0], Metric: uint32(metric)})
	})
}

// leadsOut says whether a route is in use and not a refusal.
func leadsOut(flags uint64) bool {
	return flags&unix.RTF_UP != 0 && flags&unix.RTF_REJECT == 0
}

func hex4(s string) (netip.Addr, error) {
	n, err := strconv.ParseUint(s, 16, 32)
	if err != nil || len(s) != 8 {
		return netip.Addr{}, errMalformed
	}
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], uint32(n))
	return netip.AddrFrom4(b), nil
}

func hex16(s string) (netip.Addr, error) {
	var b [16]byte
	if len(s) != 2*len(b) {
		return netip.Addr{}, errMalformed
	}
	if _, err := hex.Decode(b[:], []byte(s)); err != nil {
		return netip.Addr{}, errMalformed
	}
	return netip.AddrFrom16(b), nil
}

// The fields of /proc/net/ipv6_route: destination, its bits, source, its bits,
// next hop, metric, references, use, flags, interface; all in hexadecimal and
// in network order.
func (s *Snapshot) parseRoutes6(r io.Reader) error {
	return lines(r, 10, func(f []string) {
		gateway, err := hex16(f[4])
		metric, err2 := strconv.ParseUint(f[5], 16, 32)
		flags, err3 := strconv.ParseUint(f[8], 16, 32)
		if errors.Join(err, err2, err3) != nil || f[1] != "00" || f[9] == "lo" || !leadsOut(flags) ||
			strings.Trim(f[0], "0") != "" {
			return
		}
		s.addRoute(Route{Gateway: gateway, Interface: f[9], Metric: uint32(metric)})
	})
}

// The fields of /proc/net/if_inet6: address, index, bits, scope, flags, all in
// hexadecimal, and interface.
func (s *Snapshot) parseAddresses6(r io.Reader) error {
	return lines(r, 6, func(f []string) {
		addr, err := hex16(f[0])
		bits, err2 := strconv.ParseUint(f[2], 16, 8)
		flags, err3 := strconv.ParseUint(f[4], 16, 32)
		prefix := netip.PrefixFrom(addr, int(bits))
		if errors.Join(err, err2, err3) == nil && prefix.IsValid() && (address{flags: uint32(flags)}).usable() {
			s.add(prefix)
		}
	})
}
