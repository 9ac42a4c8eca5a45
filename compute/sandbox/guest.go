package sandbox

import (
	"crypto/sha256"
	"io"
	"math/rand/v2"

	"golang.org/x/sys/unix"

	"porchlight/compute/frames"
	"porchlight/compute/memfs"
)

// guest is the world of one program: what it is given and where it writes.
type guest struct {
	args   []string
	pages  uint32
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	random io.Reader
	in     *memfs.FS
	out    *memfs.FS
	frames *frames.Writer
}

func newGuest(o order, input io.ReaderAt, out *frames.Writer) *guest {
	return &guest{
		args:   o.Args,
		pages:  guestPages(o.Limits.GuestMemory),
		stdin:  io.NewSectionReader(input, 0, o.InputSize),
		stdout: writerFunc(out.Stdout),
		stderr: &cutWriter{left: o.Limits.Stderr, write: out.Stderr},
		random: seededRandom(o.Seed),
		in:     inputTree(o, input),
		out:    memfs.New(o.Limits.FileBytes, o.Limits.Files),
		frames: out,
	}
}

func inputTree(o order, input io.ReaderAt) *memfs.FS {
	if !o.HasInput {
		return memfs.New(0, 0)
	}
	return memfs.Single(o.InputName, input, o.InputSize)
}

// seededRandom gives the same bytes for the same seed everywhere.
func seededRandom(seed string) io.Reader {
	return rand.NewChaCha8(sha256.Sum256([]byte("porchlight task " + seed)))
}

// guestPages turns bytes into pages of 64 KiB, of which 65536 are the most.
func guestPages(n int64) uint32 {
	return uint32(min(max(n, 0)>>16, 1<<16))
}

func (g *guest) sendFiles() error {
	for _, f := range g.out.Files() {
		if err := frames.CheckName(f.Name); err != nil {
			continue // told nowhere else: the parent would refuse the whole
		}
		if err := g.frames.File(f.Name, f.Size, f.Open()); err != nil {
			return err
		}
	}
	return nil
}

// writerFunc makes a function an io.Writer.
type writerFunc func(p []byte) error

// Write implements io.Writer.
func (w writerFunc) Write(p []byte) (int, error) {
	if err := w(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// cutWriter passes on so many bytes, says once that it stops, and drops the
// rest.
type cutWriter struct {
	left  int64
	told  bool
	write func(p []byte) error
}

// Write implements io.Writer and always takes everything.
func (w *cutWriter) Write(p []byte) (int, error) {
	n := int(min(int64(len(p)), w.left))
	w.left -= int64(n)
	if n > 0 {
		if err := w.write(p[:n]); err != nil {
			return 0, err
		}
	}
	if n < len(p) && !w.told {
		w.told = true
		if err := w.write([]byte(stderrCut)); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// rawFile reads a descriptor by pread alone, which the system call filter
// allows; os.File would ask the kernel more.
type rawFile int

// ReadAt implements io.ReaderAt.
func (f rawFile) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pread(int(f), p[done:], off+int64(done))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return done, err
		}
		if n == 0 {
			return done, io.EOF
		}
		done += n
	}
	return done, nil
}
