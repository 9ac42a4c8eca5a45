package nat

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// The warning about the host's buffer limits says nothing about the code.
	os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	goleak.VerifyTestMain(m)
}

// testTime bounds everything a test waits for.
const testTime = time.Minute

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testTime)
	t.Cleanup(cancel)
	return ctx
}

// quicConfig is how sessions over a Socket are to be configured.
func quicConfig() *quic.Config {
	return &quic.Config{
		InitialPacketSize:              PacketSize,
		DisablePathMTUDiscovery:        true,
		MaxIdleTimeout:                 testTime,
		InitialStreamReceiveWindow:     4 << 20,
		MaxStreamReceiveWindow:         16 << 20,
		InitialConnectionReceiveWindow: 4 << 20,
		MaxConnectionReceiveWindow:     16 << 20,
	}
}

var serverTLS = sync.OnceValue(func() *tls.Config {
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
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		NextProtos:   []string{"test"},
	}
})

// The sessions of these tests are about packets, not about who sent them.
func clientTLS() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"test"}}
}

func listenTest(t testing.TB, addr string) *Socket {
	t.Helper()
	s, err := Listen(testContext(t), Config{Addr: addr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	boundReads(t, s)
	return s
}

// offload reports whether the kernel's segmentation offload can be relied on.
// Everywhere but under user-mode emulation of big-endian machines: there
// control messages arrive with their bytes swapped, and whoever runs the tests
// that way switches quic-go's use of them off too.
func offload() bool { return os.Getenv("QUIC_GO_DISABLE_GSO") == "" }

// boundReads keeps a test from waiting for ever for a packet that is lost.
// A Transport sets deadlines only in the end.
func boundReads(t testing.TB, s *Socket) {
	t.Helper()
	if err := s.SetReadDeadline(time.Now().Add(testTime)); err != nil {
		t.Fatal(err)
	}
}

func transport(t testing.TB, c net.PacketConn) *quic.Transport {
	tr := &quic.Transport{Conn: c}
	t.Cleanup(func() { tr.Close() })
	return tr
}

func loopback4(s *Socket) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), s.Port())
}

func loopback6(s *Socket) netip.AddrPort {
	return netip.AddrPortFrom(netip.IPv6Loopback(), s.Port())
}

// session is one QUIC connection over two sockets on loopback: the client
// dialled the constant address of peerOfServer, the server adopted the
// client's address.
type session struct {
	client, server             *Socket
	clientConn, serverConn     *quic.Conn
	peerOfServer, peerOfClient *Peer
}

func newSession(t *testing.T, clientAddr, serverAddr string, path func(*session) Path) *session {
	t.Helper()
	return newSessionOver(t, listenTest(t, clientAddr), listenTest(t, serverAddr), path)
}

func newSessionOver(t *testing.T, client, server *Socket, path func(*session) Path) *session {
	t.Helper()
	ctx := testContext(t)
	s := &session{client: client, server: server}
	ln, err := transport(t, s.server).Listen(serverTLS(), quicConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	s.peerOfServer = s.client.NewPeer()
	if err := s.peerOfServer.SetPath(path(s)); err != nil {
		t.Fatal(err)
	}
	s.clientConn, err = transport(t, s.client).Dial(ctx, s.peerOfServer.Addr(), clientTLS(), quicConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.clientConn.CloseWithError(0, "") })
	if s.serverConn, err = ln.Accept(ctx); err != nil {
		t.Fatal(err)
	}
	s.peerOfClient = s.server.Adopt(addrPortOf(s.serverConn.RemoteAddr()))
	return s
}

func directly(s *session) Path {
	return Path{Kind: KindDirect, Addr: loopback4(s.server)}
}

// carrierTo delivers straight into another socket: a relay without network.
type carrierTo struct{ peer *Peer }

func (c carrierTo) WritePacket(b []byte) error { return c.peer.Inject(b) }

// byRelay and byAddr switch both ends.
func (s *session) byRelay(t *testing.T) {
	t.Helper()
	s.set(t, Path{Kind: KindRelay, Carrier: carrierTo{s.peerOfClient}}, Path{Kind: KindRelay, Carrier: carrierTo{s.peerOfServer}})
}

func (s *session) byAddr(t *testing.T, of func(*Socket) netip.AddrPort) {
	t.Helper()
	if err := s.peerOfClient.Accept(of(s.client)); err != nil {
		t.Fatal(err)
	}
	s.set(t, Path{Kind: KindDirect, Addr: of(s.server)}, Path{Kind: KindDirect, Addr: of(s.client)})
}

func (s *session) set(t *testing.T, toServer, toClient Path) {
	t.Helper()
	if err := s.peerOfServer.SetPath(toServer); err != nil {
		t.Fatal(err)
	}
	if err := s.peerOfClient.SetPath(toClient); err != nil {
		t.Fatal(err)
	}
}

// pattern is an endless stream of bytes that differ from block to block.
type pattern struct{ n byte }

func (p *pattern) fill(b []byte) {
	p.n++
	for i := range b {
		b[i] = p.n + byte(i>>8)
	}
}

// send writes size bytes to a new stream and returns their hash.
func send(ctx context.Context, c *quic.Conn, size int) ([]byte, error) {
	str, err := c.OpenUniStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	h, buf := sha256.New(), make([]byte, 64<<10)
	var p pattern
	for sent := 0; sent < size; sent += len(buf) {
		buf = buf[:min(len(buf), size-sent)]
		p.fill(buf)
		h.Write(buf)
		if _, err := str.Write(buf); err != nil {
			return nil, err
		}
	}
	return h.Sum(nil), str.Close()
}

// receive reads a stream to its end and calls progress with the bytes so far.
func receive(ctx context.Context, c *quic.Conn, progress func(int)) (hash []byte, stall time.Duration, err error) {
	str, err := c.AcceptUniStream(ctx)
	if err != nil {
		return nil, 0, err
	}
	h, buf, got, last := sha256.New(), make([]byte, 64<<10), 0, time.Now()
	for {
		n, err := str.Read(buf)
		stall, last = max(stall, time.Since(last)), time.Now()
		h.Write(buf[:n])
		got += n
		if err == io.EOF {
			return h.Sum(nil), stall, nil
		}
		if err != nil {
			return nil, stall, err
		}
		progress(got)
	}
}

// transfer sends size bytes from one end to the other, comparing hashes.
func transfer(t *testing.T, from, to *quic.Conn, size int, progress func(int)) time.Duration {
	t.Helper()
	ctx := testContext(t)
	type result struct {
		hash []byte
		err  error
	}
	sent := make(chan result, 1)
	go func() {
		hash, err := send(ctx, from, size)
		sent <- result{hash, err}
	}()
	hash, stall, err := receive(ctx, to, progress)
	if err != nil {
		t.Errorf("receive: %v", err)
		from.CloseWithError(1, "receiver failed")
	}
	r := <-sent
	if r.err != nil {
		t.Fatalf("send: %v", r.err)
	}
	if string(hash) != string(r.hash) {
		t.Fatal("received bytes differ from sent ones")
	}
	return stall
}
