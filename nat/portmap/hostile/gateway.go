package hostile

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// Gateway is one router. Set the fields before Start.
type Gateway struct {
	// Addr is its address on the LAN.
	Addr netip.Addr
	// Interface is its network device on the LAN, by name.
	Interface string

	// Search returns the datagrams that answer one M-SEARCH; nil for one
	// honest answer, empty for silence.
	Search func() [][]byte
	// Describe serves the description; nil for an honest one.
	Describe http.HandlerFunc
	// ControlURL is what the description tells; "" for the honest one.
	ControlURL string
	// External is the outside address it tells.
	External string
	// Fault returns the UPnP error to answer an action with, 0 for none.
	Fault func(action string, port uint16, lease uint32) int
	// Lease is what lookups tell; nil for what was asked.
	Lease *uint32
	// Control serves SOAP requests; nil for honest ones.
	Control http.HandlerFunc
	// PortControl returns the datagrams that answer one request on port 5351;
	// nil if the port is closed.
	PortControl func(req []byte) [][]byte
	// Stranger, if set, sends the answers of PortControl instead of Addr.
	Stranger netip.Addr

	// Adds counts AddPortMapping requests.
	Adds atomic.Int32

	mu       sync.Mutex
	mappings map[string]mapping
	base     string
	closers  []func() error
	wg       sync.WaitGroup
}

// Start opens the sockets by in, which runs a function in the network
// namespace of the router, and serves until Close.
func (g *Gateway) Start(in func(func() error) error) error {
	g.mappings = make(map[string]mapping)
	err := in(func() error {
		// HTTP first: answers to a search tell its port.
		return errors.Join(g.startHTTP(), g.startSearch(), g.startPortControl())
	})
	if err != nil {
		return errors.Join(err, g.Close())
	}
	return nil
}

// listenUDP opens a socket although another one, just closed, may live on for
// a moment in a child process between fork and exec.
func listenUDP(addr string) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
		return errors.Join(err, failed)
	}}
	return lc.ListenPacket(context.Background(), "udp4", addr)
}

// Close stops serving and waits.
func (g *Gateway) Close() error {
	var errs []error
	for _, c := range g.closers {
		errs = append(errs, c())
	}
	g.wg.Wait()
	return errors.Join(errs...)
}

// Base is the URL of the router's HTTP server, without a slash at the end.
func (g *Gateway) Base() string { return g.base }

func (g *Gateway) startSearch() error {
	pc, err := listenUDP("0.0.0.0:1900")
	if err != nil {
		return err
	}
	ifi, err := net.InterfaceByName(g.Interface)
	if err == nil {
		err = ipv4.NewPacketConn(pc).JoinGroup(ifi, &net.UDPAddr{IP: net.IPv4(239, 255, 255, 250)})
	}
	if err != nil {
		pc.Close()
		return err
	}
	g.serve(pc, pc, func([]byte) [][]byte {
		if g.Search != nil {
			return g.Search()
		}
		return [][]byte{Answer(g.base + "/desc.xml")}
	})
	return nil
}

func (g *Gateway) startPortControl() error {
	if g.PortControl == nil {
		return nil
	}
	pc, err := listenUDP(fmt.Sprintf("%s:5351", g.Addr))
	if err != nil {
		return err
	}
	from := pc
	if g.Stranger.IsValid() {
		if from, err = listenUDP(fmt.Sprintf("%s:5351", g.Stranger)); err != nil {
			pc.Close()
			return err
		}
		g.closers = append(g.closers, from.Close)
	}
	g.serve(pc, from, g.PortControl)
	return nil
}

// serve answers each datagram read from in with those of answer, sent by out.
func (g *Gateway) serve(in, out net.PacketConn, answer func([]byte) [][]byte) {
	g.closers = append(g.closers, in.Close)
	g.wg.Go(func() {
		b := make([]byte, 2048)
		for {
			n, from, err := in.ReadFrom(b)
			if err != nil {
				return
			}
			for _, a := range answer(b[:n]) {
				out.WriteTo(a, from)
			}
		}
	})
}

func (g *Gateway) startHTTP() error {
	l, err := net.Listen("tcp4", fmt.Sprintf("%s:0", g.Addr))
	if err != nil {
		return err
	}
	g.base = "http://" + l.Addr().String()
	mux := http.NewServeMux()
	mux.HandleFunc("/desc.xml", g.describe)
	mux.HandleFunc("/ctl", g.control)
	srv := &http.Server{Handler: mux}
	g.closers = append(g.closers, srv.Close)
	g.wg.Go(func() { srv.Serve(l) })
	return nil
}
