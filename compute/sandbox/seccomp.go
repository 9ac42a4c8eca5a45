package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data, seccomp(2).
const (
	dataNumber = 0
	dataArch   = 4
	dataArgs   = 16
)

// x32Bit marks the second table of calls of amd64.
const x32Bit = 0x40000000

// The filter denies by default: whatever is not in the architecture's list
// (see calls in the files named after it) fails with EPERM. Failing instead
// of killing keeps a later Go runtime alive that tries a new call and can do
// without; a guest gains nothing from EPERM. Only calls by another
// architecture's numbers kill, since nothing honest makes them.
//
// Four calls are allowed by their arguments: clone makes threads only, tgkill
// reaches this process only, mmap and mprotect make memory executable only
// for a compiler, and there not writable at once. clone3 is said not to
// exist, because its arguments lie in memory where no filter can look.

// program assembles the filter.
type program []unix.SockFilter

func (p *program) statement(code uint16, k uint32) {
	*p = append(*p, unix.SockFilter{Code: code, K: k})
}

// unless skips n instructions unless the value just loaded equals k.
func (p *program) unless(k uint32, n uint8) {
	*p = append(*p, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: n, K: k})
}

func (p *program) load(offset uint32) {
	p.statement(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset)
}

func (p *program) ret(action uint32) { p.statement(unix.BPF_RET|unix.BPF_K, action) }

// argument is the offset of the low half of a call's argument.
func argument(n uint32) uint32 {
	low := uint32(0)
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		low = 4
	}
	return dataArgs + 8*n + low
}

const denied = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)

// filter returns the program for this architecture and process.
func filter(executable bool, pid int) program {
	var p program
	p.load(dataArch)
	p.statement(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, auditArch)
	p[len(p)-1].Jt = 1
	p.ret(unix.SECCOMP_RET_KILL_PROCESS)
	p.load(dataNumber)
	if runtime.GOARCH == "amd64" {
		p = append(p, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, Jf: 1, K: x32Bit})
		p.ret(unix.SECCOMP_RET_KILL_PROCESS)
	}
	for _, nr := range calls {
		p.unless(nr, 1)
		p.ret(unix.SECCOMP_RET_ALLOW)
	}
	p.unless(unix.SYS_CLONE3, 1)
	p.ret(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS))
	p.unless(unix.SYS_CLONE, 5)
	p.load(argument(0))
	p.statement(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, unix.CLONE_THREAD)
	p.allowIf(unix.CLONE_THREAD)
	p.unless(unix.SYS_TGKILL, 4)
	p.load(argument(0))
	p.allowIf(uint32(pid))
	for _, nr := range protecting {
		p.protection(nr, executable)
	}
	p.ret(denied)
	return p
}

// allowIf ends with two instructions: allow if the value equals k, else deny.
func (p *program) allowIf(k uint32) {
	*p = append(*p,
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: k},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: denied})
}

// protection looks at the third argument of mmap, mmap2 and mprotect.
func (p *program) protection(nr uint32, executable bool) {
	bad := uint32(unix.PROT_EXEC)
	if executable {
		bad = unix.PROT_EXEC | unix.PROT_WRITE
	}
	p.unless(nr, 5)
	p.load(argument(2))
	p.statement(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, bad)
	*p = append(*p,
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: bad},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: denied})
}

// installFilter puts the filter on all threads at once, and no_new_privs with
// it (SECCOMP_FILTER_FLAG_TSYNC, linux 3.17).
func installFilter(executable bool) (string, error) {
	if len(calls) == 0 {
		return "", errors.New("no list of calls for " + runtime.GOARCH)
	}
	code := filter(executable, unix.Getpid())
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(code)
	if e != 0 {
		return "", fmt.Errorf("install filter: %w", e)
	}
	return fmt.Sprintf("%d calls allowed, all others denied", len(calls)+2+len(protecting)), nil
}
