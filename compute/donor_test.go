package compute

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"porchlight/compute/hostile"
	"porchlight/compute/sandbox"
)

// echo answers with the input.
func echo(_ context.Context, t sandbox.Task) (sandbox.Result, error) {
	if t.Input == nil {
		return sandbox.Result{}, nil
	}
	_, err := io.Copy(t.Stdout, io.NewSectionReader(t.Input, 0, 1<<40))
	return sandbox.Result{CPU: 5 * time.Millisecond}, err
}

// held is a runner whose tasks wait until they are released or cancelled.
type held struct {
	began   chan struct{}
	release chan struct{}
}

func newHeld() *held { return &held{make(chan struct{}, 100), make(chan struct{})} }

func (h *held) Run(ctx context.Context, _ sandbox.Task) (sandbox.Result, error) {
	h.began <- struct{}{}
	select {
	case <-h.release:
		return sandbox.Result{}, nil
	case <-ctx.Done():
		return sandbox.Result{Stop: sandbox.StopCanceled}, nil
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("still not: %s", what)
		}
	}
}

func put(t *testing.T, c *Client, hash string, body io.Reader) (int, Refusal) {
	t.Helper()
	return send(t, c, http.MethodPut, "/modules/"+hash, body)
}

func send(t *testing.T, c *Client, method, path string, body io.Reader) (int, Refusal) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, c.Base+path, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	var r Refusal
	_ = json.Unmarshal(b, &r) // results are no refusal
	return resp.StatusCode, r
}

func task(t *testing.T, h TaskHeader, input string) io.Reader {
	t.Helper()
	line, err := h.line()
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReader(string(line) + input)
}

func TestStrangersAreRefusedEverywhere(t *testing.T) {
	_, c := newDonor(t, func(cfg *DonorConfig) { cfg.Grants = everyone(false) })
	hash := ModuleHash(hostile.Quiet())
	for _, r := range []struct{ method, path string }{
		{"PUT", "/modules/" + hash}, {"POST", "/tasks"}, {"GET", "/"}, {"GET", "/modules/" + hash},
	} {
		status, refusal := send(t, c, r.method, r.path, strings.NewReader("x"))
		if status != http.StatusForbidden || refusal.Code != CodeNotAllowed {
			t.Errorf("%s %s: %d %+v", r.method, r.path, status, refusal)
		}
	}
}

func TestModulesAreVerified(t *testing.T) {
	d, c := newDonor(t, nil)
	m := hostile.Quiet()
	if status, _ := put(t, c, ModuleHash(m), bytes.NewReader(m)); status != http.StatusNoContent {
		t.Errorf("good module: %d", status)
	}
	for name, tt := range map[string]struct {
		hash string
		body []byte
		want int
	}{
		"wrong hash":  {ModuleHash([]byte("x")), m, 400},
		"no hash":     {"x", m, 400},
		"upper case":  {strings.ToUpper(ModuleHash(m)), m, 400},
		"at limit":    {ModuleHash(make([]byte, MaxModule)), make([]byte, MaxModule), 204},
		"above limit": {ModuleHash(make([]byte, MaxModule+1)), make([]byte, MaxModule+1), 413},
	} {
		if status, _ := put(t, c, tt.hash, bytes.NewReader(tt.body)); status != tt.want {
			t.Errorf("%s: %d, want %d", name, status, tt.want)
		}
	}
	if !d.modules.has(ModuleHash(m)) || d.modules.has(ModuleHash([]byte("x"))) {
		t.Error("the wrong modules are stored")
	}
}

func TestModuleStoreKeepsTheRecentWithinItsBound(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "1.part"), "left by a crash")
	s, err := openModules(dir, 10)
	if err != nil {
		t.Fatal(err)
	}
	a, b, c := []byte("aaaa"), []byte("bbbb"), []byte("cccc")
	for _, m := range [][]byte{a, b, a, c} {
		if err := s.put(ModuleHash(m), bytes.NewReader(m)); err != nil {
			t.Fatal(err)
		}
	}
	if !s.has(ModuleHash(a)) || s.has(ModuleHash(b)) || !s.has(ModuleHash(c)) {
		t.Error("the least recently used module is not the one that went")
	}
	if err := os.WriteFile(filepath.Join(dir, ModuleHash(a)), []byte("rot"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.get(ModuleHash(a)); err == nil {
		t.Error("a damaged module was given out")
	}
	again, err := openModules(dir, 10)
	if err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 || !again.has(ModuleHash(c)) {
		t.Errorf("after a restart: %v", entries)
	}
}

func TestInputLimits(t *testing.T) {
	d, c := newDonor(t, func(cfg *DonorConfig) { cfg.Runner, cfg.InputBytes = fakeRunner(echo), 100 })
	m := hostile.Quiet()
	put(t, c, ModuleHash(m), bytes.NewReader(m))
	h := TaskHeader{Module: ModuleHash(m), InputName: "in"}
	for n, want := range map[int]int{99: 200, 100: 200, 101: 413} {
		if status, refusal := send(t, c, "POST", "/tasks", task(t, h, strings.Repeat("x", n))); status != want {
			t.Errorf("%d of 100 bytes: %d %+v, want %d", n, status, refusal, want)
		}
	}
	d.spool.mu.Lock()
	left := d.spool.left
	d.spool.mu.Unlock()
	if left != defaultSpoolBytes {
		t.Errorf("%d bytes of the spool left, want all", left)
	}
	if !d.spool.take(left - spoolStep + 1) {
		t.Fatal("no room")
	}
	if status, refusal := send(t, c, "POST", "/tasks", task(t, h, "x")); status != 507 || refusal.Code != CodeNoSpace {
		t.Errorf("full spool: %d %+v", status, refusal)
	}
}

func TestBadTasksAreRefused(t *testing.T) {
	_, c := newDonor(t, func(cfg *DonorConfig) { cfg.Runner = fakeRunner(echo) })
	m := hostile.Quiet()
	put(t, c, ModuleHash(m), bytes.NewReader(m))
	known := TaskHeader{Module: ModuleHash(m)}
	tests := map[string]struct {
		body io.Reader
		want string
	}{
		"no line":        {strings.NewReader("{}"), CodeBadRequest},
		"no JSON":        {strings.NewReader("x\n"), CodeBadRequest},
		"long line":      {strings.NewReader(strings.Repeat("x", MaxHeader) + "\n"), CodeBadRequest},
		"no module":      {strings.NewReader("{}\n"), CodeBadRequest},
		"unknown module": {task(t, TaskHeader{Module: ModuleHash([]byte("x"))}, ""), CodeModuleUnknown},
		"stray input":    {task(t, known, "x"), CodeBadRequest},
		"climbing name":  {strings.NewReader(`{"module":"` + known.Module + `","input_name":"../x"}` + "\n"), CodeBadRequest},
	}
	for name, tt := range tests {
		if _, refusal := send(t, c, "POST", "/tasks", tt.body); refusal.Code != tt.want {
			t.Errorf("%s: %+v, want %s", name, refusal, tt.want)
		}
	}
}

func TestQueueIsBounded(t *testing.T) {
	h := newHeld()
	d, c := newDonor(t, func(cfg *DonorConfig) { cfg.Runner, cfg.Queue = h, 2 })
	m := hostile.Quiet()
	put(t, c, ModuleHash(m), bytes.NewReader(m))
	done := make(chan int, 3)
	for range 3 {
		go func() {
			status, _ := send(t, c, "POST", "/tasks", task(t, TaskHeader{Module: ModuleHash(m)}, ""))
			done <- status
		}()
	}
	eventually(t, "one running, two waiting", func() bool {
		s := d.Stats()
		return s.Running == 1 && s.Queued == 2
	})
	req, _ := http.NewRequestWithContext(t.Context(), "POST", c.Base+"/tasks", task(t, TaskHeader{Module: ModuleHash(m)}, ""))
	resp, err := c.HTTP.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" {
		t.Errorf("fourth task: %d, Retry-After %q", resp.StatusCode, resp.Header.Get("Retry-After"))
	}
	close(h.release)
	for range 3 {
		if status := <-done; status != http.StatusOK {
			t.Errorf("a task that had a place got %d", status)
		}
	}
	if s := d.Stats(); s.Done != 3 || s.Refused != 1 || s.Running+s.Queued != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestCallerThatGoesAwayCancelsItsTask(t *testing.T) {
	h := newHeld()
	d, c := newDonor(t, func(cfg *DonorConfig) { cfg.Runner = h })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-h.began; cancel() }()
	_, err := c.Submit(ctx, Job{Name: "p", Module: hostile.Quiet(), Out: t.TempDir()}, nil)
	if err == nil {
		t.Error("a cancelled job ended without an error")
	}
	eventually(t, "the task is stopped", func() bool { return d.Stats().Stopped == 1 })
}

func TestSwitchingOffEndsTasksAndSaysSo(t *testing.T) {
	h := newHeld()
	d, c := newDonor(t, func(cfg *DonorConfig) { cfg.Runner = h })
	go func() { <-h.began; d.SetEnabled(false) }()
	inputs := []string{write(t, filepath.Join(t.TempDir(), "a"), "x")}
	sum, err := c.Submit(t.Context(), Job{Name: "p", Module: hostile.Quiet(), Inputs: inputs, Out: t.TempDir()}, nil)
	if err != nil || sum.Failed != 1 || sum.Tasks[0].Status.Stop != StopDonationOff {
		t.Fatalf("%+v, %v", sum, err)
	}
	sum, err = c.Submit(t.Context(), Job{Name: "p", Module: hostile.Quiet(), Out: t.TempDir()}, nil)
	if err != nil || !strings.Contains(fmt.Sprint(sum.Tasks), "no processor time") {
		t.Fatalf("after switching off: %+v, %v", sum, err)
	}
}

func TestCallersAreCountedWithinABound(t *testing.T) {
	n := 0
	d, c := newDonor(t, func(cfg *DonorConfig) {
		cfg.Runner = fakeRunner(echo)
		cfg.Caller = func(*http.Request) string { n++; return fmt.Sprint("caller ", n) }
	})
	m := hostile.Quiet()
	put(t, c, ModuleHash(m), bytes.NewReader(m))
	for range maxCallers + 3 {
		send(t, c, "POST", "/tasks", task(t, TaskHeader{Module: ModuleHash(m)}, ""))
	}
	s := d.Stats()
	if len(s.ByCaller) != maxCallers+1 || s.ByCaller[""].Tasks != 3 {
		t.Errorf("%d callers, %d others", len(s.ByCaller), s.ByCaller[""].Tasks)
	}
}

func FuzzParseTaskHeader(f *testing.F) {
	f.Add([]byte(`{"module":"` + strings.Repeat("a", 64) + `","args":["p","x"],"input_name":"a.txt","seed":"1"}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseTaskHeader(b)
		if err != nil {
			return
		}
		line, err := h.line()
		if err != nil {
			t.Skip() // longer when encoded
		}
		if _, err := ParseTaskHeader(bytes.TrimSuffix(line, []byte("\n"))); err != nil {
			t.Errorf("%s does not parse again: %v", line, err)
		}
	})
}
