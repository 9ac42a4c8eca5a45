package fetch

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// checkDestination refuses early what could not be published at the end.
func checkDestination(dst string, overwrite bool) error {
	fi, err := os.Lstat(dst)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return diskError("look at destination", err)
	case fi.IsDir():
		return fmt.Errorf("%s is a folder, name a file in it: %w", dst, ErrExists)
	case !overwrite:
		return fmt.Errorf("%s %w", dst, ErrExists)
	}
	return nil
}

// openPart opens the partial file, alone, cut to at most size bytes, and
// returns how many it has.
func openPart(name string, size int64) (*os.File, int64, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o644)
	if err != nil {
		return nil, 0, diskError("open partial file", err)
	}
	have, err := claimPart(f, size)
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, have, nil
}

func claimPart(f *os.File, size int64) (int64, error) {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return 0, fmt.Errorf("%s: %w", f.Name(), ErrBusy)
	}
	fi, err := f.Stat()
	if err != nil {
		return 0, diskError("look at partial file", err)
	}
	// Between opening and locking, another Get may have finished with the file
	// and given it its final name.
	if now, err := os.Lstat(f.Name()); err != nil || !os.SameFile(now, fi) {
		return 0, fmt.Errorf("%s: %w", f.Name(), ErrBusy)
	}
	if !fi.Mode().IsRegular() {
		return 0, fmt.Errorf("%s is not a regular file; remove it: %w", f.Name(), ErrExists)
	}
	if fi.Size() > size {
		if err := f.Truncate(size); err != nil {
			return 0, diskError("cut partial file", err)
		}
	}
	return min(fi.Size(), size), nil
}

// publish makes the file durable and gives it its name.
func publish(part *os.File, dst string, overwrite bool) error {
	if err := part.Sync(); err != nil {
		return diskError("sync file", err)
	}
	if err := rename(part.Name(), dst, overwrite); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(dst))
	if err != nil {
		return diskError("open folder", err)
	}
	defer dir.Close()
	// Some file systems cannot sync a folder; they say EINVAL.
	if err := dir.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return diskError("sync folder", err)
	}
	return nil
}

func rename(from, to string, overwrite bool) error {
	if !overwrite {
		err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EEXIST):
			return fmt.Errorf("%s %w", to, ErrExists)
		}
		// Old kernels and some file systems do not know the flag.
		if err := checkDestination(to, false); err != nil {
			return err
		}
	}
	if err := os.Rename(from, to); err != nil {
		return diskError("rename file", err)
	}
	return nil
}

// diskError says what failed on this device's disk.
func diskError(doing string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%s: %w: %w", doing, err, ErrDiskFull)
	}
	if errors.Is(err, syscall.EFBIG) {
		return fmt.Errorf("%s: %w: larger than this disk's file system allows; choose another disk", doing, err)
	}
	if errors.Is(err, syscall.EIO) || errors.Is(err, syscall.ENODEV) {
		return fmt.Errorf("%s: %w: the disk does not answer; plug it in again and run the same command again", doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
