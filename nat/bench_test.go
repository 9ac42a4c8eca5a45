package nat

import (
	"context"
	"io"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	// benchSlice is what one transfer carries; benchRounds of them make up one
	// iteration for each contestant: 512 MiB.
	benchSlice  = 64 << 20
	benchRounds = 8
)

// contestant is one way to carry a QUIC connection on loopback.
type contestant struct {
	name   string
	config *quic.Config
	open   func(b *testing.B) (client, server net.PacketConn, remote net.Addr)

	took []time.Duration // of each transfer
	cpu  []time.Duration // of both ends together
}

// perGB is the median of times for one slice, in seconds for 10⁹ bytes.
func perGB(times []time.Duration) float64 {
	times = slices.Sorted(slices.Values(times))
	return times[len(times)/2].Seconds() / (benchSlice / 1e9)
}

// ratio is the median of a[i]/b[i]: both of a pair met the same conditions.
func ratio(a, b []time.Duration) float64 {
	var all []float64
	for i := range a {
		all = append(all, float64(a[i])/float64(b[i]))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// BenchmarkSocketVersusUDPConn sends the same bytes through quic-go over a
// plain *net.UDPConn and over a Socket, in turns within one run, so that what
// else the machine does meets both alike; figures are medians. "plain" has quic-go's own packet
// sizes (up to 1452 bytes, found by probing). "fixed" is the Socket as it is
// to be used: 1200 bytes for ever, see PacketSize; "probing" is the Socket
// with quic-go's sizes, to tell the cost of that choice; "side" is "fixed" with
// a side socket at the client. The ratios are to plain: speed above 1 and CPU
// below 1 are better.
func BenchmarkSocketVersusUDPConn(b *testing.B) {
	probing := quicConfig()
	probing.InitialPacketSize, probing.DisablePathMTUDiscovery = 0, false
	plain := &contestant{name: "plain", config: probing, open: openPlain}
	fixed := &contestant{name: "fixed", config: quicConfig(), open: openSockets}
	probed := &contestant{name: "probing", config: probing, open: openSockets}
	side := &contestant{name: "side", config: quicConfig(), open: openSideSockets}
	all := []*contestant{plain, fixed, probed, side}
	for b.Loop() {
		for round := range benchRounds {
			for i := range all {
				all[(i+round)%len(all)].run(b)
			}
		}
	}
	b.SetBytes(benchSlice * benchRounds * int64(len(all)))
	for _, c := range all {
		b.ReportMetric(1000/perGB(c.took), c.name+"-MB/s")
		b.ReportMetric(perGB(c.cpu), c.name+"-cpu-s/GB")
	}
	for _, c := range all[1:] {
		b.ReportMetric(ratio(plain.took, c.took), c.name+"-speed-ratio")
		b.ReportMetric(ratio(c.cpu, plain.cpu), c.name+"-cpu-ratio")
	}
}

func openPlain(b *testing.B) (client, server net.PacketConn, remote net.Addr) {
	open := func() *net.UDPConn {
		c, err := net.ListenUDP("udp", &net.UDPAddr{})
		if err != nil {
			b.Fatal(err)
		}
		return c
	}
	c, s := open(), open()
	return c, s, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: s.LocalAddr().(*net.UDPAddr).Port}
}

func openSockets(b *testing.B) (client, server net.PacketConn, remote net.Addr) {
	c, s := listenTest(b, ""), listenTest(b, "")
	p := c.NewPeer()
	if err := p.SetPath(Path{Kind: KindDirect, Addr: loopback4(s)}); err != nil {
		b.Fatal(err)
	}
	return c, s, p.Addr()
}

func openSideSockets(b *testing.B) (client, server net.PacketConn, remote net.Addr) {
	c, s := listenTest(b, ""), listenTest(b, "")
	side, _ := openSide(b, loopback4(s), SideConfig{})
	p := c.NewPeer()
	if err := p.UseSide(side, KindDirect); err != nil {
		b.Fatal(err)
	}
	return c, s, p.Addr()
}

// run makes one connection, sends one slice and adds up the figures.
func (c *contestant) run(b *testing.B) {
	ctx, cancel := context.WithTimeout(context.Background(), testTime)
	defer cancel()
	clientConn, serverConn, remote := c.open(b)
	defer clientConn.Close()
	defer serverConn.Close()
	client, server := &quic.Transport{Conn: clientConn}, &quic.Transport{Conn: serverConn}
	defer client.Close()
	defer server.Close()
	ln, err := server.Listen(serverTLS(), c.config)
	if err != nil {
		b.Fatal(err)
	}
	from, err := client.Dial(ctx, remote, clientTLS(), c.config)
	if err != nil {
		b.Fatal(err)
	}
	defer from.CloseWithError(0, "")
	to, err := ln.Accept(ctx)
	if err != nil {
		b.Fatal(err)
	}
	began, cpu := time.Now(), cpuTime(b)
	n, err := pour(ctx, from, to)
	if err != nil || n != benchSlice {
		b.Fatalf("%s: %d bytes, %v", c.name, n, err)
	}
	c.took = append(c.took, time.Since(began))
	c.cpu = append(c.cpu, cpuTime(b)-cpu)
}

// pour sends benchSlice bytes and returns how many arrived.
func pour(ctx context.Context, from, to *quic.Conn) (int64, error) {
	failed := make(chan error, 1)
	go func() {
		str, err := from.OpenUniStreamSync(ctx)
		if err == nil {
			block := make([]byte, 64<<10)
			for sent := 0; sent < benchSlice && err == nil; sent += len(block) {
				_, err = str.Write(block)
			}
			str.Close()
		}
		failed <- err
	}()
	str, err := to.AcceptUniStream(ctx)
	if err != nil {
		return 0, err
	}
	var n int64
	block := make([]byte, 64<<10)
	for err == nil {
		var k int
		k, err = str.Read(block)
		n += int64(k)
	}
	if err == io.EOF {
		err = nil
	}
	if sendErr := <-failed; sendErr != nil {
		err = sendErr
	}
	return n, err
}

// cpuTime is the processor time of the process, user and system.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
