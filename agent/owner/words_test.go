package owner_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"porchlight/agent/identity"
	"porchlight/agent/owner"
)

func TestTheWordListIsTheOneOfBIP39(t *testing.T) {
	sum := sha256.Sum256([]byte(owner.WordList))
	if got := hex.EncodeToString(sum[:]); got != "2f5eed53a4727b4bf8880d8f3f199efc90e58503646d9ff8eff3a2ed3b24dbda" {
		t.Errorf("SHA-256 %s", got)
	}
	if n := len(strings.Fields(owner.WordList)); n != 2048 {
		t.Errorf("%d words", n)
	}
}

// vectors are the 256-bit ones of BIP-39's reference implementation.
var vectors = map[string]string{
	"0000000000000000000000000000000000000000000000000000000000000000": "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon art",
	"7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f": "legal winner thank year wave sausage worth useful legal winner thank year wave sausage worth useful legal winner thank year wave sausage worth title",
	"8080808080808080808080808080808080808080808080808080808080808080": "letter advice cage absurd amount doctor acoustic avoid letter advice cage absurd amount doctor acoustic avoid letter advice cage absurd amount doctor acoustic bless",
	"ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff": "zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo vote",
	"3e141609b97933b66a060dcddc71fad1d91677db872031e85f4c015c5e7e8982": "dignity pass list indicate nasty swamp pool script soccer toe leaf photo multiply desk host tomato cradle drill spread actor shine dismiss champion exotic",
	"2c85efc7f24ee4573d2b81a6ec66cee209b2dcbd09d8eddc51e0215b0b68e416": "clutch control vehicle tonight unusual clog visa ice plunge glimpse recipe series open hour vintage deposit universe tip job dress radar refuse motion taste",
	"4fa1a8bc3e6d80ee1316050e862c1812031493212b7ec3f3bb1b08f168cabeef": "exile ask congress lamp submit jacket era scheme attend cousin alcohol catch course end lucky hurt sentence oven short ball bird grab wing top",
	"15da872c95a13dd738fbf50e427583ad61f18fd99f628c417a61cf8343c90419": "beyond stage sleep clip because twist token leaf atom beauty genius food business side grid unable middle armed observe pair crouch tonight away coconut",
}

func TestWordsFollowBIP39(t *testing.T) {
	for entropy, words := range vectors {
		seed, _ := hex.DecodeString(entropy)
		o := identity.OwnerFromSeed(seed)
		if got := owner.Words(o); got != words {
			t.Errorf("%s: %s", entropy, got)
		}
		short := strings.Fields(words)
		for i, w := range short {
			short[i] = w[:min(4, len(w))]
		}
		for _, typed := range []string{words, strings.ToUpper(words), " " + strings.ReplaceAll(words, " ", "\n\t ") + "\n", strings.Join(short, " ")} {
			if got, err := owner.FromWords(typed); err != nil || got.Address() != o.Address() {
				t.Errorf("FromWords(%q): %v", typed, err)
			}
		}
	}
}

func TestFromWordsExplains(t *testing.T) {
	good := vectors["3e141609b97933b66a060dcddc71fad1d91677db872031e85f4c015c5e7e8982"]
	tests := map[string]struct{ typed, want string }{
		"nothing":             {"", "there are 0"},
		"a word missing":      {strings.TrimPrefix(good, "dignity "), "there are 23"},
		"a word more":         {good + " zoo", "there are 25"},
		"a word of no list":   {strings.Replace(good, "nasty", "nazty", 1), `word 5 ("nazty")`},
		"three letters":       {strings.Replace(good, "nasty", "nas", 1), `word 5 ("nas")`},
		"a word and more":     {strings.Replace(good, "nasty", "nastyy", 1), `word 5 ("nastyy")`},
		"beyond the list":     {strings.Replace(good, "nasty", "zzzz", 1), `word 5 ("zzzz")`},
		"another of the list": {strings.Replace(good, "nasty", "zoo", 1), "another word"},
		"two swapped":         {strings.Replace(good, "dignity pass", "pass dignity", 1), "swapped"},
		"too long":            {good + strings.Repeat(" ", owner.MaxWords), "far too long"},
	}
	for name, tt := range tests {
		if _, err := owner.FromWords(tt.typed); !errors.Is(err, owner.ErrWords) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	if _, err := owner.FromWords(good + strings.Repeat(" ", owner.MaxWords-len(good))); err != nil {
		t.Errorf("at the limit: %v", err)
	}
}

func FuzzWords(f *testing.F) {
	for _, words := range vectors {
		f.Add(words)
	}
	f.Add("zoo zo z aban abandonn")
	f.Fuzz(func(t *testing.T, s string) {
		o, err := owner.FromWords(s)
		if err != nil {
			return
		}
		if again, err := owner.FromWords(owner.Words(o)); err != nil || again.Address() != o.Address() {
			t.Errorf("%q makes an owner whose words do not: %v", s, err)
		}
	})
}
