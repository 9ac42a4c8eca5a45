package owner_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"porchlight/agent/owner"
)

func TestBackupFile(t *testing.T) {
	o := person(9)
	for _, passphrase := range []string{"", "correct horse"} {
		file := owner.Backup(o, passphrase)
		if owner.Sealed(file) != (passphrase != "") || len(file) > owner.MaxBackup {
			t.Errorf("sealed %t, %d bytes", owner.Sealed(file), len(file))
		}
		if secret := bytes.Contains(file, []byte("CQkJCQkJ")); secret != (passphrase == "") {
			t.Errorf("with passphrase %q the file shows the seed: %t", passphrase, secret)
		}
		for _, form := range [][]byte{file, bytes.ReplaceAll(file, []byte("\n"), []byte("\r\n")), bytes.TrimSpace(file)} {
			if got, err := owner.FromBackup(form, passphrase); err != nil || got.Address() != o.Address() {
				t.Errorf("FromBackup(%q): %v", form, err)
			}
		}
	}
	file := owner.Backup(o, "a")
	if bytes.Equal(file, owner.Backup(o, "a")) {
		t.Error("two files have one salt")
	}
	for _, wrong := range []string{"", "b", "A", "a "} {
		if _, err := owner.FromBackup(file, wrong); !errors.Is(err, owner.ErrPassphrase) {
			t.Errorf("passphrase %q: %v", wrong, err)
		}
	}
}

func TestFromBackupRefuses(t *testing.T) {
	o := person(9)
	plain, sealed := string(owner.Backup(o, "")), string(owner.Backup(o, "a"))
	lines := strings.Split(strings.TrimSpace(sealed), "\n")
	fields := strings.Split(lines[2], " ")
	cost := func(memory, passes any) string {
		return fmt.Sprintf("%s\n%s\nsealed %v %v %s %s\n", lines[0], lines[1], memory, passes, fields[3], fields[4])
	}
	foreign := strings.Split(string(owner.Backup(person(8), "")), "\n")
	tests := map[string]struct{ file, want string }{
		"nothing":              {"", "begin"},
		"another form":         {strings.Replace(plain, "key-1", "key-2", 1), "begin"},
		"a line less":          {strings.Join(lines[:2], "\n"), "three lines"},
		"a line more":          {plain + "x\n", "three lines"},
		"too large":            {plain + strings.Repeat("\n", owner.MaxBackup), "more than"},
		"no owner":             {strings.Replace(plain, "owner ", "device ", 1), "names no owner"},
		"a device":             {strings.Replace(plain, o.Address().String(), device(1).Address().String(), 1), "names no owner"},
		"another owner":        {strings.Replace(plain, o.Address().String(), person(8).Address().String(), 1), "another key"},
		"another seed":         {lines[0] + "\n" + lines[1] + "\n" + foreign[2], "another key"},
		"no third line":        {lines[0] + "\n" + lines[1] + "\nhello", "neither seed nor sealed"},
		"half a seed":          {plain[:len(plain)-10], "damaged"},
		"no base64":            {strings.Replace(plain, "CQkJ", "CQ!J", 1), "damaged"},
		"too much memory":      {cost(owner.MaxSealMemory+1, 1), "of memory"},
		"a terabyte":           {cost(uint64(1)<<40, 1), "of memory"},
		"too little memory":    {cost(7, 1), "of memory"},
		"negative memory":      {cost(-8, 1), "of memory"},
		"too many passes":      {cost(8, owner.MaxSealPasses+1), "passes"},
		"no pass":              {cost(8, 0), "passes"},
		"at the limits":        {cost(owner.MaxSealMemory, 1), owner.ErrPassphrase.Error()},
		"at the limits, again": {cost(8, owner.MaxSealPasses), owner.ErrPassphrase.Error()},
		"a long salt":          {strings.Replace(sealed, fields[3], fields[3]+"AAAA", 1), "damaged"},
		"a short box":          {strings.Replace(sealed, fields[4], fields[4][4:], 1), "damaged"},
		"another's name":       {strings.Replace(sealed, o.Address().String(), person(8).Address().String(), 1), owner.ErrPassphrase.Error()},
	}
	for name, tt := range tests {
		_, err := owner.FromBackup([]byte(tt.file), "a")
		known := errors.Is(err, owner.ErrBackup) || errors.Is(err, owner.ErrPassphrase)
		if !known || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func FuzzBackup(f *testing.F) {
	f.Add(owner.Backup(person(9), ""))
	f.Add([]byte(strings.Replace(string(owner.Backup(person(9), "a")), "sealed 16384 4", "sealed 8 1", 1)))
	f.Add([]byte("porchlight-owner-key-1\nowner x\nsealed 1 1 a b"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 0 && bytes.Contains(b, []byte("sealed ")) && !bytes.Contains(b, []byte("sealed 8 1 ")) {
			return // a costly one; the table has them
		}
		o, err := owner.FromBackup(b, "a")
		if err != nil {
			return
		}
		if again, err := owner.FromBackup(owner.Backup(o, ""), ""); err != nil || again.Address() != o.Address() {
			t.Errorf("%q makes an owner whose backup does not: %v", b, err)
		}
	})
}
