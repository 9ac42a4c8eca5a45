package record_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"reflect"
	"testing"

	"porchlight/agent/identity"
	"porchlight/agent/record"
)

func device(n byte) *identity.Device { return identity.FromSeed(bytes.Repeat([]byte{n}, 32)) }

func at(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func owner(n byte) identity.Address {
	return identity.NewAddress(device(n).Address().Key(), identity.KindOwner)
}

func via(n byte, s string) identity.Via {
	return identity.Via{Address: device(n).Address(), At: at(s)}
}

func full() record.Record {
	return record.Record{
		Seq:    1_800_000_000,
		At:     []netip.AddrPort{at("44.128.0.7:4001"), at("[3fff::7]:4001"), at("[3fff::8]:1"), at("[3fff::9]:65535")},
		Via:    []identity.Via{via(2, "44.128.0.9:1"), via(3, "[3fff::3]:4001"), via(4, "[3fff::4]:4001"), via(5, "[3fff::5]:4001")},
		Flags:  record.Reachable | record.Relays | 1<<15,
		NAT:    record.NATEasy,
		Owner:  owner(9),
		Roster: 17,
	}
}

func encode(t testing.TB, r record.Record) []byte {
	t.Helper()
	b, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRecordsComeBackAsTheyWere(t *testing.T) {
	tests := map[string]record.Record{
		"empty":   {},
		"full":    full(),
		"highest": {Seq: record.MaxSeq, Owner: owner(1), Roster: 1<<64 - 1, Flags: 1<<16 - 1, NAT: 255},
		"only v4": {At: []netip.AddrPort{at("44.128.0.7:4001")}},
		"only v6": {Via: []identity.Via{via(1, "[3fff::3]:4001")}},
	}
	for name, r := range tests {
		t.Run(name, func(t *testing.T) {
			b := encode(t, r)
			back, err := record.Decode(b)
			if err != nil || !reflect.DeepEqual(back, r) {
				t.Errorf("Decode = %+v, %v", back, err)
			}
			if len(b) > record.MaxRecord {
				t.Errorf("%d bytes of at most %d", len(b), record.MaxRecord)
			}
			extended, err := record.Decode(append(b, 200, 3, 1, 2, 3, 7, 0))
			if err != nil || !reflect.DeepEqual(extended, r) {
				t.Errorf("with extensions: %+v, %v", extended, err)
			}
		})
	}
}

// A frozen record: other programs read what this one writes.
func TestRecordBytes(t *testing.T) {
	r := record.Record{Seq: 258, At: []netip.AddrPort{at("44.128.0.7:4001")}, Flags: record.Introduces, NAT: record.NATHard, Owner: owner(1), Roster: 3}
	want := "01" + "0000000000000102" + "0002" + "03" + "0000000000000003" +
		"01" + hex.EncodeToString(owner(1).Key()) + "01" + "042c8000070fa1" + "00"
	if got := hex.EncodeToString(encode(t, r)); got != want {
		t.Errorf("Encode = %s\nwant     %s", got, want)
	}
}

func TestEncodeRefuses(t *testing.T) {
	tests := map[string]func(*record.Record){
		"a negative seq":            func(r *record.Record) { r.Seq = -1 },
		"a seq above the limit":     func(r *record.Record) { r.Seq = record.MaxSeq + 1 },
		"five addresses":            func(r *record.Record) { r.At = append(r.At, r.At[0]) },
		"five rendezvous":           func(r *record.Record) { r.Via = append(r.Via, r.Via[0]) },
		"a list without an owner":   func(r *record.Record) { r.Owner = identity.Address{} },
		"a device as owner":         func(r *record.Record) { r.Owner = device(1).Address() },
		"an owner as rendezvous":    func(r *record.Record) { r.Via[0].Address = owner(1) },
		"a rendezvous of no key":    func(r *record.Record) { r.Via[0].Address = identity.Address{} },
		"a rendezvous nowhere":      func(r *record.Record) { r.Via[0].At = netip.AddrPort{} },
		"port 0":                    func(r *record.Record) { r.At[0] = at("44.128.0.7:0") },
		"multicast":                 func(r *record.Record) { r.At[0] = at("224.0.0.1:5") },
		"multicast of IPv6":         func(r *record.Record) { r.At[0] = at("[ff02::1]:5") },
		"the unspecified":           func(r *record.Record) { r.At[0] = at("0.0.0.0:5") },
		"the unspecified of IPv6":   func(r *record.Record) { r.At[0] = at("[::]:5") },
		"a zone":                    func(r *record.Record) { r.At[0] = at("[fe80::1%eth0]:5") },
		"IPv4 in the form of IPv6":  func(r *record.Record) { r.At[0] = at("[::ffff:44.128.0.7]:5") },
		"nothing where an address ": func(r *record.Record) { r.At[0] = netip.AddrPort{} },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			r := full()
			spoil(&r)
			if b, err := r.Encode(); !errors.Is(err, record.ErrRecord) {
				t.Errorf("Encode = %d bytes, %v", len(b), err)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := encode(t, full())
	set := func(i int, to ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[i:], to)
		return b
	}
	const firstAt = 21 + 32 // number of addresses
	tests := map[string]struct {
		in   []byte
		want error
	}{
		"another version":      {set(0, 2), record.ErrVersion},
		"a seq above MaxSeq":   {set(1, 0x40), record.ErrRecord},
		"a flag for the owner": {set(20, 2), record.ErrRecord},
		"five addresses":       {set(firstAt, 5), record.ErrRecord},
		"an unknown family":    {set(firstAt+1, 5), record.ErrRecord},
		"port 0":               {set(firstAt+6, 0, 0), record.ErrRecord},
		"the unspecified":      {set(firstAt+2, 0, 0, 0, 0), record.ErrRecord},
		"multicast":            {set(firstAt+2, 224), record.ErrRecord},
		"IPv4 written as IPv6": {set(firstAt+8, append([]byte{6}, netip.MustParseAddr("::ffff:44.128.0.7").AsSlice()...)...), record.ErrRecord},
		"half an extension":    {append(bytes.Clone(good), 9), record.ErrRecord},
		"a short extension":    {append(bytes.Clone(good), 9, 2, 0), record.ErrRecord},
		"a list of no owner":   {append(append(make([]byte, 0), 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5), 0, 0, 0), record.ErrRecord},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if r, err := record.Decode(tt.in); !errors.Is(err, tt.want) {
				t.Errorf("Decode = %+v, %v, want %v", r, err, tt.want)
			}
		})
	}
	for n := range good {
		if _, err := record.Decode(good[:n:n]); !errors.Is(err, record.ErrRecord) {
			t.Errorf("%d of %d bytes: %v", n, len(good), err)
		}
	}
}

func TestDecodeLimit(t *testing.T) {
	b := encode(t, record.Record{})
	for len(b)+257 < record.MaxRecord {
		b = append(append(b, 9, 255), make([]byte, 255)...)
	}
	rest := record.MaxRecord - len(b)
	b = append(append(b, 9, byte(rest-2)), make([]byte, rest-2)...)
	below := bytes.Clone(b[:len(b)-1])
	below[len(below)-(rest-2)] = byte(rest - 3)
	for name, in := range map[string][]byte{"below": below, "at": b} {
		if _, err := record.Decode(in); err != nil {
			t.Errorf("%s the limit (%d bytes): %v", name, len(in), err)
		}
	}
	b[len(b)-(rest-2)-1]++
	if _, err := record.Decode(append(b, 0)); !errors.Is(err, record.ErrRecord) {
		t.Errorf("above the limit: %v", err)
	}
}

func TestNATWords(t *testing.T) {
	for n, want := range map[record.NAT]string{0: "unknown", 1: "none", 2: "easy", 3: "hard", 4: "no-udp", 99: "unknown"} {
		if n.String() != want {
			t.Errorf("NAT %d is %q, want %q", n, n, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(f, full()))
	f.Add(encode(f, record.Record{}))
	f.Add(append(encode(f, record.Record{Owner: owner(1)}), 1, 2, 3, 4))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := record.Decode(b)
		if err != nil {
			return
		}
		again, err := r.Encode()
		if err != nil || !bytes.HasPrefix(b, again) {
			t.Fatalf("%x became %x, %v", b, again, err)
		}
		if back, err := record.Decode(again); err != nil || !reflect.DeepEqual(back, r) {
			t.Fatalf("%+v became %+v, %v", r, back, err)
		}
	})
}
