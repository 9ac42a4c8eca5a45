package app

import (
	"io"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.uber.org/fx"
)

const (
	// trimEvery is how often a lull is looked for.
	trimEvery = 4 * time.Second
	// trimLull is how few bytes are allocated between two looks in a lull, and
	// trimWorth how many since the last trim make another one worth its time.
	trimLull  = 512 << 10
	trimWorth = 2 << 20
	// unmapAgain is after how many looks in a row without a burst the program's
	// pages are let go again: in twelve seconds of little work many are touched once,
	// and the next twelve touch others.
	unmapAgain = 3
	// maxMaps is how much of /proc/self/maps is read, in bytes.
	maxMaps = 64 << 10
)

// trimmer decides when memory goes back to the system. The collector alone
// would keep what a burst needed for two minutes, which on a router is memory
// that somebody else lacks.
type trimmer struct{ last, trimmed uint64 }

// due takes the bytes allocated so far and reports whether a burst is over.
func (t *trimmer) due(allocated uint64) bool {
	quiet := allocated-t.last < trimLull
	t.last = allocated
	if !quiet || allocated-t.trimmed < trimWorth {
		return false
	}
	t.trimmed = allocated
	return true
}

// mapping is a range of addresses.
type mapping struct{ from, to uintptr }

// readOnly finds in the text of /proc/self/maps (proc(5)) where the program's
// own file is mapped without being written to: its code and constants.
func readOnly(maps, program string) (found []mapping) {
	for line := range strings.Lines(maps) {
		fields := strings.Fields(line)
		if len(fields) < 6 || strings.Join(fields[5:], " ") != program || fields[1] != "r--p" && fields[1] != "r-xp" {
			continue
		}
		first, second, _ := strings.Cut(fields[0], "-")
		from, errFrom := strconv.ParseUint(first, 16, strconv.IntSize)
		to, errTo := strconv.ParseUint(second, 16, strconv.IntSize)
		if errFrom == nil && errTo == nil && from < to {
			found = append(found, mapping{uintptr(from), uintptr(to)})
		}
	}
	return found
}

// unmapIdle lets go of the program's pages: those that starting and the burst
// needed, two thirds of what is resident, stay in the system's cache as long as
// it has room, and what is still needed comes back from there at a touch.
func unmapIdle() {
	program, err := os.Executable()
	if err != nil {
		return
	}
	file, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxMaps))
	if err != nil {
		return
	}
	for _, m := range readOnly(string(text), program) {
		// Refused where the system knows no such advice, and then nothing is lost.
		_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, m.from, m.to-m.from, syscall.MADV_DONTNEED)
	}
}

// startTrim gives memory back after each burst.
func startTrim(lc fx.Lifecycle) {
	stop, done := make(chan struct{}), make(chan struct{})
	lc.Append(fx.StartStopHook(func() {
		go func() {
			defer close(done)
			var t trimmer
			looks := 0
			tick := time.NewTicker(trimEvery)
			defer tick.Stop()
			sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
			for {
				select {
				case <-tick.C:
				case <-stop:
					return
				}
				metrics.Read(sample)
				burst := t.due(sample[0].Value.Uint64())
				if looks++; burst {
					debug.FreeOSMemory()
				}
				if burst || looks >= unmapAgain {
					unmapIdle()
					looks = 0
				}
			}
		}()
	}, func() {
		close(stop)
		<-done
	}))
}
