package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"porchlight/nat/natlab"
)

// peersFolder is a module of its own, so that what it needs never gets into
// the agent: plain pion/ice with coturn between the same kinds of homes.
const peersFolder = "nat/natlab/peers"

// peerOutcome is what became of one pair there.
type peerOutcome struct {
	A      natlab.Kind `json:"a"`
	B      natlab.Kind `json:"b"`
	Result string      `json:"result"`
	FirstS float64     `json:"first_s"`
	Error  string      `json:"error"`
}

// peers lets the other program meet between the kinds, one round, and returns
// its outcomes by pair.
func peers(ctx context.Context, out io.Writer, dir string, kinds []natlab.Kind) (map[[2]natlab.Kind]peerOutcome, error) {
	folder, err := moduleFolder(ctx)
	if err != nil {
		return nil, err
	}
	program := filepath.Join(dir, "peers")
	build := exec.CommandContext(ctx, "go", "build", "-C", filepath.Join(folder, peersFolder), "-o", program, ".")
	if text, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build %s: %w: %s", peersFolder, err, text)
	}
	names := make([]string, len(kinds))
	for i, kind := range kinds {
		names[i] = string(kind)
	}
	began := time.Now()
	cmd := exec.CommandContext(ctx, program, "-json", "-kinds", strings.Join(names, ","))
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopLimit
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	pairs := map[[2]natlab.Kind]peerOutcome{}
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		var p peerOutcome
		if err := json.Unmarshal(lines.Bytes(), &p); err != nil {
			return nil, errors.Join(fmt.Errorf("%s printed %q: %w", peersFolder, lines.Text(), err), cmd.Cancel(), cmd.Wait())
		}
		pairs[[2]natlab.Kind{p.A, p.B}] = p
	}
	if err := errors.Join(lines.Err(), cmd.Wait()); err != nil {
		return nil, fmt.Errorf("%s: %w", peersFolder, err)
	}
	tell(out, "the same pairs by pion/ice with coturn took %.0f s", time.Since(began).Seconds())
	return pairs, nil
}

// moduleFolder is where this module's go.mod lies.
func moduleFolder(ctx context.Context) (string, error) {
	text, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "porchlight").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// sideBySide prints each pair's outcome beside that of the other program, and
// counts both.
func sideBySide(out io.Writer, ours []outcome, theirs map[[2]natlab.Kind]peerOutcome) {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\npair\t\tPorchlight\tfirst byte (s)\tpion/ice + coturn\tfirst byte (s)")
	count := map[string]int{}
	var first []float64
	for _, p := range ours {
		q, ok := theirs[[2]natlab.Kind{p.a, p.b}]
		if !ok {
			continue
		}
		count[q.Result]++
		if q.Result != "fail" {
			first = append(first, q.FirstS)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%.2f\t%s\t%.2f\n", p.a, p.b, p.result(), p.ping.FirstByteMS/1000, q.Result, q.FirstS)
	}
	t.Flush()
	fmt.Fprintf(out, "\npion/ice + coturn, %d pairs: %d direct, %d relayed, %d failed\n",
		len(theirs), count["direct"], count["relay"], count["fail"])
	if len(first) > 0 {
		fmt.Fprintf(out, "seconds to first byte  median %.2f, 90 %% within %.2f\n", percentile(first, 50), percentile(first, 90))
	}
}
