package mail

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/agent/identity"
)

// model is a world in which anything happens at any time, and what everybody
// was promised.
type model struct {
	*world
	r     *rand.Rand
	nodes []*node
	sent  map[[2]int][]string // accepted, by sender and recipient
	tried map[string]bool     // refused by a disk that failed: may come or not
	seen  map[[2]int][]string // what a recipient showed
	count int
}

// Whatever fails and whenever power ends: each accepted message is shown once
// and in order, nothing shown is lost, nothing is delivered that is not there.
func TestModelOfRandomOperationsAndCrashes(t *testing.T) {
	seeds, steps := 6, 500
	if testing.Short() {
		seeds, steps = 1, 150
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				m := &model{world: w, r: rand.New(rand.NewPCG(seed, 4)), sent: map[[2]int][]string{}, tried: map[string]bool{}, seen: map[[2]int][]string{}}
				for i := range byte(4) {
					m.nodes = append(m.nodes, w.add(i+1))
				}
				for _, n := range m.nodes {
					for _, h := range m.nodes {
						if h != n {
							n.helpers = append(n.helpers, h.address())
						}
					}
				}
				w.meddle = m.meddle
				for range steps {
					m.step()
				}
				m.settle()
				m.check()
			})
		})
	}
}

// meddle loses some requests; some answers are lost by the second line: the
// request arrives and nobody learns it.
func (m *model) meddle(from, to identity.Address, r *http.Request, body []byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch m.r.IntN(12) {
	case 0:
		return true
	case 1:
		handler := m.world.nodes[to].handler
		m.mu.Unlock()
		ask(handler, from, r.Method, r.URL.String(), body)
		m.mu.Lock()
		return true
	}
	return false
}

func (m *model) random(n int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.r.IntN(n)
}

func (m *model) step() {
	i := m.random(len(m.nodes))
	n := m.nodes[i]
	switch m.random(11) {
	case 0, 1, 2, 3:
		m.write(i, m.random(len(m.nodes)))
	case 4, 5:
		n.set(m.random(2) == 0)
	case 6:
		pass(time.Duration(m.random(40)) * time.Minute)
	case 7:
		n.fs.mu.Lock()
		n.fs.fail, n.fs.short = n.fs.ops+1+m.random(6), m.random(2) == 0
		n.fs.mu.Unlock()
	case 8:
		n.fs.mu.Lock()
		n.fs.dead, n.fs.short = n.fs.ops+1+m.random(6), m.random(2) == 0
		n.fs.mu.Unlock()
	case 9:
		m.crash(i)
	case 10:
		m.kill(i)
	}
	if m.random(3) > 0 {
		synctest.Wait()
	}
	pass(time.Second)
}

func (m *model) write(from, to int) {
	if from == to {
		return
	}
	m.count++
	text := fmt.Sprintf("%d-%s", m.count, strings.Repeat("x", m.random(400)))
	if _, err := m.nodes[from].mail.Send(m.nodes[to].person, text); err != nil {
		m.tried[text] = true
		return
	}
	m.sent[[2]int{from, to}] = append(m.sent[[2]int{from, to}], text)
}

// crash ends power at a device; what it showed must be there afterwards.
func (m *model) crash(i int) {
	n := m.nodes[i]
	m.look()
	n.mail.Close()
	m.look() // what arrived until then was shown too
	n.world.mu.Lock()
	n.fs = n.fs.crash(m.r)
	n.world.mu.Unlock()
	n.start()
	m.look()
}

// kill ends the process, as it may be in the middle of a write, and starts it
// again: the system still has what was not synced.
func (m *model) kill(i int) {
	n := m.nodes[i]
	n.mail.Close()
	n.fs.mu.Lock()
	n.fs.fail, n.fs.dead = 0, 0
	n.fs.mu.Unlock()
	n.start()
	m.look()
}

// look compares what all show with what they showed before.
func (m *model) look() {
	m.t.Helper()
	for to := range m.nodes {
		for from := range m.nodes {
			shown := m.shown(from, to)
			before := m.seen[[2]int{from, to}]
			if len(shown) < len(before) || !slices.Equal(shown[:len(before)], before) {
				m.t.Fatalf("%d showed %d messages of %d, now %d", to, len(before), from, len(shown))
			}
			m.seen[[2]int{from, to}] = shown
		}
	}
}

func (m *model) shown(from, to int) (texts []string) {
	for _, message := range m.nodes[to].mail.List(m.nodes[from].person, "", 0) {
		if !message.Out {
			texts = append(texts, message.Text)
		}
	}
	return texts
}

// settle mends everything and lets all reach each other.
func (m *model) settle() {
	m.mu.Lock()
	m.world.meddle = nil
	m.mu.Unlock()
	for i, n := range m.nodes {
		n.fs.mu.Lock()
		dead := n.fs.dead > 0
		n.fs.fail = 0
		n.fs.mu.Unlock()
		if dead {
			m.crash(i)
		}
	}
	for range 3 {
		for _, n := range m.nodes {
			n.set(true)
		}
		pass(3 * time.Hour)
	}
}

func (m *model) check() {
	total := 0
	for pair, sent := range m.sent {
		var got []string
		for _, text := range m.shown(pair[0], pair[1]) {
			if !m.tried[text] {
				got = append(got, text)
			}
		}
		total += len(got)
		if !slices.Equal(got, sent) {
			m.t.Errorf("%d → %d: %d accepted, %d shown", pair[0], pair[1], len(sent), len(got))
			for i := range min(len(got), len(sent)) {
				if got[i] != sent[i] {
					m.t.Errorf("at %d: %.8s instead of %.8s", i, got[i], sent[i])
					break
				}
			}
		}
	}
	for _, n := range m.nodes {
		for _, message := range n.mail.List(identity.Address{}, "", 0) {
			if message.Out && message.State != Delivered {
				m.t.Errorf("%.8s is %s at last", message.Text, message.State)
			}
		}
		if s := n.mail.Stats(); s.Pending != 0 || s.Held != 0 {
			m.t.Errorf("left over: %+v", s)
		}
	}
	if total < 20 {
		m.t.Errorf("only %d messages came: the model tests nothing", total)
	}
	for to := range m.nodes {
		times := map[string]int{}
		for from := range m.nodes {
			for _, text := range m.shown(from, to) {
				if times[text]++; times[text] > 1 {
					m.t.Errorf("%.8s is shown twice", text)
				}
			}
		}
	}
}

// One failing operation at every place of a conversation: the operation fails
// once, everything goes on, power ends, and nothing is missing.
func TestEveryOperationMayFailOnce(t *testing.T) {
	for _, victim := range []int{0, 1, 2} {
		points := 0
		for fail := 1; ; fail++ {
			reached := false
			inBubble(t, func(t *testing.T, w *world) { reached = failOnce(t, w, victim, fail) })
			if t.Failed() {
				t.Fatalf("device %d, operation %d", victim, fail)
			}
			if !reached {
				break
			}
			points++
		}
		if points < 5 {
			t.Errorf("device %d has only %d operations", victim, points)
		}
	}
}

func failOnce(t *testing.T, w *world, victim, fail int) bool {
	a, b, h := w.add(1), w.add(2), w.add(3)
	a.helpers = []identity.Address{h.address()}
	n := []*node{a, b, h}[victim]
	n.mail.Close()
	n.fs = newCrashFS()
	n.fs.fail, n.fs.short = fail, fail%2 == 0
	var err error
	if n.mail, err = New(n.config()); err != nil {
		n.start() // as a supervisor does
	} else {
		n.answerBy(n.mail.Handler())
		n.mail.Start(t.Context())
	}
	var want []string
	say := func(text string) {
		if _, err := a.mail.Send(b.person, text); err == nil {
			want = append(want, text)
		}
		synctest.Wait()
	}
	say("1")
	b.set(false)
	say("2")
	say("3")
	b.set(true)
	pass(3 * time.Hour)
	say("4")
	pass(3 * time.Hour)
	reached := n.fs.ops >= fail
	n.mail.Close()
	n.fs = n.fs.crash(rand.New(rand.NewPCG(uint64(fail), 1)))
	n.start()
	pass(3 * time.Hour)
	got := []string{}
	for _, m := range b.mail.List(a.person, "", 0) {
		if slices.Contains(want, m.Text) {
			got = append(got, m.Text)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("shown %q of %q", got, want)
	}
	return reached
}
