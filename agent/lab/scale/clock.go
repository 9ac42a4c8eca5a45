package scale

import (
	"container/heap"
	"time"
)

// event is something that happens at an instant. Events of one instant happen
// in the order in which they were planned.
type event struct {
	at  time.Duration // since the start of the simulation
	seq uint64
	do  func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	old[len(old)-1] = event{}
	*e = old[:len(old)-1]
	return x
}

// clock is the time of the simulation, and what is planned.
type clock struct {
	now     time.Duration
	planned events
	seq     uint64
	steps   uint64
}

// at plans something; what is in the past happens now.
func (c *clock) at(when time.Duration, do func()) {
	c.seq++
	heap.Push(&c.planned, event{max(when, c.now), c.seq, do})
}

// after plans something for when a time has passed.
func (c *clock) after(d time.Duration, do func()) { c.at(c.now+d, do) }

// run lets time pass until an instant.
func (c *clock) run(until time.Duration) {
	for len(c.planned) > 0 && c.planned[0].at <= until {
		e := heap.Pop(&c.planned).(event)
		c.now = e.at
		c.steps++
		e.do()
	}
	c.now = until
}
