package compute

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"

	"porchlight/compute/frames"
	"porchlight/compute/sandbox"
)

// maxBase is the longest base of a result's name, in bytes: there must be
// room for endings.
const maxBase = 80

// safeName makes a file name that [frames.CheckName] accepts and shells and
// people can live with.
func safeName(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == '/' || r == '\\' || r == ':' || r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return '_'
		}
		return r
	}, s)
	for len(s) > maxBase {
		s = s[:strings.LastIndexFunc(s, func(rune) bool { return true })]
	}
	s = strings.TrimRight(s, ". ")
	if s == "" || strings.HasPrefix(s, ".") || strings.HasPrefix(s, "-") {
		s = "_" + strings.TrimLeft(s, ".-")
	}
	return s
}

// resultNames gives each input a base name such that neither NAME nor
// NAME.out is used twice. Without regard to case: some disks have none.
func resultNames(program string, inputs []string) []string {
	used := map[string]bool{}
	out := make([]string, len(inputs))
	for i, in := range inputs {
		base := safeName(filepath.Base(in))
		if in == "" {
			base = safeName(program)
		}
		name := base
		for n := 2; used[strings.ToLower(name)] || used[strings.ToLower(name+".out")]; n++ {
			name = base + "-" + strconv.Itoa(n)
		}
		used[strings.ToLower(name)], used[strings.ToLower(name+".out")] = true, true
		out[i] = name
	}
	return out
}

// resultFiles collects the results of a task beside their place, so that what
// is in its place is whole.
type resultFiles struct {
	root   *os.Root
	name   string
	stdout *os.File
	files  []string
	kept   bool
}

const partial = ".part"

func newResultFiles(root *os.Root, name string) (*resultFiles, error) {
	f, err := root.Create(name + ".out" + partial)
	if err != nil {
		return nil, fmt.Errorf("%w: store result: %w", errLocal, err)
	}
	s := &resultFiles{root: root, name: name, stdout: f}
	if err := root.RemoveAll(name + partial); err != nil {
		s.discard()
		return nil, fmt.Errorf("%w: store result: %w", errLocal, err)
	}
	return s, nil
}

func (s *resultFiles) file(name string, r io.Reader) error {
	full := path.Join(s.name+partial, name)
	if err := s.root.MkdirAll(path.Dir(full), 0o755); err != nil {
		return err
	}
	f, err := s.root.OpenFile(full, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	s.files = append(s.files, name)
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// keep moves everything to its place, replacing results of an earlier run.
func (s *resultFiles) keep(dir string) (output string, files []string, err error) {
	err = s.stdout.Close()
	s.kept = true
	err = errors.Join(err, s.root.RemoveAll(s.name))
	if len(s.files) > 0 {
		err = errors.Join(err, s.root.Rename(s.name+partial, s.name))
	}
	err = errors.Join(err, s.root.Rename(s.name+".out"+partial, s.name+".out"))
	if err != nil {
		return "", nil, fmt.Errorf("%w: store result: %w", errLocal, err)
	}
	for _, f := range s.files {
		files = append(files, filepath.Join(dir, s.name, filepath.FromSlash(f)))
	}
	return filepath.Join(dir, s.name+".out"), files, nil
}

// discard removes what is not whole.
func (s *resultFiles) discard() {
	if s.kept {
		return
	}
	s.stdout.Close()
	_ = s.root.Remove(s.name + ".out" + partial)
	_ = s.root.RemoveAll(s.name + partial)
}

// resultSink stores what a donor sends.
type resultSink struct {
	store  *resultFiles
	stderr []byte
	say    func(state, message string)
}

// Stdout implements frames.Sink.
func (s *resultSink) Stdout(p []byte) error {
	if _, err := s.store.stdout.Write(p); err != nil {
		return fmt.Errorf("%w: store result: %w", errLocal, err)
	}
	return nil
}

// Stderr implements frames.Sink.
func (s *resultSink) Stderr(p []byte) error {
	s.stderr = append(s.stderr, p...)
	return nil
}

// File implements frames.Sink. A broken connection while reading is no fault
// of this side.
func (s *resultSink) File(name string, _ int64, r io.Reader) error {
	watched := &watchedReader{r: r}
	err := s.store.file(name, watched)
	if err != nil && watched.err == nil {
		return fmt.Errorf("%w: store result: %w", errLocal, err)
	}
	return err
}

// Notice implements frames.Sink; only known states are passed on.
func (s *resultSink) Notice(p []byte) error {
	var n Notice
	if err := json.Unmarshal(p, &n); err != nil {
		return fmt.Errorf("%w: notice: %w", frames.ErrMalformed, err)
	}
	if n.State == "queued" || n.State == "running" {
		s.say(n.State, "")
	}
	return nil
}

var _ frames.Sink = (*resultSink)(nil)

// watchedReader remembers whether reading has failed.
type watchedReader struct {
	r   io.Reader
	err error
}

// Read implements io.Reader.
func (w *watchedReader) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		w.err = err
	}
	return n, err
}

// parseStop makes a donor's word for why it stopped a known one.
func parseStop(s sandbox.Stop) sandbox.Stop {
	switch s {
	case sandbox.StopNone, sandbox.StopWall, sandbox.StopCPU, sandbox.StopMemory, sandbox.StopOutput,
		sandbox.StopRefused, sandbox.StopTrap, sandbox.StopCrashed, sandbox.StopCanceled,
		sandbox.StopProtocol, StopDonationOff:
		return s
	}
	return sandbox.StopProtocol
}
