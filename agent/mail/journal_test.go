package mail

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func frames(records ...string) (b []byte) {
	for _, r := range records {
		b = appendFrame(b, []byte(r))
	}
	return b
}

func TestScanKeepsWhatCanBeRead(t *testing.T) {
	whole := frames("one", "two", "three")
	flip := func(at int) []byte {
		b := bytes.Clone(whole)
		b[at] ^= 0x40
		return b
	}
	second := len(frames("one"))
	tests := []struct {
		name    string
		log     []byte
		want    string
		damaged int
	}{
		{"nothing", nil, "", 0},
		{"whole", whole, "one two three", 0},
		{"a flipped mark", flip(second), "one three", 1},
		{"a flipped length", flip(second + 7), "one three", 1},
		{"a huge length", flip(second + 4), "one three", 1},
		{"a flipped checksum", flip(second + 9), "one three", 1},
		{"a flipped byte", flip(second + frameHead), "one three", 1},
		{"the last flipped", flip(len(whole) - 1), "one two", 1},
		{"zeros behind", append(bytes.Clone(whole), 0, 0, 0, 0), "one two three", 1},
		{"zeros between", slices.Concat(frames("one"), make([]byte, 600), frames("two")), "one two", 1},
		{"a mark inside", frames("one", "PLM1", "two"), "one PLM1 two", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			_, damaged := scan(tt.log, func(r []byte) bool { got = append(got, string(r)); return true })
			if strings.Join(got, " ") != tt.want || damaged != tt.damaged {
				t.Errorf("%q, %d damaged; want %q, %d", got, damaged, tt.want, tt.damaged)
			}
		})
	}
}

// Every prefix of a log is one that lost its end, and none is damaged.
func TestEveryPrefixOfALogIsCleanlyCutOff(t *testing.T) {
	records := []string{"one", strings.Repeat("x", maxRecord), "three"}
	whole := frames(records...)
	for n := range len(whole) {
		count := 0
		good, damaged := scan(whole[:n:n], func(r []byte) bool { count++; return true })
		if damaged != 0 || good != len(frames(records[:count]...)) {
			t.Fatalf("%d bytes: %d records up to %d, %d damaged", n, count, good, damaged)
		}
	}
}

func TestJournalRefusesRecordsAndLogsThatAreTooLarge(t *testing.T) {
	fs := newCrashFS()
	j, _, err := openJournal(fs, "log", func([]byte) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		size int
		ok   bool
	}{{0, false}, {1, true}, {maxRecord - 1, true}, {maxRecord, true}, {maxRecord + 1, false}} {
		if err := j.append(make([]byte, tt.size), true); (err == nil) != tt.ok {
			t.Errorf("%d bytes: %v", tt.size, err)
		}
	}
	fs.now["log"].content = make([]byte, maxLog)
	if _, damaged, err := openJournal(fs, "log", func([]byte) bool { return true }); err != nil || damaged != 1 {
		t.Errorf("the largest log: %d damaged, %v", damaged, err)
	}
	fs.now["log"].content = make([]byte, maxLog+1)
	if _, _, err := openJournal(fs, "log", func([]byte) bool { return true }); err == nil {
		t.Error("a larger log was read")
	}
}

// The log against a list: appends, compactions, faults and crashes.
func TestJournalSurvivesAnyCrash(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		fs := newCrashFS()
		var promised, mem []string
		open := func() *journal {
			mem = nil
			j, _, err := openJournal(fs, "log", func(b []byte) bool { mem = append(mem, string(b)); return true })
			if err != nil {
				t.Fatal(err)
			}
			return j
		}
		j := open()
		for i := range 200 {
			switch r.IntN(13) {
			case 12: // killed while writing; what a start reads is there to stay
				fs.dead = fs.ops + 2
				j.append([]byte(fmt.Sprint(i)), true)
				fs.dead, fs.fail = 0, 0
				j = open()
				promised = slices.Clone(mem)
			case 0:
				fs = fs.crash(r)
				j = open()
				if len(mem) < len(promised) || !slices.Equal(mem[:len(promised)], promised) {
					t.Fatalf("seed %d, step %d: %d records of %d", seed, i, len(mem), len(promised))
				}
			case 1:
				fs.fail, fs.short = fs.ops+1+r.IntN(6), r.IntN(2) == 0
			case 2:
				if j.compact(true, func() []byte { return frames(mem...) }) == nil {
					promised = slices.Clone(mem)
				}
			default:
				text := fmt.Sprint(i, strings.Repeat("y", r.IntN(30)))
				durable := r.IntN(3) > 0
				if j.append([]byte(text), durable) == nil {
					if mem = append(mem, text); durable {
						promised = slices.Clone(mem)
					}
				}
			}
		}
	}
}

func TestALogIsRewrittenWhenHalfOfItIsDead(t *testing.T) {
	dir := t.TempDir()
	j, _, err := openJournal(Dir(dir), "log", func([]byte) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	live := func() []byte { return frames("alive") }
	for range 400 {
		if err := j.append(make([]byte, 1000), false); err != nil {
			t.Fatal(err)
		}
		if err := j.compact(false, live); err != nil {
			t.Fatal(err)
		}
		if j.size > 2*compactFrom {
			t.Fatalf("the log grew to %d bytes", j.size)
		}
	}
	j.append([]byte("new"), true)
	j.close()
	var got []string
	j, damaged, err := openJournal(Dir(dir), "log", func(b []byte) bool { got = append(got, string(b[:min(len(b), 5)])); return true })
	if err != nil || damaged != 0 || got[0] != "alive" || got[len(got)-1] != "new" {
		t.Errorf("%q, %d damaged, %v", got, damaged, err)
	}
	j.close()
	info, err := os.Stat(filepath.Join(dir, "log"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestAFailedRewriteLosesNothing(t *testing.T) {
	for fail := 1; fail <= 6; fail++ {
		fs := newCrashFS()
		j, _, _ := openJournal(fs, "log", func([]byte) bool { return true })
		j.append([]byte("one"), true)
		fs.fail = fs.ops + fail
		err := j.compact(true, func() []byte { return frames("one") })
		if fail <= 5 && !errors.Is(err, errInjected) {
			t.Errorf("operation %d: %v", fail, err)
		}
		if err := j.append([]byte("two"), true); err != nil && fail <= 5 {
			t.Errorf("after operation %d: %v", fail, err)
		}
		for seed := range uint64(20) {
			var got []string
			openJournal(fs.crash(rand.New(rand.NewPCG(seed, 0))), "log", func(b []byte) bool { got = append(got, string(b)); return true })
			if want := []string{"one", "two"}; fail <= 5 && !slices.Equal(got, want) {
				t.Errorf("operation %d: %q", fail, got)
			}
		}
	}
}

func FuzzScan(f *testing.F) {
	f.Add(frames("one", "two"))
	f.Add(append(frames("one"), "PLM1\x00\x00\x00\x03xxxx"...))
	s := newStore()
	s.now = nil
	sent := encodeSent(&entry{contact: address(1), text: "x", state: Waiting}, []place{{address(2), 7, 1, false}})
	f.Add(appendFrame(nil, sent))
	f.Add(appendFrame(nil, encodeReceived(&entry{contact: address(1), text: "x"}, address(1), incoming{stream: 1, last: 1})))
	f.Add(appendFrame(nil, encodeHeld(&heldItem{number: 1, from: address(1), to: address(2), sealed: []byte("x")})))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, box := newStore(), &mailbox{now: newStore().now}
		good, _ := scan(b, s.apply)
		scan(b, box.apply)
		if good > len(b) {
			t.Fatalf("%d good of %d bytes", good, len(b))
		}
		// What was read can be written and read again.
		again := newStore()
		if _, damaged := scan(s.live(), again.apply); damaged != 0 || len(again.entries) != len(s.entries) || again.pending != s.pending {
			t.Fatalf("%d entries and %d pending became %d and %d, %d damaged", len(s.entries), s.pending, len(again.entries), again.pending, damaged)
		}
	})
}

// FuzzRecord gives each record a good frame, so that the fuzzer gets inside.
func FuzzRecord(f *testing.F) {
	e := &entry{contact: address(1), text: "x", state: Waiting}
	f.Add(encodeSent(e, []place{{address(2), 7, 1, false}}), encodeStored(address(2), 1, address(3)))
	f.Add(encodeReceived(e, address(1), incoming{stream: 1, last: 1}), appendAddress([]byte{recordRead}, address(1)))
	f.Add(encodeNumber(recordRenewed, address(2), 9), encodeTaken(address(2), incoming{stream: 1, last: 4}))
	f.Add(encodePlace([]byte{recordNext}, address(2), 7, 4), encodeSent(e, []place{{address(2), 7, 4, true}}))
	f.Add(encodeHeld(&heldItem{number: 1, from: address(1), to: address(2), sealed: []byte("x")}), encodeGone(1))
	f.Fuzz(func(t *testing.T, one, two []byte) {
		s, box := newStore(), &mailbox{now: newStore().now}
		for _, r := range [][]byte{one, two, one} {
			s.apply(r)
			box.apply(r)
		}
		again := newStore()
		if _, damaged := scan(s.live(), again.apply); damaged != 0 || len(again.entries) != len(s.entries) {
			t.Fatalf("%d entries became %d, %d damaged", len(s.entries), len(again.entries), damaged)
		}
	})
}
