package nat

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// batchRecorder is a carrier that keeps what it was given at once.
type batchRecorder struct {
	err error

	mu   sync.Mutex
	kept []recorded
}

type recorded struct {
	n, size int
	ecn     uint8
	text    string // the first byte of each packet
}

func (r *batchRecorder) WritePacket(b []byte) error { return r.WriteSegments(b, 0, 0) }

func (r *batchRecorder) WriteSegments(b []byte, size int, ecn uint8) error {
	w := recorded{n: len(b), size: size, ecn: ecn}
	for one := range segments(b, size) {
		w.text += string(one[:1])
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept = append(r.kept, w)
	return r.err
}

// writes are those so far.
func (r *batchRecorder) writes() []recorded {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.kept)
}

// forget makes the next write the first.
func (r *batchRecorder) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept = nil
}

// sizes are the bytes of each write so far.
func (r *batchRecorder) sizes() []int {
	var all []int
	for _, w := range r.writes() {
		all = append(all, w.n)
	}
	return all
}

// gathering calls f in a bubble with a peer whose path is a batchRecorder. put
// writes n packets that begin with text, as quic-go would.
func gathering(t *testing.T, f func(t *testing.T, p *Peer, r *batchRecorder, put func(text byte, n, segment int))) {
	synctest.Test(t, func(t *testing.T) {
		s, err := Listen(t.Context(), Config{Addr: "127.0.0.1:0"})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		p, r := s.NewPeer(), new(batchRecorder)
		if err := p.SetPath(Path{Kind: KindDirect, Carrier: r}); err != nil {
			t.Fatal(err)
		}
		f(t, p, r, func(text byte, n, segment int) {
			t.Helper()
			oob := controlInfo{segment: segment, ecn: 1, hasECN: true}.appendSent(nil, false)
			b := bytes.Repeat([]byte{text}, n)
			if _, _, err := s.WriteMsgUDP(b, oob, p.Addr()); err != nil {
				t.Fatal(err)
			}
		})
	})
}

// pass lets d go by in the bubble, and what is due then happen.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// fullWrite is what quic-go writes at once when there is more to come.
const fullWrite = quicBatch / PacketSize * PacketSize

func TestFullWritesAreJoinedInOrder(t *testing.T) {
	if !offload() {
		t.Skip("control messages do not pass the emulator")
	}
	gathering(t, func(t *testing.T, p *Peer, r *batchRecorder, put func(byte, int, int)) {
		for i := range 6 {
			put(byte('a'+i), fullWrite, PacketSize)
		}
		put('t', PacketSize+100, PacketSize)
		put('x', fullWrite, PacketSize)
		put('y', 100, PacketSize)
		want := []int{3 * fullWrite, 3 * fullWrite, PacketSize + 100, fullWrite + 100}
		if !slices.Equal(r.sizes(), want) {
			t.Fatalf("writes of %v bytes, want %v", r.sizes(), want)
		}
		text := ""
		for _, w := range r.writes() {
			if w.size != PacketSize || w.ecn != 1 {
				t.Errorf("%+v", w)
			}
			text += w.text
		}
		var all bytes.Buffer
		for _, c := range []byte("abcdef") {
			all.Write(bytes.Repeat([]byte{c}, 17))
		}
		all.WriteString("tt" + "xxxxxxxxxxxxxxxxx" + "y")
		if text != all.String() {
			t.Errorf("packets came as %s", text)
		}
		if st := p.Stats(); st.Direct.TxPackets != int64(all.Len()) || st.Direct.TxBytes != int64(7*fullWrite+PacketSize+200) {
			t.Errorf("%+v", st)
		}
	})
}

func TestWritesThatAreNotFullGoOutAtOnce(t *testing.T) {
	gathering(t, func(t *testing.T, p *Peer, r *batchRecorder, put func(byte, int, int)) {
		for _, n := range []int{1, PacketSize, fullWrite - PacketSize, fullWrite - 1} {
			r.forget()
			put('x', n, PacketSize)
			if !slices.Equal(r.sizes(), []int{n}) {
				t.Errorf("%d bytes went out as %v", n, r.sizes())
			}
		}
	})
}

func TestFullness(t *testing.T) {
	for _, c := range []struct {
		n, segment int
		want       bool
	}{
		{16 * 1200, 1200, false},
		{17 * 1200, 1200, true},
		{17*1200 - 1, 1200, false},
		{14 * 1452, 1452, true},
		{13 * 1452, 1452, false},
		{20 << 10, 0, false},
		{32 * 640, 640, true},
		{33 * 620, 620, false}, // twice as many are more than the kernel takes
		{28 * 1200, 1200, false},
		{27 * 1200, 1200, true},
	} {
		if got := isFull(c.n, c.segment); got != c.want {
			t.Errorf("%d bytes of %d: %v", c.n, c.segment, got)
		}
	}
}

func TestWhatIsHeldGoesOutBeforeAnythingElse(t *testing.T) {
	if !offload() {
		t.Skip("control messages do not pass the emulator")
	}
	for name, c := range map[string]struct {
		n, segment int
		change     func(p *Peer, r *batchRecorder) error
	}{
		"one too large": {n: PacketSize + 1, segment: 0},
		"larger size":   {n: 2000, segment: 1300},
		"no room":       {n: 40 * PacketSize, segment: PacketSize},
		"another route": {n: fullWrite, segment: PacketSize, change: func(p *Peer, r *batchRecorder) error { return p.SetPath(Path{Kind: KindRelay, Carrier: r}) }},
	} {
		t.Run(name, func(t *testing.T) {
			gathering(t, func(t *testing.T, p *Peer, r *batchRecorder, put func(byte, int, int)) {
				put('a', fullWrite, PacketSize)
				if len(r.writes()) != 0 {
					t.Fatalf("not held: %+v", r.writes())
				}
				if c.change != nil {
					if err := c.change(p, r); err != nil {
						t.Fatal(err)
					}
				}
				put('b', c.n, c.segment)
				pass(3 * holdTick)
				if !slices.Equal(r.sizes(), []int{fullWrite, c.n}) || r.writes()[0].text[0] != 'a' {
					t.Errorf("%+v", r.writes())
				}
			})
		})
	}
}

func TestHoldingInVainIsShortAndBecomesRare(t *testing.T) {
	if !offload() {
		t.Skip("control messages do not pass the emulator")
	}
	gathering(t, func(t *testing.T, p *Peer, r *batchRecorder, put func(byte, int, int)) {
		for pause := minRest; ; pause *= 2 {
			r.forget()
			put('x', fullWrite, PacketSize)
			if len(r.writes()) != 0 {
				t.Fatalf("before a pause of %d: not held", pause)
			}
			pass(2*holdTick - 1)
			if len(r.writes()) != 0 {
				t.Fatalf("before a pause of %d: sent early", pause)
			}
			pass(time.Nanosecond)
			if len(r.writes()) != 1 {
				t.Fatalf("before a pause of %d: %d writes after two ticks", pause, len(r.writes()))
			}
			for i := range min(pause, maxRest) {
				put('x', fullWrite, PacketSize)
				if len(r.writes()) != i+2 {
					t.Fatalf("in a pause of %d: held after %d", pause, i)
				}
			}
			if pause > maxRest {
				break
			}
			pass(2 * holdTick)
			if p.out.ticks {
				t.Fatal("the timer runs with nothing to do")
			}
		}
		// Success makes it forget.
		for range goodStreak {
			put('x', fullWrite, PacketSize)
			put('y', 100, PacketSize)
		}
		put('x', fullWrite, PacketSize)
		pass(2 * holdTick)
		if p.out.rest != 2*minRest {
			t.Errorf("after a long streak it pauses for %d", p.out.rest)
		}
	})
}

func TestClosingAPeerDropsWhatIsHeld(t *testing.T) {
	if !offload() {
		t.Skip("control messages do not pass the emulator")
	}
	gathering(t, func(t *testing.T, p *Peer, r *batchRecorder, put func(byte, int, int)) {
		put('x', fullWrite, PacketSize)
		p.Close()
		pass(4 * holdTick)
		if len(r.writes()) != 0 || p.out.buf != nil || p.out.ticks {
			t.Errorf("%+v", r.writes())
		}
		if err := p.out.write(&route{path: Path{Kind: KindDirect, Carrier: r}}, make([]byte, fullWrite), controlInfo{segment: PacketSize}); err != nil || len(r.writes()) != 1 {
			t.Errorf("a late write: %v, %d writes", err, len(r.writes()))
		}
	})
}

func TestErrorsOfWhatWasHeldAreCounted(t *testing.T) {
	if !offload() {
		t.Skip("control messages do not pass the emulator")
	}
	gathering(t, func(t *testing.T, p *Peer, r *batchRecorder, put func(byte, int, int)) {
		r.err = errors.New("refused")
		put('x', fullWrite, PacketSize)
		put('y', PacketSize+1, PacketSize)
		if st := p.Stats(); st.CarrierRefused != 19 || st.Direct.TxPackets != 0 {
			t.Errorf("%+v", st)
		}
	})
}

func TestJoinedWritesReachTheOtherSocket(t *testing.T) {
	s, remote := listenTest(t, ""), listenTest(t, "127.0.0.1:0")
	p := s.NewPeer()
	if err := p.SetPath(Path{Kind: KindDirect, Addr: loopback4(remote)}); err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for i := range 5 {
		var b []byte
		for j := range fullWrite / PacketSize {
			one := make([]byte, PacketSize)
			copy(one, fmt.Sprintf("@%d-%02d", i, j))
			b = append(b, one...)
			want = append(want, string(one[:5]))
		}
		oob := controlInfo{segment: PacketSize}.appendSent(nil, true)
		if !offload() {
			t.Skip("control messages do not pass the emulator")
		}
		if _, _, err := s.WriteMsgUDP(b, oob, p.Addr()); err != nil {
			t.Fatal(err)
		}
	}
	for len(got) < len(want) { // the last two writes come by the timer
		ms := batchOf(8)
		n, err := remote.ReadBatch(ms, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range ms[:n] {
			got = append(got, string(m.Buffers[0][:5]))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("packets arrived as %v", got)
	}
}
