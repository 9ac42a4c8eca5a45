package sandbox

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Attempt is something a program that has taken over the child would try.
type Attempt struct {
	Name   string `json:"name"`
	Denied bool   `json:"denied"`
	Detail string `json:"detail"` // the kernel's answer
}

// attempt is harmless even where it is not denied.
type attempt struct {
	name string
	try  func() error
}

// attempts lists what is tried, the irrevocable last.
func attempts() []attempt {
	return []attempt{
		{"open a file to read", func() error { return open("/etc/passwd", unix.O_RDONLY) }},
		{"open the binary", func() error { return open("/proc/self/exe", unix.O_RDONLY) }},
		{"open the root folder", func() error { return open("/", unix.O_RDONLY|unix.O_DIRECTORY) }},
		{"create a file", func() error { return open("/tmp/porchlight-escape", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL) }},
		{"remove a file", func() error { return unix.Unlink("/tmp/porchlight-escape-absent") }},
		{"make a folder", func() error { return unix.Mkdir("/porchlight-escape/absent", 0o700) }},
		{"socket inet", func() error { return socket(unix.AF_INET, unix.SOCK_DGRAM) }},
		{"socket inet6", func() error { return socket(unix.AF_INET6, unix.SOCK_STREAM) }},
		{"socket unix", func() error { return socket(unix.AF_UNIX, unix.SOCK_STREAM) }},
		{"socket netlink", func() error { return socket(unix.AF_NETLINK, unix.SOCK_RAW) }},
		{"socket packet", func() error { return socket(unix.AF_PACKET, unix.SOCK_RAW) }},
		{"socket pair", socketPair},
		{"ptrace", func() error { return call(unix.SYS_PTRACE, unix.PTRACE_ATTACH, 1<<22, 0) }},
		{"read another process", func() error { return call(unix.SYS_PROCESS_VM_READV, 1<<22, 0, 0) }},
		{"signal another process", func() error { return unix.Kill(os.Getppid(), 0) }},
		{"signal all processes", func() error { return unix.Kill(-1, 0) }},
		{"fork", fork},
		{"mmap executable", mapExecutable},
		{"mprotect writable and executable", protectExecutable},
		{"mount", func() error { return unix.Mount("none", "/porchlight-escape-absent", "tmpfs", 0, "") }},
		{"unshare", func() error { return unix.Unshare(unix.CLONE_FS) }},
		{"setns", func() error { return call(unix.SYS_SETNS, ^uintptr(0), 0, 0) }},
		{"chroot", func() error { return unix.Chroot("/") }},
		{"set user", func() error { return call(unix.SYS_SETUID, 0, 0, 0) }},
		{"raise a limit", raiseLimit},
		{"bpf", func() error { return call(unix.SYS_BPF, 0, 0, 0) }},
		{"perf event", func() error { return call(unix.SYS_PERF_EVENT_OPEN, 0, 0, 0) }},
		{"io_uring", func() error { return call(unix.SYS_IO_URING_SETUP, 0, 0, 0) }},
		{"userfaultfd", func() error { return call(unix.SYS_USERFAULTFD, ^uintptr(0), 0, 0) }},
		{"keyring", func() error { return call(unix.SYS_KEYCTL, ^uintptr(0), 0, 0) }},
		{"load a kernel module", func() error { return call(unix.SYS_INIT_MODULE, 0, 0, 0) }},
		{"ioctl", func() error { return call(unix.SYS_IOCTL, orderFD, unix.TIOCSTI, 0) }},
		{"memory file", func() error { return call(unix.SYS_MEMFD_CREATE, 0, 0, 0) }},
		{"execute a program", replaceProcess},
	}
}

// attemptAll tries everything in turn. An answer other than a refusal counts
// as not denied, even an error: the kernel has looked at the arguments.
func attemptAll() []Attempt {
	list := attempts()
	out := make([]Attempt, 0, len(list))
	for _, a := range list {
		err := a.try()
		refused := errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOSYS)
		detail := "it worked"
		if err != nil {
			detail = err.Error()
		}
		out = append(out, Attempt{Name: a.name, Denied: refused, Detail: detail})
	}
	return out
}

func call(nr, a, b, c uintptr) error {
	if _, _, e := unix.RawSyscall(nr, a, b, c); e != 0 {
		return e
	}
	return nil
}

func open(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	if flags&unix.O_CREAT != 0 {
		_ = unix.Unlink(path)
	}
	return unix.Close(fd)
}

func socket(family, kind int) error {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func socketPair() error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Close(fds[0]), unix.Close(fds[1]))
}

// fork makes a process that ends at once. Nothing of Go may run in it but the
// exit: it has one thread and no runtime.
func fork() error {
	pid, _, e := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if e == 0 && pid == 0 {
		for {
			syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	if e != 0 {
		return e
	}
	return nil
}

func mapExecutable() error {
	b, err := unix.Mmap(-1, 0, unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	return unix.Munmap(b)
}

func protectExecutable() error {
	b, err := unix.Mmap(-1, 0, unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("map a page first: %w", err)
	}
	return errors.Join(unix.Mprotect(b, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC), unix.Munmap(b))
}

// raiseLimit asks for more descriptors than the hard limit.
func raiseLimit() error {
	lim := struct{ cur, max uint64 }{1 << 19, 1 << 19}
	_, _, e := unix.RawSyscall6(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, uintptr(unsafe.Pointer(&lim)), 0, 0, 0)
	runtime.KeepAlive(&lim)
	if e != 0 {
		return e
	}
	return nil
}

// replaceProcess replaces this process if it works, which the parent notices by the
// missing end.
func replaceProcess() error {
	return unix.Exec("/proc/self/exe", []string{"porchlight", "version"}, nil)
}
