package natlab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultLatency is the one-way delay between any two parties.
const DefaultLatency = 20 * time.Millisecond

// maxParties is how many /24 blocks of 44.128.0.0/16 are given away at most: as many
// as a home's 192.168.1.0/24 has addresses for devices.
const maxParties = 253

// ErrNotRoot tells that labs need rights this process does not have.
var ErrNotRoot = errors.New("natlab: network namespaces need root: run the same command with sudo")

var errDirect = errors.New("natlab: with Options.Direct there is no delay, jitter, reordering, loss or limit: use a lab without it")

// ErrClosed is returned by a lab that was closed.
var ErrClosed = errors.New("natlab: the lab is closed")

// Options configure a lab. The zero value is useful.
type Options struct {
	// Latency is the one-way delay between any two parties, default
	// DefaultLatency. Below zero: none.
	Latency time.Duration

	// Jitter is the largest delay added to Latency at random. Packets from one
	// party to another never overtake each other because of it.
	Jitter time.Duration

	// Reorder is the share of packets, 0 to below 1, that need only half the delay
	// and so overtake those sent shortly before. The lab's own measurements don't
	// suffer from it.
	Reorder float64

	// Loss is the share of packets lost at random, 0 to below 1. The lab's own
	// measurements don't suffer from it.
	Loss float64

	// Direct joins the parties by the kernel alone: fast, for benchmarks that
	// measure programs and not our forwarder. There is no delay then and no
	// capture, packets are not counted (Stats stays zero), only one hop lies
	// between two parties, and Latency, Jitter, Reorder and Loss must be zero.
	Direct bool

	// Dir is where Dump writes by default: os.TempDir() if empty.
	Dir string

	// Logger is told what is built and removed, at debug level; default none.
	Logger *slog.Logger
}

// offload reports whether the kernel may hand over several packets in one piece.
func (o *Options) offload() bool { return o.Loss == 0 && o.Reorder == 0 }

// labs numbers the labs of this process.
var labs atomic.Int64

// Lab is a small internet. Its methods may be called at the same time.
type Lab struct {
	opt    Options
	prefix string
	core   *core
	middle *middle         // in place of the core with Options.Direct, else nil
	ctx    context.Context // ends with Close; bounds set-up steps
	cancel context.CancelFunc

	ipv6 bool // the kernel has it

	mu         sync.Mutex
	names      map[string]bool
	parties    int
	spare      byte // the lowest 192.168.1.x given to a device that is not its home's first
	namespaces []string
	mappers    []*mapper
	rotations  []*rotation
	dir        string // for the files of running programs, empty until one is needed
	closed     bool

	busy    sync.WaitGroup // hosts being built
	closing sync.Once
	result  error

	probe probe
}

// New makes an empty internet and removes what labs of dead processes have left.
// When ctx ends, nothing more can be added; Close is needed all the same. The error
// is ErrNotRoot without the rights, or names the missing tool.
func New(ctx context.Context, o Options) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, ErrNotRoot
	}
	for _, share := range []float64{o.Loss, o.Reorder} {
		if !(share >= 0 && share < 1) { // not a number, too
			return nil, fmt.Errorf("natlab: loss or reorder %v: must be at least 0 and below 1", share)
		}
	}
	if o.Direct && (o.Latency > 0 || o.Jitter > 0 || o.Reorder > 0 || o.Loss > 0) {
		return nil, errDirect
	}
	for tool, pkg := range map[string]string{"ip": "iproute2", "nft": "nftables", "nsenter": "util-linux"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("natlab: %w: apt install %s", err, pkg)
		}
	}
	switch {
	case o.Latency == 0:
		o.Latency = DefaultLatency
	case o.Latency < 0:
		o.Latency = 0
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if left := removeLeftovers(); len(left) > 0 {
		o.Logger.Info("removed namespaces of a lab that was killed", "count", len(left))
	}
	l := &Lab{
		opt:    o,
		prefix: fmt.Sprintf("%s%d-%s-%d-", namePrefix, os.Getpid(), startTime(os.Getpid()), labs.Add(1)),
		core:   newCore(o),
		names:  make(map[string]bool),
		spare:  255,
	}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err == nil {
		l.ipv6 = true
	}
	l.ctx, l.cancel = context.WithCancel(ctx)
	if !o.Direct {
		return l, nil
	}
	var err error
	if l.middle, err = l.newMiddle(); err != nil {
		return nil, fmt.Errorf("natlab: make middle: %w", errors.Join(err, l.Close()))
	}
	return l, nil
}

// hostName keeps names fit for namespaces, diagrams and shells.
var hostName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,23}$`)

// begin keeps Close waiting until l.busy.Done, or refuses because it was called.
func (l *Lab) begin() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	l.busy.Add(1)
	return nil
}

// claim takes a name for a host.
func (l *Lab) claim(name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !hostName.MatchString(name):
		return fmt.Errorf("name %q: use up to 24 of a-z, 0-9 and -, a letter first", name)
	case name == probeName || name == middleName && l.opt.Direct:
		return fmt.Errorf("name %q is the lab's own", name)
	case l.names[name]:
		return fmt.Errorf("there is a host %q already", name)
	}
	l.names[name] = true
	return nil
}

// claimParties gives away n parties in a row and returns the first.
func (l *Lab) claimParties(n int) (first party, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.parties+n > maxParties || l.parties+n+1 >= int(l.spare) {
		return 0, fmt.Errorf("more than %d public addresses", maxParties)
	}
	first = party(l.parties + 1)
	l.parties += n
	return first, nil
}

// spareLAN gives away the last byte of a LAN address that no other device has.
func (l *Lab) spareLAN() (byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if int(l.spare)-1 <= l.parties+1 {
		return 0, errors.New("192.168.1.0/24 has no more addresses for devices")
	}
	l.spare--
	return l.spare, nil
}

// namespace makes a namespace that Close will remove.
func (l *Lab) namespace(name string, forward, ipv6 bool) (string, error) {
	ns := l.prefix + name
	l.mu.Lock()
	l.namespaces = append(l.namespaces, ns)
	l.mu.Unlock()
	return ns, addNamespace(l.ctx, ns, forward, ipv6)
}

// scratch is a folder for the files of running programs, named after the process
// like the namespaces. Close removes it.
func (l *Lab) scratch() (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dir != "" {
		return l.dir, nil
	}
	dir := filepath.Join(os.TempDir(), strings.TrimSuffix(l.prefix, "-"))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("make folder of the lab: %w", err)
	}
	l.dir = dir
	return dir, nil
}

// Stats counts the packets that passed the forwarder.
func (l *Lab) Stats() Stats { return l.core.stats() }

// Dump writes what is needed to understand a failed run into dir (Options.Dir if
// empty): label.pcap, label.mmd (a mermaid sequence diagram) and label.txt (the
// lab's counters, what each miniupnpd said last, and drops, rules and flows of each
// host and router). With Options.Direct the first two are empty. Characters of
// label that don't suit a file name become "-".
func (l *Lab) Dump(dir, label string) error {
	if dir == "" {
		dir = l.opt.Dir
	}
	if dir == "" {
		dir = os.TempDir()
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("dump lab: %w", err)
	}
	base := filepath.Join(dir, unfit.ReplaceAllString(label, "-"))
	return errors.Join(
		l.WritePCAP(base+".pcap"),
		l.WriteDiagram(base+".mmd"),
		os.WriteFile(base+".txt", []byte(l.describeState()), 0o644),
	)
}

var unfit = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)

// stateCommands show what a namespace thinks of its network: addresses, drops of
// its devices and sockets, rules with counters, flows.
var stateCommands = [][]string{
	{"ip", "-br", "address"}, {"ip", "-s", "link"}, {"cat", "/proc/net/snmp", "/proc/net/snmp6"},
	{"nft", "list", "ruleset"}, {"cat", "/proc/net/nf_conntrack"},
}

// describeState lists the state of all namespaces.
func (l *Lab) describeState() string {
	ctx, cancel := context.WithTimeout(context.Background(), toolTimeout)
	defer cancel()
	var b strings.Builder
	fmt.Fprintf(&b, "forwarder: %+v\n", l.Stats())
	l.mu.Lock()
	namespaces, mappers := slices.Clone(l.namespaces), slices.Clone(l.mappers)
	l.mu.Unlock()
	for _, u := range mappers {
		fmt.Fprintf(&b, "\n# miniupnpd of %s\n%s\n", u.home.name, u.tail())
	}
	for _, ns := range namespaces {
		for _, command := range stateCommands {
			fmt.Fprintf(&b, "\n# %s: %s\n", ns, strings.Join(command, " "))
			out, err := inside(ctx, ns, command...).CombinedOutput()
			b.Write(out)
			if err != nil {
				fmt.Fprintln(&b, err)
			}
		}
	}
	return b.String()
}

// Close ends the processes in the lab's namespaces (SIGTERM, SIGKILL 2 s later),
// stops the forwarder and removes everything. Sockets that were opened in a host's
// namespace stop working but stay open until their owners close them.
func (l *Lab) Close() error {
	l.closing.Do(func() { l.result = l.close() })
	return l.result
}

func (l *Lab) close() error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.cancel()
	l.busy.Wait()
	l.mu.Lock()
	namespaces, mappers, rotations, dir := l.namespaces, l.mappers, l.rotations, l.dir
	l.mu.Unlock()
	for _, r := range rotations {
		r.stop()
	}
	for _, m := range mappers {
		m.stop()
	}
	errs := []error{l.probe.close()}
	// The devices go last, so that programs can say good-bye to each other.
	gone := make(chan error, len(namespaces))
	for _, ns := range namespaces {
		go func() { gone <- removeNamespace(ns) }()
	}
	for range namespaces {
		errs = append(errs, <-gone)
	}
	l.core.close()
	if dir != "" {
		errs = append(errs, os.RemoveAll(dir))
	}
	l.opt.Logger.Debug("lab closed", "packets", l.Stats().Packets, "dropped", l.Stats().Dropped())
	return errors.Join(errs...)
}
