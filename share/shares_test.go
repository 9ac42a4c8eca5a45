package share

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// memStore is a Store in memory whose Save can be made to fail.
type memStore struct {
	list []Share
	fail error
}

func (m *memStore) Load() ([]Share, error) { return slices.Clone(m.list), m.fail }
func (m *memStore) Save(l []Share) error {
	if m.fail == nil {
		m.list = slices.Clone(l)
	}
	return m.fail
}

func TestShareNamesAreChecked(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		name string
		ok   bool
	}{
		{"Music", true}, {"a b", true}, {"été", true}, {"a:b", true},
		{strings.Repeat("a", MaxShareName-1), true}, {strings.Repeat("a", MaxShareName), true},
		{strings.Repeat("a", MaxShareName+1), false},
		{".hidden", false}, {"..", false}, {"a/b", false}, {`a\b`, false}, {" a", false}, {"a ", false},
		{"a\x00", false}, {"a\n", false}, {"\xff", false},
	} {
		s, err := Open(&memStore{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Add(dir, c.name, nil, nil)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrName) {
			t.Errorf("%q: %v", c.name, err)
		}
	}
}

func TestAddResolvesTheFolderAndTakesItsName(t *testing.T) {
	dir := t.TempDir()
	real := filepath.Join(dir, "Films")
	link := filepath.Join(dir, "link")
	if err := errors.Join(os.Mkdir(real, 0o755), os.Symlink(real, link)); err != nil {
		t.Fatal(err)
	}
	s, _ := Open(&memStore{}, nil)
	sh, err := s.Add(link, "", []string{"friends"}, nil)
	if err != nil || sh.Name != "Films" || sh.Dir != real {
		t.Fatalf("%+v, %v", sh, err)
	}
	if _, err := s.Add(link, "films", nil, nil); !errors.Is(err, ErrExists) {
		t.Errorf("name that differs in case: %v", err)
	}
	if _, err := s.Add(filepath.Join(dir, "absent"), "x", nil, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent folder: %v", err)
	}
}

func TestKeepRefusesTheStateFolder(t *testing.T) {
	dir := t.TempDir()
	state := filepath.Join(dir, "a", "state")
	for _, d := range []string{filepath.Join(state, "in"), filepath.Join(dir, "a", "statement")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(state, filepath.Join(dir, "a", "alias")); err != nil {
		t.Fatal(err)
	}
	s, _ := Open(&memStore{}, Keep(state))
	for d, ok := range map[string]bool{
		"/": false, state: false, filepath.Dir(state): false, state + "/in": false,
		filepath.Join(dir, "a", "alias"): false, filepath.Join(dir, "a", "statement"): true,
	} {
		_, err := s.Add(d, fmt.Sprint("n", len(d)), nil, nil)
		if (err == nil) != ok || err != nil && !errors.Is(err, ErrDir) {
			t.Errorf("%s: %v", d, err)
		}
	}
}

func TestShareLimits(t *testing.T) {
	dir := t.TempDir()
	s, _ := Open(&memStore{}, nil)
	who := make([]string, MaxWho+1)
	if _, err := s.Add(dir, "w", who, nil); !errors.Is(err, ErrTooMany) {
		t.Errorf("%d readers: %v", len(who), err)
	}
	for i := range MaxShares + 1 {
		_, err := s.Add(dir, fmt.Sprint("s", i), who[1:], nil)
		if (err == nil) != (i < MaxShares) {
			t.Fatalf("share %d: %v", i, err)
		}
	}
}

func TestOpenRefusesAStoreThatLies(t *testing.T) {
	for _, list := range [][]Share{
		{{Name: "../x", Dir: "/tmp"}}, {{Name: "a", Dir: "relative"}}, {{Name: "a", Dir: "/a"}, {Name: "A", Dir: "/b"}},
	} {
		if _, err := Open(&memStore{list: list}, nil); err == nil {
			t.Errorf("%+v was accepted", list)
		}
	}
}

// TestSharesFollowAModel applies random operations, some with a failing
// store, to Shares and to a map, and reopens now and then.
func TestSharesFollowAModel(t *testing.T) {
	dir := t.TempDir()
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		store, model := &memStore{}, map[string]Share{}
		s, _ := Open(store, nil)
		for step := range 100 {
			name := fmt.Sprint("n", rnd.IntN(6))
			if store.fail = nil; rnd.IntN(4) == 0 {
				store.fail = os.ErrClosed
			}
			_, taken := model[name]
			switch rnd.IntN(3) {
			case 0:
				sh, err := s.Add(dir, name, []string{fmt.Sprint(step)}, nil)
				if (err == nil) != (!taken && store.fail == nil) {
					t.Fatalf("seed %d step %d: add: %v", seed, step, err)
				}
				if err == nil {
					model[name] = sh
				}
			case 1:
				err := s.Remove(name)
				if (err == nil) != (taken && store.fail == nil) {
					t.Fatalf("seed %d step %d: remove: %v", seed, step, err)
				}
				if err == nil {
					delete(model, name)
				}
			case 2:
				store.fail = nil
				var err error
				if s, err = Open(store, nil); err != nil {
					t.Fatal(err)
				}
			}
			compareModel(t, s, model)
		}
	}
}

func compareModel(t *testing.T, s *Shares, model map[string]Share) {
	t.Helper()
	list := s.List()
	if len(list) != len(model) {
		t.Fatalf("%d shares, want %d", len(list), len(model))
	}
	for _, sh := range list {
		if !reflect.DeepEqual(sh, model[sh.Name]) {
			t.Fatalf("%+v, want %+v", sh, model[sh.Name])
		}
	}
}
