package share

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// errNotHere stands for every path that is not served: absent, hidden, not a
// regular file, or leading out of the share.
var errNotHere = errors.New("not found")

// fileKey tells two states of a file apart.
type fileKey struct {
	dev, ino uint64
	size     int64
	mtime    int64 // nanoseconds since 1970
}

func keyOf(fi fs.FileInfo) fileKey {
	k := fileKey{size: fi.Size(), mtime: fi.ModTime().UnixNano()}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		k.dev, k.ino = uint64(st.Dev), uint64(st.Ino)
	}
	return k
}

// etag is a strong validator: it changes with size, time or inode.
func (k fileKey) etag() string {
	return fmt.Sprintf(`"%x-%x-%x"`, k.size, uint64(k.mtime), k.ino)
}

// settled says that a later change will show in the time of change, which
// FAT keeps in steps of 2 s.
func (k fileKey) settled() bool {
	age := time.Since(time.Unix(0, k.mtime))
	return age > 3*time.Second || age < -3*time.Second
}

// openFile opens a regular file below root for reading. It never blocks: what
// is not a regular file is refused before and after opening, and a FIFO put in
// place between does not wait for a writer.
func openFile(root *os.Root, name string) (*os.File, fileKey, error) {
	fi, err := root.Stat(name)
	if err != nil {
		return nil, fileKey{}, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fileKey{}, errNotHere
	}
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, fileKey{}, err
	}
	fi, err = f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = errNotHere
	}
	if err != nil {
		f.Close()
		return nil, fileKey{}, err
	}
	return f, keyOf(fi), nil
}

// unchanged says whether the open file is still in the state of key.
func unchanged(f *os.File, key fileKey) bool {
	fi, err := f.Stat()
	return err == nil && keyOf(fi) == key
}
