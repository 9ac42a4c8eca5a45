package sandbox

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// nobody is the user and group a child of root becomes.
const nobody = 65534

// dataSlack is what RLIMIT_DATA allows above the memory limit: the Go runtime
// maps its heap in steps of 64 MiB on 64-bit machines, 4 MiB on 32-bit ones,
// and the limit counts mapped, not resident memory.
const dataSlack = 160 << 20

// confine takes from this process all it will not need, and reports what has
// worked. The order matters: each step needs what a later one takes away.
// The thread stays locked, since without the kernel's help (see allThreads)
// some steps hold for the calling thread only until the filter spreads them.
func confine(o order, executable bool) []Mechanism {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	steps := []struct {
		name string
		do   func() (string, error)
	}{
		{"rlimits", func() (string, error) { return setLimits(o.Limits) }},
		{"chroot", changeRoot},
		{"user", dropUser},
		{"no_new_privs", noNewPrivileges},
		{"not_dumpable", notDumpable},
		{"landlock", landlock},
		{"seccomp", func() (string, error) { return installFilter(executable) }},
	}
	out := make([]Mechanism, 0, len(steps))
	for _, s := range steps {
		detail, err := s.do()
		if err != nil {
			detail = err.Error()
		}
		out = append(out, Mechanism{Name: s.name, InForce: err == nil, Detail: detail})
	}
	return out
}

// allThreads makes a system call on every thread. Programs linked with cgo
// (tests under the race detector) cannot; the error is ENOTSUP then.
func allThreads(trap, a1, a2, a3, a4, a5 uintptr) error {
	if _, _, e := syscall.AllThreadsSyscall6(trap, a1, a2, a3, a4, a5, 0); e != 0 {
		return e
	}
	return nil
}

// setLimits sets soft and hard limits alike, so that nothing can be raised.
func setLimits(lim Limits) (string, error) {
	data := uint64(lim.Memory + dataSlack)
	seconds := uint64(lim.CPU.Seconds()) + 2
	limits := []struct {
		what  int
		value uint64
	}{
		{unix.RLIMIT_CORE, 0}, {unix.RLIMIT_FSIZE, 0}, {unix.RLIMIT_MEMLOCK, 0},
		{unix.RLIMIT_MSGQUEUE, 0}, {unix.RLIMIT_NOFILE, 16},
		{unix.RLIMIT_CPU, seconds}, {unix.RLIMIT_DATA, data},
	}
	if os.Geteuid() == 0 {
		// Counted per user: only a user of its own can be limited without
		// counting what else the owner runs.
		limits = append(limits, struct {
			what  int
			value uint64
		}{unix.RLIMIT_NPROC, 4 * maxThreads})
	}
	var errs []error
	for _, l := range limits {
		if err := unix.Setrlimit(l.what, &unix.Rlimit{Cur: l.value, Max: l.value}); err != nil {
			errs = append(errs, fmt.Errorf("resource %d: %w", l.what, err))
		}
	}
	return fmt.Sprintf("data %d MiB, cpu %d s, no core, no files", data>>20, seconds), errors.Join(errs...)
}

// changeRoot moves into a folder that is empty for all purposes: the list of
// this process's own descriptors, which ends with it.
func changeRoot() (string, error) {
	if err := unix.Chroot("/proc/self/fdinfo"); err != nil {
		return "", fmt.Errorf("change root: %w", err)
	}
	return "", unix.Chdir("/")
}

// dropUser gives up root, or the powers of root within a user namespace.
func dropUser() (string, error) {
	if os.Geteuid() != 0 {
		return "", errors.New("not root: the agent's own user stays")
	}
	if err := syscall.Setgroups(nil); err == nil {
		if err := syscall.Setresgid(nobody, nobody, nobody); err != nil {
			return "", fmt.Errorf("set group: %w", err)
		}
		if err := syscall.Setresuid(nobody, nobody, nobody); err == nil {
			return fmt.Sprintf("user %d", nobody), nil
		}
	}
	return dropCapabilities()
}

// dropCapabilities empties all sets of all threads.
func dropCapabilities() (string, error) {
	head := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := allThreads(unix.SYS_CAPSET, pointer(head), pointer(&data[0]), 0, 0, 0); err != nil {
		return "", fmt.Errorf("drop capabilities: %w", err)
	}
	return "no capabilities", nil
}

func noNewPrivileges() (string, error) {
	// If this thread alone can be told, the filter tells the others.
	if err := allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err == nil {
		return "", nil
	}
	return "", unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
}

// notDumpable leaves no core and lets no process of the same user attach.
// It also renews the order to die with the parent, which a change of user
// has cancelled.
func notDumpable() (string, error) {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return "", err
	}
	return "", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}
