package target_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"porchlight/cross/target"
)

// designed lists the targets that the design promises, in the table's order.
var designed = []string{"mipsle", "mips", "arm5", "arm6", "arm7", "arm64", "amd64", "riscv64"}

func TestTheTableHoldsTheDesignedTargets(t *testing.T) {
	if names := target.Names(); !slices.Equal(names, designed) {
		t.Errorf("targets are %v, designed are %v", names, designed)
	}
}

func TestMIPSIsSoftFloatAndWithinTheBudgetOfASmallRouter(t *testing.T) {
	for _, name := range []string{"mipsle", "mips"} {
		tgt, err := target.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		if !tgt.SoftFloat || !slices.Contains(tgt.GoEnv(), "GOMIPS=softfloat") {
			t.Errorf("%s is not soft-float", name)
		}
		if want := (target.Budget{Raw: 17_500_000, XZ: 4_000_000}); tgt.Budget != want {
			t.Errorf("%s has the budget %+v, want %+v", name, tgt.Budget, want)
		}
	}
}

func TestBuildFlagsHidePathsAndLeaveHTTP2Out(t *testing.T) {
	for _, tgt := range target.All() {
		for _, flag := range []string{"-trimpath", "-tags=nethttpomithttp2"} {
			if !slices.Contains(tgt.BuildFlags(), flag) {
				t.Errorf("%s: built without %s", tgt.Name, flag)
			}
		}
	}
}

func TestOnlyProgramsForMIPSAreCompiledForSize(t *testing.T) {
	for _, tgt := range target.All() {
		small := slices.ContainsFunc(tgt.ProgramFlags(), func(f string) bool { return strings.HasPrefix(f, "-gcflags=") })
		if want := strings.HasPrefix(tgt.Name, "mips"); small != want {
			t.Errorf("%s: compiled for size: %t", tgt.Name, small)
		}
		for _, flag := range tgt.BuildFlags() {
			if !slices.Contains(tgt.ProgramFlags(), flag) {
				t.Errorf("%s: programs are built without %s", tgt.Name, flag)
			}
		}
	}
}

func TestNoPackageArchitectureIsServedTwice(t *testing.T) {
	servedBy := make(map[string]string)
	for _, tgt := range target.All() {
		if len(tgt.OpenWrt) == 0 {
			t.Errorf("%s serves no OpenWrt architecture", tgt.Name)
		}
		for _, arch := range append(slices.Clone(tgt.OpenWrt), "debian "+tgt.Debian) {
			if arch == "debian " {
				continue
			}
			if other := servedBy[arch]; other != "" {
				t.Errorf("%s is served by %s and %s", arch, other, tgt.Name)
			}
			servedBy[arch] = tgt.Name
		}
	}
}

// TestARMSettingsFollowTheFeedsRule checks the names against the rule quoted
// in the package comment.
func TestARMSettingsFollowTheFeedsRule(t *testing.T) {
	for _, tgt := range target.All() {
		if tgt.GOARCH != "arm" {
			continue
		}
		for _, arch := range tgt.OpenWrt {
			_, fpu, _ := strings.Cut(strings.TrimPrefix(arch, "arm_"), "_")
			want := "GOARM=7"
			switch fpu {
			case "":
				want = "GOARM=5"
			case "vfp", "vfpv2":
				want = "GOARM=6"
			}
			if tgt.Variant != want {
				t.Errorf("%s is built with %s, the feed uses %s", arch, tgt.Variant, want)
			}
		}
	}
}

func TestUnknownTargetsAreRefusedWithTheChoice(t *testing.T) {
	if _, err := target.Select([]string{"amd64", "mipsel"}); err == nil || !strings.Contains(err.Error(), "mipsle") {
		t.Errorf("error %v, want one that lists the targets", err)
	}
	chosen, err := target.Select([]string{"arm64", "amd64"})
	if err != nil || len(chosen) != 2 || chosen[0].Name != "arm64" {
		t.Errorf("chose %v, error %v", chosen, err)
	}
	if all, err := target.Select(nil); err != nil || len(all) != len(designed) {
		t.Errorf("no names chose %d targets, error %v", len(all), err)
	}
}

func TestExclusionsMatchPackagesAndTargets(t *testing.T) {
	mips, arm64 := target.Target{Name: "mips"}, target.Target{Name: "arm64"}
	e := target.Exclusion{Packages: []string{"nat/natlab/...", "nat"}, Targets: []string{"mips"}}
	cases := []struct {
		tgt  target.Target
		pkg  string
		want bool
	}{
		{mips, "nat", true},
		{mips, "nat/natlab", true},
		{mips, "nat/natlab/deep", true},
		{mips, "nat/natlaboratory", false},
		{mips, "nat/stun", false},
		{arm64, "nat", false},
	}
	for _, c := range cases {
		if got := e.Applies(c.tgt, c.pkg); got != c.want {
			t.Errorf("%s on %s: %v, want %v", c.pkg, c.tgt.Name, got, c.want)
		}
	}
	e.Targets = nil
	if !e.Applies(arm64, "nat") {
		t.Error("an exclusion without targets does not hold for all")
	}
}

// TestExclusionsNameFoldersThatExist keeps the table from outliving what it
// excludes.
func TestExclusionsNameFoldersThatExist(t *testing.T) {
	for _, e := range target.Exclusions() {
		if e.Reason == "" {
			t.Errorf("%v is excluded without a reason", e.Packages)
		}
		for _, name := range e.Targets {
			if _, err := target.Find(name); err != nil {
				t.Errorf("%v: %v", e.Packages, err)
			}
		}
		for _, pattern := range e.Packages {
			folder := "../../" + strings.TrimSuffix(pattern, "/...")
			if info, err := os.Stat(folder); err != nil || !info.IsDir() {
				t.Errorf("%s is excluded from emulated tests but does not exist: remove it from the table", pattern)
			}
		}
	}
}
