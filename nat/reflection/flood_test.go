package reflection

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/time/rate"

	"porchlight/nat"
)

// floodSize is the number of first packets of a flood, floodSources that of
// addresses they come from.
const (
	floodSize    = 10_000
	floodSources = 256
)

// limitedRetry is how the overlay used to ask for proof: above a rate.
func limitedRetry(*device) func(net.Addr) bool {
	limiter := rate.NewLimiter(20, 20)
	return func(net.Addr) bool { return !limiter.Allow() }
}

// flooder sends Initials, each with a connection ID of its own, from many
// addresses in turn, and never listens.
type flooder struct {
	sources []*net.UDPConn
	packet  []byte
	sent    uint64
}

func newFlooder(t testing.TB, to netip.AddrPort) *flooder {
	f := &flooder{packet: long(0xC0, 1, 1200)}
	for i := range floodSources {
		from := source(t, i)
		own := from.LocalAddr().(*net.UDPAddr)
		from.Close()
		c, err := net.DialUDP("udp4", own, net.UDPAddrFromAddrPort(to)) // cheaper to send by
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		f.sources = append(f.sources, c)
	}
	return f
}

func (f *flooder) send(t testing.TB, n int) {
	for range n {
		f.sent++
		binary.BigEndian.PutUint64(f.packet[6:], f.sent)
		if _, err := f.sources[f.sent%floodSources].Write(f.packet); err != nil {
			t.Errorf("flood: %v", err)
			return
		}
	}
}

// threadTime is the processor time of this thread so far.
func threadTime(t testing.TB) time.Duration {
	var u syscall.Rusage
	const thisThread = 1 // RUSAGE_THREAD, getrusage(2)
	if err := syscall.Getrusage(thisThread, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// transfer is a session to the device with one stream on which bytes flow.
type transfer struct {
	received atomic.Int64
	failed   chan error
	close    func()
}

// begin sends limit bytes to the device.
func begin(t testing.TB, d *device, limit int64) *transfer {
	t.Helper()
	own, err := nat.Listen(t.Context(), nat.Config{Addr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	client := &quic.Transport{Conn: own}
	to := own.NewPeer()
	if err := to.SetPath(nat.Path{Kind: nat.KindDirect, Addr: d.port()}); err != nil {
		t.Fatal(err)
	}
	ctx := within(t)
	conn, err := client.Dial(ctx, to.Addr(), tlsConfig(), quicConfig())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := d.listener.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := conn.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	tr := &transfer{failed: make(chan error, 2)}
	go tr.write(stream, limit)
	go tr.read(theirs)
	tr.close = func() {
		conn.CloseWithError(0, "")
		client.Close()
		own.Close()
		<-tr.failed
		<-tr.failed
	}
	return tr
}

func (tr *transfer) write(stream *quic.Stream, limit int64) {
	b := make([]byte, 64<<10)
	for sent := int64(0); sent < limit; {
		n, err := stream.Write(b[:min(int64(len(b)), limit-sent)])
		if err != nil {
			tr.failed <- err
			return
		}
		sent += int64(n)
	}
	tr.failed <- stream.Close()
}

func (tr *transfer) read(conn *quic.Conn) {
	stream, err := conn.AcceptStream(conn.Context())
	if err != nil {
		tr.failed <- err
		return
	}
	b := make([]byte, 64<<10)
	for {
		n, err := stream.Read(b)
		tr.received.Add(int64(n))
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			tr.failed <- err
			return
		}
	}
}

// A flood of first packets must not stop a transfer, begin sessions or stay in
// memory.
func TestAFloodOfInitialsLeavesATransferRunning(t *testing.T) {
	const size, memory = 24 << 20, 16 << 20
	d := newDevice(t, unprovenRetry)
	f := newFlooder(t, d.port())
	tr := begin(t, d, size)
	begun, before, goroutines := d.begun.Load(), heap(), runtime.NumGoroutine()
	f.send(t, floodSize)
	peak, running := heap(), runtime.NumGoroutine()
	for range 2 {
		select {
		case err := <-tr.failed:
			if err != nil {
				t.Errorf("transfer: %v", err)
			}
		case <-time.After(patience):
			t.Fatalf("the transfer stands at %d of %d bytes", tr.received.Load(), size)
		}
	}
	tr.failed <- nil // for close
	tr.failed <- nil
	tr.close()
	t.Logf("%d Initials from %d addresses: heap %+d KiB, goroutines %+d, Retry wanted %d times, sessions begun %d",
		f.sent, floodSources, (peak-before)>>10, running-goroutines, d.asked.Load(), d.begun.Load()-begun)
	if got := tr.received.Load(); got != size {
		t.Errorf("%d of %d bytes", got, size)
	}
	if n := d.begun.Load() - begun; n != 0 {
		t.Errorf("%d sessions begun by the flood", n)
	}
	if d.asked.Load() < floodSize/100 {
		t.Errorf("only %d Initials arrived: this flood proves nothing", d.asked.Load())
	}
	if peak-before > memory {
		t.Errorf("heap grew by %d bytes, at most %d", peak-before, memory)
	}
	if running > goroutines {
		t.Errorf("%d more goroutines", running-goroutines)
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkTransferUnderFlood compares the speed of one transfer while
// Initials arrive at ten thousand a second with its speed when none do, in
// turns of a tenth of a second, so that what else the machine does meets both
// alike. Sender, receiver and flooder share the machine, so what it costs to
// make the flood counts against it too; "flooder-cores" says how much of one
// processor that is. "retry" is the rule of this package, "limited" lets 20
// handshakes a second begin, "bare" is quic-go as it comes.
func BenchmarkTransferUnderFlood(b *testing.B) {
	for _, c := range []struct {
		name   string
		verify verifier
	}{{"retry", unprovenRetry}, {"limited", limitedRetry}, {"bare", nobodyRetries}} {
		b.Run(c.name, func(b *testing.B) {
			d := newDevice(b, c.verify)
			f := newFlooder(b, d.port())
			tr := begin(b, d, 1<<50)
			defer tr.close()
			var ratios, quiets, cores []float64
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			for b.Loop() {
				for range turns {
					quiet := during(tr, func() { pace(func(int) {}) })
					start, cpu := time.Now(), threadTime(b)
					flooded := during(tr, func() { pace(func(n int) { f.send(b, n) }) })
					cores = append(cores, float64(threadTime(b)-cpu)/float64(time.Since(start)))
					ratios, quiets = append(ratios, flooded/quiet), append(quiets, quiet)
				}
			}
			b.ReportMetric(median(quiets)/1e6, "quiet-MB/s")
			b.ReportMetric(median(ratios), "speed-ratio")
			b.ReportMetric(median(cores), "flooder-cores")
			b.ReportMetric(float64(d.begun.Load()-1), "sessions-begun")
		})
	}
}

// turns of turnTime each, with and without, make up one flood.
const (
	turns    = 10
	turnTime = time.Second / turns
)

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// during is the speed of the transfer meanwhile, in bytes per second.
func during(tr *transfer, f func()) float64 {
	start, before := time.Now(), tr.received.Load()
	f()
	return float64(tr.received.Load()-before) / time.Since(start).Seconds()
}

// pace spreads a turn's share of floodSize over turnTime.
func pace(send func(n int)) {
	const share = floodSize / turns
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	start := time.Now()
	for done := 0; done < share; {
		<-tick.C
		due := min(share, int(time.Since(start)*share/turnTime))
		send(due - done)
		done = due
	}
}
