package tcppunch

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"porchlight/nat/probe"
	"porchlight/nat/stun"
)

var (
	alice = probe.Credentials{Ufrag: "alice", Pwd: "password of alice"}
	bob   = probe.Credentials{Ufrag: "bob", Pwd: "password of bob"}
	eve   = probe.Credentials{Ufrag: "alice", Pwd: "password of eve"}
)

// proved is for tests without time.
func proved() error { return nil }

// once nominates one connection.
func once() func() (func(), bool) {
	var taken atomic.Bool
	return func() (func(), bool) {
		return func() { taken.Store(false) }, taken.CompareAndSwap(false, true)
	}
}

// link returns the two ends of a TCP connection over loopback.
func link(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err = net.DialTCP("tcp4", nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	far, err = l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*net.TCPConn{near, far} {
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		t.Cleanup(func() { c.Close() })
	}
	return near, far
}

func TestEndsProveThemselvesAndReadNoMore(t *testing.T) {
	for _, c := range []struct {
		name                         string
		askerConnects, otherConnects bool
	}{
		{"simultaneous open", true, true},
		{"asking end connects", true, false},
		{"answering end connects", false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			near, far := link(t)
			other := make(chan error, 1)
			go func() {
				err := greeter{ours: bob, them: alice, proved: proved}.greet(far, c.otherConnects)
				_, sent := io.WriteString(far, "from bob")
				other <- errors.Join(err, sent)
			}()
			err := greeter{ours: alice, them: bob, proved: proved, asking: true, choose: once()}.greet(near, c.askerConnects)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(near, "from alice"); err != nil {
				t.Fatal(err)
			}
			if err := <-other; err != nil {
				t.Fatal(err)
			}
			for conn, want := range map[*net.TCPConn]string{near: "from bob", far: "from alice"} {
				got := make([]byte, len(want))
				if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
					t.Errorf("%q follows instead of %q, %v", got, want, err)
				}
			}
		})
	}
}

func TestBothEndsTakeTheSameOfSeveralConnections(t *testing.T) {
	const links = 4
	for range 20 {
		choose := once()
		type end struct {
			link int
			err  error
		}
		askers, answerers := make(chan end, links), make(chan end, links)
		for i := range links {
			near, far := link(t)
			go func() {
				err := greeter{ours: alice, them: bob, proved: proved, asking: true, choose: choose}.greet(near, i%2 == 0)
				if err != nil {
					abort(near)
				}
				askers <- end{i, err}
			}()
			go func() { answerers <- end{i, greeter{ours: bob, them: alice, proved: proved}.greet(far, true)} }()
		}
		var chosen [2][]int
		for range links {
			for side, ends := range []chan end{askers, answerers} {
				if e := <-ends; e.err == nil {
					chosen[side] = append(chosen[side], e.link)
				}
			}
		}
		if len(chosen[0]) != 1 || fmt.Sprint(chosen[0]) != fmt.Sprint(chosen[1]) {
			t.Fatalf("asking end %v, answering end %v", chosen[0], chosen[1])
		}
	}
}

// A nomination that could not be sent is open again.
func TestNominationIsGivenBack(t *testing.T) {
	choose := once()
	g := greeter{choose: choose}
	near, _ := link(t)
	near.Close()
	if err := g.nominate(near, []byte("answer")); err == nil {
		t.Fatal("sent over a closed connection")
	}
	near, _ = link(t)
	if err := g.nominate(near, []byte("answer")); err != nil {
		t.Error(err)
	}
	if err := g.nominate(near, []byte("answer")); !errors.Is(err, errNotChosen) {
		t.Errorf("second nomination: %v", err)
	}
}

func TestWrongPeerIsRefused(t *testing.T) {
	guessed := probe.Credentials{Ufrag: "bob", Pwd: "guess"}
	for name, known := range map[string]probe.Credentials{"names only": guessed, "bob's password": bob} {
		for _, asking := range []bool{true, false} {
			for _, connected := range []bool{true, false} {
				t.Run(fmt.Sprintf("eve knows %s, bob asking %v, connected %v", name, asking, connected), func(t *testing.T) {
					near, far := link(t)
					other := make(chan error, 1)
					go func() {
						other <- greeter{ours: eve, them: known, proved: proved, asking: !asking, choose: once()}.greet(far, true)
						far.Close()
					}()
					if err := (greeter{ours: bob, them: alice, proved: proved, asking: asking, choose: once()}).greet(near, connected); err == nil {
						t.Error("bob takes eve for alice")
					}
					near.Close()
					if err := <-other; err == nil {
						t.Error("eve is content")
					}
				})
			}
		}
	}
}

// Our own question, sent back, proves nothing.
func TestReflectionIsRefused(t *testing.T) {
	near, far := link(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b, err := readFrame(far)
		if err == nil {
			_ = writeFrames(far, b)
		}
	}()
	if err := (greeter{ours: alice, them: bob, proved: proved}).greet(near, true); !errors.Is(err, errStranger) {
		t.Error(err)
	}
	<-done
}

// script is a connection that says one thing and records what is said to it.
type script struct {
	net.Conn // nil: nothing else may be called
	in       *bytes.Reader
	out      bytes.Buffer
}

func (s *script) Read(b []byte) (int, error)  { return s.in.Read(b) }
func (s *script) Write(b []byte) (int, error) { return s.out.Write(b) }

func strangers(t testing.TB) map[string][]byte {
	toBob, _, err := probe.Ask(bob, "alice")
	if err != nil {
		t.Fatal(err)
	}
	toOther, _, err := probe.Ask(probe.Credentials{Ufrag: "carol", Pwd: bob.Pwd}, "alice")
	if err != nil {
		t.Fatal(err)
	}
	wrong, _, err := probe.Ask(probe.Credentials{Ufrag: "bob", Pwd: "guess"}, "alice")
	if err != nil {
		t.Fatal(err)
	}
	answer, err := probe.Answer(toBob, bob)
	if err != nil {
		t.Fatal(err)
	}
	request, _ := stun.Request()
	return map[string][]byte{
		"nothing":                nil,
		"a web browser":          []byte("GET / HTTP/1.1\r\nHost: 192.168.1.1\r\n\r\n"),
		"a question without key": appendFrame(nil, wrong),
		"another's question":     appendFrame(nil, toOther),
		"an answer":              appendFrame(nil, answer),
		"a STUN request":         appendFrame(nil, request),
		"an empty frame":         appendFrame(nil, nil),
		"the largest frame":      appendFrame(nil, make([]byte, maxFrame)),
		"a larger frame":         appendFrame(nil, make([]byte, maxFrame+1)),
		"a cut question":         appendFrame(nil, toBob)[:60],
	}
}

func TestStrangersHearNothing(t *testing.T) {
	for name, b := range strangers(t) {
		for _, asking := range []bool{true, false} {
			s := &script{in: bytes.NewReader(b)}
			err := greeter{ours: bob, them: alice, proved: proved, asking: asking, choose: once()}.greet(s, false)
			if err == nil || s.out.Len() > 0 {
				t.Errorf("%s, asking %v: %v, %d bytes said", name, asking, err, s.out.Len())
			}
		}
	}
}

func FuzzStranger(f *testing.F) {
	for _, b := range strangers(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		// Who does not know this password cannot make a question.
		secret := probe.Credentials{Ufrag: "bob", Pwd: "another password"}
		s := &script{in: bytes.NewReader(b)}
		err := greeter{ours: secret, them: alice, proved: proved}.greet(s, false)
		if err == nil || s.out.Len() > 0 {
			t.Errorf("%v, %d bytes said", err, s.out.Len())
		}
	})
}
