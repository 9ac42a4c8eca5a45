package beacon

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/crypto/chacha20poly1305"

	"porchlight/agent/identity"
)

const (
	// MaxDatagram is the size of the largest beacon that is read, in bytes.
	MaxDatagram = 512
	// MinDatagram is the size of the smallest one, and of those sent.
	MinDatagram = headerSize + bodySize + ed25519.SignatureSize + chacha20poly1305.Overhead
	// MaxAddresses is how many addresses a beacon names.
	MaxAddresses = 4
)

// Offsets of the format in the package documentation.
const (
	magic      = "PLB\x01"
	nonceAt    = len(magic)
	tagAt      = nonceAt + 16
	flagsAt    = tagAt + 8
	dhtAt      = flagsAt + 1
	headerSize = dhtAt + 2

	senderAt    = 1
	bootAt      = senderAt + ed25519.PublicKeySize
	counterAt   = bootAt + 8
	portAt      = counterAt + 4
	countAt     = portAt + 2
	addressesAt = countAt + 1
	bodySize    = addressesAt + 16*MaxAddresses
)

// kind is what a beacon says.
type kind byte

const (
	kindHere   kind = 1
	kindInvite kind = 2
	kindAsk    kind = 3
)

// key recognises and opens beacons; see the package documentation.
type key [sha256.Size]byte

type (
	nonce [16]byte
	tag   [8]byte
	boot  [8]byte
)

func addressKey(a identity.Address) key {
	return sha256.Sum256(append([]byte("porchlight beacon address 1"), a.Key()...))
}

func codeKey(material [32]byte) key {
	return sha256.Sum256(append([]byte("porchlight beacon code 1"), material[:]...))
}

// hash is one block of SHA-256, because the router's processor does it for
// every contact.
func (k key) hash(n nonce, purpose byte) [sha256.Size]byte {
	var in [len(k) + len(n) + 1]byte
	copy(in[:], k[:])
	copy(in[len(k):], n[:])
	in[len(in)-1] = purpose
	return sha256.Sum256(in[:])
}

func (k key) tag(n nonce) tag {
	h := k.hash(n, 1)
	return tag(h[:len(tag{})])
}

// body is what only those read who know the key.
type body struct {
	kind      kind
	sender    identity.Address
	boot      boot
	counter   uint32
	port      uint16
	addresses []netip.Addr
}

// signer is a device's private key.
type signer interface {
	Address() identity.Address
	Sign(message []byte) []byte
}

// seal returns the datagram; sender and signature are those of s.
func seal(k key, s signer, dht uint16, m body) []byte {
	b := make([]byte, headerSize, MinDatagram)
	copy(b, magic)
	n := nonce(b[nonceAt:])
	rand.Read(n[:])
	copy(b[nonceAt:], n[:])
	t := k.tag(n)
	copy(b[tagAt:], t[:])
	binary.BigEndian.PutUint16(b[dhtAt:], dht)
	m.sender = s.Address()
	plain := m.encode()
	plain = append(plain, s.Sign(signed(b, plain))...)
	return k.aead(n).Seal(b, zeroNonce[:], plain, b)
}

// signed is what a signature covers.
func signed(header, plain []byte) []byte {
	b := append([]byte("porchlight beacon 1\x00"), header...)
	return append(b, plain...)
}

// zeroNonce is right because no key is used twice.
var zeroNonce [chacha20poly1305.NonceSize]byte

func (k key) aead(n nonce) (c interface {
	Seal(dst, nonce, plaintext, additionalData []byte) []byte
	Open(dst, nonce, ciphertext, additionalData []byte) ([]byte, error)
}) {
	sealing := k.hash(n, 2)
	c, err := chacha20poly1305.New(sealing[:])
	if err != nil {
		panic(err) // the key has another length, which the types forbid
	}
	return c
}

func (m body) encode() []byte {
	b := make([]byte, bodySize)
	b[0] = byte(m.kind)
	copy(b[senderAt:], m.sender.Key())
	copy(b[bootAt:], m.boot[:])
	binary.BigEndian.PutUint32(b[counterAt:], m.counter)
	binary.BigEndian.PutUint16(b[portAt:], m.port)
	b[countAt] = byte(min(len(m.addresses), MaxAddresses))
	for i, a := range m.addresses[:b[countAt]] {
		raw := a.As16()
		copy(b[addressesAt+16*i:], raw[:])
	}
	return b
}

// Reasons why a datagram is no beacon for us. None is shown to anybody but
// the log: they tell tests apart what was refused.
var (
	errFormat    = errors.New("not a beacon")
	errSealed    = errors.New("sealed with another key")
	errSignature = errors.New("wrong signature")
)

// header is what everybody reads.
type header struct {
	nonce nonce
	tag   tag
	dht   uint16
}

func parseHeader(b []byte) (header, error) {
	if len(b) < MinDatagram || len(b) > MaxDatagram || string(b[:len(magic)]) != magic {
		return header{}, errFormat
	}
	return header{
		nonce: nonce(b[nonceAt:tagAt]),
		tag:   tag(b[tagAt:flagsAt]),
		dht:   binary.BigEndian.Uint16(b[dhtAt:headerSize]),
	}, nil
}

// letter is an opened beacon whose signature was not looked at yet.
type letter struct {
	body
	signed, signature []byte
}

// open decrypts a datagram whose header was parsed.
func open(k key, b []byte, n nonce) (letter, error) {
	plain, err := k.aead(n).Open(nil, zeroNonce[:], b[headerSize:], b[:headerSize])
	if err != nil {
		return letter{}, errSealed
	}
	end := len(plain) - ed25519.SignatureSize
	m, err := decode(plain[:end])
	if err != nil {
		return letter{}, err
	}
	return letter{body: m, signed: signed(b[:headerSize], plain[:end]), signature: plain[end:]}, nil
}

// verify checks that the sender wrote the letter.
func (l letter) verify() error {
	if !l.sender.Verify(l.signed, l.signature) {
		return errSignature
	}
	return nil
}

func decode(b []byte) (body, error) {
	m := body{
		kind:    kind(b[0]),
		sender:  identity.NewAddress(b[senderAt:bootAt], identity.KindDevice),
		boot:    boot(b[bootAt:counterAt]),
		counter: binary.BigEndian.Uint32(b[counterAt:]),
		port:    binary.BigEndian.Uint16(b[portAt:]),
	}
	count := int(b[countAt])
	if m.kind < kindHere || m.kind > kindAsk || count > MaxAddresses || m.port == 0 || m.counter == 0 {
		return body{}, errFormat
	}
	for i := range count {
		at := addressesAt + 16*i
		m.addresses = append(m.addresses, netip.AddrFrom16([16]byte(b[at:at+16])).Unmap())
	}
	return m, nil
}
