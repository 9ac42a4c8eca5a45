package bulkbench

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"runtime/pprof"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"

	"porchlight/nat"
)

const (
	senderPort   = 41001
	receiverPort = 41002
	// transferTime bounds one transfer.
	transferTime = 2 * time.Minute
	// ready is what a receiver prints when the hole in its router is open.
	ready = "ready"
	// largePacket is what the way "large" sends: quic-go's most.
	largePacket = 1452
	// readBlock is what is read from the stream at once: what share/fetch uses.
	readBlock = 64 << 10
)

// role is what a process started by the benchmark is to do.
type role struct {
	Sender  bool
	Over    string // "plain", "socket", "side", "large" or "single"
	Bytes   int64
	Block   int64  // bytes written to the stream at once
	Profile string // file for a CPU profile, or empty
}

// result is what it prints.
type result struct {
	Seconds float64 // from the first byte to the last, as the sender saw it
	CPU     float64 // of this process meanwhile, in seconds, user and system
	User    float64 // of these, user
	Bytes   int64
	Stats   nat.Stats
}

// agentConfig has the figures of quicConfig in porchlight/agent/overlay, which
// this package must not import.
func agentConfig() *quic.Config {
	return &quic.Config{
		Versions:                       []quic.Version{quic.Version1},
		HandshakeIdleTimeout:           5 * time.Second,
		MaxIdleTimeout:                 45 * time.Second,
		KeepAlivePeriod:                15 * time.Second,
		InitialPacketSize:              nat.PacketSize,
		DisablePathMTUDiscovery:        true,
		InitialStreamReceiveWindow:     256 << 10,
		MaxStreamReceiveWindow:         2 << 20,
		InitialConnectionReceiveWindow: 512 << 10,
		MaxConnectionReceiveWindow:     4 << 20,
		MaxIncomingStreams:             64,
		MaxIncomingUniStreams:          -1,
		EnableDatagrams:                true,
	}
}

// plainConfig is the same, but with the packet sizes that quic-go finds.
func plainConfig() *quic.Config {
	c := agentConfig()
	c.InitialPacketSize, c.DisablePathMTUDiscovery = 0, false
	return c
}

// act is main of a process that the benchmark started.
func act(r role) error {
	ctx, cancel := context.WithTimeout(context.Background(), transferTime)
	defer cancel()
	e, err := open(ctx, r)
	if err != nil {
		return err
	}
	defer e.close()
	fmt.Println(ready)
	conn, err := e.connect(ctx, r)
	if err != nil {
		return err
	}
	defer conn.CloseWithError(0, "")
	if r.Profile != "" {
		file, err := os.Create(r.Profile)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	began, cpu := time.Now(), usage()
	work := receive
	if r.Sender {
		work = send
	}
	n, err := work(ctx, conn, r)
	if err != nil {
		return err
	}
	used := usage().minus(cpu)
	return json.NewEncoder(os.Stdout).Encode(result{
		Seconds: time.Since(began).Seconds(), Bytes: n, Stats: e.stats(),
		CPU: (used.user + used.system).Seconds(), User: used.user.Seconds(),
	})
}

// send pours bytes into a stream and waits until the other end has them.
func send(ctx context.Context, conn *quic.Conn, r role) (int64, error) {
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return 0, err
	}
	buf := make([]byte, r.Block)
	rand.Read(buf)
	for sent := int64(0); sent < r.Bytes; sent += r.Block {
		if _, err := stream.Write(buf[:min(r.Block, r.Bytes-sent)]); err != nil {
			return sent, fmt.Errorf("send: %w", err)
		}
	}
	stream.Close()
	if _, err := stream.Read(buf); err != io.EOF {
		return r.Bytes, fmt.Errorf("wait for the other end: %w", err)
	}
	return r.Bytes, nil
}

// receive reads a stream to its end and closes it.
func receive(ctx context.Context, conn *quic.Conn, r role) (int64, error) {
	stream, err := conn.AcceptStream(ctx)
	if err != nil {
		return 0, err
	}
	buf, got := make([]byte, readBlock), int64(0)
	for {
		n, err := stream.Read(buf)
		got += int64(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			return got, fmt.Errorf("receive: %w", err)
		}
	}
	if got != r.Bytes {
		return got, fmt.Errorf("received %d of %d bytes", got, r.Bytes)
	}
	stream.Close()
	<-conn.Context().Done() // what is sent last must arrive
	return got, nil
}

// endpoint is one end: a transport, and where its packets are to go.
type endpoint struct {
	transport *quic.Transport
	config    *quic.Config
	remote    net.Addr
	stats     func() nat.Stats
	close     func()
}

// opener is a datagram that opens the hole in the own router and ends there or
// in the other's: a STUN Binding request's first bytes.
var opener = make([]byte, 20)

func open(ctx context.Context, r role) (*endpoint, error) {
	port, remote := senderPort, netip.AddrPortFrom(netip.MustParseAddr(receiverWAN), receiverPort)
	if !r.Sender {
		port, remote = receiverPort, netip.AddrPortFrom(netip.MustParseAddr(senderWAN), senderPort)
	}
	if r.Over == "plain" {
		return openPlain(port, remote)
	}
	return openSocket(ctx, port, remote, r)
}

func openPlain(port int, remote netip.AddrPort) (*endpoint, error) {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{Port: port})
	if err != nil {
		return nil, err
	}
	if _, err := conn.WriteToUDPAddrPort(opener, remote); err != nil {
		return nil, err
	}
	tr := &quic.Transport{Conn: conn}
	return &endpoint{
		transport: tr, config: plainConfig(), remote: net.UDPAddrFromAddrPort(remote),
		stats: func() nat.Stats { return nat.Stats{} },
		close: func() { tr.Close(); conn.Close() },
	}, nil
}

func openSocket(ctx context.Context, port int, remote netip.AddrPort, r role) (*endpoint, error) {
	addr := fmt.Sprintf(":%d", port)
	side := r.Over == "side" && r.Sender
	if side {
		addr = ":0"
	}
	socket, err := nat.Listen(ctx, nat.Config{Addr: addr})
	if err != nil {
		return nil, err
	}
	peer := socket.NewPeer()
	if side {
		err = useSide(peer, port, remote)
	} else {
		err = errors.Join(
			socket.WriteSTUN(opener, remote),
			peer.SetPath(nat.Path{Kind: nat.KindDirect, Addr: remote}))
	}
	if err != nil {
		socket.Close()
		return nil, err
	}
	config := agentConfig()
	if r.Over == "large" {
		config.InitialPacketSize = largePacket
	}
	tr := &quic.Transport{Conn: socket}
	return &endpoint{
		transport: tr, config: config, remote: peer.Addr(), stats: socket.Stats,
		close: func() { tr.Close(); socket.Close() },
	}, nil
}

func useSide(peer *nat.Peer, port int, remote netip.AddrPort) error {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{Port: port})
	if err != nil {
		return err
	}
	side := nat.NewSide(conn, remote, nat.SideConfig{})
	return errors.Join(side.WriteSTUN(opener), peer.UseSide(side, nat.KindDirect))
}

// connect makes the session: the sender dials.
func (e *endpoint) connect(ctx context.Context, r role) (*quic.Conn, error) {
	if r.Sender {
		conf := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"bulk"}}
		return e.transport.Dial(ctx, e.remote, conf, e.config)
	}
	conf, err := certificate()
	if err != nil {
		return nil, err
	}
	ln, err := e.transport.Listen(conf, e.config)
	if err != nil {
		return nil, err
	}
	return ln.Accept(ctx)
}

// certificate is one that nobody checks: what is measured comes after it.
func certificate() (*tls.Config, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}},
		NextProtos:   []string{"bulk"},
	}, nil
}

// times is the processor time of a process.
type times struct{ user, system time.Duration }

func (t times) minus(o times) times { return times{t.user - o.user, t.system - o.system} }

func usage() times {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return timesOf(&u)
}

func timesOf(u *syscall.Rusage) times {
	return times{time.Duration(u.Utime.Nano()), time.Duration(u.Stime.Nano())}
}
