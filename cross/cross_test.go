package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"porchlight/cross/elfcheck"
	"porchlight/cross/target"
)

// hello is a main package that builds in seconds.
const hello = "./elfcheck/testdata/hello"

func runCross(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, complaint bytes.Buffer
	err = run(t.Context(), args, &out, &complaint)
	return out.String(), complaint.String(), err
}

func TestBuildChecksAndMeasuresEachTarget(t *testing.T) {
	dir := t.TempDir()
	stdout, stderr, err := runCross(t, "build", "-pkg", hello, "-o", dir, "-version", "1.2.3", "arm64", "mips")
	if err != nil {
		t.Fatalf("%v\n%s%s", err, stdout, stderr)
	}
	for _, want := range []string{"porchlight 1.2.3", "arm64", "mips", "static, fits", "4.00 MB"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("nothing about %q in:\n%s", want, stdout)
		}
	}
	if strings.Index(stdout, "arm64") > strings.Index(stdout, "mips ") {
		t.Errorf("not in the order asked for:\n%s", stdout)
	}
	for _, name := range []string{"porchlight-arm64", "porchlight-mips"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}

func TestTheSameSourceGivesTheSameBytes(t *testing.T) {
	var builds [][]byte
	for range 2 {
		dir := t.TempDir()
		if _, stderr, err := runCross(t, "build", "-pkg", hello, "-o", dir, "-version", "1", "amd64"); err != nil {
			t.Fatalf("%v\n%s", err, stderr)
		}
		program, err := os.ReadFile(filepath.Join(dir, "porchlight-amd64"))
		if err != nil {
			t.Fatal(err)
		}
		builds = append(builds, program)
	}
	if !bytes.Equal(builds[0], builds[1]) {
		t.Error("two builds differ")
	}
}

func TestABuildThatFailsNamesItsTarget(t *testing.T) {
	_, _, err := runCross(t, "build", "-pkg", "./absent", "-o", t.TempDir(), "arm6")
	if err == nil || !strings.Contains(err.Error(), "build for arm6") || !strings.Contains(err.Error(), "absent") {
		t.Errorf("error %v", err)
	}
}

func TestSizesAreReportedAgainstTheBudget(t *testing.T) {
	small := target.Target{Name: "router", Budget: target.Budget{Raw: 16_000_000, XZ: 4_000_000}}
	large := target.Target{Name: "server"}
	var out strings.Builder
	err := report(&out, []result{
		{target: small, size: sizes{raw: 16_000_000, packed: 3_999_999}},
		{target: large, size: sizes{raw: 23_456_789, packed: 7_000_001}},
	})
	want := "" +
		"  target       raw    budget   xz -9e   budget           ELF\n" +
		"  router  16.00 MB  16.00 MB  4.00 MB  4.00 MB  static, fits\n" +
		"  server  23.46 MB         -  7.01 MB        -  static, fits\n"
	if err != nil || out.String() != want {
		t.Errorf("error %v, printed\n%s\nwant\n%s", err, out.String(), want)
	}
}

func TestWhatIsTooLargeOrDoesNotFitFails(t *testing.T) {
	router := target.Target{Name: "router", Budget: target.Budget{Raw: 16_000_000, XZ: 4_000_000}}
	cases := []struct {
		name string
		r    result
		says []string
	}{
		{"one byte over", result{target: router, size: sizes{raw: 16_000_001}},
			[]string{"size is 16.01 MB, the budget is 16.00 MB", "leave something out"}},
		{"one byte over when compressed", result{target: router, size: sizes{packed: 4_000_001}},
			[]string{"compressed size is 4.01 MB"}},
		{"does not fit", result{target: router, problems: []elfcheck.Problem{"byte order"}},
			[]string{"does not fit", "router: byte order"}},
		{"estimated", result{target: router, size: sizes{packed: 5_000_000, estimate: true}},
			[]string{"5.00 MB*", "compresses less than xz -9e"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			if err := report(&out, []result{c.r}); err == nil {
				t.Error("passed")
			}
			for _, says := range c.says {
				if !strings.Contains(out.String(), says) {
					t.Errorf("nothing about %q in:\n%s", says, out.String())
				}
			}
		})
	}
}

func TestWithoutXZTheSizeIsEstimatedFromAbove(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, bytes.Repeat([]byte("porchlight "), 10_000), 0o755); err != nil {
		t.Fatal(err)
	}
	exact, err := measure(t.Context(), program)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", t.TempDir())
	estimate, err := measure(t.Context(), program)
	if err != nil {
		t.Fatal(err)
	}
	if !estimate.estimate || estimate.raw != 110_000 || estimate.packed < exact.packed || estimate.packed > 11_000 {
		t.Errorf("estimate %+v beside %+v", estimate, exact)
	}
	if exact.estimate {
		t.Error("xz is missing: run make setup")
	}
}

func TestThePlanLeavesOutWhatIsExcludedAndSaysWhy(t *testing.T) {
	exclusions := []target.Exclusion{
		{Packages: []string{"nat/natlab/..."}, Reason: "needs namespaces"},
		{Packages: []string{"nat"}, Targets: []string{"mips"}, Tests: "Session", Reason: "opens sockets"},
		{Packages: []string{"nat"}, Targets: []string{"mips"}, Tests: "Switch", Reason: "opens sockets"},
	}
	packages := []string{"agent/identity", "nat", "nat/natlab", "share/merkle"}
	cases := []struct {
		target string
		want   plan
	}{
		{"mips", plan{
			groups: []group{
				{packages: []string{"agent/identity", "share/merkle"}},
				{packages: []string{"nat"}, skip: "Session|Switch"},
			},
			excluded: []string{
				"nat, tests matching Session: opens sockets",
				"nat, tests matching Switch: opens sockets",
				"nat/natlab: needs namespaces",
			},
		}},
		{"arm64", plan{
			groups:   []group{{packages: []string{"agent/identity", "nat", "share/merkle"}}},
			excluded: []string{"nat/natlab: needs namespaces"},
		}},
	}
	for _, c := range cases {
		got := makePlan(target.Target{Name: c.target}, packages, exclusions)
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\n got %+v\nwant %+v", c.target, got, c.want)
		}
	}
}

func TestTestRunsPackagesUnderTheEmulator(t *testing.T) {
	stdout, stderr, err := runCross(t, "test", "-n", "-pkgs", "porchlight/cross/...", "mipsle", "arm7")
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	for _, want := range []string{"== mipsle: under the emulator", "== arm7:", "without cross/target: works on the build machine"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("nothing about %q in:\n%s", want, stdout)
		}
	}
}

func TestWrongCommandLinesAreUsageErrors(t *testing.T) {
	for _, args := range [][]string{
		nil, {"bulid"}, {"test"}, {"exec", "arm7"}, {"build", "-no-such-flag"},
	} {
		_, stderr, err := runCross(t, args...)
		if !errors.Is(err, errUsage) || stderr == "" {
			t.Errorf("%q: error %v, printed %q", args, err, stderr)
		}
	}
	for _, args := range [][]string{{"build", "arm8"}, {"test", "arm8"}, {"exec", "arm8", "x"}} {
		if _, _, err := runCross(t, args...); err == nil || !strings.Contains(err.Error(), "choose one of mipsle") {
			t.Errorf("%q: error %v", args, err)
		}
	}
	if stdout, _, err := runCross(t, "help"); err != nil || stdout != usage {
		t.Errorf("help: error %v, printed %q", err, stdout)
	}
}

func TestTargetsPrintsTheWholeTable(t *testing.T) {
	stdout, _, err := runCross(t, "targets")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range target.Names() {
		if !strings.Contains(stdout, "\n"+name+" ") {
			t.Errorf("no row for %s in:\n%s", name, stdout)
		}
	}
}

func TestTheVersionComesFromTheRepository(t *testing.T) {
	if got := describe(t.Context()); got == "" {
		t.Error("empty version")
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if got := describe(cancelled); got != "dev" {
		t.Errorf("version %q where git cannot be asked, want dev", got)
	}
}

// TestTheVersionVariableExists: the linker ignores a name it does not find, and
// every release would call itself the default.
func TestTheVersionVariableExists(t *testing.T) {
	folder, name, _ := strings.Cut(strings.TrimPrefix(versionVariable, module), ".")
	sources, err := filepath.Glob(filepath.Join("..", folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, source := range sources {
		content, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(content), "\nvar "+name+" = \"") {
			return
		}
	}
	t.Errorf("no variable %q in %s: name the one that exists in versionVariable and in the Makefile", name, folder)
}

func TestFailuresAreNotedByPackage(t *testing.T) {
	var out bytes.Buffer
	f := &failures{to: &out}
	text := "ok  \tporchlight/nat/stun\t1.2s\n--- FAIL: TestX (0.00s)\nFAIL\nFAIL\tporchlight/nat\t9.7s\n" +
		"FAIL\tporchlight/share [build failed]\nFAIL\tporchlight/nat\t9.7s\nFAIL\n"
	for _, b := range []byte(text) { // as it may come, cut anywhere
		f.Write([]byte{b})
	}
	if want := []string{"nat", "share"}; !slices.Equal(f.packages, want) {
		t.Errorf("failed: %q, want %q", f.packages, want)
	}
	if out.String() != text {
		t.Errorf("passed on %q", out.String())
	}
}
