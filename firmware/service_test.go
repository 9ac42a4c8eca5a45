package firmware_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const (
	service = "systemd/porchlight.service"
	// highestExposure is the budget by systemd-analyze security, of 10.
	highestExposure = 2.0
)

var exposureLine = regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`)

// analyze runs systemd-analyze, which needs no running systemd for files.
func analyze(t *testing.T, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Fatalf("%v: run make setup, it installs Debian's package systemd", err)
	}
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("systemd-analyze %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func exposure(t *testing.T, path string) (score float64, report string) {
	t.Helper()
	report = analyze(t, "security", "--offline=yes", "--no-pager", path)
	match := exposureLine.FindStringSubmatch(report)
	if match == nil {
		t.Fatalf("no exposure in the report:\n%s", report)
	}
	score, err := strconv.ParseFloat(match[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return score, report
}

func TestTheServiceIsHardlyExposed(t *testing.T) {
	score, report := exposure(t, service)
	t.Logf("exposure %.1f, budget %.1f", score, highestExposure)
	if score > highestExposure {
		t.Errorf("exposure %.1f is over %.1f: restore the line that was removed\n%s", score, highestExposure, report)
	}
}

func TestTheMeasureNoticesAMissingSandbox(t *testing.T) {
	bare := filepath.Join(t.TempDir(), "bare.service")
	if err := os.WriteFile(bare, []byte("[Service]\nExecStart=/bin/true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if score, _ := exposure(t, bare); score <= highestExposure {
		t.Errorf("a service without any sandbox has exposure %.1f", score)
	}
}

// TestTheServiceHasNoMistakes lets systemd read the unit, with a program that
// exists in place of the agent. A setting or system call it does not know is a
// warning only, which nobody would read: here it fails.
func TestTheServiceHasNoMistakes(t *testing.T) {
	unit := strings.Replace(read(t), "/usr/bin/porchlight run", "/bin/true run", 1)
	path := filepath.Join(t.TempDir(), "porchlight.service")
	if err := os.WriteFile(path, []byte(unit), 0o644); err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(analyze(t, "verify", "--man=no", path), "\n") {
		if strings.Contains(line, "porchlight.service") {
			t.Error(line)
		}
	}
}

func TestTasksMayBeCompiledAndTheStateHasOnePlace(t *testing.T) {
	settings := make(map[string]string)
	for line := range strings.SplitSeq(read(t), "\n") {
		if key, value, found := strings.Cut(line, "="); found && !strings.HasPrefix(line, "#") {
			settings[key] = value
		}
	}
	if value, set := settings["MemoryDenyWriteExecute"]; set {
		t.Errorf("MemoryDenyWriteExecute=%s: tasks could not be compiled on amd64 and arm64", value)
	}
	if want := "/usr/bin/porchlight run --state /var/lib/" + settings["StateDirectory"]; settings["ExecStart"] != want {
		t.Errorf("ExecStart=%s, want %s", settings["ExecStart"], want)
	}
}

func read(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile(service)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
