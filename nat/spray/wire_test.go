package spray

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"porchlight/nat/probe"
	natstun "porchlight/nat/stun"
)

var (
	credsA = probe.Credentials{Ufrag: "aaaaaaaa", Pwd: "the password of a and chance"}
	credsB = probe.Credentials{Ufrag: "bbbbbbbb", Pwd: "the password of b and chance"}
	linkA  = link{3, netip.MustParseAddrPort("8.8.2.2:7000")} // as a sees it
	linkB  = link{shared, netip.MustParseAddrPort("8.8.1.1:5000")}
)

func newWires(t testing.TB) (a, b *wire) {
	t.Helper()
	a, errA := newWire(credsA, credsB)
	b, errB := newWire(credsB, credsA)
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	return a, b
}

func TestQuestionsAndChoicesAreTold(t *testing.T) {
	a, b := newWires(t)
	for _, choice := range []bool{false, true} {
		asked, err := a.ask(linkA, choice)
		if err != nil {
			t.Fatal(err)
		}
		if err := natstun.Check(asked); err != nil {
			t.Errorf("the gate refuses it: %v", err)
		}
		if ufrag, err := probe.Asked(asked); err != nil || ufrag != credsB.Ufrag {
			t.Errorf("nat/probe reads %q, %v", ufrag, err)
		}
		what, reply := b.read(asked, linkB)
		if want := map[bool]kind{false: question, true: chosen}[choice]; what != want {
			t.Errorf("choice %v is read as %d", choice, what)
		}
		if len(reply) > len(asked) {
			t.Errorf("%d bytes answer %d", len(reply), len(asked))
		}
		what, _ = a.read(reply, linkA)
		if want := map[bool]kind{false: answer, true: chosenAnswer}[choice]; what != want {
			t.Errorf("the answer to choice %v is read as %d", choice, what)
		}
		for name, other := range map[string]link{
			"socket": {4, linkA.remote}, "port": {3, netip.MustParseAddrPort("8.8.2.2:7001")},
			"address": {3, netip.MustParseAddrPort("8.8.2.3:7000")},
		} {
			if what, _ := a.read(reply, other); what != foreign {
				t.Errorf("an answer by another %s is read as %d", name, what)
			}
		}
		again, _ := a.ask(linkA, choice)
		if !bytes.Equal(again, asked) {
			t.Error("a question repeated is another one")
		}
	}
}

func TestEveryChangedByteIsNoticed(t *testing.T) {
	a, b := newWires(t)
	asked, _ := a.ask(linkA, true)
	_, reply := b.read(asked, linkB)
	for i := range asked {
		changed := bytes.Clone(asked)
		changed[i] ^= 1
		if what, answered := b.read(changed, linkB); what != foreign && what != forged || answered != nil {
			t.Errorf("byte %d of a question: %d", i, what)
		}
	}
	for i := range reply {
		changed := bytes.Clone(reply)
		changed[i] ^= 1
		if what, _ := a.read(changed, linkA); what != foreign && what != forged {
			t.Errorf("byte %d of an answer: %d", i, what)
		}
	}
}

func TestNamesOfAnyLengthWork(t *testing.T) {
	for _, length := range []int{1, 2, 3, 4, MaxUfrag} {
		ours := probe.Credentials{Ufrag: strings.Repeat("o", length), Pwd: "x"}
		theirs := probe.Credentials{Ufrag: strings.Repeat("t", MaxUfrag), Pwd: "y"}
		a, errA := newWire(ours, theirs)
		b, errB := newWire(theirs, ours)
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		asked, err := a.ask(linkA, true)
		if err != nil || len(asked) > MaxProbe {
			t.Fatalf("%d bytes, %v", len(asked), err)
		}
		if what, _ := b.read(asked, linkB); what != chosen {
			t.Errorf("%d characters: %d", length, what)
		}
	}
	if _, err := newWire(probe.Credentials{Ufrag: strings.Repeat("o", MaxUfrag+1), Pwd: "x"}, credsB); err == nil {
		t.Error("a name over the limit is taken")
	}
}

func FuzzRead(f *testing.F) {
	a, b := newWires(f)
	asked, _ := a.ask(linkA, true)
	_, reply := b.read(asked, linkB)
	f.Add(asked)
	f.Add(reply)
	plain, _ := a.ask(linkA, false)
	f.Add(plain)
	f.Fuzz(func(t *testing.T, d []byte) {
		before := bytes.Clone(d)
		what, answered := b.read(d, linkB)
		if len(answered) > len(d) {
			t.Errorf("%d bytes answer %d", len(answered), len(d))
		}
		if (answered != nil) != (what == question || what == chosen) {
			t.Errorf("kind %d is answered: %v", what, answered != nil)
		}
		a.read(d, linkA)
		if !bytes.Equal(before, d) {
			t.Error("what is read was changed")
		}
	})
}

// BenchmarkFlood is what one datagram costs that is not for us, beside one
// that is.
func BenchmarkFlood(b *testing.B) {
	a, w := newWires(b)
	asked, _ := a.ask(linkA, false)
	other, _ := newWire(credsA, probe.Credentials{Ufrag: "cccccccc", Pwd: "z"})
	stray, _ := other.ask(linkA, false)
	_, reply := w.read(asked, linkB)
	for name, d := range map[string][]byte{
		"question for us": asked, "question for others": stray, "answer to nothing": reply, "noise": make([]byte, 200),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w.read(d, linkB)
			}
		})
	}
}
