package identity_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"porchlight/agent/identity"
)

func person(n byte) *identity.Owner { return identity.OwnerFromSeed(bytes.Repeat([]byte{n}, 32)) }

// chain returns the two certificates of a device under an owner.
func chain(t testing.TB, o *identity.Owner, d identity.Address, version uint64) (leaf, owner []byte) {
	t.Helper()
	leaf, err := o.Certify(d, version)
	if err != nil {
		t.Fatal(err)
	}
	owner, err = o.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	return leaf, owner
}

// shown returns what a device shows in a handshake.
func shown(t testing.TB, d *identity.Device) [][]byte {
	t.Helper()
	c, err := d.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	return c.Certificate
}

func TestADeviceShowsItsOwner(t *testing.T) {
	d, o := device(1), person(9)
	alone, err := identity.ParseCertificates(shown(t, d))
	if err != nil || alone != (identity.Proof{Device: d.Address()}) {
		t.Errorf("without an owner: %+v, %v", alone, err)
	}
	leaf, owner := chain(t, o, d.Address(), 7)
	if err := d.Present(leaf, owner); err != nil {
		t.Fatal(err)
	}
	got, err := identity.ParseCertificates(shown(t, d))
	if want := (identity.Proof{Device: d.Address(), Owner: o.Address(), Version: 7}); err != nil || got != want {
		t.Errorf("with an owner: %+v, %v", got, err)
	}
	if err := device(2).Present(leaf, owner); !errors.Is(err, identity.ErrCertificate) {
		t.Errorf("another device's certificate: %v", err)
	}
	if err := d.Present(nil, nil); err != nil {
		t.Fatal(err)
	}
	if n := len(shown(t, d)); n != 1 {
		t.Errorf("after the owner left, %d certificates are shown", n)
	}
}

func TestAnOwnersKeyIsNeverShown(t *testing.T) {
	o := person(9)
	for _, text := range []string{fmt.Sprint(o), fmt.Sprintf("%v %+v %#v %s", o, o, o, o)} {
		if !strings.Contains(text, "redacted") || strings.Contains(text, "9 9 9") || strings.Contains(text, "0x9") {
			t.Errorf("it prints %s", text)
		}
	}
	if o.Address().Kind() != identity.KindOwner || identity.NewOwner().Address() == o.Address() {
		t.Error("a new owner is no other owner")
	}
	if !o.Address().Verify([]byte("x"), o.Sign([]byte("x"))) {
		t.Error("its signature does not verify")
	}
	if again := identity.OwnerFromSeed(o.Seed()); again.Address() != o.Address() {
		t.Error("the seed makes another owner")
	}
}

// craft signs a certificate as nobody's software would.
func craft(t testing.TB, template, parent *x509.Certificate, key any, signer any) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, signer)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// leafOf is what a proper leaf of d says, to be spoilt.
func leafOf(d identity.Address) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(3),
		Subject:      pkix.Name{CommonName: d.String()},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Unix(1, 0),
	}
}

// issuerOf is what a proper certificate of o says, to be spoilt.
func issuerOf(o identity.Address) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: o.String()},
		NotBefore:             time.Unix(0, 0),
		NotAfter:              time.Unix(1, 0),
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
}

func TestFromCertificatesRefuses(t *testing.T) {
	d, o, other := device(1), person(9), person(8)
	key := d.Address().Key()
	leaf, owner := chain(t, o, d.Address(), 3)
	foreignLeaf, foreignOwner := chain(t, other, d.Address(), 3)
	spoilt := func(change func(leaf, issuer *x509.Certificate)) [][]byte {
		l, i := leafOf(d.Address()), issuerOf(o.Address())
		change(l, i)
		return [][]byte{
			craft(t, l, i, key, o.Private()),
			craft(t, i, i, o.Address().Key(), o.Private()),
		}
	}
	good := spoilt(func(_, _ *x509.Certificate) {})
	if p, err := identity.ParseCertificates(good); err != nil || p.Owner != o.Address() || p.Version != 3 {
		t.Fatalf("what is spoilt below is not good: %+v, %v", p, err)
	}
	// The same name, but another key signed.
	forged := craft(t, leafOf(d.Address()), issuerOf(o.Address()), key, other.Private())
	notSelf := craft(t, issuerOf(o.Address()), issuerOf(other.Address()), o.Address().Key(), other.Private())
	flipped := bytes.Clone(owner)
	flipped[len(flipped)-1] ^= 1
	weak, _ := rsa.GenerateKey(rand.Reader, 1024)
	curve, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	own := identity.OwnerFromSeed(bytes.Repeat([]byte{1}, 32)) // the device's key as an owner's
	ownLeaf, ownOwner := chain(t, own, d.Address(), 3)
	long := leafOf(d.Address())
	long.DNSNames = []string{strings.Repeat("x", 2*identity.MaxCertificate)}
	tests := []struct {
		name string
		in   [][]byte
		want string
	}{
		{"none", nil, "0 instead of"},
		{"three", [][]byte{leaf, owner, owner}, "3 instead of"},
		{"empty", [][]byte{{}}, ""},
		{"swapped", [][]byte{owner, leaf}, "kind device"},
		{"twice the leaf", [][]byte{leaf, leaf}, "issuer is not"},
		{"twice the owner", [][]byte{owner, owner}, "kind device"},
		{"the leaf alone", [][]byte{leaf}, "issuer is not"},
		{"the owner alone", [][]byte{owner}, "kind device"},
		{"a foreign leaf", [][]byte{foreignLeaf, owner}, "issuer is not"},
		{"a foreign owner", [][]byte{leaf, foreignOwner}, "issuer is not"},
		{"a self-signed leaf", [][]byte{shown(t, d)[0], owner}, "issuer is not"},
		{"a forged leaf", [][]byte{forged, owner}, "not by owner"},
		{"an owner signed by another", [][]byte{craft(t, leafOf(d.Address()), issuerOf(o.Address()), key, o.Private()), notSelf}, "the owner's"},
		{"a flipped bit", [][]byte{leaf, flipped}, "the owner's"},
		{"a device as owner", [][]byte{craft(t, leafOf(d.Address()), leafOf(device(2).Address()), key, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32))), shown(t, device(2))[0]}, "kind owner"},
		{"its own owner", [][]byte{ownLeaf, ownOwner}, "its own owner"},
		{"an owner that may not sign", spoilt(func(_, i *x509.Certificate) { i.IsCA = false }), "kind owner"},
		{"a leaf that may sign", spoilt(func(l, _ *x509.Certificate) { l.IsCA, l.BasicConstraintsValid = true, true }), "kind device"},
		{"a leaf of another name", spoilt(func(l, _ *x509.Certificate) { l.Subject.CommonName = device(2).Address().String() }), "kind device"},
		{"a leaf named as owner", spoilt(func(l, _ *x509.Certificate) {
			l.Subject.CommonName = identity.NewAddress(key, identity.KindOwner).String()
		}), "kind device"},
		{"an owner named as device", spoilt(func(_, i *x509.Certificate) {
			i.Subject.CommonName = identity.NewAddress(o.Address().Key(), identity.KindDevice).String()
		}), "kind owner"},
		{"version 0", spoilt(func(l, _ *x509.Certificate) { l.SerialNumber = new(big.Int) }), "no version"},
		{"version 2^64", spoilt(func(l, _ *x509.Certificate) { l.SerialNumber = new(big.Int).Lsh(big.NewInt(1), 64) }), "no version"},
		{"an unknown demand", spoilt(func(l, _ *x509.Certificate) {
			l.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
		}), "something unknown"},
		{"an RSA leaf", [][]byte{craft(t, leafOf(d.Address()), issuerOf(o.Address()), &weak.PublicKey, o.Private()), owner}, "no Ed25519"},
		{"a lone RSA leaf", [][]byte{craft(t, leafOf(d.Address()), leafOf(d.Address()), &weak.PublicKey, weak)}, "no Ed25519"},
		{"a P-256 owner", [][]byte{leaf, craft(t, issuerOf(o.Address()), issuerOf(o.Address()), &curve.PublicKey, curve)}, "no Ed25519"},
		{"a large leaf", [][]byte{craft(t, long, long, key, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)))}, "bytes of at most"},
		{"a large owner", [][]byte{leaf, bytes.Repeat([]byte{1}, identity.MaxCertificate+1)}, "bytes of at most"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := identity.ParseCertificates(tt.in)
			if !errors.Is(err, identity.ErrCertificate) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ParseCertificates = %v, want %q", err, tt.want)
			}
		})
	}
}

// sized returns a lone certificate of exactly size bytes.
func sized(t *testing.T, size int) *x509.Certificate {
	t.Helper()
	d := device(1)
	template := leafOf(d.Address())
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	for n := 1; n < size; n++ {
		template.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3}, Value: make([]byte, n)}}
		cert, err := x509.ParseCertificate(craft(t, template, template, d.Address().Key(), key))
		if err != nil {
			t.Fatal(err)
		}
		if len(cert.Raw) == size {
			return cert
		}
		n += max(0, (size-len(cert.Raw))-40)
	}
	t.Fatalf("no certificate has %d bytes", size)
	return nil
}

func TestCertificateSizes(t *testing.T) {
	for size, good := range map[int]bool{identity.MaxCertificate - 1: true, identity.MaxCertificate: true, identity.MaxCertificate + 1: false} {
		cert := sized(t, size)
		if _, err := identity.FromCertificates([]*x509.Certificate{cert}); (err == nil) != good {
			t.Errorf("FromCertificates of %d bytes: %v", size, err)
		}
		if _, err := identity.ParseCertificates([][]byte{cert.Raw}); (err == nil) != good {
			t.Errorf("ParseCertificates of %d bytes: %v", size, err)
		}
	}
	leaf, owner := chain(t, person(9), device(1).Address(), 1<<64-1)
	if n := max(len(leaf), len(owner)); n >= 450 {
		t.Errorf("our own have %d bytes", n)
	}
}

// TestDatesAreNotLookedAt: leafOf and issuerOf ended one second after 1970
// began.
func TestDatesAreNotLookedAt(t *testing.T) {
	d, o := device(1), person(9)
	late := func(c *x509.Certificate) *x509.Certificate {
		c.NotBefore, c.NotAfter = time.Date(9000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9001, 1, 1, 0, 0, 0, 0, time.UTC)
		return c
	}
	for name, in := range map[string][2]*x509.Certificate{
		"over":       {leafOf(d.Address()), issuerOf(o.Address())},
		"not so far": {late(leafOf(d.Address())), late(issuerOf(o.Address()))},
	} {
		leaf := craft(t, in[0], in[1], d.Address().Key(), o.Private())
		owner := craft(t, in[1], in[1], o.Address().Key(), o.Private())
		if _, err := identity.ParseCertificates([][]byte{leaf, owner}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	leaf, owner := chain(t, o, d.Address(), 1)
	for _, der := range [][]byte{leaf, owner, shown(t, d)[0]} {
		cert, _ := x509.ParseCertificate(der)
		if cert.NotBefore.Unix() != 0 || cert.NotAfter.Year() != 9999 {
			t.Errorf("ours say %v to %v", cert.NotBefore, cert.NotAfter)
		}
	}
}

func FuzzCertificates(f *testing.F) {
	leaf, owner := chain(f, person(9), device(1).Address(), 3)
	f.Add(leaf, owner)
	f.Add(shown(f, device(1))[0], []byte{})
	f.Add(owner, leaf)
	f.Fuzz(func(t *testing.T, a, b []byte) {
		in := [][]byte{a, b}
		if len(b) == 0 {
			in = in[:1]
		}
		p, err := identity.ParseCertificates(in)
		if err != nil {
			if p != (identity.Proof{}) {
				t.Errorf("refused, and yet it proves %+v", p)
			}
			return
		}
		if p.Device.Kind() != identity.KindDevice || p.Owner.IsZero() != (len(in) == 1) || (p.Version == 0) != p.Owner.IsZero() {
			t.Errorf("proof %+v of %d certificates", p, len(in))
		}
	})
}
