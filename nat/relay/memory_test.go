package relay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"
)

func footprint() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// A full house must cost less than 2 MB beyond the sockets, clients included.
func TestAFullHouseOfAllocationsIsSmall(t *testing.T) {
	const budget = 2 << 20
	for _, network := range []string{"udp", "tcp"} {
		s := startServer(t, Config{})
		before, goroutines := footprint(), runtime.NumGoroutine()
		var clients []*Allocation
		for i := range s.cfg.Limits.Allocations {
			clients = append(clients, allocate(t, s, Grant{Client: fmt.Sprint(i)}, network, nil))
		}
		both := footprint() - before
		running := runtime.NumGoroutine() - goroutines
		t.Logf("%s: %d allocations, server and clients: %d KiB, %d goroutines", network, len(clients), both>>10, running)
		if both > budget {
			t.Errorf("%s: %d bytes, at most %d", network, both, budget)
		}
		if perAllocation := running / len(clients); perAllocation > 5 { // server 2, client 2 or, over TCP, 3
			t.Errorf("%s: %d goroutines per allocation", network, perAllocation)
		}
		if network == "udp" { // clients that vanish leave the server's part behind
			for _, a := range clients {
				a.end(net.ErrClosed)
				a.wg.Wait()
			}
			clients = nil
			t.Logf("%s: server alone: %d KiB", network, (footprint()-before)>>10)
		}
		runtime.KeepAlive(clients)
	}
}

// One packet at a time through two allocations of one server, beside a plain
// socket in the same run. The relayed way has three hops, the plain one has one.
func BenchmarkRelayedPacketBesidePlainUDP(b *testing.B) {
	msg := make([]byte, 1280)
	for _, network := range []string{"udp", "tcp"} {
		b.Run(network, func(b *testing.B) {
			wide := ClassLimits{BytesPerSecond: 1 << 40, BurstBytes: 1 << 30, BytesPerDay: 1 << 50}
			s := startServer(b, Config{Limits: Limits{Stranger: wide}})
			arrived := make(chan struct{}, 1)
			from := allocate(b, s, Grant{Client: "from"}, network, nil)
			to, err := Allocate(within(b, patience), s.Ticket(Grant{Client: "to"}), Options{
				Network: network, Handler: func([]byte, netip.AddrPort) { arrived <- struct{}{} },
			})
			if err != nil {
				b.Fatal(err)
			}
			defer to.Close()
			ctx := within(b, patience)
			if err := errors.Join(from.Permit(ctx, loopback), to.Permit(ctx, loopback)); err != nil {
				b.Fatal(err)
			}
			plain := plainPacket(b, msg)
			b.SetBytes(int64(len(msg)))
			b.ResetTimer()
			for range b.N {
				if err := from.WriteTo(msg, to.RelayedAddr()); err != nil {
					b.Fatal(err)
				}
				<-arrived
			}
			b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(plain), "x-plain-udp")
		})
	}
}

// plainPacket is how long one packet takes between two sockets.
func plainPacket(b *testing.B, msg []byte) time.Duration {
	const rounds = 2000
	echo := echoPeer(b)
	c, err := net.Dial("udp4", echo.String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 2048)
	start := time.Now()
	for range rounds {
		c.Write(msg)
		if _, err := c.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(start) / rounds / 2
}
