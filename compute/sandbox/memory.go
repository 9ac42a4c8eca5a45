package sandbox

import (
	"github.com/tetratelabs/wazero/experimental"
	"golang.org/x/sys/unix"
)

// linearMemory is a guest's memory outside the Go heap: reserved whole, made
// usable as it grows, so that growing never copies (a copy would need three
// times the memory for a moment) and the garbage collector is not pressed.
type linearMemory struct {
	reserved []byte
	usable   uint64
}

// newLinearMemory is an experimental.MemoryAllocator. Where the address space
// cannot be reserved it falls back to growing by copies.
func newLinearMemory(_, max uint64) experimental.LinearMemory {
	b, err := unix.Mmap(-1, 0, int(max), unix.PROT_NONE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return &copiedMemory{max: max}
	}
	return &linearMemory{reserved: b}
}

// Reallocate implements experimental.LinearMemory; nil makes memory.grow fail.
func (m *linearMemory) Reallocate(size uint64) []byte {
	if size > uint64(len(m.reserved)) {
		return nil
	}
	if size > m.usable {
		if err := unix.Mprotect(m.reserved[:roundPage(size, len(m.reserved))], unix.PROT_READ|unix.PROT_WRITE); err != nil {
			return nil
		}
		m.usable = size
	}
	return m.reserved[:size:size]
}

// roundPage rounds up to the host's pages, which may be larger than 4 KiB but
// never than the guest's 64 KiB.
func roundPage(size uint64, limit int) uint64 {
	page := uint64(unix.Getpagesize())
	return min((size+page-1)/page*page, uint64(limit))
}

// Free implements experimental.LinearMemory. The process ends with its task.
func (m *linearMemory) Free() {
	_ = unix.Munmap(m.reserved)
	m.reserved = nil
}

// copiedMemory grows on the Go heap.
type copiedMemory struct {
	max uint64
	b   []byte
}

// Reallocate implements experimental.LinearMemory.
func (m *copiedMemory) Reallocate(size uint64) []byte {
	if size > m.max {
		return nil
	}
	if size > uint64(cap(m.b)) {
		b := make([]byte, size)
		copy(b, m.b)
		m.b = b
	}
	m.b = m.b[:size]
	return m.b
}

// Free implements experimental.LinearMemory.
func (m *copiedMemory) Free() { m.b = nil }
