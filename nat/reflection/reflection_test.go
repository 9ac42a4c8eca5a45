package reflection

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"porchlight/nat"
)

const (
	// window is how long answers to a row are waited for: a QUIC server
	// repeats what is not acknowledged, at first after 0.2 to 0.6 s.
	window = 1500 * time.Millisecond
	// tries is how often a row that must be answered is sent: quic-go drops
	// what strangers send faster than it can answer.
	tries = 5
)

// traffic is what went one way.
type traffic struct{ bytes, packets int }

func (tr *traffic) add(n int) { tr.bytes += n; tr.packets++ }

// result is the measurement of one row.
type result struct {
	row
	in, out traffic
}

// factors are how many bytes and packets come back for one sent. An empty
// datagram counts as one byte, so that the answer to it would count too.
func (r result) factors() (bytes, packets float64) {
	return float64(r.out.bytes) / float64(max(r.in.bytes, 1)), float64(r.out.packets) / float64(r.in.packets)
}

// measure sends a row from an address of its own and counts all that comes back.
func measure(t *testing.T, r row, place int) result {
	res := result{row: r}
	for range tries {
		c := source(t, place)
		res.in, res.out = traffic{}, traffic{}
		for _, p := range r.packets {
			if _, err := c.WriteToUDPAddrPort(p, r.to); err != nil {
				t.Error(err)
			}
			res.in.add(len(p))
		}
		count(c, &res.out)
		c.Close()
		if res.out.packets > 0 || !r.answered {
			break
		}
	}
	return res
}

func count(c *net.UDPConn, out *traffic) {
	c.SetReadDeadline(time.Now().Add(window))
	b := make([]byte, 65536)
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		out.add(n)
	}
}

// measureAll runs the rows side by side.
func measureAll(t *testing.T, rows []row) []result {
	results := make([]result, len(rows))
	var wg sync.WaitGroup
	for i, r := range rows {
		wg.Go(func() { results[i] = measure(t, r, i) })
	}
	wg.Wait()
	return results
}

func TestReflectionFactorIsAtMostOneForEveryPacket(t *testing.T) {
	d := newDevice(t, unprovenRetry)
	var rows []row
	for _, of := range [][]row{d.stunRows(), d.turnRows(), d.quicRows(t), d.otherRows()} {
		rows = append(rows, of...)
	}
	var table strings.Builder
	var worst, worstPackets float64
	for _, r := range measureAll(t, rows) {
		factor, packets := r.factors()
		worst, worstPackets = max(worst, factor), max(worstPackets, packets)
		table.WriteString(r.line())
		if factor > 1 || packets > 1 {
			t.Errorf("%s: %d bytes in %d packets bring back %d bytes in %d", r.name, r.in.bytes, r.in.packets, r.out.bytes, r.out.packets)
		}
		if r.answered && r.out.packets == 0 {
			t.Errorf("%s: no answer, so nothing was measured", r.name)
		}
		if strings.Contains(r.name, "malformed") && r.out.packets > 0 {
			t.Errorf("%s: answered", r.name)
		}
	}
	t.Logf("%d kinds of packet\n%s%s", len(rows), heading, table.String())
	t.Logf("largest factor: %.2f in bytes, %.2f in packets", worst, worstPackets)
	if n := d.begun.Load(); n != 0 {
		t.Errorf("%d sessions begun for addresses that proved nothing", n)
	}
}

const heading = "                                           in bytes packets   out bytes packets   factor packets\n"

func (r result) line() string {
	factor, packets := r.factors()
	return fmt.Sprintf("%-42s %8d %7d %11d %7d %8.2f %7.2f\n", r.name, r.in.bytes, r.in.packets, r.out.bytes, r.out.packets, factor, packets)
}

// The control: what comes back from quic-go as it comes, for the same packets.
// If this were not above 1, the measurement would be blind.
func TestWithoutRetryQUICReflects(t *testing.T) {
	d := newDevice(t, nobodyRetries)
	flight := firstFlight(t)
	r := measure(t, row{name: "QUIC first flight, no Retry", to: d.port(), packets: flight, answered: true}, 0)
	t.Logf("\n%s%s", heading, r.line())
	if bytes, packets := r.factors(); bytes <= 1 || packets <= 1 {
		t.Errorf("factor %.2f in bytes, %.2f in packets: this is blind", bytes, packets)
	}
}

// Whoever had a session before brings a token from it (RFC 9000 §8.1.3), and
// pays no round trip either.
func TestATokenOfAnEarlierSessionIsProofEnough(t *testing.T) {
	d := newDevice(t, unprovenRetry)
	store := quic.NewLRUTokenStore(1, 4)
	var asked [2]int64
	for i := range asked {
		conf := quicConfig()
		conf.TokenStore = store
		tr := &quic.Transport{Conn: source(t, 0)}
		conn, theirs, err := d.call(t, tr, conf)
		if err != nil {
			t.Fatal(err)
		}
		// What the client hears now was sent after the token.
		if err := theirs.SendDatagram([]byte{1}); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.ReceiveDatagram(within(t)); err != nil {
			t.Fatal(err)
		}
		asked[i] = d.asked.Load()
		conn.CloseWithError(0, "")
		tr.Close()
	}
	if asked[0] == 0 || asked[1] != asked[0] {
		t.Errorf("Retry packets wanted: %d in the first session, then %d", asked[0], asked[1]-asked[0])
	}
}

// call dials the device from a socket of the test's and waits until both ends
// have the session.
func (d *device) call(t *testing.T, tr *quic.Transport, conf *quic.Config) (ours, theirs *quic.Conn, err error) {
	t.Helper()
	ours, err = tr.Dial(within(t), d.socket.LocalAddr(), tlsConfig(), conf)
	if err != nil {
		return nil, nil, err
	}
	theirs, err = d.listener.Accept(within(t))
	if err != nil {
		t.Fatal(err)
	}
	return ours, theirs, nil
}

// bound makes a peer of the device with a path to c.
func (d *device) bound(t *testing.T, c net.PacketConn) *nat.Peer {
	t.Helper()
	p := d.socket.NewPeer()
	if err := p.SetPath(nat.Path{Kind: nat.KindDirect, Addr: addrOf(c.LocalAddr())}); err != nil {
		t.Fatal(err)
	}
	return p
}

// A check that knows the password says who sent it, not from where: the socket
// then knows an address that may be a victim's. One that has answered pays no
// round trip.
func TestAnAddressIsProvenByAnsweringNotByBeingKnown(t *testing.T) {
	d := newDevice(t, unprovenRetry)
	victim := source(t, 0)
	d.bound(t, victim)
	known := result{row: row{name: "QUIC first flight, address known but unproven"}}
	for _, p := range firstFlight(t) {
		if _, err := victim.WriteToUDPAddrPort(p, d.port()); err != nil {
			t.Fatal(err)
		}
		known.in.add(len(p))
	}
	count(victim, &known.out)
	t.Logf("\n%s%s", heading, known.line())
	if bytes, packets := known.factors(); bytes > 1 || packets > 1 || known.out.packets == 0 {
		t.Errorf("factor %.2f in bytes, %.2f in packets", bytes, packets)
	}

	for _, c := range []struct {
		name   string
		proven bool
	}{{"unproven", false}, {"proven", true}} {
		own := source(t, 1)
		p := d.bound(t, own)
		if c.proven {
			d.proven.Store(p, true)
		}
		before := d.asked.Load()
		tr := &quic.Transport{Conn: own}
		conn, _, err := d.call(t, tr, quicConfig())
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if asked := d.asked.Load() > before; asked == c.proven {
			t.Errorf("%s: asked for a proof: %v", c.name, asked)
		}
		conn.CloseWithError(0, "")
		tr.Close()
	}
}

// The token in a Retry names the address that quic-go was shown. If that is
// bound to a peer before the client comes back with it, quic-go is shown the
// constant address from then on and refuses the token: dial again.
func TestAnAddressBoundDuringARetryHasToDialAgain(t *testing.T) {
	own := source(t, 0)
	d := newDevice(t, func(d *device) func(net.Addr) bool {
		return func(a net.Addr) bool {
			retry := unprovenRetry(d)(a)
			if retry {
				d.proven.Store(d.bound(t, own), true)
			}
			return retry
		}
	})
	tr := &quic.Transport{Conn: own}
	defer tr.Close()
	var refused *quic.TransportError
	if _, _, err := d.call(t, tr, quicConfig()); !errors.As(err, &refused) || refused.ErrorCode != quic.InvalidToken {
		t.Fatalf("first call: %v", err)
	}
	conn, _, err := d.call(t, tr, quicConfig())
	if err != nil {
		t.Fatalf("second call: %v", err)
	}
	conn.CloseWithError(0, "")
}
