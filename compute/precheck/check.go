package precheck

import "bytes"

// Section ids, core spec 5.5.2.
const (
	sectionCustom = iota
	sectionType
	sectionImport
	sectionFunction
	sectionTable
	sectionMemory
	sectionGlobal
	sectionExport
	sectionStart
	sectionElement
	sectionCode
	sectionData
	sectionDataCount
)

// sectionOrder gives each section its place: the data count, added later,
// stands between element and code.
var sectionOrder = [...]int{
	sectionType: 1, sectionImport: 2, sectionFunction: 3, sectionTable: 4,
	sectionMemory: 5, sectionGlobal: 6, sectionExport: 7, sectionStart: 8,
	sectionElement: 9, sectionDataCount: 10, sectionCode: 11, sectionData: 12,
}

var magic = []byte{0, 'a', 's', 'm', 1, 0, 0, 0}

// checker is one pass over one module.
type checker struct {
	lim      Limits
	info     Info
	declared int // functions announced by the function section
	bodies   int // functions the code section has given
	customs  int
	tables   int
	globals  int
	started  bool // _start is exported
	memory   bool // a memory is exported
	memories int
}

// Check reads the module and returns what it has shown, or why it is refused:
// a [LimitError], or an error that wraps [ErrMalformed] or [ErrUnsupported].
func Check(module []byte, lim Limits) (Info, error) {
	c := &checker{lim: lim}
	c.info.ModuleBytes = len(module)
	if err := exceeds("ModuleBytes", uint64(len(module)), lim.ModuleBytes); err != nil {
		return c.info, err
	}
	if !bytes.HasPrefix(module, magic) {
		return c.info, malformed(0, "no WebAssembly binary of version 1")
	}
	r := &reader{b: module, pos: len(magic), end: len(module)}
	if err := c.sections(r); err != nil {
		return c.info, err
	}
	return c.info, c.complete()
}

func (c *checker) complete() error {
	switch {
	case c.declared != c.bodies:
		return malformed(c.info.ModuleBytes, "%d functions declared, %d bodies", c.declared, c.bodies)
	case !c.started:
		return unsupported("no function exported as _start: build a command, not a library")
	case !c.memory:
		return unsupported("no memory exported")
	}
	return nil
}

func (c *checker) sections(r *reader) error {
	last := 0
	for r.left() > 0 {
		at := r.pos
		id, err := r.byte()
		if err != nil {
			return err
		}
		size, err := r.u32()
		if err != nil {
			return err
		}
		if size > uint64(r.left()) {
			return malformed(at, "section %d of %d bytes, %d left", id, size, r.left())
		}
		if int(id) >= len(sectionOrder) {
			return malformed(at, "unknown section %d", id)
		}
		if order := sectionOrder[id]; order != 0 {
			if order <= last {
				return malformed(at, "section %d out of order", id)
			}
			last = order
		}
		s := &reader{b: r.b, pos: r.pos, end: r.pos + int(size)}
		if err := c.section(id, s); err != nil {
			return err
		}
		if s.left() != 0 {
			return malformed(s.pos, "section %d has %d bytes too many", id, s.left())
		}
		r.pos = s.end
	}
	return nil
}

func (c *checker) section(id byte, r *reader) error {
	switch id {
	case sectionType:
		return c.types(r)
	case sectionImport:
		return c.importSection(r)
	case sectionFunction:
		return c.functions(r)
	case sectionTable:
		return c.tableSection(r)
	case sectionMemory:
		return c.memorySection(r)
	case sectionGlobal:
		return c.globalSection(r)
	case sectionExport:
		return c.exports(r)
	case sectionStart:
		return unsupported("start section: a command begins at its export _start")
	case sectionElement:
		return c.elements(r)
	case sectionDataCount:
		return c.dataCount(r)
	case sectionCode:
		return c.code(r)
	case sectionData:
		return c.data(r)
	}
	return c.custom(r)
}

// custom passes over a custom section. Engines read the one called "name",
// so its size counts like any other.
func (c *checker) custom(r *reader) error {
	c.customs++
	if err := exceeds("CustomSection", uint64(c.customs), c.lim.CustomSection); err != nil {
		return err
	}
	c.info.CustomBytes += r.left()
	if err := exceeds("CustomBytes", uint64(c.info.CustomBytes), c.lim.CustomBytes); err != nil {
		return err
	}
	name, err := r.name(c.lim.NameBytes)
	if err != nil {
		return err
	}
	if string(name) == "name" {
		return nameSection(r)
	}
	return r.skip(uint64(r.left()))
}

// nameSection makes sure that the counts within the "name" section do not
// announce more than its bytes can hold: engines allocate by them.
func nameSection(r *reader) error {
	for r.left() > 0 {
		if _, err := r.byte(); err != nil {
			return err
		}
		size, err := r.u32()
		if err != nil {
			return err
		}
		s := &reader{b: r.b, pos: r.pos, end: r.pos}
		if err := r.skip(size); err != nil {
			return err
		}
		s.end = r.pos
		if s.left() > 0 {
			if _, err := s.count("names", s.left()); err != nil {
				return err
			}
		}
	}
	return nil
}
