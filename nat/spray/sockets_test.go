//go:build !mips

// These tests use real sockets, which user-mode emulation of big-endian MIPS
// does not offer.

package spray

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	natstun "porchlight/nat/stun"
)

func openLoopback() (*net.UDPConn, error) {
	return net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
}

// openBoth opens a socket of both families, as far as the machine has them.
func openBoth() (*net.UDPConn, error) { return net.ListenUDP("udp", nil) }

func addrOf(c *net.UDPConn) netip.AddrPort {
	a := c.LocalAddr().(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), a.Port())
}

func option(t *testing.T, s *sockets, socket, level, name int) int {
	t.Helper()
	var value int
	var failed error
	err := s.raw[socket].Control(func(fd uintptr) { value, failed = unix.GetsockoptInt(int(fd), level, name) })
	if err := errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
	return value
}

// arrival is a datagram that came to one of the sockets.
type arrival struct {
	socket int
	text   string
	from   netip.AddrPort
}

func TestOneReaderHearsAllSockets(t *testing.T) {
	for name, open := range map[string]Opener{"IPv4": openLoopback, "both families": openBoth} {
		t.Run(name, func(t *testing.T) {
			heard := make(chan arrival, MaxSockets)
			s, err := openSockets(open, MaxSockets, func(i int, b []byte, from netip.AddrPort) {
				heard <- arrival{i, string(b), from}
			})
			if err != nil {
				t.Fatal(err)
			}
			defer s.close()
			peer, err := openLoopback()
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			if n := s.count(); n != MaxSockets {
				t.Fatalf("%d sockets", n)
			}
			for i, conn := range s.conns {
				if _, err := peer.WriteToUDPAddrPort([]byte{byte(i)}, addrOf(conn)); err != nil {
					t.Fatal(err)
				}
			}
			seen := make(map[int]bool)
			for range s.count() {
				select {
				case a := <-heard:
					if a.text != string([]byte{byte(a.socket)}) || a.from != addrOf(peer) {
						t.Errorf("%+v", a)
					}
					seen[a.socket] = true
				case <-time.After(5 * time.Second):
					t.Fatalf("only %d were heard", len(seen))
				}
			}
			if len(seen) != s.count() {
				t.Errorf("%d of %d sockets were heard", len(seen), s.count())
			}
			for i := range 3 { // answers leave by the right socket
				if err := s.send(i, []byte("x"), addrOf(peer)); err != nil {
					t.Fatal(err)
				}
				peer.SetReadDeadline(time.Now().Add(5 * time.Second))
				if _, from, err := peer.ReadFromUDPAddrPort(make([]byte, 9)); err != nil || from != addrOf(s.conns[i]) {
					t.Errorf("socket %d: from %v, %v", i, from, err)
				}
			}
		})
	}
}

func TestATakenSocketIsAnOrdinaryOne(t *testing.T) {
	var s *sockets
	ready := make(chan struct{})
	taken := make(chan *net.UDPConn, 1)
	s, err := openSockets(openLoopback, MinSockets, func(i int, b []byte, _ netip.AddrPort) {
		<-ready
		if string(b) != "choice" {
			t.Errorf("heard %q after the choice", b)
			return
		}
		if err := s.revive(i); err != nil {
			t.Error(err)
		}
		conn, ok := s.take(i)
		if !ok {
			t.Error("not given")
		}
		if _, ok := s.take(i); ok {
			t.Error("given twice")
		}
		taken <- conn
	})
	if err != nil {
		t.Fatal(err)
	}
	usual := option(t, s, 5, unix.IPPROTO_IP, unix.IP_TTL)
	if err := s.setTTL(5, 3); err != nil {
		t.Fatal(err)
	}
	if ttl := option(t, s, 5, unix.IPPROTO_IP, unix.IP_TTL); ttl != 3 {
		t.Errorf("ttl %d", ttl)
	}
	if size := option(t, s, 5, unix.SOL_SOCKET, unix.SO_RCVBUF); size > 2*quietBuffer {
		t.Errorf("a quiet socket may hold %d bytes", size)
	}
	peer, err := openLoopback()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	for _, text := range []string{"choice", "data 1", "data 2"} {
		if _, err := peer.WriteToUDPAddrPort([]byte(text), addrOf(s.conns[5])); err != nil {
			t.Fatal(err)
		}
	}
	close(ready)
	conn := <-taken
	if ttl := option(t, s, 5, unix.IPPROTO_IP, unix.IP_TTL); ttl != usual {
		t.Errorf("ttl %d, usually %d", ttl, usual)
	}
	if size := option(t, s, 5, unix.SOL_SOCKET, unix.SO_RCVBUF); size < liveBuffer {
		t.Errorf("a live socket holds %d bytes", size)
	}
	if err := errors.Join(s.close(), s.close()); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.take(6); ok {
		t.Error("given after close")
	}
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	for _, want := range []string{"data 1", "data 2"} {
		b := make([]byte, 99)
		if n, _, err := conn.ReadFromUDPAddrPort(b); err != nil || string(b[:n]) != want {
			t.Errorf("read %q, %v", b[:n], err)
		}
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.conns[4].Write(nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a socket that was not taken: %v", err)
	}
}

func TestCloseInAFloodReturns(t *testing.T) {
	for range 100 {
		var s *sockets
		ready, heard := make(chan struct{}), make(chan struct{}, 1)
		s, err := openSockets(openLoopback, MinSockets, func(i int, _ []byte, _ netip.AddrPort) {
			<-ready
			if i == 0 {
				s.take(i)
			}
			select {
			case heard <- struct{}{}:
			default:
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		close(ready)
		peer, err := openLoopback()
		if err != nil {
			t.Fatal(err)
		}
		flooded, stop := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(flooded)
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					peer.WriteToUDPAddrPort([]byte("x"), addrOf(s.conns[i%MinSockets]))
				}
			}
		}()
		<-heard
		closed := make(chan error, 1)
		go func() { closed <- s.close() }()
		select {
		case err := <-closed:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("close waits for ever")
		}
		close(stop)
		<-flooded
		peer.Close()
		s.conns[0].Close()
	}
}

func TestFewerSocketsThanWantedAreEnough(t *testing.T) {
	for _, row := range []struct {
		have int
		good bool
	}{{MinSockets - 1, false}, {MinSockets, true}, {MinSockets + 1, true}} {
		opened := 0
		s, err := openSockets(func() (*net.UDPConn, error) {
			if opened == row.have {
				return nil, os.ErrPermission
			}
			opened++
			return openLoopback()
		}, 64, func(int, []byte, netip.AddrPort) {})
		if (err == nil) != row.good || err != nil && !errors.Is(err, os.ErrPermission) {
			t.Errorf("%d: %v", row.have, err)
		}
		if s != nil {
			if s.count() != row.have {
				t.Errorf("%d sockets, not %d", s.count(), row.have)
			}
			s.close()
		}
	}
}

// maxHeap is what 256 sockets and their Run may cost, in bytes.
const maxHeap = 512 << 10

func TestManySocketsNeedLittleMemory(t *testing.T) {
	measure := func() (heap, stacks uint64) {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc, m.StackInuse
	}
	goroutines := runtime.NumGoroutine()
	heap, stacks := measure()
	s, err := openSockets(openLoopback, MaxSockets, func(int, []byte, netip.AddrPort) {})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	heapThen, stacksThen := measure()
	used := int64(heapThen) - int64(heap) + int64(stacksThen) - int64(stacks)
	t.Logf("%d sockets: %d KiB of heap and stacks, %d goroutines", s.count(), used>>10, runtime.NumGoroutine()-goroutines)
	if used > maxHeap {
		t.Errorf("more than %d KiB", maxHeap>>10)
	}
	if n := runtime.NumGoroutine() - goroutines; n > 1 {
		t.Errorf("%d goroutines", n)
	}
}

// serveSTUN runs n STUN servers on loopback.
func serveSTUN(t *testing.T, n int) (servers []netip.AddrPort) {
	t.Helper()
	for range n {
		pc, err := openLoopback()
		if err != nil {
			t.Fatal(err)
		}
		s, err := natstun.NewServer(natstun.ServerConfig{Primary: pc})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- s.Serve() }()
		t.Cleanup(func() { s.Close(); <-ended })
		servers = append(servers, addrOf(pc))
	}
	return servers
}

func TestSampleAsksFromFreshSockets(t *testing.T) {
	servers := serveSTUN(t, 2)
	known := Side{Mapping: natstun.AddressAndPortDependent, Sockets: 99}
	got, err := Sample(t.Context(), openLoopback, servers, known)
	if err != nil || got.Mapping != known.Mapping || got.Sockets != 99 || got.Last == 0 ||
		got.Mapped.Addr() != servers[0].Addr() {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := Sample(t.Context(), openLoopback, nil, known); !errors.Is(err, ErrNoSample) {
		t.Error(err)
	}
	mute, err := openLoopback()
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	begun := time.Now()
	if _, err := Sample(t.Context(), openLoopback, []netip.AddrPort{addrOf(mute)}, known); !errors.Is(err, ErrNoSample) {
		t.Error(err)
	}
	if took := time.Since(begun); took > 3*SampleTime {
		t.Errorf("took %v", took)
	}
	if _, err := Sample(t.Context(), func() (*net.UDPConn, error) { return nil, os.ErrPermission }, servers, known); !errors.Is(err, os.ErrPermission) {
		t.Error(err)
	}
}

func TestReopenReturnsASocketThatIsMappedTheSameTwice(t *testing.T) {
	servers := serveSTUN(t, 2)
	conn, mapped, err := Reopen(t.Context(), openLoopback, [2]netip.AddrPort{servers[0], servers[1]})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if mapped != addrOf(conn) {
		t.Errorf("mapped to %v", mapped)
	}
	mute, err := openLoopback()
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	opened := 0
	_, _, err = Reopen(ctx, func() (*net.UDPConn, error) { opened++; return openLoopback() },
		[2]netip.AddrPort{servers[0], addrOf(mute)})
	if !errors.Is(err, ErrUnstable) || opened != reopenTries {
		t.Errorf("%v after %d sockets", err, opened)
	}
}
