package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
)

// MaxFile is the size of the largest file that is read or written, in bytes.
const MaxFile = 1 << 20

// ErrInUse says that another agent runs on the folder.
var ErrInUse = errors.New("another agent is running on this state folder; stop it, or choose another with --state")

// Folder is an open, locked state folder.
type Folder struct {
	path    string
	lock    *os.File
	mu      sync.Mutex
	written atomic.Int64
}

// Open makes the folder if need be (0700) and locks it.
func Open(path string) (*Folder, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make the state folder: %w", err)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find the state folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the state folder: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("%s: %w", path, ErrInUse)
	}
	return &Folder{path: path, lock: lock}, nil
}

// Path returns the absolute path of name in the folder.
func (f *Folder) Path(name string) string { return filepath.Join(f.path, name) }

// Written returns how many bytes were written since the folder was opened.
func (f *Folder) Written() int64 { return f.written.Load() }

// Close unlocks the folder.
func (f *Folder) Close() error { return f.lock.Close() }

// ReadFile returns a file's content; fs.ErrNotExist if there is none.
func (f *Folder) ReadFile(name string) ([]byte, error) {
	file, err := os.Open(f.Path(name))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, MaxFile+1))
	if err == nil && len(b) > MaxFile {
		err = fmt.Errorf("%s is larger than %d bytes: it is not ours", name, MaxFile)
	}
	return b, err
}

// WriteFile replaces a file durably. It writes nothing if the content is the
// same already.
func (f *Folder) WriteFile(name string, data []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(data) > MaxFile {
		return fmt.Errorf("write %s: more than %d bytes", name, MaxFile)
	}
	if old, err := f.ReadFile(name); err == nil && bytes.Equal(old, data) {
		return nil
	}
	if err := f.replace(name, data); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	f.written.Add(int64(len(data)))
	return nil
}

func (f *Folder) replace(name string, data []byte) error {
	temporary := f.Path(name + ".new")
	file, err := os.OpenFile(temporary, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	err = errors.Join(err, file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(temporary, f.Path(name))
	}
	if err != nil {
		os.Remove(temporary)
		return err
	}
	return syncFolder(f.path)
}

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// ReadJSON reads a file into v. A missing file leaves v as it is.
func (f *Folder) ReadJSON(name string, v any) error {
	b, err := f.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s is damaged: %w; restore it, or move it away to start afresh", f.Path(name), err)
	}
	return nil
}

// WriteJSON replaces a file with v, indented for people.
func (f *Folder) WriteJSON(name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return f.WriteFile(name, append(b, '\n'))
}
