package compute

import (
	"bytes"
	"container/list"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// ErrUnknownModule means that a module is not, or no longer, stored.
var ErrUnknownModule = errors.New("module is not stored here")

var (
	errWrongHash = errors.New("module does not have the hash it was sent under")
	errTooLarge  = errors.New("module is too large")
)

// moduleStore keeps modules as files named by their hash, the least recently
// used giving way when the sum of sizes exceeds the bound.
type moduleStore struct {
	dir   string
	limit int64

	mu      sync.Mutex
	order   *list.List // of *storedModule, most recently used first
	byHash  map[string]*list.Element
	balance int64
}

type storedModule struct {
	hash string
	size int64
}

// openModules takes over what an earlier run has left in the folder and
// removes what it does not know.
func openModules(dir string, limit int64) (*moduleStore, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("module folder: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("module folder: %w", err)
	}
	s := &moduleStore{dir: dir, limit: limit, order: list.New(), byHash: map[string]*list.Element{}}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue
		}
		if strings.HasSuffix(e.Name(), ".part") {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		} else if checkHash(e.Name()) == nil && info.Mode().IsRegular() {
			s.insert(e.Name(), info.Size())
		}
	}
	return s, nil
}

func (s *moduleStore) path(hash string) string { return filepath.Join(s.dir, hash) }

func (s *moduleStore) has(hash string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.byHash[hash]
	if ok {
		s.order.MoveToFront(e)
	}
	return ok
}

// get reads a module and verifies it again: the disk may have lost bytes.
func (s *moduleStore) get(hash string) ([]byte, error) {
	if !s.has(hash) {
		return nil, ErrUnknownModule
	}
	b, err := os.ReadFile(s.path(hash))
	if err == nil && ModuleHash(b) == hash {
		return b, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.byHash[hash]; ok {
		s.drop(e)
	}
	return nil, ErrUnknownModule
}

// put reads a module of at most MaxModule bytes, verifies and stores it.
func (s *moduleStore) put(hash string, r io.Reader) error {
	b, err := io.ReadAll(io.LimitReader(r, MaxModule+1))
	switch {
	case err != nil:
		return fmt.Errorf("read module: %w", err)
	case len(b) > MaxModule || int64(len(b)) > s.limit:
		return errTooLarge
	case ModuleHash(b) != hash:
		return errWrongHash
	}
	f, err := os.CreateTemp(s.dir, "*.part")
	if err != nil {
		return fmt.Errorf("store module: %w", err)
	}
	_, err = io.Copy(f, bytes.NewReader(b))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), s.path(hash))
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("store module: %w", err)
	}
	s.insert(hash, int64(len(b)))
	return nil
}

func (s *moduleStore) insert(hash string, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.byHash[hash]; ok {
		s.order.MoveToFront(e)
		return
	}
	s.byHash[hash] = s.order.PushFront(&storedModule{hash, size})
	s.balance += size
	for s.balance > s.limit && s.order.Len() > 0 {
		s.drop(s.order.Back())
	}
}

// drop forgets a module; the lock is held.
func (s *moduleStore) drop(e *list.Element) {
	m := s.order.Remove(e).(*storedModule)
	delete(s.byHash, m.hash)
	s.balance -= m.size
	_ = os.Remove(s.path(m.hash))
}
