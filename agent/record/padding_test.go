package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"porchlight/agent/identity"
)

// Only who holds the key can make such plaintexts; readers refuse them all the
// same, so that a body has one form.
func TestPaddingIsStrict(t *testing.T) {
	d := identity.FromSeed(bytes.Repeat([]byte{1}, 32))
	seal := func(plain []byte) Item {
		item, err := wrap(d.Address(), 7, 5, nil)
		if err != nil {
			t.Fatal(err)
		}
		item.Value = encrypt(secretsOf(d.Address(), 7), item, plain)
		item.Signature = d.SignBlinded(context, 7, SignedBytes(nil, item.Seq, item.Value))
		return item
	}
	claim := func(size int) []byte {
		return binary.BigEndian.AppendUint16(nil, uint16(size))
	}
	room := MaxSmallBody
	tests := []struct {
		name  string
		plain []byte
		want  error
	}{
		{"a body that fills it", append(claim(room), bytes.Repeat([]byte{1}, room)...), nil},
		{"a body one byte below", append(claim(room-1), append(bytes.Repeat([]byte{1}, room-1), 0)...), nil},
		{"a claim of one byte more", append(claim(room+1), make([]byte, room)...), ErrDamaged},
		{"the largest claim", append(claim(1<<16-1), make([]byte, room)...), ErrDamaged},
		{"something after the body", append(claim(room-1), bytes.Repeat([]byte{1}, room)...), ErrDamaged},
		{"something at the end", append(claim(0), append(make([]byte, room-1), 1)...), ErrDamaged},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, _, err := Open(d.Address(), 7, seal(tt.plain)); !errors.Is(err, tt.want) {
				t.Errorf("Open = %v, want %v", err, tt.want)
			}
		})
	}
}
