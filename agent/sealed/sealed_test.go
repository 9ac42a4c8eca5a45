package sealed_test

import (
	"bytes"
	"errors"
	"testing"

	"porchlight/agent/identity"
	"porchlight/agent/sealed"
)

func device(n byte) *identity.Device {
	return identity.FromSeed(bytes.Repeat([]byte{n}, 32))
}

func TestOpenReturnsWhatWasSealed(t *testing.T) {
	alice, bob := device(1), device(2)
	for _, size := range []int{0, 1, 500, sealed.MaxBody} {
		body := bytes.Repeat([]byte{7}, size)
		message, err := sealed.Seal(alice, bob.Address(), "offer", body)
		if err != nil {
			t.Fatal(err)
		}
		if len(message) > sealed.MaxMessage {
			t.Errorf("body of %d bytes makes a message of %d", size, len(message))
		}
		from, got, err := sealed.Open(bob, "offer", message)
		if err != nil || from != alice.Address() || !bytes.Equal(got, body) {
			t.Errorf("size %d: Open = %v, %d bytes, %v", size, from.Short(), len(got), err)
		}
	}
	if _, err := sealed.Seal(alice, bob.Address(), "offer", make([]byte, sealed.MaxBody+1)); !errors.Is(err, sealed.ErrTooLarge) {
		t.Errorf("one byte too much: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	alice, bob, eve := device(1), device(2), device(3)
	good, err := sealed.Seal(alice, bob.Address(), "offer", []byte("body"))
	if err != nil {
		t.Fatal(err)
	}
	change := func(at int, to byte) []byte {
		b := bytes.Clone(good)
		b[at] = to
		return b
	}
	tests := []struct {
		name    string
		to      *identity.Device
		purpose string
		message []byte
		want    error
	}{
		{"another recipient", eve, "offer", good, sealed.ErrMessage},
		{"another purpose", bob, "answer", good, sealed.ErrMessage},
		{"a flipped bit", bob, "offer", change(40, good[40]^1), sealed.ErrMessage},
		{"an older version", bob, "offer", change(0, 0), sealed.ErrVersion},
		{"a newer version", bob, "offer", change(0, 2), sealed.ErrVersion},
		{"nothing", bob, "offer", nil, sealed.ErrMessage},
		{"cut short", bob, "offer", good[:len(good)-5], sealed.ErrMessage},
		{"too large", bob, "offer", make([]byte, sealed.MaxMessage+1), sealed.ErrTooLarge},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, _, err := sealed.Open(tt.to, tt.purpose, tt.message); !errors.Is(err, tt.want) {
				t.Errorf("Open = %v, want %v", err, tt.want)
			}
		})
	}
}

func TestGuardAdmitsOnce(t *testing.T) {
	g := sealed.NewGuard()
	epoch, session := g.Epoch(), sealed.NewNonce()
	if err := g.Admit(epoch, session); err != nil {
		t.Fatal(err)
	}
	if err := g.Admit(epoch, session); !errors.Is(err, sealed.ErrReplayed) {
		t.Errorf("second time: %v", err)
	}
	if err := g.Admit(sealed.NewNonce(), sealed.NewNonce()); !errors.Is(err, sealed.ErrEpoch) {
		t.Errorf("foreign epoch: %v", err)
	}
	for g.Epoch() == epoch {
		if err := g.Admit(epoch, sealed.NewNonce()); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Admit(epoch, session); !errors.Is(err, sealed.ErrEpoch) {
		t.Errorf("after the epoch changed: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	alice, bob := device(1), device(2)
	good, _ := sealed.Seal(alice, bob.Address(), "offer", []byte("body"))
	f.Add(good)
	f.Add(good[:100])
	f.Fuzz(func(t *testing.T, b []byte) {
		from, _, err := sealed.Open(bob, "offer", b)
		if err == nil && from != alice.Address() {
			t.Fatalf("opened a message of %v that nobody sealed", from)
		}
	})
}
