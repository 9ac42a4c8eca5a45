package precheck

import "slices"

// WASI is the only module a task may import from.
const WASI = "wasi_snapshot_preview1"

// wasiFunctions is WASI preview 1 whole. The socket functions are among them
// because the Go runtime imports them; a task has no socket to use them on.
var wasiFunctions = []string{
	"args_get", "args_sizes_get", "clock_res_get", "clock_time_get",
	"environ_get", "environ_sizes_get", "fd_advise", "fd_allocate",
	"fd_close", "fd_datasync", "fd_fdstat_get", "fd_fdstat_set_flags",
	"fd_fdstat_set_rights", "fd_filestat_get", "fd_filestat_set_size",
	"fd_filestat_set_times", "fd_pread", "fd_prestat_dir_name",
	"fd_prestat_get", "fd_pwrite", "fd_read", "fd_readdir", "fd_renumber",
	"fd_seek", "fd_sync", "fd_tell", "fd_write", "path_create_directory",
	"path_filestat_get", "path_filestat_set_times", "path_link", "path_open",
	"path_readlink", "path_remove_directory", "path_rename", "path_symlink",
	"path_unlink_file", "poll_oneoff", "proc_exit", "proc_raise",
	"random_get", "sched_yield", "sock_accept", "sock_recv", "sock_send",
	"sock_shutdown",
}

func isValType(t byte) bool {
	return t >= 0x7b && t <= 0x7f || isRefType(t)
}

func isRefType(t byte) bool { return t == 0x70 || t == 0x6f }

func (r *reader) expect(what string, ok func(byte) bool) error {
	t, err := r.byte()
	if err != nil {
		return err
	}
	if !ok(t) {
		return malformed(r.pos-1, "0x%02x is no %s", t, what)
	}
	return nil
}

func (c *checker) types(r *reader) error {
	n, err := r.count("Types", c.lim.Types)
	if err != nil {
		return err
	}
	c.info.Types = n
	for range n {
		if err := r.expect("function type", func(t byte) bool { return t == 0x60 }); err != nil {
			return err
		}
		if err := r.valTypes("Params", c.lim.Params); err != nil {
			return err
		}
		if err := r.valTypes("Results", c.lim.Results); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) valTypes(what string, limit int) error {
	n, err := r.count(what, limit)
	if err != nil {
		return err
	}
	for range n {
		if err := r.expect("value type", isValType); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) importSection(r *reader) error {
	n, err := r.count("Imports", c.lim.Imports)
	if err != nil {
		return err
	}
	c.info.Imports = n
	for range n {
		if err := c.importOne(r); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) importOne(r *reader) error {
	module, err := r.name(c.lim.NameBytes)
	if err != nil {
		return err
	}
	name, err := r.name(c.lim.NameBytes)
	if err != nil {
		return err
	}
	kind, err := r.byte()
	if err != nil {
		return err
	}
	if string(module) != WASI || kind != 0 || !slices.Contains(wasiFunctions, string(name)) {
		return unsupported("import %q %q: only functions of %s are there", module, name, WASI)
	}
	return c.typeIndex(r)
}

func (c *checker) typeIndex(r *reader) error {
	i, err := r.u32()
	if err != nil {
		return err
	}
	if i >= uint64(c.info.Types) {
		return malformed(r.pos, "type %d of %d", i, c.info.Types)
	}
	return nil
}

func (c *checker) functions(r *reader) error {
	n, err := r.count("Functions", c.lim.Functions)
	if err != nil {
		return err
	}
	c.declared, c.info.Functions = n, n
	for range n {
		if err := c.typeIndex(r); err != nil {
			return err
		}
	}
	return nil
}

// bounds reads the limits of a table or memory: flags, minimum, maximum.
func (r *reader) bounds() (min uint64, err error) {
	flags, err := r.byte()
	if err != nil {
		return 0, err
	}
	if flags > 1 {
		return 0, malformed(r.pos-1, "flags 0x%02x: shared and 64-bit memories are not supported", flags)
	}
	if min, err = r.u32(); err != nil || flags == 0 {
		return min, err
	}
	max, err := r.u32()
	if err == nil && max < min {
		return 0, malformed(r.pos, "maximum %d below minimum %d", max, min)
	}
	return min, err
}

func (c *checker) tableSection(r *reader) error {
	n, err := r.count("Tables", c.lim.Tables)
	if err != nil {
		return err
	}
	c.tables = n
	for range n {
		if err := r.expect("reference type", isRefType); err != nil {
			return err
		}
		entries, err := r.bounds()
		if err != nil {
			return err
		}
		sum := uint64(c.info.TableEntries) + entries
		if err := exceeds("TableEntries", sum, c.lim.TableEntries); err != nil {
			return err
		}
		c.info.TableEntries = int(sum)
	}
	return nil
}

func (c *checker) memorySection(r *reader) error {
	n, err := r.count("memories", 1)
	if err != nil {
		return err
	}
	c.memories = n
	for range n {
		pages, err := r.bounds()
		if err != nil {
			return err
		}
		if err := exceeds("MemoryPages", pages, c.lim.MemoryPages); err != nil {
			return err
		}
		c.info.MemoryPages = int(pages)
	}
	return nil
}

func (c *checker) globalSection(r *reader) error {
	n, err := r.count("Globals", c.lim.Globals)
	if err != nil {
		return err
	}
	c.globals = n
	for range n {
		if err := r.expect("value type", isValType); err != nil {
			return err
		}
		if err := r.expect("mutability", func(t byte) bool { return t <= 1 }); err != nil {
			return err
		}
		if err := r.constant(); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) exports(r *reader) error {
	n, err := r.count("Exports", c.lim.Exports)
	if err != nil {
		return err
	}
	c.info.Exports = n
	for range n {
		name, err := r.name(c.lim.NameBytes)
		if err != nil {
			return err
		}
		kind, err := r.byte()
		if err != nil {
			return err
		}
		if kind > 3 {
			return malformed(r.pos-1, "export of kind %d", kind)
		}
		if _, err := r.u32(); err != nil {
			return err
		}
		c.started = c.started || kind == 0 && string(name) == "_start"
		c.memory = c.memory || kind == 2 && c.memories > 0
	}
	return nil
}

// elements follows the eight forms of element segments, core spec 5.5.12.
func (c *checker) elements(r *reader) error {
	n, err := r.count("Segments", c.lim.Segments)
	if err != nil {
		return err
	}
	c.info.Segments = n
	for range n {
		flags, err := r.u32()
		if err != nil {
			return err
		}
		if flags > 7 {
			return malformed(r.pos, "element segment of kind %d", flags)
		}
		if err := r.elementHead(flags); err != nil {
			return err
		}
		if err := c.elementItems(r, flags&4 != 0); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) elementHead(flags uint64) error {
	active, explicit := flags&1 == 0, flags&2 != 0
	if active && explicit {
		if _, err := r.u32(); err != nil {
			return err
		}
	}
	if active {
		if err := r.constant(); err != nil {
			return err
		}
	}
	if flags&3 == 0 {
		return nil
	}
	if flags&4 != 0 {
		return r.expect("reference type", isRefType)
	}
	return r.expect("element kind", func(t byte) bool { return t == 0 })
}

func (c *checker) elementItems(r *reader, expressions bool) error {
	n, err := r.count("Elements", c.lim.Elements)
	if err != nil {
		return err
	}
	c.info.Elements += n
	if err := exceeds("Elements", uint64(c.info.Elements), c.lim.Elements); err != nil {
		return err
	}
	for range n {
		if expressions {
			err = r.constant()
		} else {
			_, err = r.u32()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) dataCount(r *reader) error {
	n, err := r.u32()
	if err != nil {
		return err
	}
	return exceeds("Segments", n, c.lim.Segments)
}

func (c *checker) data(r *reader) error {
	n, err := r.count("Segments", c.lim.Segments)
	if err != nil {
		return err
	}
	c.info.Segments = max(c.info.Segments, n)
	for range n {
		flags, err := r.u32()
		if err != nil {
			return err
		}
		if flags > 2 {
			return malformed(r.pos, "data segment of kind %d", flags)
		}
		if flags == 2 {
			if _, err := r.u32(); err != nil {
				return err
			}
		}
		if flags != 1 {
			if err := r.constant(); err != nil {
				return err
			}
		}
		size, err := r.u32()
		if err != nil {
			return err
		}
		if err := r.skip(size); err != nil {
			return err
		}
	}
	return nil
}

// constant passes over a constant expression: one instruction and end.
func (r *reader) constant() error {
	op, err := r.byte()
	if err != nil {
		return err
	}
	switch op {
	case 0x41:
		err = r.sleb(32)
	case 0x42:
		err = r.sleb(64)
	case 0x43:
		err = r.skip(4)
	case 0x44:
		err = r.skip(8)
	case 0x23, 0xd2:
		_, err = r.u32()
	case 0xd0:
		err = r.expect("reference type", isRefType)
	case 0xfd:
		err = r.vectorConstant()
	default:
		err = malformed(r.pos-1, "opcode 0x%02x in a constant expression", op)
	}
	if err != nil {
		return err
	}
	return r.expect("end of a constant expression", func(t byte) bool { return t == opEnd })
}

func (r *reader) vectorConstant() error {
	op, err := r.u32()
	if err != nil {
		return err
	}
	if op != 12 {
		return malformed(r.pos, "vector opcode %d in a constant expression", op)
	}
	return r.skip(16)
}
