package memfs

import (
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	experimentalsys "github.com/tetratelabs/wazero/experimental/sys"
	"github.com/tetratelabs/wazero/sys"
)

const (
	chunkSize   = 32 << 10
	maxDepth    = 32
	maxNameSize = 255
)

// node is a folder (children not nil), a file in chunks, or a file with a
// source.
type node struct {
	ino      uint64
	children map[string]*node
	chunks   map[int64][]byte
	source   io.ReaderAt
	size     int64
	opens    int  // open files on it
	gone     bool // removed or replaced
}

// FS is one tree. The zero value is not usable; see [New] and [Single].
type FS struct {
	experimentalsys.UnimplementedFS
	root     *node
	readOnly bool
	bytes    int64 // left to write
	entries  int   // left to make
	inodes   uint64
}

// New returns an empty writable tree that takes up to maxBytes bytes in up to
// maxEntries files and folders.
func New(maxBytes int64, maxEntries int) *FS {
	f := &FS{bytes: maxBytes, entries: maxEntries}
	f.root = f.newNode(true)
	return f
}

// Single returns a read-only tree with one file of size bytes at its root.
func Single(name string, source io.ReaderAt, size int64) *FS {
	f := New(0, 1)
	n := f.newNode(false)
	n.source, n.size = source, size
	f.root.children[name] = n
	f.readOnly = true
	return f
}

func (f *FS) newNode(folder bool) *node {
	f.inodes++
	n := &node{ino: f.inodes}
	if folder {
		n.children = map[string]*node{}
	} else {
		n.chunks = map[int64][]byte{}
	}
	return n
}

// File is one file of a tree.
type File struct {
	Name string // slash-separated, relative to the root
	Size int64
	n    *node
}

// Open returns the content of the file.
func (f File) Open() io.Reader {
	return io.NewSectionReader(nodeReader{f.n}, 0, f.Size)
}

// Files lists all files in the order of their names; folders only by way of
// what they contain.
func (f *FS) Files() []File {
	var out []File
	collect(f.root, "", &out)
	return out
}

func collect(n *node, prefix string, out *[]File) {
	for _, name := range n.names() {
		c := n.children[name]
		if c.children != nil {
			collect(c, prefix+name+"/", out)
			continue
		}
		*out = append(*out, File{Name: prefix + name, Size: c.size, n: c})
	}
}

func (n *node) names() []string {
	names := make([]string, 0, len(n.children))
	for name := range n.children {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// parts cuts a guest's path; what would climb out of the root stays there.
func parts(p string) []string {
	p = strings.Trim(path.Clean("/"+p), "/")
	if p == "" {
		return nil
	}
	return strings.Split(p, "/")
}

func (f *FS) find(p []string) (*node, experimentalsys.Errno) {
	n := f.root
	for _, part := range p {
		if n.children == nil {
			return nil, experimentalsys.ENOTDIR
		}
		next, ok := n.children[part]
		if !ok {
			return nil, experimentalsys.ENOENT
		}
		n = next
	}
	return n, 0
}

// parent finds the folder in which the last part of p lies or would lie.
func (f *FS) parent(p string) (*node, string, experimentalsys.Errno) {
	all := parts(p)
	if len(all) == 0 {
		return nil, "", experimentalsys.EINVAL
	}
	dir, errno := f.find(all[:len(all)-1])
	if errno != 0 {
		return nil, "", errno
	}
	if dir.children == nil {
		return nil, "", experimentalsys.ENOTDIR
	}
	name := all[len(all)-1]
	if len(all) > maxDepth || len(name) > maxNameSize {
		return nil, "", experimentalsys.ENAMETOOLONG
	}
	return dir, name, 0
}

// add makes an entry, charging the quota.
func (f *FS) add(dir *node, name string, folder bool) (*node, experimentalsys.Errno) {
	if f.readOnly {
		return nil, experimentalsys.EROFS
	}
	if f.entries == 0 {
		return nil, experimentalsys.EIO
	}
	f.entries--
	n := f.newNode(folder)
	dir.children[name] = n
	return n, 0
}

// OpenFile implements experimentalsys.FS.
func (f *FS) OpenFile(p string, flag experimentalsys.Oflag, _ fs.FileMode) (experimentalsys.File, experimentalsys.Errno) {
	n, errno := f.find(parts(p))
	switch {
	case errno == experimentalsys.ENOENT && flag&experimentalsys.O_CREAT != 0:
		dir, name, errno := f.parent(p)
		if errno != 0 {
			return nil, errno
		}
		if n, errno = f.add(dir, name, false); errno != 0 {
			return nil, errno
		}
	case errno != 0:
		return nil, errno
	case flag&experimentalsys.O_CREAT != 0 && flag&experimentalsys.O_EXCL != 0:
		return nil, experimentalsys.EEXIST
	}
	return f.open(n, flag)
}

func (f *FS) open(n *node, flag experimentalsys.Oflag) (experimentalsys.File, experimentalsys.Errno) {
	write := flag&(experimentalsys.O_RDWR|experimentalsys.O_WRONLY) != 0
	if n.children != nil {
		if write {
			return nil, experimentalsys.EISDIR
		}
		return &folder{fs: f, n: n}, 0
	}
	if flag&experimentalsys.O_DIRECTORY != 0 {
		return nil, experimentalsys.ENOTDIR
	}
	if write && f.readOnly {
		return nil, experimentalsys.EROFS
	}
	n.opens++
	o := &file{fs: f, n: n,
		read:   flag&experimentalsys.O_WRONLY == 0,
		write:  write,
		append: flag&experimentalsys.O_APPEND != 0,
	}
	if write && flag&experimentalsys.O_TRUNC != 0 {
		return o, o.Truncate(0)
	}
	return o, 0
}

// Stat implements experimentalsys.FS.
func (f *FS) Stat(p string) (sys.Stat_t, experimentalsys.Errno) {
	n, errno := f.find(parts(p))
	if errno != 0 {
		return sys.Stat_t{}, errno
	}
	return n.stat(), 0
}

// Lstat implements experimentalsys.FS; there are no links.
func (f *FS) Lstat(p string) (sys.Stat_t, experimentalsys.Errno) { return f.Stat(p) }

func (n *node) stat() sys.Stat_t {
	mode := fs.FileMode(0o600)
	if n.children != nil {
		mode = fs.ModeDir | 0o700
	}
	return sys.Stat_t{Ino: n.ino, Mode: mode, Nlink: 1, Size: n.size}
}

// Mkdir implements experimentalsys.FS.
func (f *FS) Mkdir(p string, _ fs.FileMode) experimentalsys.Errno {
	dir, name, errno := f.parent(p)
	if errno != 0 {
		return errno
	}
	if dir.children[name] != nil {
		return experimentalsys.EEXIST
	}
	_, errno = f.add(dir, name, true)
	return errno
}

// Rename implements experimentalsys.FS. A folder keeps its place: only files
// are renamed, over files if need be.
func (f *FS) Rename(from, to string) experimentalsys.Errno {
	if f.readOnly {
		return experimentalsys.EROFS
	}
	fromDir, fromName, errno := f.parent(from)
	if errno != 0 {
		return errno
	}
	toDir, toName, errno := f.parent(to)
	if errno != 0 {
		return errno
	}
	n := fromDir.children[fromName]
	switch {
	case n == nil:
		return experimentalsys.ENOENT
	case n.children != nil:
		return experimentalsys.ENOTSUP
	}
	if old := toDir.children[toName]; old == n {
		return 0
	} else if old != nil {
		if old.children != nil {
			return experimentalsys.EISDIR
		}
		f.drop(old)
	}
	delete(fromDir.children, fromName)
	toDir.children[toName] = n
	return 0
}

// Unlink implements experimentalsys.FS.
func (f *FS) Unlink(p string) experimentalsys.Errno { return f.remove(p, false) }

// Rmdir implements experimentalsys.FS.
func (f *FS) Rmdir(p string) experimentalsys.Errno { return f.remove(p, true) }

func (f *FS) remove(p string, folder bool) experimentalsys.Errno {
	if f.readOnly {
		return experimentalsys.EROFS
	}
	dir, name, errno := f.parent(p)
	if errno != 0 {
		return errno
	}
	n := dir.children[name]
	switch {
	case n == nil:
		return experimentalsys.ENOENT
	case folder && n.children == nil:
		return experimentalsys.ENOTDIR
	case !folder && n.children != nil:
		return experimentalsys.EISDIR
	case len(n.children) > 0:
		return experimentalsys.ENOTEMPTY
	}
	delete(dir.children, name)
	f.drop(n)
	return 0
}

// drop gives back the quota of an entry that no name leads to any more.
func (f *FS) drop(n *node) {
	f.entries++
	n.gone = true
	f.release(n)
}

// release gives back the bytes of a nameless file once nobody has it open.
func (f *FS) release(n *node) {
	if n.gone && n.opens == 0 && n.children == nil {
		f.bytes += n.size
		n.size = 0
		clear(n.chunks)
	}
}

// Chmod implements experimentalsys.FS: modes are not kept.
func (f *FS) Chmod(p string, _ fs.FileMode) experimentalsys.Errno { return f.touch(p) }

// Utimens implements experimentalsys.FS: times are not kept.
func (f *FS) Utimens(p string, _, _ int64) experimentalsys.Errno { return f.touch(p) }

func (f *FS) touch(p string) experimentalsys.Errno {
	if f.readOnly {
		return experimentalsys.EROFS
	}
	_, errno := f.find(parts(p))
	return errno
}

// nodeReader reads a file whatever it is made of.
type nodeReader struct{ n *node }

// ReadAt implements io.ReaderAt; holes read as zeros.
func (r nodeReader) ReadAt(p []byte, off int64) (int, error) {
	if off >= r.n.size {
		return 0, io.EOF
	}
	short := int64(len(p)) > r.n.size-off
	if short {
		p = p[:r.n.size-off]
	}
	if r.n.source != nil {
		return r.n.source.ReadAt(p, off)
	}
	done := 0
	for done < len(p) {
		i, at := (off+int64(done))/chunkSize, int((off+int64(done))%chunkSize)
		n := min(len(p)-done, chunkSize-at)
		if c := r.n.chunks[i]; c != nil {
			copy(p[done:done+n], c[at:])
		} else {
			clear(p[done : done+n])
		}
		done += n
	}
	if short {
		return done, io.EOF
	}
	return done, nil
}

// WriteAt stores p, making chunks as needed; the caller has charged the quota.
func (n *node) writeAt(p []byte, off int64) {
	for len(p) > 0 {
		i, at := off/chunkSize, int(off%chunkSize)
		c := n.chunks[i]
		if c == nil {
			c = make([]byte, chunkSize)
			n.chunks[i] = c
		}
		done := copy(c[at:], p)
		p, off = p[done:], off+int64(done)
	}
}

// zeroFrom forgets what lies at and beyond size.
func (n *node) zeroFrom(size int64) {
	for i, c := range n.chunks {
		switch start := i * chunkSize; {
		case start >= size:
			delete(n.chunks, i)
		case start+chunkSize > size:
			clear(c[size-start:])
		}
	}
}
