package identity_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"testing"

	"filippo.io/edwards25519"

	"porchlight/agent/identity"
)

func blindSeed(n uint32) []byte {
	seed := make([]byte, ed25519.SeedSize)
	binary.BigEndian.PutUint32(seed, n)
	return seed
}

func TestABlindedSignatureIsAnOrdinaryOne(t *testing.T) {
	for n := range uint32(1000) {
		d := identity.FromSeed(blindSeed(n))
		period, message := uint64(n)*7919, bytes.Repeat([]byte{byte(n)}, int(n%97))
		key, err := d.Address().Blinded("record", period)
		if err != nil {
			t.Fatal(err)
		}
		signature := d.SignBlinded("record", period, message)
		if !ed25519.Verify(key[:], message, signature[:]) {
			t.Fatalf("seed %d, period %d: the signature does not verify", n, period)
		}
		if signature != d.SignBlinded("record", period, message) {
			t.Fatalf("seed %d: another signature for the same message", n)
		}
		if ed25519.Verify(key[:], append(message, 0), signature[:]) {
			t.Fatalf("seed %d: it verifies for another message", n)
		}
	}
}

func TestEverythingInABlindedKeyCounts(t *testing.T) {
	private := ed25519.NewKeyFromSeed(blindSeed(1))
	public := private.Public().(ed25519.PublicKey)
	device := identity.NewAddress(public, identity.KindDevice)
	owner := identity.NewAddress(public, identity.KindOwner)
	seen := map[[32]byte]string{[32]byte(public): "the key itself"}
	tests := []struct {
		name    string
		address identity.Address
		context string
		period  uint64
	}{
		{"record 7", device, "record", 7},
		{"record 8", device, "record", 8},
		{"record 7<<56", device, "record", 7 << 56},
		{"last period", device, "record", math.MaxUint64},
		{"another context", device, "recor", 7},
		{"no context", device, "", 7},
		{"an owner", owner, "record", 7},
		{"another device", identity.FromSeed(blindSeed(2)).Address(), "record", 7},
	}
	message := []byte("message")
	for _, tt := range tests {
		key, err := tt.address.Blinded(tt.context, tt.period)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if before, twice := seen[key]; twice {
			t.Errorf("%s has the key of %s", tt.name, before)
		}
		seen[key] = tt.name
		signature := identity.SignBlindedWith(private, tt.address.Kind(), tt.context, tt.period, message)
		if got, want := ed25519.Verify(key[:], message, signature[:]), bytes.Equal(tt.address.Key(), public); got != want {
			t.Errorf("%s: the signature verifies: %v, want %v", tt.name, got, want)
		}
	}
}

func TestNoncesOfTwoPeriodsDiffer(t *testing.T) {
	d := identity.FromSeed(blindSeed(3))
	seen := map[string]bool{}
	for period := range uint64(100) {
		signature := d.SignBlinded("record", period, []byte("the same message"))
		seen[string(signature[:32])] = true
		seen[string(signature[32:])] = true
	}
	if len(seen) != 200 {
		t.Errorf("%d different halves of 100 signatures, want 200", len(seen))
	}
}

// smallOrder are canonical encodings of the points of order 1, 2, 4 and 8.
var smallOrder = []string{
	"0100000000000000000000000000000000000000000000000000000000000000",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0000000000000000000000000000000000000000000000000000000000000080",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
}

func TestKeysThatCannotBeBlinded(t *testing.T) {
	// y = p is an unusual writing of y = 0; y = 2 is on no point.
	bad := append([]string{
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"0200000000000000000000000000000000000000000000000000000000000000",
	}, smallOrder...)
	for _, text := range bad {
		key, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		a := identity.NewAddress(key, identity.KindDevice)
		if blinded, err := a.Blinded("record", 1); !errors.Is(err, identity.ErrNoPoint) {
			t.Errorf("%s became %x, %v", text, blinded, err)
		}
	}
}

// y and y + p are the same coordinate, and for a few y both fit into 255 bits.
func TestAPointHasOneAddress(t *testing.T) {
	usual, refused := 0, 0
	for y := range byte(19) {
		key := make([]byte, 32)
		key[0] = y
		if _, err := identity.NewAddress(key, identity.KindDevice).Blinded("record", 1); err != nil {
			continue
		}
		usual++
		key = bytes.Repeat([]byte{255}, 32) // p is 2^255 − 19
		key[0], key[31] = 0xed+y, 0x7f
		if _, err := identity.NewAddress(key, identity.KindDevice).Blinded("record", 1); errors.Is(err, identity.ErrNoPoint) {
			refused++
		}
	}
	if usual == 0 || refused != usual {
		t.Errorf("%d of %d unusual writings were refused", refused, usual)
	}
}

// A part of small order in an address vanishes from the blinded key.
func TestBlindedKeysHavePrimeOrder(t *testing.T) {
	minusOne := edwards25519.NewScalar().Negate(scalarOne(t)) // L − 1
	for _, text := range smallOrder[1:] {
		raw, _ := hex.DecodeString(text)
		torsion, err := new(edwards25519.Point).SetBytes(raw)
		if err != nil {
			t.Fatal(err)
		}
		honest, _ := new(edwards25519.Point).SetBytes(identity.FromSeed(blindSeed(4)).Address().Key())
		mixed := identity.NewAddress(new(edwards25519.Point).Add(honest, torsion).Bytes(), identity.KindDevice)
		key, err := mixed.Blinded("record", 1)
		if err != nil {
			t.Fatal(err)
		}
		point, err := new(edwards25519.Point).SetBytes(key[:])
		if err != nil {
			t.Fatal(err)
		}
		// L·P = (L−1)·P + P.
		product := new(edwards25519.Point).ScalarMult(minusOne, point)
		if product.Add(product, point).Equal(edwards25519.NewIdentityPoint()) != 1 {
			t.Errorf("an address with the part %s has a blinded key of another order", text)
		}
	}
}

func scalarOne(t *testing.T) *edwards25519.Scalar {
	t.Helper()
	one, err := edwards25519.NewScalar().SetCanonicalBytes(append([]byte{1}, make([]byte, 31)...))
	if err != nil {
		t.Fatal(err)
	}
	return one
}

// The vectors were frozen when the scheme was: a change of any of them is
// another scheme, and devices would no longer find each other.
func TestBlindedVectors(t *testing.T) {
	tests := []struct {
		seed           byte
		kind           identity.Kind
		context        string
		period         uint64
		key, signature string
	}{
		{1, identity.KindDevice, "record", 0,
			"ba74c4885a3a71f36ec165c522d93c4a0c86c2c394f1153ca7b3a30d7013aaf6",
			"9664fd1b839d1c5c404b2c4897f6d6b60a915caa2eb400118fd1b2aa2e9561c7958d8dcca9de3a33ac044ab398caab14c643fa213ccc20b08f1c1322ef6dbf0e",
		},
		{1, identity.KindDevice, "record", 20000,
			"0e0668005bc0d95d528d96b8ae60edc11c3946123bf33c8af0b8bfd0877834e5",
			"615e4f6c689857bf6c748ff2c62ec6d6af36d1ee433d43f6aa6511c9793fc0cc12aba352bc474c39bad342dcd7239533e3ba9aa2a687dab4156e282b682aa409",
		},
		{2, identity.KindOwner, "record", 20000,
			"640a8a8d65d505dc06be92421b4fc49da629b3c8d5e7a40c987c3a113e1314e5",
			"07b71856307a118eee35b23d6ae0f70f330fed466d7269314b6c642a82efa80b83f2e42c227541dc5a098c484dbda687e78f107fbb67363db69019d32b2db606",
		},
		{2, identity.KindOwner, "", math.MaxUint64,
			"e8a3973ba1946fd86ca78aabd0f995b35b1b68c27329065693ded3926b13c012",
			"62a46d6bcead8eddd373373afa7a0ed3131a48da96ab22737849264da16593bbb1f6b431a5fa9f1f737617383764c6e08317fb4fe51578238694edaee237df04",
		},
	}
	for _, tt := range tests {
		private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{tt.seed}, 32))
		key, err := identity.NewAddress(private.Public().(ed25519.PublicKey), tt.kind).Blinded(tt.context, tt.period)
		if err != nil || hex.EncodeToString(key[:]) != tt.key {
			t.Errorf("seed %d, %v, %q, period %d: key %x, %v", tt.seed, tt.kind, tt.context, tt.period, key, err)
		}
		signature := identity.SignBlindedWith(private, tt.kind, tt.context, tt.period, []byte("porchlight"))
		if hex.EncodeToString(signature[:]) != tt.signature {
			t.Errorf("seed %d, %v, %q, period %d: signature %x", tt.seed, tt.kind, tt.context, tt.period, signature)
		}
	}
}

func BenchmarkSignBlinded(b *testing.B) {
	d := identity.FromSeed(blindSeed(1))
	message := make([]byte, 600)
	for b.Loop() {
		d.SignBlinded("record", 20000, message)
	}
}
