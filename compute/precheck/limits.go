package precheck

// Limits are the largest numbers a module may show. Zero in a field means
// that nothing of the kind is allowed; start from [Default].
type Limits struct {
	ModuleBytes int // size of the whole binary
	Types       int // function types
	Params      int // parameters of one function type
	Results     int // results of one function type
	Imports     int // imported functions
	Functions   int // functions with a body
	BodyBytes   int // size of one function's body
	Nesting     int // blocks open at once in one function
	Blocks      int // block, loop and if instructions of one function
	Locals      int // locals of one function, parameters left out
	// BlockWork bounds the sum, over all functions, of the square of their
	// blocks: the work of an optimising compiler grows like that.
	BlockWork     int
	BranchTargets int // targets of all branch tables of one function
	AllTargets    int // targets of all branch tables of all functions
	// LocalWork bounds, for one function, blocks times locals: an optimising
	// compiler may do work for each local at each join of control flow.
	LocalWork     int
	Tables        int // tables
	TableEntries  int // initial entries of all tables
	MemoryPages   int // initial memory, in pages of 64 KiB
	Globals       int // globals
	Exports       int // exports
	Segments      int // element and data segments, each kind
	Elements      int // function references in all element segments
	NameBytes     int // one import or export name
	CustomBytes   int // all custom sections together
	CustomSection int // number of custom sections
}

// Default returns the limits a donor applies. They were set from programs of
// the Go 1.26 tool chain built for wasip1: a program that prints one line, gofmt
// and the assembler. The largest of them has bodies of 143 kB, 2,699 blocks
// nested and 3,601 in one function, 182,000 branch targets, 64,000 data
// segments; each limit leaves room above. From the other side: a module at
// each limit compiles within seconds of processor time.
func Default() Limits {
	return Limits{
		ModuleBytes:   16 << 20,
		Types:         4096,
		Params:        255,
		Results:       32,
		Imports:       256,
		Functions:     65536,
		BodyBytes:     512 << 10,
		Nesting:       4096,
		Blocks:        8192,
		BlockWork:     1 << 28,
		Locals:        4096,
		BranchTargets: 16384,
		AllTargets:    1 << 19,
		LocalWork:     4 << 20,
		Tables:        4,
		TableEntries:  1 << 18,
		MemoryPages:   1024,
		Globals:       4096,
		Exports:       1024,
		Segments:      1 << 18,
		Elements:      1 << 18,
		NameBytes:     256,
		CustomBytes:   8 << 20,
		CustomSection: 64,
	}
}

// Info is what a module has shown of itself, each number the counterpart of
// the field of the same name in [Limits].
type Info struct {
	ModuleBytes   int
	Types         int
	Imports       int
	Functions     int
	BodyBytes     int
	Nesting       int
	Blocks        int
	BlockWork     int
	Locals        int
	BranchTargets int
	AllTargets    int
	LocalWork     int
	TableEntries  int
	MemoryPages   int
	Exports       int
	Segments      int
	Elements      int
	CustomBytes   int
}
