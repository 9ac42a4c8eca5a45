package nat

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func TestFrameSizes(t *testing.T) {
	for _, c := range []struct {
		size int
		fits bool
	}{{0, true}, {1, true}, {MaxPacket - 1, true}, {MaxPacket, true}, {MaxPacket + 1, false}, {65535, false}} {
		stream := appendFrame(nil, make([]byte, c.size))
		b, err := readFrame(bufio.NewReader(bytes.NewReader(stream)), make([]byte, MaxPacket))
		if c.fits && (err != nil || len(b) != c.size) || !c.fits && !errors.Is(err, ErrTooLarge) {
			t.Errorf("frame of %d bytes: %d, %v", c.size, len(b), err)
		}
	}
}

func TestFrameCutShort(t *testing.T) {
	whole := appendFrame(nil, []byte("@abc"))
	for n := range whole {
		_, err := readFrame(bufio.NewReader(bytes.NewReader(whole[:n])), make([]byte, 10))
		want := io.ErrUnexpectedEOF
		if n == 0 {
			want = io.EOF
		}
		if err != want {
			t.Errorf("%d bytes of it: %v", n, err)
		}
	}
}

// FuzzReadFrame: any stream is read as frames or refused; frames written again
// are the stream that was read.
func FuzzReadFrame(f *testing.F) {
	f.Add(appendFrame(appendFrame(nil, []byte("@hello")), nil))
	f.Add([]byte{0xff, 0xff, 1})
	f.Add([]byte{0, 4, 1})
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := bufio.NewReader(bytes.NewReader(stream))
		var again []byte
		buf := make([]byte, MaxPacket)
		for {
			b, err := readFrame(r, buf)
			if err != nil {
				if err == io.EOF && !bytes.Equal(again, stream) {
					t.Fatalf("%x became %x", stream, again)
				}
				break
			}
			again = appendFrame(again, b)
		}
		if !bytes.HasPrefix(stream, again) {
			t.Fatalf("%x became %x", stream, again)
		}
	})
}

// framedPipe is a framed connection whose other end is in the test's hands.
func framedPipe(cfg FrameConfig) (*Framed, net.Conn) {
	near, far := net.Pipe()
	return NewFramed(near, cfg), far
}

func TestFramedWriteLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, far := framedPipe(FrameConfig{})
		defer far.Close()
		for _, size := range []int{MaxPacket - 1, MaxPacket} {
			if err := f.WritePacket(make([]byte, size)); err != nil {
				t.Errorf("%d bytes: %v", size, err)
			}
			synctest.Wait()
		}
		if err := f.WritePacket(make([]byte, MaxPacket+1)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("too large: %v", err)
		}
		// The writer is stuck with the first frame; the second is queued.
		queued := frameHeader + MaxPacket
		for queued+frameHeader+100 <= maxUnsent {
			if err := f.WritePacket(make([]byte, 100)); err != nil {
				t.Fatalf("with %d bytes queued: %v", queued, err)
			}
			queued += frameHeader + 100
		}
		if err := f.WritePacket(make([]byte, 100)); !errors.Is(err, ErrQueueFull) || f.Dropped() != 1 {
			t.Errorf("with %d bytes queued: %v", queued, err)
		}
		rest := maxUnsent - queued - frameHeader
		if err := f.WritePacket(make([]byte, rest)); err != nil {
			t.Errorf("the last %d bytes: %v", rest, err)
		}
		f.Close()
		if err := f.WritePacket([]byte("@")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after close: %v", err)
		}
		if err := f.Close(); err != nil {
			t.Errorf("second close: %v", err)
		}
	})
}

func TestStuckWriterEndsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, far := framedPipe(FrameConfig{Idle: time.Minute})
		defer far.Close()
		if err := f.WritePacket([]byte("@")); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		<-f.closed
		if took := time.Since(began); took != time.Minute {
			t.Errorf("given up after %v", took)
		}
		f.Close()
	})
}

// runFramed runs the receiving side and returns its end.
func runFramed(f *Framed, deliver func([]byte) error) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- f.Run(deliver) }()
	return ended
}

func TestFirstFrameMustComeInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, far := framedPipe(FrameConfig{})
		defer far.Close()
		began := time.Now()
		err := <-runFramed(f, func([]byte) error { return nil })
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != DefaultFirstFrame {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

// An idle session that moves to a new connection has nothing to send over it
// for many seconds.
func TestANullPacketIsAFirstFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		a, b := NewFramed(near, FrameConfig{}), NewFramed(far, FrameConfig{})
		defer a.Close()
		ended := make(chan error, 1)
		got := make(chan int, 1)
		go func() { ended <- b.Run(func(p []byte) error { got <- len(p); return nil }) }()
		go a.Run(func([]byte) error { return nil })
		for _, f := range []*Framed{a, b} {
			if err := f.WritePacket(nil); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(DefaultFirstFrame + 10*time.Second)
		select {
		case err := <-ended:
			t.Fatalf("the connection ended: %v", err)
		default:
		}
		a.WritePacket(append([]byte("@"), make([]byte, 99)...))
		if n := <-got; n != 100 {
			t.Errorf("a packet of %d bytes came", n)
		}
		a.Close()
		b.Close()
		<-ended
	})
}

func TestEachFurtherFrameMustComeInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, far := framedPipe(FrameConfig{})
		defer far.Close()
		began := time.Now()
		ended := runFramed(f, func([]byte) error { return nil })
		if _, err := far.Write(appendFrame(nil, []byte("@"))); err != nil {
			t.Fatal(err)
		}
		// A byte now and then of a frame does not count as one.
		time.AfterFunc(DefaultFrameIdle/2, func() { far.Write([]byte{0}) })
		err := <-ended
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != DefaultFrameIdle {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

func TestFramesAreSortedByFirstByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stun, quic []string
		f, far := framedPipe(FrameConfig{HandleSTUN: func(b []byte, f *Framed) {
			stun = append(stun, string(b))
			if err := f.WritePacket([]byte("\x01answer")); err != nil {
				t.Error(err)
			}
		}})
		ended := runFramed(f, func(b []byte) error {
			quic = append(quic, string(b))
			return nil
		})
		stream := appendFrame(nil, []byte("\x00question"))
		stream = appendFrame(stream, nil)
		stream = appendFrame(stream, []byte("@packet"))
		if _, err := far.Write(stream); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, frameHeader+7)
		if _, err := io.ReadFull(far, answer); err != nil || string(answer[frameHeader:]) != "\x01answer" {
			t.Errorf("answer %q, %v", answer, err)
		}
		synctest.Wait() // all frames are read: a pipe whose end is closed takes no deadline
		far.Close()
		if err := <-ended; err != nil {
			t.Errorf("closed between frames: %v", err)
		}
		if len(stun) != 1 || stun[0] != "\x00question" || len(quic) != 1 || quic[0] != "@packet" {
			t.Errorf("STUN %q, QUIC %q", stun, quic)
		}
	})
}

func TestOversizedFrameEndsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, far := framedPipe(FrameConfig{})
		defer far.Close()
		ended := runFramed(f, func([]byte) error { return nil })
		if _, err := far.Write([]byte{0xff, 0xff}); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; !errors.Is(err, ErrTooLarge) {
			t.Errorf("ended with %v", err)
		}
	})
}

// tcpPair is a TCP connection on loopback.
func tcpPair(t *testing.T) (dialled, accepted net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if dialled, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if accepted, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialled.Close(); accepted.Close() })
	return dialled, accepted
}

func TestSessionBeginsOverTCPAndOutlivesIt(t *testing.T) {
	dialled, accepted := tcpPair(t)
	var framed *Framed
	s := newSession(t, "", "", func(s *session) Path {
		if _, err := s.server.AcceptFramed(accepted, KindDirect, FrameConfig{}); err != nil {
			t.Fatal(err)
		}
		framed = NewFramed(dialled, FrameConfig{})
		if err := s.peerOfServer.UseFramed(framed, KindDirect); err != nil {
			t.Fatal(err)
		}
		return s.peerOfServer.Path()
	})
	if !isAlias(s.peerOfClient.alias.Addr()) {
		t.Fatalf("the server sees %v", s.peerOfClient.alias)
	}
	for range 2 {
		stall := transfer(t, s.clientConn, s.serverConn, 4<<20, func(int) {})
		transfer(t, s.serverConn, s.clientConn, 4<<20, func(int) {})
		t.Logf("longest stall %v, client %+v, dropped %d", stall, s.peerOfServer.Stats(), framed.Dropped())
	}
	framed.Close()
	eventually(t, "both ends have no path", func() bool {
		return s.peerOfServer.Path().Kind == KindNone && s.peerOfClient.Path().Kind == KindNone
	})
	s.byAddr(t, loopback4)
	transfer(t, s.clientConn, s.serverConn, 1<<20, func(int) {})
	transfer(t, s.serverConn, s.clientConn, 1<<20, func(int) {})
}

// TestAnAcceptedConnectionChangesHands is a device that comes in by TCP under a
// session it has already: the first frame says who it is.
func TestAnAcceptedConnectionChangesHands(t *testing.T) {
	s := listenTest(t, "")
	known := s.NewPeer()
	dialled, accepted := tcpPair(t)
	stranger, err := s.AcceptFramed(accepted, KindRelay, FrameConfig{HandleSTUN: func(_ []byte, f *Framed) {
		if err := known.TakeFramed(f, KindDirect); err != nil {
			t.Error(err)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	stream := appendFrame(nil, []byte("\x00it is me"))
	if _, err := dialled.Write(appendFrame(stream, quicPacket("hello"))); err != nil {
		t.Fatal(err)
	}
	if text, from := readOne(t, s); text != "hello" || from != known.alias {
		t.Errorf("%q from %v instead of %v", text, from, known.alias)
	}
	if s.PeerAt(stranger.Addr()) != nil {
		t.Error("the peer that the connection was accepted for is still there")
	}
	if known.Path().Kind != KindDirect {
		t.Errorf("path %+v", known.Path())
	}
	dialled.Close()
	eventually(t, "the path ends with the connection", func() bool { return known.Path().Kind == KindNone })
	if s.PeerAt(known.Addr()) == nil {
		t.Error("the peer ended with the connection")
	}
}

func TestPeerOfAnAcceptedConnectionEndsWithIt(t *testing.T) {
	s := listenTest(t, "")
	dialled, accepted := tcpPair(t)
	p, err := s.AcceptFramed(accepted, KindRelay, FrameConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dialled.Write(appendFrame(nil, quicPacket("hello"))); err != nil {
		t.Fatal(err)
	}
	if text, from := readOne(t, s); text != "hello" || from != p.alias {
		t.Errorf("%q from %v", text, from)
	}
	dialled.Close()
	eventually(t, "the peer is gone", func() bool { return s.PeerAt(p.Addr()) == nil })
}

func TestPeersAndSocketsCloseTheirFramedConnections(t *testing.T) {
	for name, end := range map[string]func(*Socket, *Peer){
		"peer":   func(_ *Socket, p *Peer) { p.Close() },
		"socket": func(s *Socket, _ *Peer) { s.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			s := listenTest(t, "")
			dialled, accepted := tcpPair(t)
			p, err := s.AcceptFramed(accepted, KindRelay, FrameConfig{})
			if err != nil {
				t.Fatal(err)
			}
			end(s, p)
			if _, err := dialled.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("the other end sees %v", err)
			}
			late, other := tcpPair(t)
			if err := p.UseFramed(NewFramed(late, FrameConfig{}), KindRelay); !errors.Is(err, net.ErrClosed) {
				t.Errorf("a closed peer took a connection: %v", err)
			}
			if _, err := other.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("a refused connection stays open: %v", err)
			}
		})
	}
}

func TestAClosedSocketAcceptsNoConnection(t *testing.T) {
	s := listenTest(t, "")
	s.Close()
	_, accepted := tcpPair(t)
	if _, err := s.AcceptFramed(accepted, KindRelay, FrameConfig{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("error is %v", err)
	}
	if p := s.Adopt(netip.MustParseAddrPort("127.0.0.1:9")); p.Path() != (Path{}) {
		t.Errorf("a closed socket adopted a path: %+v", p.Path())
	}
}
