package reflection

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"go.uber.org/goleak"

	"porchlight/nat"
	"porchlight/nat/ice"
	"porchlight/nat/relay"
	"porchlight/nat/stun"
)

func TestMain(m *testing.M) {
	// The warning about the host's buffer limits says nothing about the code.
	os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	goleak.VerifyTestMain(m)
}

// patience bounds everything a test waits for.
const patience = 30 * time.Second

var loopback = netip.MustParseAddr("127.0.0.1")

// device is everything that a device answers UDP with.
type device struct {
	socket   *nat.Socket
	mux      *stun.Mux
	alt      *net.UDPConn // the second STUN port
	agent    *ice.Agent
	relay    *relay.Server
	turn     netip.AddrPort
	listener *quic.Listener
	quic     *quic.Transport
	begun    atomic.Int64 // sessions begun by others, finished or not
	asked    atomic.Int64 // Retry packets wanted
	proven   sync.Map     // *nat.Peer: its path has answered something of ours
}

// verifier decides who has to prove its address.
type verifier func(*device) func(net.Addr) bool

// unprovenRetry is the rule of the package documentation.
func unprovenRetry(d *device) func(net.Addr) bool {
	return func(a net.Addr) bool {
		p := d.socket.PeerAt(a)
		if p == nil {
			return true
		}
		_, proven := d.proven.Load(p)
		return !proven
	}
}

// nobodyRetries is quic-go as it comes.
func nobodyRetries(*device) func(net.Addr) bool { return func(net.Addr) bool { return false } }

func newDevice(t testing.TB, verify verifier) *device {
	t.Helper()
	d := &device{}
	var err error
	must := func(e error) {
		t.Helper()
		if e != nil {
			t.Fatal(e)
		}
	}
	d.socket, err = nat.Listen(t.Context(), nat.Config{Addr: "127.0.0.1:0"})
	must(err)
	t.Cleanup(func() { d.socket.Close() })
	d.alt, err = net.ListenUDP("udp4", &net.UDPAddr{IP: loopback.AsSlice()})
	must(err)
	d.mux, err = stun.NewMux(d.socket, stun.Config{Serve: true, AltPort: d.alt})
	must(err)
	d.mux.SetPublic(addrOf(d.socket.LocalAddr()), addrOf(d.alt.LocalAddr()))
	d.socket.HandleSTUN(d.mux.Handle)
	t.Cleanup(func() { d.mux.Close() })
	d.agent, err = ice.New(ice.Config{
		Mux: d.mux, Accept: ice.Filter{Loopback: true}.Allow,
		Local: []ice.Candidate{{Kind: ice.Host, Addr: d.port()}},
	})
	must(err)
	t.Cleanup(func() { d.agent.Close() })
	d.openRelay(t)
	d.openQUIC(t, verify)
	return d
}

func (d *device) openRelay(t testing.TB) {
	t.Helper()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.turn = addrOf(pc.LocalAddr())
	d.relay, err = relay.NewServer(relay.Config{UDP: []net.PacketConn{pc}, RelayIP: loopback, ListenIP: loopback})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.relay.Close() })
	eventually(t, "a nonce for tickets", func() bool { return d.relay.Ticket(relay.Grant{}).Nonces[0] != "" })
}

// eventually polls what other goroutines make true.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	late := time.After(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("no %s within %v", what, patience)
		}
	}
}

// openQUIC accepts sessions as the overlay does.
func (d *device) openQUIC(t testing.TB, verify verifier) {
	t.Helper()
	var reset quic.StatelessResetKey
	rand.Read(reset[:])
	ask := verify(d)
	d.quic = &quic.Transport{
		Conn:               d.socket,
		ConnectionIDLength: 8,
		StatelessResetKey:  &reset,
		VerifySourceAddress: func(a net.Addr) bool {
			retry := ask(a)
			if retry {
				d.asked.Add(1)
			}
			return retry
		},
		ConnContext: func(ctx context.Context, _ *quic.ClientInfo) (context.Context, error) {
			d.begun.Add(1)
			return ctx, nil
		},
	}
	var err error
	if d.listener, err = d.quic.Listen(tlsConfig(), quicConfig()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.listener.Close(); d.quic.Close() })
}

func (d *device) port() netip.AddrPort { return addrOf(d.socket.LocalAddr()) }

func quicConfig() *quic.Config {
	return &quic.Config{
		Versions:                []quic.Version{quic.Version1},
		HandshakeIdleTimeout:    5 * time.Second,
		MaxIdleTimeout:          45 * time.Second,
		InitialPacketSize:       nat.PacketSize,
		DisablePathMTUDiscovery: true,
		MaxIncomingUniStreams:   -1,
		EnableDatagrams:         true,
	}
}

// tlsConfig serves both ends, as in the overlay: each shows a certificate.
var tlsConfig = sync.OnceValue(func() *tls.Config {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, pub, key)
	if err != nil {
		panic(err)
	}
	return &tls.Config{
		Certificates:           []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		ClientAuth:             tls.RequireAnyClientCert,
		NextProtos:             []string{"porchlight/1"},
		MinVersion:             tls.VersionTLS13,
		InsecureSkipVerify:     true, // these tests are about packets, not about who sent them
		SessionTicketsDisabled: true,
	}
})

func addrOf(a net.Addr) netip.AddrPort { return a.(*net.UDPAddr).AddrPort() }

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// source is a socket at a loopback address of its own /24, so that no row of a
// table uses up the allowance of another.
func source(t testing.TB, i int) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, byte(1+i/250), byte(1+i%250), 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
