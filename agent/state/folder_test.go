package state_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"testing"

	"porchlight/agent/state"
)

func open(t *testing.T, dir string) *state.Folder {
	t.Helper()
	f, err := state.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestWriteFileReplacesWholeAndOnlyWhenChanged(t *testing.T) {
	f := open(t, t.TempDir())
	if _, err := f.ReadFile("a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	for range 3 {
		if err := f.WriteFile("a", []byte("hello")); err != nil {
			t.Fatal(err)
		}
	}
	if f.Written() != 5 {
		t.Errorf("wrote %d bytes for three equal writes of 5", f.Written())
	}
	info, err := os.Stat(f.Path("a"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if left, _ := os.ReadDir(f.Path("")); len(left) != 2 {
		t.Errorf("the folder holds %v", left)
	}
}

func TestALeftoverOfAPowerCutIsHarmless(t *testing.T) {
	f := open(t, t.TempDir())
	if err := f.WriteFile("a", []byte("old")); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(f.Path("a.new"), []byte("half of the ne"), 0o600)
	if b, err := f.ReadFile("a"); err != nil || string(b) != "old" {
		t.Errorf("ReadFile = %q, %v", b, err)
	}
	if err := f.WriteFile("a", []byte("new")); err != nil {
		t.Fatal(err)
	}
	if b, _ := f.ReadFile("a"); string(b) != "new" {
		t.Errorf("ReadFile = %q", b)
	}
}

func TestAFailedWriteLosesNothing(t *testing.T) {
	f := open(t, t.TempDir())
	if err := f.WriteFile("a", []byte("old")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(f.Path("a.new"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteFile("a", []byte("new")); err == nil {
		t.Error("write succeeded over a folder")
	}
	if b, _ := f.ReadFile("a"); string(b) != "old" {
		t.Errorf("after a failed write: %q", b)
	}
}

func TestLimits(t *testing.T) {
	f := open(t, t.TempDir())
	if err := f.WriteFile("a", bytes.Repeat([]byte("x"), state.MaxFile)); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	if _, err := f.ReadFile("a"); err != nil {
		t.Errorf("read at the limit: %v", err)
	}
	if err := f.WriteFile("b", make([]byte, state.MaxFile+1)); err == nil {
		t.Error("above the limit: written")
	}
	os.WriteFile(f.Path("c"), make([]byte, state.MaxFile+1), 0o600)
	if _, err := f.ReadFile("c"); err == nil {
		t.Error("above the limit: read")
	}
}

func TestJSONAndDamage(t *testing.T) {
	f := open(t, t.TempDir())
	in, out := map[string]int{"port": 4001}, map[string]int{}
	if err := f.ReadJSON("x.json", &out); err != nil || len(out) != 0 {
		t.Errorf("missing: %v %v", out, err)
	}
	if err := f.WriteJSON("x.json", in); err != nil {
		t.Fatal(err)
	}
	if err := f.ReadJSON("x.json", &out); err != nil || out["port"] != 4001 {
		t.Errorf("ReadJSON = %v, %v", out, err)
	}
	os.WriteFile(f.Path("x.json"), []byte(`{"port":`), 0o600)
	if err := f.ReadJSON("x.json", &out); err == nil {
		t.Error("damage was not noticed")
	}
}

func TestTwoAgentsNeverShareAFolder(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir)
	if _, err := state.Open(dir); !errors.Is(err, state.ErrInUse) {
		t.Errorf("second agent: %v", err)
	}
	first.Close()
	open(t, dir)
}
