package natlab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// netnsDir is where ip netns keeps named network namespaces (ip-netns(8)).
	netnsDir = "/run/netns"

	// namePrefix begins the names of our namespaces; then come process id, its
	// start time, the number of the lab in the process, and the host:
	// porchlab-PID-START-LAB-HOST.
	namePrefix = "porchlab-"

	// killGrace is how long processes in a namespace have between SIGTERM and
	// SIGKILL when it is removed.
	killGrace = 2 * time.Second

	// toolTimeout bounds one run of ip, nft and the like. They take milliseconds.
	toolTimeout = 30 * time.Second
)

// run runs a set-up tool and makes its output part of the error.
func run(ctx context.Context, stdin, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, toolTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// inNamespace runs f on a thread of its own inside the named namespace. The thread
// is thrown away afterwards; sockets and devices that f opened stay there.
func inNamespace(ns string, f func() error) error {
	result := make(chan error, 1)
	go func() {
		// Never unlocked: the runtime then ends the thread with the goroutine.
		runtime.LockOSThread()
		result <- func() error {
			fd, err := unix.Open(filepath.Join(netnsDir, ns), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("open network namespace %s: %w", ns, err)
			}
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
			if err != nil {
				return fmt.Errorf("enter network namespace %s: %w", ns, err)
			}
			return f()
		}()
	}()
	return <-result
}

// setSysctls writes kernel settings (name under /proc/sys/net, value) of the
// namespace of the calling thread.
func setSysctls(settings ...string) error {
	for i := 0; i+1 < len(settings); i += 2 {
		err := os.WriteFile(filepath.Join("/proc/sys/net", settings[i]), []byte(settings[i+1]), 0)
		if err != nil {
			return fmt.Errorf("set kernel option: %w", err)
		}
	}
	return nil
}

// addNamespace makes a namespace. Devices to come have IPv6 only if wanted; they then
// use addresses at once and believe no router advertisements.
func addNamespace(ctx context.Context, ns string, forward, ipv6 bool) error {
	if err := run(ctx, "", "ip", "netns", "add", ns); err != nil {
		return err
	}
	err := inNamespace(ns, func() error { return errors.Join(set4(forward), set6(forward, ipv6), plainBridges()) })
	if err != nil {
		return fmt.Errorf("prepare network namespace %s: %w", ns, err)
	}
	return nil
}

func set4(forward bool) error {
	settings := []string{"ipv4/conf/all/rp_filter", "0", "ipv4/conf/default/rp_filter", "0"}
	if forward {
		settings = append(settings, "ipv4/ip_forward", "1",
			"ipv4/conf/all/send_redirects", "0", "ipv4/conf/default/send_redirects", "0")
	}
	return setSysctls(settings...)
}

// set6 does nothing in a kernel without IPv6.
func set6(forward, wanted bool) error {
	if _, err := os.Stat("/proc/sys/net/ipv6"); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if !wanted {
		return setSysctls("ipv6/conf/default/disable_ipv6", "1")
	}
	settings := []string{"ipv6/conf/default/accept_dad", "0", "ipv6/conf/default/accept_ra", "0",
		"ipv6/conf/default/router_solicitations", "0"}
	if forward {
		settings = append(settings, "ipv6/conf/all/forwarding", "1")
	}
	return setSysctls(settings...)
}

// removeNamespace ends the processes inside and removes the namespace. It takes no
// context: clean-up must not be cut short.
func removeNamespace(ns string) error {
	endProcesses(ns)
	err := run(context.Background(), "", "ip", "netns", "delete", ns)
	if _, statErr := os.Stat(filepath.Join(netnsDir, ns)); os.IsNotExist(statErr) {
		return nil // gone, whoever did it
	}
	return err
}

// endProcesses asks the processes in a namespace to end and kills those that
// don't within killGrace.
func endProcesses(ns string) {
	for _, pid := range processesIn(ns) {
		syscall.Kill(pid, syscall.SIGTERM)
	}
	deadline := time.Now().Add(killGrace)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		left := processesIn(ns)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			for _, pid := range left {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		if time.Now().After(deadline.Add(killGrace)) {
			return
		}
		<-tick.C
	}
}

// processesIn returns the other processes whose network is the namespace.
func processesIn(ns string) []int {
	var want unix.Stat_t
	if unix.Stat(filepath.Join(netnsDir, ns), &want) != nil {
		return nil
	}
	links, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	var pids []int
	for _, l := range links {
		var have unix.Stat_t
		pid, err := strconv.Atoi(strings.Split(l, "/")[2])
		if err != nil || pid == os.Getpid() || unix.Stat(l, &have) != nil {
			continue
		}
		if have.Ino == want.Ino && have.Dev == want.Dev && !isZombie(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// processStat returns the fields of a process's stat file after the command name
// (proc_pid_stat(5)): field 3, the state, is the first of them. It reads the file
// of the first thread, because qemu-user makes up /proc/PID/stat for the process it
// runs, and a start time that others see differently would have them think the
// process dead.
func processStat(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/stat", pid, pid))
	if err != nil {
		return nil
	}
	s := string(b)
	return strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
}

func isZombie(pid int) bool {
	f := processStat(pid)
	return len(f) > 0 && (f[0] == "Z" || f[0] == "X")
}

// startTime returns when a process began, in clock ticks since boot (field 22), or
// "" if there is no such process.
func startTime(pid int) string {
	f := processStat(pid)
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return ""
	}
	return f[19]
}

// makerAlive reports whether the process that a namespace is named after lives.
func makerAlive(ns string) bool {
	parts := strings.Split(strings.TrimPrefix(ns, namePrefix), "-")
	if len(parts) < 3 {
		return true // not ours
	}
	pid, err := strconv.Atoi(parts[0])
	return err != nil || startTime(pid) == parts[1]
}

// removeLeftovers removes the namespaces and folders of labs whose process is dead.
func removeLeftovers() (removed []string) {
	entries, _ := os.ReadDir(netnsDir)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), namePrefix) && !makerAlive(e.Name()) && removeNamespace(e.Name()) == nil {
			removed = append(removed, e.Name())
		}
	}
	folders, _ := filepath.Glob(filepath.Join(os.TempDir(), namePrefix+"*"))
	for _, f := range folders {
		if !makerAlive(filepath.Base(f)) && os.RemoveAll(f) == nil {
			removed = append(removed, f)
		}
	}
	return removed
}
