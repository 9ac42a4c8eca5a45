package mail

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// File is one log as the file system gives it; *os.File is one. Reads begin at
// the start, writes go to the end.
type File interface {
	io.Reader
	io.Writer
	Truncate(size int64) error
	Sync() error
	Close() error
}

// FS is the folder of the logs. Open makes a file that is not there; Sync makes
// names durable.
type FS interface {
	Open(name string) (File, error)
	Rename(from, to string) error
	Sync() error
}

// Dir is a folder of the operating system.
type Dir string

// Open opens a file for reading and appending, readable by its owner alone.
func (d Dir) Open(name string) (File, error) {
	return os.OpenFile(filepath.Join(string(d), name), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
}

// Rename puts one file in the place of another.
func (d Dir) Rename(from, to string) error {
	return os.Rename(filepath.Join(string(d), from), filepath.Join(string(d), to))
}

// Sync makes new and changed names durable.
func (d Dir) Sync() error {
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
