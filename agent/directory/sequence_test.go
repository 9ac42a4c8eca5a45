package directory

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/record"
)

var discard = slog.New(slog.NewTextHandler(io.Discard, nil))

// crashDisk keeps what was written before the power went: it goes at the write
// number `at`, either before or after it reached the disk.
type crashDisk struct {
	content    []byte
	writes, at int
	reached    bool
	full       bool
}

var errPower = errors.New("the power went")

func (d *crashDisk) ReadJSON(_ string, v any) error {
	if d.content == nil {
		return nil
	}
	return json.Unmarshal(d.content, v)
}

func (d *crashDisk) WriteJSON(_ string, v any) error {
	if d.full {
		return errors.New("no space left")
	}
	d.writes++
	crash := d.writes == d.at
	if !crash || d.reached {
		d.content, _ = json.Marshal(v)
	}
	if crash {
		panic(errPower)
	}
	return nil
}

// The model is one number: the highest seq that was ever used. Whatever clocks,
// restarts and power cuts do, the next one is higher.
func TestSeqRisesWhateverHappens(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 1))
		disk, highest := &crashDisk{}, int64(0)
		for range 1 + r.IntN(8) { // lives
			disk.writes, disk.at, disk.reached = 0, r.IntN(4), r.IntN(2) == 0
			highest = live(t, r, disk, highest)
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// live runs from a start to a power cut, which may come at any moment.
func live(t *testing.T, r *rand.Rand, disk *crashDisk, highest int64) int64 {
	defer func() {
		if err := recover(); err != nil && err != errPower {
			panic(err)
		}
	}()
	s := newSequence(disk, discard)
	clocks := []int64{0, 40, 1_700_000_000, 1_700_000_000 + r.Int64N(1e8), 4_000_000_000, 1 << 41, -5}
	for range r.IntN(3 * reserve / (1 + r.IntN(500))) {
		if r.IntN(50) == 0 {
			met := highest + r.Int64N(1e6)
			s.above(met) // in the table: it was used in a life before a backup
			highest = max(highest, met)
		}
		seq, err := s.next(time.Unix(clocks[r.IntN(len(clocks))], 0), r.IntN(2) == 0)
		if err != nil {
			t.Errorf("next: %v", err)
			break
		}
		if seq <= highest {
			t.Errorf("seq %d after %d", seq, highest)
		}
		highest = seq
	}
	return highest
}

func TestSeqTakesTheClockOncePerRange(t *testing.T) {
	disk := &crashDisk{}
	s := newSequence(disk, discard)
	begin := time.Unix(1_800_000_000, 0)
	for i := range int64(reserve + 1) {
		seq, err := s.next(begin.Add(time.Duration(i)*time.Hour), true)
		if want := begin.Unix() + i; err != nil || seq != want {
			t.Fatalf("seq %d is %d, want %d (%v)", i, seq, want, err)
		}
	}
	if disk.writes != 1 {
		t.Errorf("%d writes for one range", disk.writes)
	}
	later := begin.Add((reserve + 1) * time.Hour)
	if seq, _ := s.next(later, true); seq != later.Unix() || disk.writes != 2 {
		t.Errorf("the next range begins at %d after %d writes", seq, disk.writes)
	}
}

func TestSeqIsLiftedWhenTheClockBecomesKnown(t *testing.T) {
	s := newSequence(&crashDisk{}, discard)
	if seq, _ := s.next(time.Unix(5, 0), false); seq != 1 {
		t.Errorf("without a clock it begins at %d", seq)
	}
	if !s.late(true) || s.late(false) {
		t.Error("late is wrong")
	}
	if seq, _ := s.next(time.Unix(1_800_000_000, 0), true); seq != 1_800_000_000 || s.late(true) {
		t.Errorf("with a clock it goes on at %d", seq)
	}
	if seq, _ := newSequence(&crashDisk{}, discard).next(time.Unix(1<<41, 0), true); seq != 1 {
		t.Errorf("a clock beyond reason leads to %d", seq)
	}
	if seq, _ := s.next(time.Unix(5, 0), true); seq != 1_800_000_001 {
		t.Errorf("after the clock went back: %d", seq)
	}
}

func TestSeqWithAFullDisk(t *testing.T) {
	disk := &crashDisk{full: true}
	s := newSequence(disk, discard)
	if seq, err := s.next(time.Unix(5, 0), false); err == nil {
		t.Errorf("without clock and disk: seq %d", seq)
	}
	for i := range int64(3) {
		if seq, err := s.next(time.Unix(1_800_000_000, 0), true); err != nil || seq != 1_800_000_000+i {
			t.Errorf("with a clock: %d, %v", seq, err)
		}
	}
	disk.full = false
	if _, err := s.next(time.Unix(1_800_000_000, 0), true); err != nil || disk.writes != 1 {
		t.Errorf("with room again: %v, %d writes", err, disk.writes)
	}
}

func TestSeqOfOddFiles(t *testing.T) {
	for content, want := range map[string]int64{
		`{"seq_ceiling":-7}`:                  1,
		`{"seq_ceiling":7}`:                   8,
		`{"seq_ceil`:                          1,
		`{"seq_ceiling":"x"}`:                 1,
		`{"seq_ceiling":4611686018427387903}`: 0,
		`{"seq_ceiling":9223372036854775807}`: 0,
	} {
		s := newSequence(&crashDisk{content: []byte(content)}, discard)
		seq, err := s.next(time.Unix(0, 0), false)
		if seq != want || (err != nil) != (want == 0) {
			t.Errorf("%s: seq %d, %v", content, seq, err)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	devices := identity.FromSeed(make([]byte, 32)).Address()
	owners := identity.NewAddress(devices.Key(), identity.KindOwner)
	body, _ := record.Record{Seq: 5}.Encode()
	f.Add(append([]byte{0, 0, 0, 0, 0, 0, 0, 5}, body...), true)
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 5, 'l', 'i', 's', 't'}, false)
	f.Fuzz(func(t *testing.T, b []byte, isDevice bool) {
		a := owners
		if isDevice {
			a = devices
		}
		found, ok := unpack(a, b)
		if ok && (found.seq < 0 || found.seq > record.MaxSeq || isDevice && found.rec.Seq != found.seq) {
			t.Fatalf("%x became %+v", b, found)
		}
	})
}
