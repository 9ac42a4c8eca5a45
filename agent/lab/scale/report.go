package scale

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// What a rendezvous holds in memory, in bytes: an estimate by the sizes of
// structs and of map entries. A session (quic-go, its goroutines and buffers)
// is by far the largest.
const (
	clientBytes  = 33 + 16 + 24 + 8 + 64 // entry of registrations
	watchBytes   = 33 + 24 + 24 + 2*64   // entry of watchers, two ways back
	sessionBytes = 60 << 10
)

// Report is what came of a simulation.
type Report struct {
	cfg       Config
	public    int
	born      births
	unready   int
	idleFor   time.Duration
	private   [purposes]traffic // a device an hour, means
	publics   [purposes]traffic
	most      []float64 // packets an hour of each idle private device
	load      []int     // registrations of each rendezvous
	busiest   busiest
	before    *probe
	after     []*probe
	alone     []census
	recovery  []time.Duration // of all survivors
	lost      []time.Duration // of those that had too few
	never     int
	peak      float64
	stormMean float64
	world     *world
}

// busiest is the rendezvous with most registrations.
type busiest struct {
	registrations, watches int
	packets, bytes, notes  float64 // a second
	items                  int
	device                 *device
}

func (r *Report) takeBirths(w *world) {
	r.born = w.born
	for _, d := range w.devices {
		if d.public {
			r.public++
		}
		if d.up && (d.real() == 0 || !d.stored) {
			r.unready++
		}
	}
}

// takeIdle sums up what devices spent that did not restart meanwhile.
func (r *Report) takeIdle(w *world, before, after [][purposes]traffic, notes []float64, lives []uint32, over time.Duration) {
	r.idleFor = over
	counts := [2]float64{}
	for i, d := range w.devices {
		if !d.up || d.life != lives[i] {
			continue
		}
		group, k := &r.private, 0
		if d.public {
			group, k = &r.publics, 1
			r.takeLoad(d, before[i], after[i], d.notes-notes[i], over)
		}
		counts[k]++
		all := 0.0
		for p := range purposes {
			t := after[i][p].minus(before[i][p])
			group[p].add(t.packets/over.Hours(), t.bytes/over.Hours())
			all += t.packets / over.Hours()
		}
		if !d.public {
			r.most = append(r.most, all)
		}
	}
	for p := range purposes {
		r.private[p] = r.private[p].over(counts[0])
		r.publics[p] = r.publics[p].over(counts[1])
	}
}

func (t traffic) over(n float64) traffic {
	if n == 0 {
		return traffic{}
	}
	return traffic{t.packets / n, t.bytes / n}
}

// takeLoad notes how much a rendezvous has to do.
func (r *Report) takeLoad(d *device, before, after [purposes]traffic, notes float64, over time.Duration) {
	r.load = append(r.load, len(d.clients))
	if len(d.clients) < r.busiest.registrations {
		return
	}
	b := busiest{registrations: len(d.clients), notes: notes / over.Seconds(), items: d.core.Stats().Items, device: d}
	for p := range purposes {
		t := after[p].minus(before[p])
		b.packets += t.packets / over.Seconds()
		b.bytes += t.bytes / over.Seconds()
	}
	for _, c := range d.clients {
		b.watches += len(c.watchers)
	}
	r.busiest = b
}

func (r *Report) takeRecovery(w *world, leave time.Duration) {
	for _, d := range w.devices {
		switch {
		case !d.up:
		case d.recovered < 0:
			r.never++
		default:
			r.recovery = append(r.recovery, d.recovered-leave)
			if d.recovered > leave {
				r.lost = append(r.lost, d.recovered-leave)
			}
		}
	}
	r.peak, r.stormMean = w.storm.peak()
}

// Trace is a hash of all datagrams and registrations, in their order.
func (r *Report) Trace() uint64 { return r.world.trace }

// Write prints the report.
func (r *Report) Write(out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	w := r.world
	fmt.Fprintf(t, "%d devices, %d of them public, %d contacts each, seed %d, %v\n\n", r.cfg.Devices, r.public, contactsEach, r.cfg.Seed, r.cfg.Span)
	r.writeBirths(t)
	r.writeLookups(t)
	r.writeIdle(t)
	r.writeLoad(t)
	r.writeLeaving(t)
	r.writePaper(t)
	fmt.Fprintf(t, "\ndatagrams of the DHT\t%d\n", w.datagrams)
	fmt.Fprintf(t, "registrations refused: full\t%d\n", w.full)
	fmt.Fprintf(t, "records in conflict, not stored\t%d, %d\n", w.conflicts, w.unstored)
	fmt.Fprintf(t, "datagrams that NATs did not let in\t%d\n", w.refused)
	fmt.Fprintf(t, "trace\t%016x\n", w.trace)
	return t.Flush()
}

// String is the report as Write prints it.
func (r *Report) String() string {
	var b strings.Builder
	r.Write(&b)
	return b.String()
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

// line prints quantiles of times.
func line(t io.Writer, name string, list []time.Duration) {
	fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\n", name, len(list), seconds(quantile(list, .5)), seconds(quantile(list, .9)),
		seconds(quantile(list, .99)), seconds(quantile(list, 1)))
}

func (r *Report) writeBirths(t io.Writer) {
	fmt.Fprintf(t, "from a device's start\tdevices\tp50\tp90\tp99\tmax\n")
	line(t, "first registration", r.born.registered)
	line(t, "second registration", r.born.enough)
	line(t, "record in the DHT", r.born.published)
	fmt.Fprintf(t, "%d a minute started, the last after %v; the last was ready after %v; not ready 10 min later: %d\n\n",
		perMinute, r.cfg.arrivals(), r.born.last.Round(time.Second), r.unready)
}

func percent(n, of int) string {
	if of == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f %%", 100*float64(n)/float64(of))
}

func (p *probe) write(t io.Writer, name string) {
	fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\t%.0f\t%s\t%s\t%s\n", name, p.asked, percent(p.found, p.asked),
		seconds(quantile(p.took, .5)), seconds(quantile(p.took, .9)), seconds(quantile(p.took, .99)),
		p.packets/float64(max(p.asked, 1)), percent(p.reached, p.asked), seconds(quantile(p.reach, .99)), percent(p.cached, p.withCache))
}

func (r *Report) writeLookups(t io.Writer) {
	fmt.Fprintf(t, "look-ups\tnumber\tfound\tp50\tp90\tp99\tpackets\treached\tp99\treached from memory\n")
	r.before.write(t, "cold, all well")
	for i, p := range r.after {
		p.write(t, fmt.Sprintf("%v after %d %% left", probeAt[i], leaving))
	}
	fmt.Fprintln(t)
}

func (r *Report) writeIdle(t io.Writer) {
	names := [purposes]string{"registrations", "presence", "DHT for others", "DHT for itself"}
	fmt.Fprintf(t, "idle, a device an hour (mean over %v)\tprivate: packets\tkB\tpublic: packets\tkB\n", r.idleFor.Round(time.Second))
	var a, b traffic
	for p, name := range names {
		x, y := r.private[p], r.publics[p]
		a.add(x.packets, x.bytes)
		b.add(y.packets, y.bytes)
		fmt.Fprintf(t, "%s\t%.0f\t%.0f\t%.0f\t%.0f\n", name, x.packets, x.bytes/1e3, y.packets, y.bytes/1e3)
	}
	fmt.Fprintf(t, "all\t%.0f\t%.0f\t%.0f\t%.0f\n", a.packets, a.bytes/1e3, b.packets, b.bytes/1e3)
	fmt.Fprintf(t, "private: p50, p99, max packets\t%.0f\t%.0f\t%.0f\n\n", quantile(r.most, .5), quantile(r.most, .99), quantile(r.most, 1))
}

func (r *Report) writeLoad(t io.Writer) {
	b := r.busiest
	sum, none := 0, 0
	for _, n := range r.load {
		sum += n
		if n == 0 {
			none++
		}
	}
	fmt.Fprintf(t, "registrations of a rendezvous\tmean\tp50\tp90\tp99\tmax\twithout any\tat the limit of %d\n", maxCallers)
	atLimit := 0
	for _, n := range r.load {
		if n >= maxCallers {
			atLimit++
		}
	}
	fmt.Fprintf(t, "%d rendezvous\t%.1f\t%d\t%d\t%d\t%d\t%d\t%d\n", len(r.load), float64(sum)/float64(max(1, len(r.load))),
		quantile(r.load, .5), quantile(r.load, .9), quantile(r.load, .99), quantile(r.load, 1), none, atLimit)
	sorted := slices.Sorted(slices.Values(r.load))
	top := 0
	for _, n := range sorted[len(sorted)-(len(sorted)+9)/10:] {
		top += n
	}
	fmt.Fprintf(t, "held by the busiest tenth\t%s\n", percent(top, sum))
	memory := float64(b.registrations*(clientBytes+sessionBytes) + b.watches*watchBytes)
	fmt.Fprintf(t, "the busiest\t%d registrations, %d watches, %d items\t%.1f packets/s\t%.1f kB/s\t%.2f notes/s\tabout %.1f MB, of that sessions %.1f\n\n",
		b.registrations, b.watches, b.items, b.packets, b.bytes/1e3, b.notes, memory/1e6, float64(b.registrations*sessionBytes)/1e6)
}

func (r *Report) writeLeaving(t io.Writer) {
	fmt.Fprintf(t, "after %d %% left at once\tup\tno registration\tone\n", leaving)
	for i, a := range r.alone {
		fmt.Fprintf(t, "after %v\t%d\t%d\t%d\n", censusAt[i], a.up, a.none, a.one)
	}
	if b := r.busiest.device; b != nil && !b.up {
		fmt.Fprintf(t, "the busiest rendezvous was among those that left\n")
	}
	fmt.Fprintf(t, "until two registrations stand\tdevices\tp50\tp90\tp99\tmax\n")
	line(t, "all that stayed", r.recovery)
	line(t, "those that had lost too many", r.lost)
	fmt.Fprintf(t, "never within %v\t%d\n", leaveLast, r.never)
	fmt.Fprintf(t, "busiest rendezvous that stayed, first %v\t%.0f packets/s at its peak\t%.1f in the mean\n\n", stormFor, r.peak, r.stormMean)
}
