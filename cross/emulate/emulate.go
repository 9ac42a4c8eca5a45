package emulate

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"

	"porchlight/cross/target"
)

// Mode says how a foreign program is run.
type Mode int

const (
	// Native: the machine's own processor runs it.
	Native Mode = iota
	// Registered: the machine hands such programs to the emulator already.
	Registered
	// Private: a user namespace is made in which the kernel does so.
	Private
	// Bare: the emulator runs the program, but no program that it starts.
	Bare
)

// String returns the mode in words.
func (m Mode) String() string {
	switch m {
	case Native:
		return "natively"
	case Registered:
		return "under the emulator registered on this machine"
	case Private:
		return "under the emulator in a private user namespace"
	default:
		return "under the emulator; programs that start programs will fail " +
			"(needs Linux 6.7, or qemu-user-static registered with binfmt_misc)"
	}
}

const (
	binfmtMount = "/proc/sys/fs/binfmt_misc"
	binfmtRules = "/usr/lib/binfmt.d"
	// enter registers the rule file $0 as root of a namespace of its own (the
	// kernel lets nobody else), then becomes the program in "$@" in a second
	// one, where the user is who it was before (and root may mount, as tests of
	// full disks do).
	enter = `mount -t binfmt_misc none ` + binfmtMount +
		` && cat "$0" >` + binfmtMount + `/register` +
		` && exec unshare --user --map-user="$1" --map-group="$2" --mount -- "${@:3}"`
)

// Choose returns the best mode this machine offers for t.
func Choose(ctx context.Context, t target.Target) (Mode, error) {
	if t.GOARCH == runtime.GOARCH && runtime.GOOS == "linux" {
		return Native, nil
	}
	if _, err := exec.LookPath(t.QEMU); err != nil {
		return Bare, fmt.Errorf("emulate %s: %w; run make setup", t.Name, err)
	}
	if _, err := os.Stat(filepath.Join(binfmtMount, t.Binfmt)); err == nil {
		return Registered, nil
	}
	argv := privateArgs(t, []string{"true"})
	if exec.CommandContext(ctx, argv[0], argv[1:]...).Run() == nil {
		return Private, nil
	}
	return Bare, nil
}

// Args returns the command line that runs argv, a program built for t and its
// arguments, in the given mode.
func Args(m Mode, t target.Target, argv []string) []string {
	switch m {
	case Native:
		return argv
	case Private:
		return privateArgs(t, argv)
	default:
		return append([]string{t.QEMU}, argv...)
	}
}

// privateArgs makes the private user namespace and keeps the caller's ids.
func privateArgs(t target.Target, argv []string) []string {
	rule := filepath.Join(binfmtRules, t.Binfmt+".conf")
	return append([]string{
		"unshare", "--user", "--map-root-user", "--mount", "--",
		"bash", "-c", enter, rule, strconv.Itoa(os.Getuid()), strconv.Itoa(os.Getgid()),
	}, argv...)
}

// prefixVariable tells tests that they are emulated, and with what to prefix a
// program they start, for machines where only Bare is possible.
const prefixVariable = "PORCHLIGHT_EXEC_PREFIX"

// Env returns the settings to add to the environment of an emulated program.
func Env(m Mode, t target.Target) []string {
	if m == Native {
		return nil
	}
	env := append([]string{prefixVariable + "=" + t.QEMU}, t.TestEnv...)
	if t.QEMUCPU != "" {
		env = append(env, "QEMU_CPU="+t.QEMUCPU)
	}
	return env
}

// Command returns a command that runs program, built for t, with the
// arguments; the caller sets its files and starts it. The program is named by
// an absolute or relative path with a slash in it.
func Command(ctx context.Context, t target.Target, program string, args ...string) (*exec.Cmd, error) {
	mode, err := Choose(ctx, t)
	if err != nil {
		return nil, err
	}
	argv := Args(mode, t, append([]string{program}, args...))
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), Env(mode, t)...)
	return cmd, nil
}
