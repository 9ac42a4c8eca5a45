package natlab

import (
	"bufio"
	"fmt"
	"io"
	"time"
)

const (
	// diagramLines bounds a sequence diagram; those in the middle go first.
	diagramLines = 400

	// diagramMerge is how many lines back an equal packet is counted with its
	// like instead of getting a line of its own.
	diagramMerge = 6

	// diagramGap ends such counting: what happens later is news.
	diagramGap = int64(time.Second)
)

// step is one line of the diagram: equal packets close in time.
type step struct {
	src, dst *link
	verdict  verdict
	label    string
	at, last int64
	count    int
	bytes    int
}

// condense turns packets into steps.
func condense(all []sighting) []step {
	var steps []step
	for i := range all {
		s := &all[i]
		label := describe(s.data[:s.kept])
		if at := like(steps, s, label); at >= 0 {
			steps[at].count++
			steps[at].bytes += s.length
			steps[at].last = s.at
			continue
		}
		steps = append(steps, step{src: s.src, dst: s.dst, verdict: s.verdict, label: label,
			at: s.at, last: s.at, count: 1, bytes: s.length})
	}
	return steps
}

// like finds the recent step that s belongs to, or -1.
func like(steps []step, s *sighting, label string) int {
	for i := len(steps) - 1; i >= 0 && i >= len(steps)-diagramMerge; i-- {
		t := &steps[i]
		if t.src == s.src && t.dst == s.dst && t.verdict == s.verdict && t.label == label && s.at-t.last < diagramGap {
			return i
		}
	}
	return -1
}

// writeDiagram writes a mermaid sequence diagram with links as participants.
func writeDiagram(w io.Writer, links []*link, all []sighting, forgotten int) error {
	b := bufio.NewWriter(w)
	fmt.Fprintln(b, "sequenceDiagram")
	for _, l := range links {
		fmt.Fprintf(b, "    participant %s as %s", participant(l), l.name)
		for _, a := range l.addrs {
			fmt.Fprintf(b, " %s", a)
		}
		fmt.Fprintln(b)
	}
	fmt.Fprintln(b, "    participant nobody")
	steps := condense(all)
	omitted := max(0, len(steps)-diagramLines)
	for i, s := range steps {
		switch at := i - diagramLines/2; {
		case at >= 0 && at < omitted:
		default:
			writeStep(b, &s)
		}
		if omitted > 0 && i == diagramLines/2 {
			fmt.Fprintf(b, "    Note over nobody: %d lines left out\n", omitted)
		}
	}
	if forgotten > 0 {
		fmt.Fprintf(b, "    Note over nobody: %d packets between the first and the last ones were not kept\n", forgotten)
	}
	return b.Flush()
}

func writeStep(b *bufio.Writer, s *step) {
	arrow, why := "->>", ""
	if s.verdict != forwarded {
		arrow, why = "-x", " ("+s.verdict.String()+")"
	}
	times := ""
	if s.count > 1 {
		times = fmt.Sprintf(" ×%d", s.count)
	}
	fmt.Fprintf(b, "    %s%s%s: %.3f s %s%s%s\n", participant(s.src), arrow, participant(s.dst),
		time.Duration(s.at).Seconds(), s.label, times, why)
}

// participant is a link's identifier in the diagram: names may be words of the
// diagram language.
func participant(l *link) string {
	if l == nil {
		return "nobody"
	}
	return fmt.Sprintf("P%d", l.index)
}

// WriteDiagram writes what the forwarder remembers as a mermaid sequence diagram:
// hosts and homes as participants, equal packets close in time as one line.
// What a router's filter drops is drawn as an arrow that arrives: the forwarder
// sees only the middle.
func (l *Lab) WriteDiagram(path string) error {
	all, forgotten := l.core.capture.snapshot()
	l.core.mu.Lock() // addresses change
	defer l.core.mu.Unlock()
	return writeFile(path, func(w io.Writer) error { return writeDiagram(w, l.core.links, all, forgotten) })
}
