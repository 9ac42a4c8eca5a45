package owner

import (
	"crypto/ed25519"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"sort"
	"strings"

	"porchlight/agent/identity"
)

const (
	// WordCount is how many words a key has: 256 bits and 8 of a checksum.
	WordCount = 24
	// MaxWords is the length of the longest text that is read as words, in
	// bytes: 24 words have at most 215.
	MaxWords = 1024

	bitsAWord = 11
	// shortest is the least that a word may be cut to: four letters tell the
	// words of the list apart.
	shortest = 4
)

// words.txt is the English list of BIP-39, 2048 words in order.
//
//go:embed words.txt
var wordList string

// ErrWords is wrapped by every error of FromWords.
var ErrWords = errors.New("these are not the words of an owner's key")

// Words returns the owner's key as 24 words (BIP-39, English).
func Words(o *identity.Owner) string {
	seed := o.Seed()
	sum := sha256.Sum256(seed)
	bits := append(seed, sum[0])
	list := strings.Fields(wordList)
	words := make([]string, WordCount)
	for i := range words {
		words[i] = list[bitsAt(bits, i*bitsAWord)]
	}
	return strings.Join(words, " ")
}

// bitsAt returns the 11 bits of b from a place on, which may reach over three
// bytes.
func bitsAt(b []byte, place int) (v int) {
	for i := place; i < place+bitsAWord; i++ {
		v = v<<1 | int(b[i/8]>>(7-i%8)&1)
	}
	return v
}

// FromWords reads 24 words; capitals do not matter, and a word may be cut to
// its first four letters.
func FromWords(text string) (*identity.Owner, error) {
	if len(text) > MaxWords {
		return nil, fmt.Errorf("%w: far too long; there are %d words", ErrWords, WordCount)
	}
	typed := strings.Fields(strings.ToLower(text))
	list := strings.Fields(wordList)
	bits := make([]byte, ed25519.SeedSize+1)
	for i, word := range typed {
		n, ok := find(list, word)
		if !ok {
			return nil, fmt.Errorf("%w: word %d (%q) is not in the list; compare it with your copy", ErrWords, i+1, word)
		}
		for k := 0; k < bitsAWord && i < WordCount; k++ {
			at := i*bitsAWord + k
			bits[at/8] |= byte(n>>(bitsAWord-1-k)&1) << (7 - at%8)
		}
	}
	if len(typed) != WordCount {
		return nil, fmt.Errorf("%w: there are %d instead of %d", ErrWords, len(typed), WordCount)
	}
	seed := bits[:ed25519.SeedSize]
	if sum := sha256.Sum256(seed); sum[0] != bits[ed25519.SeedSize] {
		return nil, fmt.Errorf("%w: one is another word of the list, or two are swapped; compare them with your copy", ErrWords)
	}
	return identity.OwnerFromSeed(seed), nil
}

// find returns the place of a word, or of the only one that begins so.
func find(list []string, word string) (int, bool) {
	i := sort.SearchStrings(list, word)
	if i == len(list) {
		return 0, false
	}
	if list[i] == word {
		return i, true
	}
	unique := i+1 == len(list) || !strings.HasPrefix(list[i+1], word)
	return i, len(word) >= shortest && unique && strings.HasPrefix(list[i], word)
}
