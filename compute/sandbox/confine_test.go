package sandbox

import (
	"runtime"
	"testing"
)

// TestEscapeSurface prints what a program that has taken over the child could
// still do: nothing.
func TestEscapeSurface(t *testing.T) {
	for _, e := range []Engine{EngineAuto, EngineInterpreter} {
		cfg := testConfig()
		cfg.Engine, cfg.Priority = e, PriorityIdle
		res, tried, err := New(cfg).Probe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		inForce := map[string]bool{}
		for _, m := range res.Mechanisms {
			inForce[m.Name] = m.InForce
			t.Logf("%s: %s: %v %s", res.Engine, m.Name, m.InForce, m.Detail)
		}
		if len(tried) == 0 {
			t.Fatalf("no attempts came back: %q %s", res.Stop, res.Detail)
		}
		denied := 0
		for _, a := range tried {
			if a.Denied {
				denied++
			}
			t.Logf("%s: %s: denied %v (%s)", res.Engine, a.Name, a.Denied, a.Detail)
			if !a.Denied && inForce["seccomp"] {
				t.Errorf("%s was not denied: %s", a.Name, a.Detail)
			}
		}
		t.Logf("%s on %s: %d of %d denied", res.Engine, runtime.GOARCH, denied, len(tried))
		for _, name := range []string{"rlimits", "priority", "no_new_privs", "seccomp"} {
			if !inForce[name] && !emulated() {
				t.Errorf("%s is not in force", name)
			}
		}
	}
}

func TestWritableExecutableIsDeniedToTheCompilerToo(t *testing.T) {
	p := filter(true, 1)
	if len(calls) == 0 {
		t.Fatalf("no list of calls for %s", runtime.GOARCH)
	}
	if len(p) > 4096 {
		t.Errorf("%d instructions, the kernel takes 4096", len(p))
	}
}

func TestLandlockRulesGrowWithTheVersion(t *testing.T) {
	last := uint64(0)
	for v := 1; v <= 8; v++ {
		attr, size := landlockRules(v)
		if attr.Handled_access_fs < last || size > 24 {
			t.Errorf("version %d: rights %x, size %d", v, attr.Handled_access_fs, size)
		}
		if v < 4 && (attr.Handled_access_net != 0 || attr.Scoped != 0) {
			t.Errorf("version %d is told of rights it does not know", v)
		}
		last = attr.Handled_access_fs
	}
}
