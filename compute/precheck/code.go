package precheck

// Opcodes that change the nesting, core spec 5.4.1.
const (
	opBlock = 0x02
	opLoop  = 0x03
	opIf    = 0x04
	opElse  = 0x05
	opEnd   = 0x0b
)

// immediate says what follows an opcode.
type immediate uint8

const (
	immUnknown    immediate = iota // no such opcode: refused
	immNone                        //
	immBlock                       // block type; opens a block
	immElse                        //
	immEnd                         // closes a block
	immIndex                       // one index
	immTwo                         // two indices
	immTable                       // vector of labels and a default
	immMemory                      // alignment and offset
	immZero                        // one reserved byte
	immI32                         //
	immI64                         //
	imm4                           // four bytes
	imm8                           // eight bytes
	immTypes                       // vector of value types
	immRef                         // reference type
	immFC                          // second opcode, miscellaneous
	immFD                          // second opcode, vectors
	immLane                        // one lane byte
	imm16                          // sixteen bytes
	immMemoryLane                  // alignment, offset and lane
	immIndexZero                   // index and one reserved byte
	immZeroZero                    // two reserved bytes
)

// immediates is the table of one-byte opcodes, core spec 5.4.
var immediates = oneByteOpcodes()

func oneByteOpcodes() (t [256]immediate) {
	fill := func(from, to int, k immediate) {
		for i := from; i <= to; i++ {
			t[i] = k
		}
	}
	fill(0x00, 0x01, immNone) // unreachable, nop
	fill(opBlock, opIf, immBlock)
	t[opElse], t[opEnd] = immElse, immEnd
	fill(0x0c, 0x0d, immIndex) // br, br_if
	t[0x0e] = immTable
	t[0x0f] = immNone          // return
	t[0x10] = immIndex         // call
	t[0x11] = immTwo           // call_indirect
	fill(0x1a, 0x1b, immNone)  // drop, select
	t[0x1c] = immTypes         // select with types
	fill(0x20, 0x26, immIndex) // local, global, table
	fill(0x28, 0x3e, immMemory)
	fill(0x3f, 0x40, immZero) // memory.size, memory.grow
	t[0x41], t[0x42], t[0x43], t[0x44] = immI32, immI64, imm4, imm8
	fill(0x45, 0xc4, immNone) // compare, arithmetic, convert, sign extension
	t[0xd0], t[0xd1], t[0xd2] = immRef, immNone, immIndex
	t[0xfc], t[0xfd] = immFC, immFD
	return t
}

// miscellaneous is the table of opcodes after 0xfc.
var miscellaneous = [...]immediate{
	immNone, immNone, immNone, immNone, immNone, immNone, immNone, immNone,
	8:  immIndexZero, // memory.init
	9:  immIndex,     // data.drop
	10: immZeroZero,  // memory.copy
	11: immZero,      // memory.fill
	12: immTwo,       // table.init
	13: immIndex,     // elem.drop
	14: immTwo,       // table.copy
	15: immIndex,     // table.grow
	16: immIndex,     // table.size
	17: immIndex,     // table.fill
}

// vector returns what follows an opcode after 0xfd.
func vector(op uint64) immediate {
	switch {
	case op <= 11, op == 92, op == 93:
		return immMemory
	case op <= 13:
		return imm16
	case op >= 21 && op <= 34:
		return immLane
	case op >= 84 && op <= 91:
		return immMemoryLane
	case op <= 255:
		return immNone
	}
	return immUnknown
}

func (c *checker) code(r *reader) error {
	n, err := r.count("Functions", c.lim.Functions)
	if err != nil {
		return err
	}
	c.bodies = n
	for range n {
		size, err := r.u32()
		if err != nil {
			return err
		}
		if err := exceeds("BodyBytes", size, c.lim.BodyBytes); err != nil {
			return err
		}
		body := &reader{b: r.b, pos: r.pos}
		if err := r.skip(size); err != nil {
			return err
		}
		body.end = r.pos
		if err := c.function(body); err != nil {
			return err
		}
	}
	return nil
}

// function is the state of the one body being read.
type function struct {
	depth   int
	blocks  int
	locals  int
	targets int
}

func (c *checker) function(r *reader) error {
	size := r.left()
	f := &function{}
	if err := c.locals(r, f); err != nil {
		return err
	}
	for f.depth >= 0 {
		if err := c.instruction(r, f); err != nil {
			return err
		}
	}
	if r.left() != 0 {
		return malformed(r.pos, "%d bytes after the end of the function", r.left())
	}
	work := f.blocks * f.locals
	if err := exceeds("LocalWork", uint64(work), c.lim.LocalWork); err != nil {
		return err
	}
	c.info.BlockWork += f.blocks * f.blocks
	if err := exceeds("BlockWork", uint64(c.info.BlockWork), c.lim.BlockWork); err != nil {
		return err
	}
	c.info.AllTargets += f.targets
	if err := exceeds("AllTargets", uint64(c.info.AllTargets), c.lim.AllTargets); err != nil {
		return err
	}
	c.info.BodyBytes = max(c.info.BodyBytes, size)
	c.info.Blocks = max(c.info.Blocks, f.blocks)
	c.info.Locals = max(c.info.Locals, f.locals)
	c.info.BranchTargets = max(c.info.BranchTargets, f.targets)
	c.info.LocalWork = max(c.info.LocalWork, work)
	return nil
}

func (c *checker) locals(r *reader, f *function) error {
	groups, err := r.count("Locals", c.lim.Locals)
	if err != nil {
		return err
	}
	sum := uint64(0)
	for range groups {
		n, err := r.u32()
		if err != nil {
			return err
		}
		sum += n
		if err := exceeds("Locals", sum, c.lim.Locals); err != nil {
			return err
		}
		if err := r.expect("value type", isValType); err != nil {
			return err
		}
	}
	f.locals = int(sum)
	return nil
}

func (c *checker) instruction(r *reader, f *function) error {
	at := r.pos
	op, err := r.byte()
	if err != nil {
		return err
	}
	k := immediates[op]
	second := uint64(0)
	if k == immFC || k == immFD {
		if second, err = r.u32(); err != nil {
			return err
		}
		if k == immFD {
			k = vector(second)
		} else if k = immUnknown; second < uint64(len(miscellaneous)) {
			k = miscellaneous[second]
		}
	}
	switch k {
	case immUnknown:
		return malformed(at, "unknown opcode 0x%02x %d", op, second)
	case immNone:
		return nil
	case immBlock:
		return c.open(r, f)
	case immElse:
		return nil
	case immEnd:
		f.depth--
		return nil
	case immTable:
		return c.branchTable(r, f)
	case immTypes:
		return r.valTypes("Results", c.lim.Results)
	}
	return r.operand(k)
}

// operand passes over immediates that matter to no limit.
func (r *reader) operand(k immediate) (err error) {
	switch k {
	case immIndex:
		_, err = r.u32()
	case immTwo:
		err = r.two()
	case immMemory:
		err = r.two()
	case immMemoryLane:
		if err = r.two(); err == nil {
			err = r.skip(1)
		}
	case immIndexZero:
		if _, err = r.u32(); err == nil {
			err = r.skip(1)
		}
	case immZero, immLane:
		err = r.skip(1)
	case immZeroZero:
		err = r.skip(2)
	case immI32:
		err = r.sleb(32)
	case immI64:
		err = r.sleb(64)
	case imm4:
		err = r.skip(4)
	case imm8:
		err = r.skip(8)
	case imm16:
		err = r.skip(16)
	case immRef:
		err = r.expect("reference type", isRefType)
	}
	return err
}

func (r *reader) two() error {
	if _, err := r.u32(); err != nil {
		return err
	}
	_, err := r.u32()
	return err
}

// open enters a block: its type is 0x40, a value type, or the index of a
// function type as a 33-bit signed number.
func (c *checker) open(r *reader, f *function) error {
	f.depth++
	f.blocks++
	c.info.Nesting = max(c.info.Nesting, f.depth)
	if err := exceeds("Nesting", uint64(f.depth), c.lim.Nesting); err != nil {
		return err
	}
	if err := exceeds("Blocks", uint64(f.blocks), c.lim.Blocks); err != nil {
		return err
	}
	if r.left() > 0 {
		if t := r.b[r.pos]; t == 0x40 || isValType(t) {
			r.pos++
			return nil
		}
	}
	return r.sleb(33)
}

func (c *checker) branchTable(r *reader, f *function) error {
	n, err := r.count("BranchTargets", c.lim.BranchTargets)
	if err != nil {
		return err
	}
	f.targets += n
	if err := exceeds("BranchTargets", uint64(f.targets), c.lim.BranchTargets); err != nil {
		return err
	}
	for range n + 1 {
		if _, err := r.u32(); err != nil {
			return err
		}
	}
	return nil
}
