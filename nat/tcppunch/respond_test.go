package tcppunch

import (
	"net"
	"net/netip"
	"testing"

	pion "github.com/pion/stun/v2"

	"porchlight/nat"
	"porchlight/nat/stun"
)

func build(t testing.TB, setters ...pion.Setter) []byte {
	t.Helper()
	m, err := pion.Build(setters...)
	if err != nil {
		t.Fatal(err)
	}
	return m.Raw
}

func TestRespond(t *testing.T) {
	four, six := netip.MustParseAddrPort("44.1.2.3:4000"), netip.MustParseAddrPort("[2001:db9::7]:4000")
	request, id := stun.Request()
	if len(request) < stun.MinRequest || stun.Check(request) != nil {
		t.Fatalf("request of %d bytes, %v", len(request), stun.Check(request))
	}
	for _, from := range []netip.AddrPort{four, six} {
		answer := Respond(request, from)
		got, err := stun.ParseMapped(answer, id)
		if err != nil || got != from || len(answer) > len(request) {
			t.Errorf("%s is told %s in %d bytes, %v", from, got, len(answer), err)
		}
	}
	wrapped := netip.MustParseAddrPort("[::ffff:44.1.2.3]:4000")
	if got, err := stun.ParseMapped(Respond(request, wrapped), id); err != nil || got != four {
		t.Errorf("%s is told %s, %v", wrapped, got, err)
	}

	padded := pion.RawAttribute{Type: pion.AttrSoftware, Value: make([]byte, 80)}
	for name, b := range map[string][]byte{
		"nothing":              nil,
		"an indication":        build(t, pion.TransactionID, pion.NewType(pion.MethodBinding, pion.ClassIndication), padded),
		"an answer":            build(t, pion.TransactionID, pion.BindingSuccess, padded),
		"another method":       build(t, pion.TransactionID, pion.NewType(pion.MethodAllocate, pion.ClassRequest), padded),
		"a short request":      build(t, pion.TransactionID, pion.BindingRequest),
		"an answer elsewhere":  build(t, pion.TransactionID, pion.BindingRequest, pion.RawAttribute{Type: pion.AttrChangeRequest, Value: []byte{0, 0, 0, 6}}, padded),
		"a session's question": build(t, pion.TransactionID, pion.BindingRequest, pion.NewUsername("a:b"), padded),
		"a cut request":        request[:len(request)-1],
		"a short attribute":    build(t, pion.TransactionID, pion.BindingRequest, pion.RawAttribute{Type: pion.AttrXORMappedAddress}, padded),
		"a wrong fingerprint":  append(append([]byte(nil), request[:len(request)-1]...), request[len(request)-1]^1),
		"a packet of sessions": {0x40, 1, 2, 3},
	} {
		if answer := Respond(b, four); answer != nil {
			t.Errorf("%s is answered with %x", name, answer)
		}
	}
	if Respond(request, netip.AddrPort{}) != nil {
		t.Error("an answer about no address")
	}
}

// framedPair starts the serving end as it is used and returns the other end;
// finish waits until all that was sent is handled.
func framedPair(t *testing.T, handle func([]byte, *nat.Framed)) (conn net.Conn, finish func()) {
	near, far := net.Pipe()
	f := nat.NewFramed(near, nat.FrameConfig{HandleSTUN: handle})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = f.Run(func([]byte) error { return nil })
	}()
	finish = func() { far.Close(); <-done }
	t.Cleanup(func() { finish(); f.Close() })
	return far, finish
}

func TestResponderLimits(t *testing.T) {
	from := netip.MustParseAddrPort("44.1.2.3:4000")
	r := NewResponder()
	conn, finish := framedPair(t, r.Handler(from))
	for i := range MaxAnswers {
		if got, err := query(conn); err != nil || got != from {
			t.Fatalf("request %d: %s, %v", i, got, err)
		}
	}
	request, _ := stun.Request()
	if err := writeFrames(conn, request); err != nil {
		t.Fatal(err)
	}
	finish()
	if got := r.Answered(); got != MaxAnswers {
		t.Errorf("%d answers on one connection", got)
	}
}

func TestResponderRate(t *testing.T) {
	r := NewResponder()
	r.limit.SetLimit(0) // what is there at once, and nothing later
	from := netip.MustParseAddrPort("44.1.2.3:4000")
	for i := range AnswerBurst {
		conn, finish := framedPair(t, r.Handler(from))
		if _, err := query(conn); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		finish()
	}
	conn, finish := framedPair(t, r.Handler(from))
	request, _ := stun.Request()
	if err := writeFrames(conn, request); err != nil {
		t.Fatal(err)
	}
	finish()
	if got := r.Answered(); got != AnswerBurst {
		t.Errorf("%d answers", got)
	}
}

func FuzzRespond(f *testing.F) {
	request, _ := stun.Request()
	f.Add(request)
	f.Add(build(f, pion.TransactionID, pion.BindingRequest, pion.RawAttribute{Type: pion.AttrXORMappedAddress}))
	f.Fuzz(func(t *testing.T, b []byte) {
		answer := Respond(b, netip.MustParseAddrPort("[2001:db9::7]:4000"))
		if len(answer) > len(b) || answer != nil && stun.Check(answer) != nil {
			t.Errorf("%d bytes for %d", len(answer), len(b))
		}
	})
}
