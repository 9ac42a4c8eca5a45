package memfs

import (
	"errors"
	"io"
	"io/fs"
	"math"

	experimentalsys "github.com/tetratelabs/wazero/experimental/sys"
	"github.com/tetratelabs/wazero/sys"
)

// position is an offset in a file; the alias keeps vet from comparing Seek,
// whose errors are WASI's, with io.Seeker.
type position = int64

// file is an open file with its own offset.
type file struct {
	experimentalsys.UnimplementedFile
	fs                  *FS
	n                   *node
	off                 int64
	read, write, append bool
	closed              bool
}

func (o *file) Ino() (sys.Inode, experimentalsys.Errno) { return o.n.ino, 0 }
func (o *file) IsDir() (bool, experimentalsys.Errno)    { return false, 0 }
func (o *file) IsAppend() bool                          { return o.append }
func (o *file) Stat() (sys.Stat_t, experimentalsys.Errno) {
	return o.n.stat(), 0
}

func (o *file) SetAppend(enable bool) experimentalsys.Errno {
	o.append = enable
	return 0
}

func (o *file) Read(p []byte) (int, experimentalsys.Errno) {
	n, errno := o.Pread(p, o.off)
	o.off += int64(n)
	return n, errno
}

func (o *file) Pread(p []byte, off int64) (int, experimentalsys.Errno) {
	if !o.read {
		return 0, experimentalsys.EBADF
	}
	if off < 0 {
		return 0, experimentalsys.EINVAL
	}
	n, err := nodeReader{o.n}.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, experimentalsys.EIO
	}
	return n, 0
}

func (o *file) Seek(offset position, whence int) (int64, experimentalsys.Errno) {
	base := int64(0)
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		base = o.off
	case io.SeekEnd:
		base = o.n.size
	default:
		return 0, experimentalsys.EINVAL
	}
	if offset > math.MaxInt64-base || base+offset < 0 {
		return 0, experimentalsys.EINVAL
	}
	o.off = base + offset
	return o.off, 0
}

func (o *file) Write(p []byte) (int, experimentalsys.Errno) {
	if o.append {
		o.off = o.n.size
	}
	n, errno := o.Pwrite(p, o.off)
	o.off += int64(n)
	return n, errno
}

func (o *file) Pwrite(p []byte, off int64) (int, experimentalsys.Errno) {
	if !o.write {
		return 0, experimentalsys.EBADF
	}
	if off < 0 || off > math.MaxInt64-int64(len(p)) {
		return 0, experimentalsys.EINVAL
	}
	if errno := o.grow(off + int64(len(p))); errno != 0 {
		return 0, errno
	}
	o.n.writeAt(p, off)
	return len(p), 0
}

// grow makes the file at least size long, charging the quota.
func (o *file) grow(size int64) experimentalsys.Errno {
	if more := size - o.n.size; more > 0 {
		if more > o.fs.bytes {
			return experimentalsys.EIO
		}
		o.fs.bytes -= more
		o.n.size = size
	}
	return 0
}

func (o *file) Truncate(size int64) experimentalsys.Errno {
	if !o.write {
		return experimentalsys.EBADF
	}
	if size < 0 {
		return experimentalsys.EINVAL
	}
	if size < o.n.size {
		o.n.zeroFrom(size)
		o.fs.bytes += o.n.size - size
		o.n.size = size
		return 0
	}
	return o.grow(size)
}

func (o *file) Sync() experimentalsys.Errno              { return 0 }
func (o *file) Datasync() experimentalsys.Errno          { return 0 }
func (o *file) Utimens(_, _ int64) experimentalsys.Errno { return 0 }

func (o *file) Close() experimentalsys.Errno {
	if !o.closed {
		o.closed = true
		o.n.opens--
		o.fs.release(o.n)
	}
	return 0
}

// folder is an open folder: a place in its sorted list of names.
type folder struct {
	experimentalsys.UnimplementedFile
	experimentalsys.DirFile
	fs    *FS
	n     *node
	names []string
	next  int
}

func (d *folder) Ino() (sys.Inode, experimentalsys.Errno) { return d.n.ino, 0 }
func (d *folder) IsDir() (bool, experimentalsys.Errno)    { return true, 0 }
func (d *folder) IsAppend() bool                          { return false }
func (d *folder) SetAppend(bool) experimentalsys.Errno    { return experimentalsys.EISDIR }
func (d *folder) Stat() (sys.Stat_t, experimentalsys.Errno) {
	return d.n.stat(), 0
}

func (d *folder) Read([]byte) (int, experimentalsys.Errno) { return 0, experimentalsys.EISDIR }
func (d *folder) Pread([]byte, int64) (int, experimentalsys.Errno) {
	return 0, experimentalsys.EISDIR
}
func (d *folder) Write([]byte) (int, experimentalsys.Errno) { return 0, experimentalsys.EISDIR }
func (d *folder) Pwrite([]byte, int64) (int, experimentalsys.Errno) {
	return 0, experimentalsys.EISDIR
}
func (d *folder) Truncate(int64) experimentalsys.Errno { return experimentalsys.EISDIR }

// Seek rewinds; nothing else is defined for folders.
func (d *folder) Seek(offset position, whence int) (int64, experimentalsys.Errno) {
	if offset != 0 || whence != io.SeekStart {
		return 0, experimentalsys.EINVAL
	}
	d.names, d.next = nil, 0
	return 0, 0
}

func (d *folder) Readdir(n int) ([]experimentalsys.Dirent, experimentalsys.Errno) {
	if d.names == nil {
		d.names = d.n.names()
	}
	left := d.names[d.next:]
	if n > 0 && n < len(left) {
		left = left[:n]
	}
	d.next += len(left)
	var out []experimentalsys.Dirent
	for _, name := range left {
		c := d.n.children[name]
		if c == nil {
			continue // removed since the list was taken
		}
		e := experimentalsys.Dirent{Ino: c.ino, Name: name}
		if c.children != nil {
			e.Type = fs.ModeDir
		}
		out = append(out, e)
	}
	return out, 0
}

func (d *folder) Sync() experimentalsys.Errno              { return 0 }
func (d *folder) Datasync() experimentalsys.Errno          { return 0 }
func (d *folder) Utimens(_, _ int64) experimentalsys.Errno { return 0 }
func (d *folder) Close() experimentalsys.Errno             { return 0 }
