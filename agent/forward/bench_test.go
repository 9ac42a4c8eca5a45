package forward_test

import (
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"porchlight/agent/overlay"
)

// chunk is what one operation of BenchmarkTCP carries, in bytes.
const chunk = 64 << 20

// BenchmarkTCP prints the speed of a forwarded connection as a part of that of
// a bare overlay stream between the same devices ("ratio").
func BenchmarkTCP(b *testing.B) {
	w := newWorld(b)
	w.expose("tcp", "source", w.tcp(func(conn *net.TCPConn) { send(conn) }))
	bare, err := w.home.Listen("bare")
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := bare.Accept()
			if err != nil {
				return
			}
			send(conn)
			conn.Close()
		}
	}()
	defer func() { bare.Close(); <-done }()
	at := w.forward("tcp", "source")
	var direct, forwarded time.Duration
	b.SetBytes(chunk)
	for b.Loop() {
		began := time.Now()
		conn, err := w.out.Dial(b.Context(), w.home.Address(), "bare")
		if err != nil {
			b.Fatal(err)
		}
		drain(b, conn)
		conn.(*overlay.Conn).CloseWrite()
		direct += time.Since(began)
		began = time.Now()
		drain(b, connect(b, "tcp", at))
		forwarded += time.Since(began)
	}
	b.ReportMetric(float64(direct)/float64(forwarded), "ratio")
	b.ReportMetric(float64(b.N)*chunk*8/1e6/direct.Seconds(), "direct-Mbit/s")
	b.ReportMetric(float64(b.N)*chunk*8/1e6/forwarded.Seconds(), "forwarded-Mbit/s")
}

func send(to io.Writer) {
	buffer := make([]byte, 64<<10)
	for range chunk / len(buffer) {
		if _, err := to.Write(buffer); err != nil {
			return
		}
	}
}

func drain(b *testing.B, conn net.Conn) {
	b.Helper()
	defer conn.Close()
	if n, err := io.Copy(io.Discard, conn); n != chunk || err != nil {
		b.Fatalf("%d bytes came, %v", n, err)
	}
}

// BenchmarkCall sends what a telephone call does, 172 bytes 50 times a second,
// and prints how much later its echo comes than straight over UDP: the median
// ("added-µs") and the latest of a hundred ("added-p99-µs").
func BenchmarkCall(b *testing.B) {
	w := newWorld(b)
	echo := w.udp().LocalAddr()
	w.expose("udp", "call", echo)
	straight, err := net.Dial("udp", echo.String())
	if err != nil {
		b.Fatal(err)
	}
	defer straight.Close()
	forwarded := connect(b, "udp", w.forward("udp", "call"))
	checkBack(b, forwarded)
	var times [2][]time.Duration
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for b.Loop() {
		for i, conn := range []net.Conn{straight, forwarded} {
			<-tick.C
			times[i] = append(times[i], roundTrip(b, conn))
		}
	}
	for i := range times {
		slices.Sort(times[i])
	}
	added := func(part float64) float64 {
		at := int(part * float64(len(times[0])-1))
		return float64((times[1][at] - times[0][at]).Microseconds())
	}
	b.ReportMetric(added(0.5), "added-µs")
	b.ReportMetric(added(0.99), "added-p99-µs")
}

func roundTrip(b *testing.B, conn net.Conn) time.Duration {
	b.Helper()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	buffer := make([]byte, 172)
	began := time.Now()
	conn.Write(buffer)
	if n, err := conn.Read(buffer); n != 172 || err != nil {
		b.Fatalf("%d bytes, %v", n, err)
	}
	return time.Since(began)
}
