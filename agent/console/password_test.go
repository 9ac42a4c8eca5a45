package console

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/synctest"
)

func soundRecord() record {
	return record{Version: 1, Algorithm: "argon2id", MemoryKiB: 8, Passes: 1, Lanes: 1,
		Salt: make([]byte, saltBytes), Hash: make([]byte, hashBytes)}
}

func TestDamagedRecordsAreErrors(t *testing.T) {
	for name, change := range map[string]func(*record){
		"version":      func(r *record) { r.Version = 2 },
		"algorithm":    func(r *record) { r.Algorithm = "plain" },
		"no memory":    func(r *record) { r.MemoryKiB = 7 },
		"much memory":  func(r *record) { r.MemoryKiB = maxMemoryKiB + 1 },
		"no passes":    func(r *record) { r.Passes = 0 },
		"many passes":  func(r *record) { r.Passes = maxPasses + 1 },
		"no lanes":     func(r *record) { r.Lanes = 0 },
		"many lanes":   func(r *record) { r.Lanes = maxLanes + 1 },
		"short salt":   func(r *record) { r.Salt = r.Salt[:saltBytes-1] },
		"missing hash": func(r *record) { r.Hash = nil },
	} {
		t.Run(name, func(t *testing.T) {
			rec := soundRecord()
			change(&rec)
			data, err := json.Marshal(rec)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := New(Config{Status: testStatus, Store: &memoryStore{data: data}}); err == nil {
				t.Error("the record was taken")
			}
		})
	}
}

func TestRecordLimits(t *testing.T) {
	rec := soundRecord()
	rec.MemoryKiB, rec.Passes, rec.Lanes = maxMemoryKiB, maxPasses, maxLanes
	data, err := json.Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		size int
		ok   bool
	}{{maxRecordBytes - 1, true}, {maxRecordBytes, true}, {maxRecordBytes + 1, false}} {
		padded := string(data) + strings.Repeat(" ", tt.size-len(data))
		if _, err := parseRecord([]byte(padded)); (err == nil) != tt.ok {
			t.Errorf("%d bytes: %v", tt.size, err)
		}
	}
}

// brokenStore cannot be read.
type brokenStore struct{ memoryStore }

func (*brokenStore) Load() ([]byte, error) { return nil, fs.ErrPermission }

func TestAStoreThatCannotBeReadDoesNotOpenSetup(t *testing.T) {
	_, err := New(Config{Status: testStatus, Store: &brokenStore{}})
	if !errors.Is(err, fs.ErrPermission) {
		t.Errorf("got %v", err)
	}
}

func TestAnEmptyRecordIsNone(t *testing.T) {
	c := newTest(t, func(cfg *Config) { cfg.Store = &memoryStore{data: []byte{}} })
	if c.password.isSet() {
		t.Error("a password out of nothing")
	}
}

func TestOneHashAtATimeAndABoundedQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data, _ := json.Marshal(soundRecord())
		p, err := loadPassword(&memoryStore{data: data})
		if err != nil {
			t.Fatal(err)
		}
		p.running <- struct{}{} // a hash runs and does not end
		results := make(chan error, maxWaiting)
		for range maxWaiting {
			go func() {
				_, err := p.matches(t.Context(), "x")
				results <- err
			}()
		}
		synctest.Wait()
		if len(results) != 0 || len(p.waiting) != maxWaiting {
			t.Fatalf("%d done, %d wait", len(results), len(p.waiting))
		}
		if _, err := p.matches(t.Context(), "x"); !errors.Is(err, errBusy) {
			t.Errorf("one more: %v", err)
		}
		<-p.running
		for range maxWaiting {
			if err := <-results; err != nil {
				t.Errorf("a waiting one: %v", err)
			}
		}
	})
}

func TestWaitingForAHashEndsWithTheRequest(t *testing.T) {
	rec := soundRecord()
	data, _ := json.Marshal(rec)
	p, err := loadPassword(&memoryStore{data: data})
	if err != nil {
		t.Fatal(err)
	}
	p.running <- struct{}{}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.matches(gone, "x"); err == nil {
		t.Error("a hash without its turn")
	}
	if len(p.waiting) != 0 {
		t.Error("its place in the queue is still taken")
	}
}

func FuzzParseRecord(f *testing.F) {
	rec := soundRecord()
	data, _ := json.Marshal(rec)
	f.Add(data)
	f.Add([]byte("{}"))
	f.Add([]byte(`{"memory_kib":4294967295,"passes":4294967295}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		rec, err := parseRecord(data)
		if err != nil {
			return
		}
		if rec.MemoryKiB > maxMemoryKiB || rec.Passes > maxPasses || rec.Lanes == 0 || len(rec.Hash) != hashBytes {
			t.Errorf("out of range: %+v", rec)
		}
	})
}
