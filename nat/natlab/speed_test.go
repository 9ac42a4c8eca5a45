package natlab

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/sys/unix"
)

// bulk is what each run of the benchmarks carries.
const bulk = 100 << 20

// delays are the labs the benchmarks run in. At the default delay a connection is
// limited by its windows, without delay by the forwarder, and without offload by
// the number of packets.
var delays = []struct {
	name string
	Options
}{
	{"default delay", Options{}},
	{"no delay", Options{Latency: -1}},
	{"no delay, no offload", Options{Latency: -1, Loss: 1e-9}},
}

// BenchmarkTCPThroughTwoRouters prints the throughput of one TCP connection through
// two port-restricted routers (punched: both sides dial), beside a connection over
// loopback.
func BenchmarkTCPThroughTwoRouters(b *testing.B) {
	for _, d := range delays {
		b.Run(d.name, func(b *testing.B) {
			l := newLab(b, d.Options)
			alice, bob := twoHomes(b, l)
			var lab, loopback time.Duration
			for b.Loop() {
				a, z := punchTCP(b, alice, bob)
				lab += transfer(b, a, z)
				a, z = loopbackTCP(b)
				loopback += transfer(b, a, z)
			}
			report(b, l, lab, loopback)
		})
	}
}

// BenchmarkQUICThroughTwoRouters does the same with a QUIC stream.
func BenchmarkQUICThroughTwoRouters(b *testing.B) {
	for _, d := range delays {
		b.Run(d.name, func(b *testing.B) {
			l := newLab(b, d.Options)
			alice, bob := twoHomes(b, l)
			var lab, loopback time.Duration
			for b.Loop() {
				lab += quicTransfer(b, punchedSocket(b, alice, bob), punchedSocket(b, bob, alice), bob.Public())
				loopback += quicTransfer(b, loopbackUDP(b), loopbackUDP(b), netip.MustParseAddr("127.0.0.1"))
			}
			report(b, l, lab, loopback)
		})
	}
}

func loopbackUDP(tb testing.TB) *net.UDPConn {
	tb.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func report(b *testing.B, l *Lab, lab, loopback time.Duration) {
	mbs := func(d time.Duration) float64 { return float64(b.N) * bulk / 1e6 / d.Seconds() }
	b.ReportMetric(mbs(lab), "lab-MB/s")
	b.ReportMetric(mbs(loopback), "loopback-MB/s")
	b.ReportMetric(mbs(lab)/mbs(loopback), "ratio")
	b.Logf("%d MiB: %.0f MB/s in the lab, %.0f over loopback; %+v", bulk>>20, mbs(lab), mbs(loopback), l.Stats())
}

func twoHomes(tb testing.TB, l *Lab) (*Host, *Host) {
	tb.Helper()
	alice, err := l.Home("alice", PortRestricted)
	if err != nil {
		tb.Fatal(err)
	}
	bob, err := l.Home("bob", PortRestricted)
	if err != nil {
		tb.Fatal(err)
	}
	return alice, bob
}

// punchTCP opens a connection by simultaneous open (RFC 9293 §3.5): the first SYN
// dies at the other router, the second finds the port open.
func punchTCP(tb testing.TB, alice, bob *Host) (a, z net.Conn) {
	tb.Helper()
	const port = 5000
	dial := func(from, to *Host) (c net.Conn, err error) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from.Addr().AsSlice(), Port: port}, Control: reuse}
		d.SetMultipathTCP(false)
		err = from.Do(func() error {
			c, err = d.DialContext(ctx, "tcp4", netip.AddrPortFrom(to.Public(), port).String())
			return err
		})
		return c, err
	}
	other := make(chan error, 1)
	go func() {
		var err error
		z, err = dial(bob, alice)
		other <- err
	}()
	a, err := dial(alice, bob)
	if err2 := <-other; err != nil || err2 != nil {
		tb.Fatal(err, err2)
	}
	return a, z
}

func reuse(_, _ string, c syscall.RawConn) (err error) {
	c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
	return err
}

func loopbackTCP(tb testing.TB) (a, z net.Conn) {
	tb.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	if a, err = net.Dial("tcp4", ln.Addr().String()); err != nil {
		tb.Fatal(err)
	}
	if z, err = ln.Accept(); err != nil {
		tb.Fatal(err)
	}
	return a, z
}

// transfer sends bulk bytes from z to a and closes both.
func transfer(tb testing.TB, a, z net.Conn) time.Duration {
	tb.Helper()
	start := time.Now()
	go func() {
		send(z)
		z.Close()
	}()
	n, err := io.Copy(io.Discard, a)
	if n != bulk {
		tb.Fatal(n, err)
	}
	took := time.Since(start)
	// A reset spares the ports TIME-WAIT, in the routers too.
	if tcp, ok := a.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	a.Close()
	return took
}

func send(w io.Writer) error {
	block := make([]byte, 128<<10)
	for sent := 0; sent < bulk; sent += len(block) {
		if _, err := w.Write(block); err != nil {
			return err
		}
	}
	return nil
}

// punchedSocket opens port 6000 of a host and lets the other in.
func punchedSocket(tb testing.TB, from, to *Host) *net.UDPConn {
	tb.Helper()
	pc, err := from.ListenPacket(context.Background(), "udp4", ":6000")
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := pc.WriteTo([]byte{0}, udpAddr(to.Public(), 6000)); err != nil {
		tb.Fatal(err)
	}
	return pc.(*net.UDPConn)
}

func udpAddr(a netip.Addr, port uint16) *net.UDPAddr {
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, port))
}

// quicTransfer sends bulk bytes from server to client.
func quicTransfer(b *testing.B, client, server *net.UDPConn, to netip.Addr) time.Duration {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	config := &quic.Config{MaxStreamReceiveWindow: 16 << 20, MaxConnectionReceiveWindow: 16 << 20}
	tls1, tls2 := tlsConfigs(b)
	for _, c := range []*net.UDPConn{client, server} {
		setBuffer(b, c, unix.SO_RCVBUFFORCE)
		setBuffer(b, c, unix.SO_SNDBUFFORCE)
	}
	st, ct := &quic.Transport{Conn: server}, &quic.Transport{Conn: client}
	defer server.Close()
	defer client.Close()
	defer st.Close()
	defer ct.Close()
	ln, err := st.Listen(tls1, config)
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		c, err := ln.Accept(ctx)
		if err != nil {
			return
		}
		if s, err := c.OpenUniStreamSync(ctx); err == nil && send(s) == nil {
			s.Close()
		}
	}()
	c, err := ct.Dial(ctx, udpAddr(to, uint16(server.LocalAddr().(*net.UDPAddr).Port)), tls2, config)
	if err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	s, err := c.AcceptUniStream(ctx)
	if err != nil {
		b.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, s); n != bulk {
		b.Fatal(n, err)
	}
	took := time.Since(start)
	c.CloseWithError(0, "")
	return took
}

// setBuffer gives a socket 4 MiB beyond what net.core.rmem_max allows: with the
// usual 208 KiB a busy machine measures lost datagrams instead of the lab.
func setBuffer(b *testing.B, c *net.UDPConn, option int) {
	b.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		b.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, 4<<20) })
	if err != nil {
		b.Fatal(err)
	}
}

func tlsConfigs(b *testing.B) (server, client *tls.Config) {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		b.Fatal(err)
	}
	server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"bulk"}}
	client = &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"bulk"}}
	return server, client
}
