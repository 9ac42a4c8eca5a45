package natlab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNewRemovesOnlyWhatTheDeadLeft(t *testing.T) {
	newLab(t, Options{}) // skips without root
	maker := exec.Command("sleep", "1000")
	if err := maker.Start(); err != nil {
		t.Fatal(err)
	}
	ns := fmt.Sprintf("%s%d-%s-1-home-router", namePrefix, maker.Process.Pid, startTime(maker.Process.Pid))
	folder := filepath.Join(os.TempDir(), strings.TrimSuffix(ns, "-home-router"))
	if err := errors.Join(addNamespace(context.Background(), ns, false, false), os.Mkdir(folder, 0o700)); err != nil {
		t.Fatal(err)
	}
	left := (&Host{ns: ns}).Command(context.Background(), "sleep", "1000")
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
	newLab(t, Options{})
	if len(namespacesOf(t, ns)) != 1 {
		t.Error("the namespace of a living process was removed")
	}
	maker.Process.Kill()
	maker.Wait()
	newLab(t, Options{})
	if _, err := os.Stat(folder); len(namespacesOf(t, ns)) != 0 || !os.IsNotExist(err) {
		t.Errorf("the namespace or the folder of a dead process stayed: %v", err)
	}
	if err := left.Wait(); err == nil {
		t.Error("the process inside was not ended")
	}
}

func TestMakerAlive(t *testing.T) {
	me, start := os.Getpid(), startTime(os.Getpid())
	for name, want := range map[string]bool{
		fmt.Sprintf("%s%d-%s-1-home", namePrefix, me, start):  true,
		fmt.Sprintf("%s%d-%s9-1-home", namePrefix, me, start): false, // the id was given away again
		namePrefix + strconv.Itoa(1<<30) + "-1-1-home":        false,
		namePrefix + "x-1-1-home":                             true, // not ours: leave it alone
		namePrefix + "1":                                      true,
	} {
		if got := makerAlive(name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func TestNewWithoutRootNamesSudo(t *testing.T) {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread loses its rights and ends here
		if os.Geteuid() == 0 {
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
				result <- errno
				return
			}
		}
		_, err := New(context.Background(), Options{})
		result <- err
	}()
	if err := <-result; !errors.Is(err, ErrNotRoot) || !strings.Contains(err.Error(), "sudo") {
		t.Errorf("got %v", err)
	}
}
