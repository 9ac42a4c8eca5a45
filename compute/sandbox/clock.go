package sandbox

import "time"

// clock is the guest's time: it begins at the same moment for every task,
// moves a millisecond with each reading, and jumps over sleeps. So a guest
// learns nothing of real time, waits for nothing, and sees the same on every
// donor.
type clock struct{ elapsed time.Duration }

// clockStart is what the wall clock says at the beginning of a task.
var clockStart = time.Date(2022, 1, 1, 0, 0, 0, 0, time.UTC)

// clockStep is how far time moves with a reading; it is the resolution, too.
const clockStep = time.Millisecond

// monotonic returns nanoseconds since the beginning.
func (c *clock) monotonic() int64 {
	c.elapsed += clockStep
	return int64(c.elapsed)
}

// wall returns seconds and nanoseconds since 1970.
func (c *clock) wall() (int64, int32) {
	c.elapsed += clockStep
	t := clockStart.Add(c.elapsed)
	return t.Unix(), int32(t.Nanosecond())
}

// maxSleep keeps the sum of all sleeps far from overflow, in nanoseconds.
const maxSleep = 1 << 61

// sleep takes no time.
func (c *clock) sleep(ns int64) {
	if c.elapsed < maxSleep {
		c.elapsed += time.Duration(min(max(ns, 0), maxSleep))
	}
}
