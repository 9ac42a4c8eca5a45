package sandbox

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sizes of the ruleset attribute that older kernels know: they refuse a
// longer one even if the rest is zero only when it is not.
const (
	rulesetSizeFS    = 8
	rulesetSizeNet   = 16
	rulesetSizeScope = 24
)

// pointer passes a Go object to a system call made on all threads; the
// objects are kept alive by their callers.
func pointer[T any](p *T) uintptr { return uintptr(unsafe.Pointer(p)) }

// landlock (linux 5.13, landlock(7)) denies every file, TCP port, abstract
// socket and signal beyond this process, as far as the kernel's version goes.
func landlock() (string, error) {
	version, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if e != 0 {
		return "", fmt.Errorf("ask for its version: %w", e)
	}
	attr, size := landlockRules(int(version))
	fd, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, pointer(&attr), size, 0)
	runtime.KeepAlive(&attr)
	if e != 0 {
		return "", fmt.Errorf("make rules: %w", e)
	}
	defer unix.Close(int(fd)) //nolint:errcheck // the rules are applied or not
	err := allThreads(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0, 0, 0)
	if errors.Is(err, unix.ENOTSUP) {
		return "", errors.New("needs a binary built without cgo")
	}
	if err != nil {
		return "", fmt.Errorf("apply rules: %w", err)
	}
	return fmt.Sprintf("version %d", version), nil
}

// landlockRules handles all rights a version knows and grants none.
func landlockRules(version int) (attr unix.LandlockRulesetAttr, size uintptr) {
	fs := uint64(unix.LANDLOCK_ACCESS_FS_MAKE_SYM<<1 - 1)
	size = rulesetSizeFS
	if version >= 2 {
		fs |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if version >= 3 {
		fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if version >= 4 {
		attr.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
		size = rulesetSizeNet
	}
	if version >= 5 {
		fs |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if version >= 6 {
		attr.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
		size = rulesetSizeScope
	}
	attr.Handled_access_fs = fs
	return attr, size
}
