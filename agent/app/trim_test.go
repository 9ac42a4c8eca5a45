package app

import (
	"os"
	"slices"
	"testing"
)

func TestMemoryGoesBackOnceAfterEachBurst(t *testing.T) {
	var tr trimmer
	for i, look := range []struct {
		allocated uint64
		want      bool
	}{
		{1 << 20, false},              // the start
		{1<<20 + 1000, false},         // a lull, and little to give back
		{20 << 20, false},             // a burst
		{40 << 20, false},             // goes on
		{40<<20 + 1000, true},         // is over
		{40<<20 + 2000, false},        // once is enough
		{40<<20 + trimWorth/2, false}, // less than it is worth
		{40<<20 + 2*trimWorth, false}, // another burst
		{40<<20 + 2*trimWorth, true},  // is over
	} {
		if got := tr.due(look.allocated); got != look.want {
			t.Errorf("look %d at %d bytes: %t", i, look.allocated, got)
		}
	}
}

func TestCodeAndConstantsOfTheProgramAreFound(t *testing.T) {
	const maps = `00400000-00b90000 r-xp 00000000 fe:00 123    /usr/bin/porchlight
00b90000-01370000 r--p 00790000 fe:00 123    /usr/bin/porchlight
01370000-013e0000 rw-p 00f70000 fe:00 123    /usr/bin/porchlight
013e0000-01420000 rw-p 00000000 00:00 0
7f0000000000-7f0000001000 r--p 00000000 fe:00 9    /usr/bin/porchlight.old
zzz-01370000 r--p 00790000 fe:00 123    /usr/bin/porchlight
01370000-00b90000 r--p 00790000 fe:00 123    /usr/bin/porchlight
7ffd0000-7ffe0000 r-xp`
	want := []mapping{{0x400000, 0xb90000}, {0xb90000, 0x1370000}}
	if got := readOnly(maps, "/usr/bin/porchlight"); !slices.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
	unmapIdle() // and the test goes on
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	if len(readOnly(string(text), program)) == 0 {
		t.Errorf("the program is not found in\n%s", text)
	}
}
