package sandbox

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_MIPSEL

// calls are what the Go runtime, the engine and the pipes need.
var calls = []uint32{
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_CLOSE,
	unix.SYS_PREAD64, unix.SYS_FUTEX, unix.SYS_EXIT,
	unix.SYS_EXIT_GROUP, unix.SYS_MUNMAP, unix.SYS_MADVISE,
	unix.SYS_BRK, unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY,
	unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME,
	unix.SYS_GETTIMEOFDAY, unix.SYS_GETTID, unix.SYS_GETPID,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN,
	unix.SYS_SIGALTSTACK, unix.SYS_GETRANDOM, unix.SYS_RESTART_SYSCALL,
	unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_MEMBARRIER,
	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT,
	unix.SYS_EVENTFD2, unix.SYS_FUTEX_TIME64, unix.SYS_CLOCK_GETTIME64,
	unix.SYS_CLOCK_NANOSLEEP_TIME64, unix.SYS_SIGRETURN, unix.SYS_SET_THREAD_AREA,
}

// protecting are the calls whose third argument is a protection.
var protecting = []uint32{unix.SYS_MMAP, unix.SYS_MMAP2, unix.SYS_MPROTECT}
