package compute

import (
	"crypto/sha256"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// submit runs a job that must work.
func submit(t *testing.T, c *Client, j Job) Summary {
	t.Helper()
	sum, err := c.Submit(t.Context(), j, func(e Event) { t.Logf("%+v", e) })
	if err != nil {
		t.Fatal(err)
	}
	if sum.Failed != 0 {
		t.Fatalf("%d tasks failed: %+v", sum.Failed, sum.Tasks)
	}
	return sum
}

func TestTextSearchOverSeveralInputs(t *testing.T) {
	d, c := newDonor(t, nil)
	dir := t.TempDir()
	inputs := []string{
		write(t, filepath.Join(dir, "a/log.txt"), "porch light on\nnothing\nlight in the porch\n"),
		write(t, filepath.Join(dir, "b/log.txt"), "dark\n"),
	}
	out := filepath.Join(t.TempDir(), "out")
	sum := submit(t, c, Job{Name: "search", Module: example(t, "search"), Args: []string{"light", "porch"}, Inputs: inputs, Out: out})
	if got, want := read(t, sum.Tasks[0].Output), "1:porch light on\n3:light in the porch\n"; got != want {
		t.Errorf("found %q, want %q", got, want)
	}
	if got := read(t, sum.Tasks[1].Output); got != "" {
		t.Errorf("found %q in the dark", got)
	}
	if want := filepath.Join(out, "log.txt-2.out"); sum.Tasks[1].Output != want {
		t.Errorf("second result is %s, want %s", sum.Tasks[1].Output, want)
	}
	eventually(t, "both tasks counted", func() bool {
		s := d.Stats()
		return s.Done == 2 && s.Running == 0 && s.Queued == 0 && s.CPUMillis > 0
	})
}

func TestSieveAgreesWithNativeComputation(t *testing.T) {
	_, c := newDonor(t, nil)
	sum := submit(t, c, Job{Name: "sieve", Module: example(t, "sieve"), Args: []string{"1000", "20000"}, Out: t.TempDir()})
	count, last := 0, int64(0)
	for n := int64(1000); n <= 20000; n++ {
		if big.NewInt(n).ProbablyPrime(0) {
			count, last = count+1, n
		}
	}
	if got, want := read(t, sum.Tasks[0].Output), fmt.Sprintln(count, last); got != want {
		t.Errorf("sieve says %q, want %q", got, want)
	}
	if filepath.Base(sum.Tasks[0].Output) != "sieve.out" {
		t.Errorf("result is %s, want it named by the program", sum.Tasks[0].Output)
	}
}

func TestHashFindIsVerifiedByOneHash(t *testing.T) {
	_, c := newDonor(t, nil)
	sum := submit(t, c, Job{Name: "hashfind", Module: example(t, "hashfind"), Args: []string{"porch", "10", "100000"}, Out: t.TempDir()})
	out := strings.Fields(read(t, sum.Tasks[0].Output))
	hash := sha256.Sum256([]byte("porch" + out[0]))
	if hash[0] != 0 || hash[1]>>6 != 0 || fmt.Sprintf("%x", hash) != out[1] {
		t.Errorf("answer %q is wrong", out)
	}
}

func TestProgramThatFailsIsReported(t *testing.T) {
	_, c := newDonor(t, nil)
	sum, err := c.Submit(t.Context(), Job{Name: "sieve", Module: example(t, "sieve"), Args: []string{"x", "y"}, Out: t.TempDir()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if task := sum.Tasks[0]; sum.Failed != 1 || task.Status.ExitCode != 1 || !strings.Contains(task.Stderr, "sieve: from") {
		t.Errorf("summary %+v", sum)
	}
}
