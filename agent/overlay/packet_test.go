package overlay_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"porchlight/agent/overlay"
	"porchlight/nat"
)

// packets opens a stream from a to b and turns both ends into packets.
func packets(t *testing.T, a, b *end) (near, far *overlay.Packets) {
	t.Helper()
	listener, err := b.Listen("packets")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	dialed, err := a.Dial(t.Context(), b.Address(), "packets")
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if far, err = accepted.(*overlay.Conn).Packets(); err != nil {
		t.Fatal(err)
	}
	// What the ends agree upon comes before the first packet.
	if _, err := accepted.Write([]byte{42}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(dialed, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if near, err = dialed.(*overlay.Conn).Packets(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// echo returns every packet.
func echo(p net.Conn) {
	b := make([]byte, overlay.MaxPacket)
	for {
		n, err := p.Read(b)
		if err != nil {
			return
		}
		p.Write(b[:n])
	}
}

// checkEcho sends packets of all sizes, a few at a time, and wants each of them
// back, whole and once; lost may be what dropped counts.
func checkEcho(t *testing.T, p *overlay.Packets, dropped func() int64) {
	const count, ahead = 1000, 8
	random := rand.New(rand.NewPCG(1, 2))
	back := make(chan struct{}, ahead)
	seen := make([]bool, count)
	sizes := make([]int, count)
	for i := range sizes {
		switch sizes[i] = random.IntN(overlay.MaxPacket + 1); {
		case i%3 != 0: // most of them as telephone calls and names have them
			sizes[i] %= 1300
		case i == count-1-(count-1)%3:
			sizes[i] = overlay.MaxPacket
		}
	}
	var wrong, empty, received int
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, overlay.MaxPacket+1)
		for received+empty < count {
			n, err := p.Read(b)
			switch {
			case err != nil:
				return
			case n < 4:
				empty++ // too short for a number
			default:
				i := int(binary.BigEndian.Uint32(b))
				if i >= count || seen[i] || n != sizes[i] || !bytes.Equal(b[4:n], bytes.Repeat([]byte{byte(i)}, n-4)) {
					wrong++
					continue
				}
				seen[i] = true
				received++
			}
			select {
			case back <- struct{}{}:
			default:
			}
		}
	}()
	for i, n := range sizes {
		packet := bytes.Repeat([]byte{byte(i)}, n)
		if n >= 4 {
			binary.BigEndian.PutUint32(packet, uint32(i))
		}
		if _, err := p.Write(packet); err != nil {
			t.Fatal(err)
		}
		if i >= ahead {
			select {
			case <-back:
			case <-time.After(2 * time.Second):
			}
		}
	}
	p.SetReadDeadline(time.Now().Add(2 * time.Second))
	<-done
	p.SetReadDeadline(time.Time{})
	if lost := int64(count - received - empty); wrong > 0 || lost > dropped() {
		t.Errorf("%d wrong or twice, %d lost of %d, of which %d are counted", wrong, lost, count, dropped())
	}
}

func TestPacketsOfAllSizesCrossBothWays(t *testing.T) {
	a, b := pair(t)
	near, far := packets(t, a, b)
	go echo(far)
	checkEcho(t, near, func() int64 { return near.Dropped() + far.Dropped() })
	// The empty packet and the largest, and one byte more than that.
	for _, n := range []int{0, 1, overlay.MaxPacket - 1, overlay.MaxPacket} {
		if wrote, err := near.Write(make([]byte, n)); wrote != n || err != nil {
			t.Fatalf("packet of %d bytes: %d, %v", n, wrote, err)
		}
		near.SetReadDeadline(time.Now().Add(5 * time.Second))
		if got, from, err := near.ReadFrom(make([]byte, overlay.MaxPacket)); got != n || err != nil || from.String() != b.Address().String() {
			t.Errorf("packet of %d bytes came back with %d from %v, %v", n, got, from, err)
		}
	}
	if _, err := near.Write(make([]byte, overlay.MaxPacket+1)); !errors.Is(err, overlay.ErrPacketSize) {
		t.Errorf("a packet above the limit: %v", err)
	}
}

// relay carries packets to the other socket's peer, none above the size that
// a TURN channel on a small path takes.
type relay struct{ to atomic.Pointer[nat.Peer] }

func (r *relay) WritePacket(b []byte) error {
	if len(b) > nat.PacketSize {
		return errors.New("too large for the relay")
	}
	if p := r.to.Load(); p != nil {
		p.Inject(b)
	}
	return nil
}

func TestPacketsCrossARelayedPath(t *testing.T) {
	a, b := pair(t)
	near, far := packets(t, a, b)
	go echo(far)
	toA, toB := &relay{}, &relay{}
	peerA, peerB := a.Current(b.Address()).Peer(), b.Current(a.Address()).Peer()
	toA.to.Store(peerA)
	toB.to.Store(peerB)
	if err := errors.Join(
		peerA.SetPath(nat.Path{Kind: nat.KindRelay, Carrier: toB}),
		peerB.SetPath(nat.Path{Kind: nat.KindRelay, Carrier: toA}),
	); err != nil {
		t.Fatal(err)
	}
	checkEcho(t, near, func() int64 { return near.Dropped() + far.Dropped() })
}

func TestPacketsEndWithTheirStream(t *testing.T) {
	a, b := pair(t)
	buffer := make([]byte, 10)
	near, far := packets(t, a, b)
	if _, err := near.Write([]byte("last")); err != nil {
		t.Fatal(err)
	}
	far.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := far.Read(buffer); string(buffer[:n]) != "last" || err != nil {
		t.Fatalf("%q, %v", buffer[:n], err)
	}
	far.Close()
	if _, err := far.Read(buffer); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read after Close = %v", err)
	}
	if _, err := near.Read(buffer); err != io.EOF {
		t.Errorf("Read after the other side's Close = %v", err)
	}
	if _, err := near.Write(buffer); err == nil {
		t.Error("a write succeeded after the end")
	}

	near, _ = packets(t, a, b)
	a.Current(b.Address()).Close()
	if _, err := near.Read(buffer); err == nil || err == io.EOF {
		t.Errorf("Read after the session's end = %v, want why", err)
	}
}

func TestOneStreamCarriesPacketsOnce(t *testing.T) {
	a, b := pair(t)
	listener, err := b.Listen("packets")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := a.Dial(t.Context(), b.Address(), "packets")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.(*overlay.Conn).Packets(); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.(*overlay.Conn).Packets(); err == nil {
		t.Error("a second flow on the same stream")
	}
	b.close()
	a.close()
	if _, err := conn.(*overlay.Conn).Packets(); err == nil {
		t.Error("a flow of a closed overlay")
	}
}

func TestReadDeadlinesOfPackets(t *testing.T) {
	a, b := pair(t)
	near, far := packets(t, a, b)
	buffer := make([]byte, 10)
	near.SetReadDeadline(time.Now().Add(-time.Second))
	if _, err := near.Read(buffer); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("past deadline: %v", err)
	}
	near.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := near.Read(buffer); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("deadline that comes: %v", err)
	}
	near.SetDeadline(time.Now().Add(time.Hour))
	got := make(chan error, 1)
	go func() {
		_, err := near.Read(buffer)
		got <- err
	}()
	// Moved while somebody waits.
	near.SetReadDeadline(time.Now().Add(time.Millisecond))
	if err := <-got; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("deadline that was moved: %v", err)
	}
	near.SetReadDeadline(time.Time{})
	far.Write([]byte("x"))
	if n, err := near.Read(buffer); n != 1 || err != nil {
		t.Errorf("without a deadline: %d, %v", n, err)
	}
}

// TestAFloodOfPacketsIsBounded: who does not read loses the oldest, and is
// told how many.
func TestAFloodOfPacketsIsBounded(t *testing.T) {
	a, b := pair(t)
	near, far := packets(t, a, b)
	const count = 5000
	for i := range count {
		packet := make([]byte, 1000)
		binary.BigEndian.PutUint32(packet, uint32(i))
		if _, err := near.Write(packet); err != nil {
			t.Fatal(err)
		}
	}
	near.Write([]byte("the newest"))
	buffer := make([]byte, 1000)
	received := 0
	far.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		n, err := far.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		if string(buffer[:n]) == "the newest" {
			break
		}
		received++
	}
	if received == count || near.Dropped() == 0 {
		t.Errorf("%d of %d came, %d dropped: nothing was bounded", received, count, near.Dropped())
	}
	if a.Current(b.Address()) == nil {
		t.Error("the session did not survive the flood")
	}
}

func TestAnAbortedStreamDoesNotLookComplete(t *testing.T) {
	a, b := pair(t)
	listener, err := b.Listen("cut")
	if err != nil {
		t.Fatal(err)
	}
	for _, abort := range []bool{false, true} {
		conn, err := a.Dial(t.Context(), b.Address(), "cut")
		if err != nil {
			t.Fatal(err)
		}
		accepted, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		accepted.Write([]byte("half of it"))
		if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
		if abort {
			accepted.(*overlay.Conn).Abort()
		}
		accepted.Close()
		if _, err := io.ReadAll(conn); (err != nil) != abort {
			t.Errorf("aborted %t: read ends with %v", abort, err)
		}
		conn.Close()
	}
}
