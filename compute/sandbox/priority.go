package sandbox

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// schedIdle is SCHED_IDLE of sched(7).
const schedIdle = 5

// lowerPriority puts a child behind everybody else, thread by thread as Linux
// wants it; threads it makes later inherit. The child waits for its order
// meanwhile. It is done from here because a child in a process namespace
// cannot name its own threads by what /proc says.
func lowerPriority(pid int, p Priority) Mechanism {
	m := Mechanism{Name: "priority"}
	if p == PriorityNormal {
		m.Detail = "left alone by configuration"
		return m
	}
	// Without this, kernels with autogroups weigh the child's session by its
	// own niceness, whatever its threads say.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/autogroup", pid), []byte("19"), 0)
	m.InForce, m.Detail = true, "nice 19, idle scheduling, idle I/O"
	// A thread may be made by one not yet reached: the second pass finds it.
	for range 2 {
		if err := lowerThreads(pid, &m); err != nil {
			m.InForce, m.Detail = false, err.Error()
			break
		}
	}
	return m
}

func lowerThreads(pid int, m *Mechanism) error {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return fmt.Errorf("list threads: %w", err)
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if err := unix.Setpriority(unix.PRIO_PROCESS, tid, 19); err != nil && err != unix.ESRCH {
			return fmt.Errorf("set nice: %w", err)
		}
		idle := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: schedIdle, Nice: 19}
		if unix.SchedSetAttr(tid, idle, 0) != nil {
			m.Detail = "nice 19"
		}
		// Only some disk schedulers know priorities.
		const whoProcess, idleClass = 1, 3 << 13
		_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, uintptr(tid), idleClass)
	}
	return nil
}
