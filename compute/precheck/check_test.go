package precheck

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"testing"

	"porchlight/compute/hostile"
)

func TestCorpusIsRefusedWhereCompilingIsTheAttack(t *testing.T) {
	for _, m := range hostile.Corpus() {
		_, err := Check(m.Bytes, Default())
		if (err == nil) != m.Compiles {
			t.Errorf("%s: %v, want accepted %v", m.Name, err, m.Compiles)
		}
	}
}

// TestLimitsHoldBelowAtAndAbove checks each limit with a module that shows
// one less, exactly, and one more.
func TestLimitsHoldBelowAtAndAbove(t *testing.T) {
	tests := []struct {
		what   string
		limit  int
		module func(n int) []byte
	}{
		{"Types", Default().Types, hostile.Types},
		{"Imports", Default().Imports, hostile.Imports},
		{"Functions", Default().Functions, hostile.Functions},
		{"Nesting", Default().Nesting, hostile.Nested},
		{"Blocks", Default().Blocks, hostile.Blocks},
		{"Locals", Default().Locals, func(n int) []byte { return hostile.Locals(uint64(n)) }},
		{"BranchTargets", Default().BranchTargets, hostile.BranchTargets},
		{"TableEntries", Default().TableEntries, func(n int) []byte { return hostile.Table(uint64(n)) }},
		{"MemoryPages", Default().MemoryPages, func(n int) []byte { return hostile.Memory(uint32(n)) }},
		{"Exports", Default().Exports, hostile.Exports},
		{"CustomBytes", Default().CustomBytes, hostile.Custom},
		{"BodyBytes", Default().BodyBytes, func(n int) []byte {
			return hostile.Builder{Bodies: [][]byte{hostile.Body(bytes.Repeat([]byte{1}, n-2)...)}}.Bytes()
		}},
		{"LocalWork", 4096, func(n int) []byte { return hostile.LocalWork(n, 1) }},
		{"AllTargets", 100, hostile.BranchTargets},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			lim := Default()
			switch tt.what {
			case "LocalWork":
				lim.LocalWork = tt.limit
			case "AllTargets":
				lim.AllTargets = tt.limit
			}
			for _, n := range []int{tt.limit - 1, tt.limit} {
				if _, err := Check(tt.module(n), lim); err != nil {
					t.Errorf("%d of %d: %v", n, tt.limit, err)
				}
			}
			_, err := Check(tt.module(tt.limit+1), lim)
			var over *LimitError
			if !errors.As(err, &over) || over.What != tt.what || over.Value != uint64(tt.limit+1) {
				t.Errorf("%d of %d: %v, want the limit %s", tt.limit+1, tt.limit, err, tt.what)
			}
		})
	}
}

func TestModuleSizeAndBlockWork(t *testing.T) {
	m := hostile.Blocks(10)
	lim := Default()
	for _, d := range []int{-1, 0, 1} {
		lim.ModuleBytes = len(m) + d
		if _, err := Check(m, lim); (err == nil) != (d >= 0) {
			t.Errorf("limit %d above the size: %v", d, err)
		}
	}
	lim = Default()
	for _, d := range []int{-1, 0, 1} {
		lim.BlockWork = 100 + d
		if _, err := Check(m, lim); (err == nil) != (d >= 0) {
			t.Errorf("block work limit 100%+d: %v", d, err)
		}
	}
}

func TestRefusedModules(t *testing.T) {
	body := [][]byte{hostile.Body()}
	tests := []struct {
		name   string
		module []byte
		want   error
	}{
		{"empty", nil, ErrMalformed},
		{"header alone", []byte("\x00asm\x01\x00\x00\x00"), ErrUnsupported},
		{"component", []byte("\x00asm\x0d\x00\x01\x00"), ErrMalformed},
		{"start section", hostile.StartLoop(), ErrUnsupported},
		{"no _start", hostile.Builder{Bodies: body, NoStart: true}.Bytes(), ErrUnsupported},
		{"no memory", hostile.Builder{Bodies: body, NoMemory: true}.Bytes(), ErrUnsupported},
		{"import from env", hostile.Builder{Bodies: body, Imports: [][]byte{hostile.Import("env", "fd_write", 0)}}.Bytes(), ErrUnsupported},
		{"unknown WASI function", hostile.Builder{Bodies: body, Imports: [][]byte{hostile.Import(WASI, "sock_open", 0)}}.Bytes(), ErrUnsupported},
		{"imported memory", hostile.Builder{Bodies: body, Imports: [][]byte{append(append(hostile.Name(WASI), hostile.Name("fd_write")...), 2, 0, 0)}}.Bytes(), ErrUnsupported},
		{"unknown opcode", hostile.Builder{Bodies: [][]byte{hostile.Body(0xfe, 0)}}.Bytes(), ErrMalformed},
		{"tail call", hostile.Builder{Bodies: [][]byte{hostile.Body(0x12, 0)}}.Bytes(), ErrMalformed},
		{"body without end", hostile.Builder{Bodies: [][]byte{{0, 1, 1}}}.Bytes(), ErrMalformed},
		{"bytes after end", hostile.Builder{Bodies: [][]byte{{0, 0x0b, 1}}}.Bytes(), ErrMalformed},
		{"number too wide", hostile.Builder{Bodies: [][]byte{hostile.Body(0x20, 0xff, 0xff, 0xff, 0xff, 0x1f)}}.Bytes(), ErrMalformed},
		{"number too long", hostile.Builder{Bodies: [][]byte{hostile.Body(0x20, 0x80, 0x80, 0x80, 0x80, 0x80, 0)}}.Bytes(), ErrMalformed},
		{"shared memory", hostile.Builder{Bodies: body, Table: []byte{0x70, 3, 0, 0}}.Bytes(), ErrMalformed},
		{"section twice", hostile.Builder{Bodies: body, AfterCode: []byte{10, 1, 0}}.Bytes(), ErrMalformed},
		{"name bomb", hostile.NameBomb(1 << 31), nil},
		{"table of 2^32-1", hostile.Table(1<<32 - 1), nil},
		{"locals that overflow", hostile.Locals(1<<32 - 1), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Check(tt.module, Default())
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}

func TestEveryTruncationIsRefused(t *testing.T) {
	m := hostile.Flood(1)
	for n := range m {
		if _, err := Check(m[:n:n], Default()); err == nil {
			t.Errorf("the first %d of %d bytes were accepted", n, len(m))
		}
	}
}

// TestMemoryIsBounded shows that what a module announces is not allocated.
func TestMemoryIsBounded(t *testing.T) {
	for _, m := range hostile.Corpus() {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _ = Check(m.Bytes, Default())
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 64<<10 {
			t.Errorf("%s: %d bytes allocated", m.Name, used)
		}
	}
}

func TestSignedNumbers(t *testing.T) {
	tests := []struct {
		bits uint
		b    []byte
		ok   bool
	}{
		{32, []byte{0x7f}, true},
		{32, []byte{0x80, 0x80, 0x80, 0x80, 0x78}, true},  // -2^31
		{32, []byte{0x80, 0x80, 0x80, 0x80, 0x08}, false}, // 2^31
		{32, []byte{0xff, 0xff, 0xff, 0xff, 0x07}, true},  // 2^31-1
		{32, []byte{0xff, 0xff, 0xff, 0xff, 0x77}, false},
		{33, []byte{0xff, 0xff, 0xff, 0xff, 0x0f}, true},
		{33, []byte{0xff, 0xff, 0xff, 0xff, 0x1f}, false},
		{64, []byte{0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7f}, true},
		{64, []byte{0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7e}, false},
		{32, []byte{0x80, 0x80, 0x80, 0x80, 0x80, 0}, false},
		{32, []byte{0x80}, false},
	}
	for _, tt := range tests {
		r := &reader{b: tt.b, end: len(tt.b)}
		if err := r.sleb(tt.bits); (err == nil) != tt.ok {
			t.Errorf("%d bits % x: %v, want ok %v", tt.bits, tt.b, err, tt.ok)
		}
	}
}

func FuzzCheck(f *testing.F) {
	f.Add(hostile.Quiet())
	f.Add(hostile.Flood(1))
	f.Add(hostile.MemoryBomb())
	f.Add(hostile.Nested(20))
	f.Add(hostile.BranchTargets(5))
	f.Add(hostile.NameBomb(3))
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := Check(b[:len(b):len(b)], Default())
		if err == nil && (info.Nesting > Default().Nesting || info.Functions > Default().Functions) {
			t.Errorf("accepted with %+v", info)
		}
		if err == nil && binary.LittleEndian.Uint32(b[4:]) != 1 {
			t.Error("accepted another version")
		}
	})
}
