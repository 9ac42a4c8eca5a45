package hostile

// Opcodes used by the generators, core spec 5.4.
const (
	opUnreachable = 0x00
	opBlock       = 0x02
	opLoop        = 0x03
	opEnd         = 0x0b
	opBr          = 0x0c
	opBrTable     = 0x0e
	opCall        = 0x10
	opDrop        = 0x1a
	opLocalGet    = 0x20
	opLocalSet    = 0x21
	opI32Const    = 0x41
	opI32Store    = 0x36
	opI32Add      = 0x6a
	opMemoryGrow  = 0x40
	blockVoid     = 0x40
	typeI32       = 0x7f
)

// Builder assembles a module section by section. Sections left empty are left
// out; a memory and the exports of a WASI command are always there.
type Builder struct {
	Types     [][]byte // type 0 is always () -> ()
	Imports   [][]byte
	Bodies    [][]byte // locals and code, without size; body 0 is _start
	Table     []byte   // one table, type and limits
	MinPages  uint32
	Start     bool // a start section that calls function 0
	Exports   [][]byte
	NoStart   bool // leave out the export of _start
	NoMemory  bool
	Custom    []byte // one custom section
	Globals   [][]byte
	Elements  [][]byte
	Data      [][]byte
	AfterCode []byte // raw bytes at the end
}

// Leb encodes an unsigned number.
func Leb(n uint64) []byte {
	var b []byte
	for n >= 0x80 {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	return append(b, byte(n))
}

// Name encodes a string with its length.
func Name(s string) []byte { return append(Leb(uint64(len(s))), s...) }

func join(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

func section(id byte, items [][]byte) []byte {
	if len(items) == 0 {
		return nil
	}
	body := join(append([][]byte{Leb(uint64(len(items)))}, items...)...)
	return join([]byte{id}, Leb(uint64(len(body))), body)
}

func raw(id byte, body []byte) []byte { return join([]byte{id}, Leb(uint64(len(body))), body) }

// Bytes returns the module.
func (b Builder) Bytes() []byte {
	types := append([][]byte{{0x60, 0, 0}}, b.Types...)
	functions := make([][]byte, len(b.Bodies))
	bodies := make([][]byte, len(b.Bodies))
	for i, body := range b.Bodies {
		functions[i] = []byte{0}
		bodies[i] = join(Leb(uint64(len(body))), body)
	}
	out := join([]byte{0, 'a', 's', 'm', 1, 0, 0, 0}, section(1, types), section(2, b.Imports), section(3, functions))
	if b.Table != nil {
		out = append(out, section(4, [][]byte{b.Table})...)
	}
	if !b.NoMemory {
		out = append(out, section(5, [][]byte{join([]byte{0}, Leb(uint64(b.MinPages)))})...)
	}
	out = append(out, section(6, b.Globals)...)
	out = append(out, section(7, b.exports())...)
	if b.Start {
		out = append(out, raw(8, Leb(uint64(len(b.Imports))))...)
	}
	out = append(out, section(9, b.Elements)...)
	out = append(out, section(10, bodies)...)
	out = append(out, section(11, b.Data)...)
	if b.Custom != nil {
		out = append(out, raw(0, b.Custom)...)
	}
	return append(out, b.AfterCode...)
}

func (b Builder) exports() [][]byte {
	var list [][]byte
	if !b.NoStart {
		list = append(list, join(Name("_start"), []byte{0}, Leb(uint64(len(b.Imports)))))
	}
	if !b.NoMemory {
		list = append(list, join(Name("memory"), []byte{2, 0}))
	}
	return append(list, b.Exports...)
}

// Body is a function without locals around code; the final end is added.
func Body(code ...byte) []byte { return join([]byte{0}, code, []byte{opEnd}) }

// Import is an import of a function of type t.
func Import(module, name string, t byte) []byte {
	return join(Name(module), Name(name), []byte{0, t})
}

// writeType is (i32 i32 i32 i32) -> i32, the type of fd_write.
var writeType = []byte{0x60, 4, typeI32, typeI32, typeI32, typeI32, 1, typeI32}

func constant(n int32) []byte {
	b := []byte{opI32Const}
	v := int64(n)
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if v == 0 && c&0x40 == 0 || v == -1 && c&0x40 != 0 {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}

// repeat is n copies of p.
func repeat(n int, p ...byte) []byte {
	b := make([]byte, 0, n*len(p))
	for range n {
		b = append(b, p...)
	}
	return b
}
