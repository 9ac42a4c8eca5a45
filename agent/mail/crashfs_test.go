package mail

import (
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
)

var errInjected = errors.New("injected fault")

// crashFS is a folder in memory that forgets, at a crash, what was not synced:
// content behind the last sync of a file survives to any prefix of the writes,
// torn in the middle of one; names survive as they were at the last sync of the
// folder, or as they are. It fails its n-th changing operation if told to.
type crashFS struct {
	mu     sync.Mutex
	now    map[string]*inode // names as a running program sees them
	safe   map[string]*inode // names as they are after a power cut
	ops    int
	fail   int // number of the operation that fails, 0 none
	dead   int // number of the operation from which all fail, 0 none
	short  bool
	writes int
}

type inode struct {
	content []byte
	// durable is what a sync promised; since are the states of the content
	// after each later write.
	durable []byte
	since   [][]byte
}

func newCrashFS() *crashFS {
	return &crashFS{now: map[string]*inode{}, safe: map[string]*inode{}}
}

// op counts one changing operation; f.mu is held.
func (f *crashFS) op() error {
	f.ops++
	if f.ops == f.fail || (f.dead > 0 && f.ops >= f.dead) {
		return errInjected
	}
	return nil
}

func (f *crashFS) Open(name string) (File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.now[name] == nil {
		if err := f.op(); err != nil {
			return nil, err
		}
		f.now[name] = &inode{}
	}
	return &crashFile{fs: f, node: f.now[name]}, nil
}

func (f *crashFS) Rename(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.op(); err != nil {
		return err
	}
	f.now[to] = f.now[from]
	delete(f.now, from)
	return nil
}

func (f *crashFS) Sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.op(); err != nil {
		return err
	}
	f.safe = map[string]*inode{}
	for name, n := range f.now {
		f.safe[name] = n
	}
	return nil
}

// crash returns the folder as it may be after a power cut. Handles of before
// go on writing into what nobody sees.
func (f *crashFS) crash(r *rand.Rand) *crashFS {
	f.mu.Lock()
	defer f.mu.Unlock()
	names := f.safe
	if r.IntN(2) == 0 {
		names = f.now
	}
	after := newCrashFS()
	for name, n := range names {
		content := n.durable
		if k := r.IntN(len(n.since) + 1); k > 0 {
			before := content
			if k > 1 {
				before = n.since[k-2]
			}
			content = tear(before, n.since[k-1], r)
		}
		fresh := &inode{content: slices.Clone(content), durable: slices.Clone(content)}
		after.now[name], after.safe[name] = fresh, fresh
	}
	return after
}

// tear returns a state between before and after: an append that came to some
// byte, or with its size but only zeros from there on.
func tear(before, after []byte, r *rand.Rand) []byte {
	if len(after) <= len(before) {
		return after
	}
	cut := len(before) + r.IntN(len(after)-len(before)+1)
	torn := slices.Clone(after[:cut])
	if r.IntN(4) == 0 {
		torn = append(torn, make([]byte, len(after)-cut)...)
	}
	return torn
}

type crashFile struct {
	fs   *crashFS
	node *inode
	at   int
}

func (c *crashFile) Read(b []byte) (int, error) {
	c.fs.mu.Lock()
	defer c.fs.mu.Unlock()
	if c.at >= len(c.node.content) {
		return 0, io.EOF
	}
	n := copy(b, c.node.content[c.at:])
	c.at += n
	return n, nil
}

func (c *crashFile) Write(b []byte) (int, error) {
	c.fs.mu.Lock()
	defer c.fs.mu.Unlock()
	c.fs.writes++
	if err := c.fs.op(); err != nil {
		n := 0
		if c.fs.short {
			n = len(b) / 2
		}
		c.set(append(slices.Clone(c.node.content), b[:n]...))
		return n, err
	}
	c.set(append(slices.Clone(c.node.content), b...))
	return len(b), nil
}

func (c *crashFile) set(content []byte) {
	c.node.content = content
	c.node.since = append(c.node.since, content)
}

func (c *crashFile) Truncate(size int64) error {
	c.fs.mu.Lock()
	defer c.fs.mu.Unlock()
	if int(size) == len(c.node.content) {
		return nil
	}
	if err := c.fs.op(); err != nil {
		return err
	}
	c.set(slices.Clone(c.node.content[:size]))
	return nil
}

func (c *crashFile) Sync() error {
	c.fs.mu.Lock()
	defer c.fs.mu.Unlock()
	if len(c.node.since) == 0 {
		return nil
	}
	if err := c.fs.op(); err != nil {
		return err
	}
	c.node.durable, c.node.since = slices.Clone(c.node.content), nil
	return nil
}

func (c *crashFile) Close() error { return nil }
