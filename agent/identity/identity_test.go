package identity_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"strings"
	"testing"

	"porchlight/agent/identity"
)

func device(n byte) *identity.Device { return identity.FromSeed(bytes.Repeat([]byte{n}, 32)) }

func TestAddressIsStable(t *testing.T) {
	// Seed 01…01 has the public key 8a88e3dd…6f5c; the rest is checksum and kind.
	const want = "rkeohxlubhyzl7ks3mwtzos5olfgocn7dwkbeg7toseadnapn5opvoyb"
	got := device(1).Address().String()
	if got != want {
		t.Errorf("address = %s, want %s", got, want)
	}
	back, err := identity.ParseAddress(got)
	if err != nil || back != device(1).Address() {
		t.Errorf("ParseAddress = %v, %v", back, err)
	}
}

func TestParseAddressExplains(t *testing.T) {
	good := device(2).Address().String()
	replace := func(i int, c byte) string { b := []byte(good); b[i] = c; return string(b) }
	other := func(i int) byte {
		if good[i] == 'a' {
			return 'b'
		}
		return 'a'
	}
	swap := 0
	for swap = 10; good[swap] == good[swap+1]; swap++ {
	}
	swapped := []byte(good)
	swapped[swap], swapped[swap+1] = swapped[swap+1], swapped[swap]
	tests := []struct{ name, in, want string }{
		{"empty", "", "0 characters"},
		{"short", good[:55], "55 characters"},
		{"long", good + "a", "57 characters"},
		{"very long", strings.Repeat("a", 1000), "far too long"},
		{"foreign character", replace(16, '1'), "character 17"},
		{"wrong character", replace(16, other(16)), "checksum"},
		{"swapped", string(swapped), "swapped"},
		{"unknown kind", good[:54] + "ay", "checksum"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := identity.ParseAddress(tt.in)
			if !errors.Is(err, identity.ErrAddress) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ParseAddress(%q) = %v, want it to say %q", tt.in, err, tt.want)
			}
		})
	}
	if _, err := identity.ParseAddress(strings.ToUpper(good[:28] + " - " + good[28:])); err != nil {
		t.Errorf("groups in capitals: %v", err)
	}
}

func TestMostSingleTyposAreLocated(t *testing.T) {
	good := device(3).Address().String()
	located := 0
	for i := range good {
		b := []byte(good)
		if b[i] = 'q'; good[i] == 'q' {
			b[i] = 'r'
		}
		_, err := identity.ParseAddress(string(b))
		if err == nil {
			t.Fatalf("typo at %d was accepted", i)
		}
		if strings.Contains(err.Error(), "look at character") {
			located++
		}
	}
	if located < 50 {
		t.Errorf("only %d of %d typos were located", located, len(good))
	}
}

func TestLinkRoundTrip(t *testing.T) {
	l := identity.Link{
		Address: device(1).Address(),
		At:      []netip.AddrPort{netip.MustParseAddrPort("44.128.0.7:4001"), netip.MustParseAddrPort("[3fff::1]:4001")},
		Via:     []identity.Via{{Address: device(2).Address(), At: netip.MustParseAddrPort("44.128.0.9:1")}},
		Devices: []identity.Address{device(3).Address()},
	}
	back, err := identity.ParseLink(l.String())
	if err != nil || back.String() != l.String() {
		t.Errorf("ParseLink = %v, %v", back, err)
	}
	var viaJSON identity.Link
	b, _ := json.Marshal(l)
	if err := json.Unmarshal(b, &viaJSON); err != nil || viaJSON.String() != l.String() {
		t.Errorf("JSON: %v, %v", viaJSON, err)
	}
	if bare, err := identity.ParseLink(l.Address.String()); err != nil || bare.Address != l.Address {
		t.Errorf("bare address: %v, %v", bare, err)
	}
}

func TestParseLinkRefuses(t *testing.T) {
	a := device(1).Address().String()
	tests := map[string]string{
		"another scheme":  "https:" + a,
		"too long":        "porchlight:" + a + "?x=" + strings.Repeat("y", identity.MaxLink),
		"a name as hint":  "porchlight:" + a + "?at=example.org:1",
		"port 0":          "porchlight:" + a + "?at=44.128.0.1:0",
		"multicast":       "porchlight:" + a + "?at=224.0.0.1:5",
		"unspecified":     "porchlight:" + a + "?at=0.0.0.0:5",
		"zone":            "porchlight:" + a + "?at=[fe80::1%25eth0]:5",
		"too many hints":  "porchlight:" + a + strings.Replace(strings.Repeat("&at=44.128.0.1:5", identity.MaxHints+1), "&", "?", 1),
		"via without key": "porchlight:" + a + "?via=44.128.0.1:5",
		"no device":       "porchlight:" + a + "?dev=" + identity.NewAddress(device(1).Address().Key(), identity.KindOwner).String(),
		"bad escape":      "porchlight:" + a + "?at=%zz",
	}
	for name, in := range tests {
		t.Run(name, func(t *testing.T) {
			if l, err := identity.ParseLink(in); !errors.Is(err, identity.ErrLink) {
				t.Errorf("ParseLink = %v, %v", l, err)
			}
		})
	}
	if _, err := identity.ParseLink("porchlight:" + a + "?later=1"); err != nil {
		t.Errorf("unknown hint: %v", err)
	}
}

type memory map[string][]byte

func (m memory) ReadFile(name string) ([]byte, error) {
	if b, ok := m[name]; ok {
		return b, nil
	}
	return nil, fs.ErrNotExist
}
func (m memory) WriteFile(name string, b []byte) error { m[name] = b; return nil }

func TestLoadMakesTheKeyOnce(t *testing.T) {
	files := memory{}
	first, err := identity.Load(files)
	if err != nil {
		t.Fatal(err)
	}
	again, err := identity.Load(files)
	if err != nil || first.Address() != again.Address() {
		t.Errorf("second start: %v, %v", again, err)
	}
	files["device.key"] = files["device.key"][:30]
	if d, err := identity.Load(files); err == nil {
		t.Errorf("damaged key became %v", d)
	}
}

func TestDerivedECDHKeysAgree(t *testing.T) {
	d := device(9)
	private, err := d.ECDH()
	if err != nil {
		t.Fatal(err)
	}
	public, err := d.Address().ECDH()
	if err != nil || !public.Equal(private.PublicKey()) {
		t.Errorf("public key from the address differs: %v", err)
	}
	if s := d.String(); strings.Contains(s, "[redacted]") == false {
		t.Errorf("String shows %q", s)
	}
}

func FuzzParseAddress(f *testing.F) {
	f.Add(device(1).Address().String())
	f.Fuzz(func(t *testing.T, s string) {
		a, err := identity.ParseAddress(s)
		if err == nil && a.String() != strings.ToLower(strings.NewReplacer(" ", "", "-", "").Replace(s)) {
			t.Fatalf("%q became %q", s, a)
		}
	})
}

func FuzzParseLink(f *testing.F) {
	f.Add("porchlight:" + device(1).Address().String() + "?at=44.128.0.1:5&via=" + device(2).Address().String() + "@[::1]:5")
	f.Fuzz(func(t *testing.T, s string) {
		l, err := identity.ParseLink(s)
		if err != nil {
			return
		}
		if back, err := identity.ParseLink(l.String()); err != nil || back.String() != l.String() {
			t.Fatalf("%q: %v, %v", s, back, err)
		}
	})
}
