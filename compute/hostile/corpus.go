package hostile

import "strconv"

// Module is one attack.
type Module struct {
	Name  string
	Bytes []byte
	// Compiles is true where the attack begins only when the module runs, so
	// that the pre-parser lets it pass.
	Compiles bool
}

// Quiet ends at once with status 0.
func Quiet() []byte { return Builder{Bodies: [][]byte{Body()}}.Bytes() }

// EndlessLoop never returns.
func EndlessLoop() []byte {
	return Builder{Bodies: [][]byte{Body(opLoop, blockVoid, opBr, 0, opEnd)}}.Bytes()
}

// StartLoop never returns from a start section.
func StartLoop() []byte {
	return Builder{Start: true, Bodies: [][]byte{Body(opLoop, blockVoid, opBr, 0, opEnd)}}.Bytes()
}

// Recursion calls itself for ever.
func Recursion() []byte { return Builder{Bodies: [][]byte{Body(opCall, 0)}}.Bytes() }

// GrowLoop asks for one more page for ever and never touches one.
func GrowLoop() []byte {
	return Builder{Bodies: [][]byte{Body(opLoop, blockVoid,
		opI32Const, 1, opMemoryGrow, 0, opDrop, opBr, 0, opEnd)}}.Bytes()
}

// MemoryBomb grows by a page, writes to every 4 KiB of it, and goes on.
func MemoryBomb() []byte {
	// local 0 is the next address to write.
	code := join([]byte{opLoop, blockVoid, opI32Const, 1, opMemoryGrow, 0, opDrop})
	for range 16 {
		code = append(code, join(
			[]byte{opLocalGet, 0, opI32Const, 1, opI32Store, 2, 0, opLocalGet, 0},
			constant(4096), []byte{opI32Add, opLocalSet, 0})...)
	}
	code = append(code, opBr, 0, opEnd)
	return Builder{Bodies: [][]byte{join([]byte{1, 1, typeI32}, code, []byte{opEnd})}}.Bytes()
}

// Flood writes to the descriptor for ever, 64 KiB at a time.
func Flood(fd byte) []byte {
	code := join(
		constant(0), constant(16), []byte{opI32Store, 2, 0}, // address of the bytes
		constant(4), constant(65000), []byte{opI32Store, 2, 0}, // how many
		[]byte{opLoop, blockVoid, opI32Const, fd},
		constant(0), constant(1), constant(8),
		[]byte{opCall, 0, opDrop, opBr, 0, opEnd})
	return Builder{
		Types:    [][]byte{writeType},
		Imports:  [][]byte{Import("wasi_snapshot_preview1", "fd_write", 1)},
		Bodies:   [][]byte{Body(code...)},
		MinPages: 1,
	}.Bytes()
}

// LongFunction has one body of about size bytes.
func LongFunction(size int) []byte {
	return Builder{Bodies: [][]byte{Body(repeat(size/3, opI32Const, 1, opDrop)...)}}.Bytes()
}

// Nested opens n blocks in one another.
func Nested(n int) []byte {
	code := join(repeat(n, opBlock, blockVoid), repeat(n, opEnd))
	return Builder{Bodies: [][]byte{Body(code...)}}.Bytes()
}

// Blocks opens and closes n blocks one after the other.
func Blocks(n int) []byte {
	return Builder{Bodies: [][]byte{Body(repeat(n, opBlock, blockVoid, opEnd)...)}}.Bytes()
}

// Locals declares n locals in one function.
func Locals(n uint64) []byte {
	return Builder{Bodies: [][]byte{join([]byte{1}, Leb(n), []byte{typeI32, opEnd})}}.Bytes()
}

// BranchTargets has one branch table of n targets.
func BranchTargets(n int) []byte {
	code := join([]byte{opBlock, blockVoid, opI32Const, 0, opBrTable}, Leb(uint64(n)), repeat(n+1, 0), []byte{opEnd})
	return Builder{Bodies: [][]byte{Body(code...)}}.Bytes()
}

// Table has a table of n entries.
func Table(n uint64) []byte {
	return Builder{Table: join([]byte{0x70, 0}, Leb(n)), Bodies: [][]byte{Body()}}.Bytes()
}

// Memory begins with n pages.
func Memory(n uint32) []byte {
	return Builder{MinPages: n, Bodies: [][]byte{Body()}}.Bytes()
}

// Imports has n imports of one function.
func Imports(n int) []byte {
	b := Builder{Bodies: [][]byte{Body()}}
	one := Import("wasi_snapshot_preview1", "sched_yield", 1)
	b.Types = [][]byte{{0x60, 0, 1, typeI32}}
	for range n {
		b.Imports = append(b.Imports, one)
	}
	return b.Bytes()
}

// Exports has n exports under names of their own.
func Exports(n int) []byte {
	b := Builder{Bodies: [][]byte{Body()}}
	for i := range n - 2 { // two are there anyway
		b.Exports = append(b.Exports, join(Name("e"+strconv.Itoa(i)), []byte{0, 0}))
	}
	return b.Bytes()
}

// Functions has n functions.
func Functions(n int) []byte {
	b := Builder{}
	one := Body()
	for range n {
		b.Bodies = append(b.Bodies, one)
	}
	return b.Bytes()
}

// Types has n function types.
func Types(n int) []byte {
	b := Builder{Bodies: [][]byte{Body()}}
	for range n - 1 {
		b.Types = append(b.Types, []byte{0x60, 0, 0})
	}
	return b.Bytes()
}

// NameBomb has a name section that announces n function names and gives none.
func NameBomb(n uint64) []byte {
	count := Leb(n)
	sub := join([]byte{1}, Leb(uint64(len(count))), count)
	return Builder{Bodies: [][]byte{Body()}, Custom: join(Name("name"), sub)}.Bytes()
}

// Custom has a custom section of n bytes, its name included.
func Custom(n int) []byte {
	return Builder{Bodies: [][]byte{Body()}, Custom: join(Name("x"), make([]byte, n-2))}.Bytes()
}

// LocalWork has blocks and locals that are few each and many multiplied.
func LocalWork(blocks, locals int) []byte {
	body := join([]byte{1}, Leb(uint64(locals)), []byte{typeI32}, repeat(blocks, opBlock, blockVoid, opEnd), []byte{opEnd})
	return Builder{Bodies: [][]byte{body}}.Bytes()
}

// Corpus is the list of attacks that every wall must hold.
func Corpus() []Module {
	return []Module{
		{"endless loop", EndlessLoop(), true},
		{"start loop", StartLoop(), false},
		{"recursion", Recursion(), true},
		{"grow loop", GrowLoop(), true},
		{"memory bomb", MemoryBomb(), true},
		{"output flood", Flood(1), true},
		{"error flood", Flood(2), true},
		{"3 MiB function", LongFunction(3 << 20), false},
		{"500000 nested blocks", Nested(500000), false},
		{"table of 134217727", Table(134217727), false},
		{"memory of 65536 pages", Memory(65536), false},
		{"1e6 locals", Locals(1e6), false},
		{"1e5 imports", Imports(1e5), false},
		{"1e5 exports", Exports(1e5), false},
		{"name bomb", NameBomb(1 << 31), false},
	}
}
