package status

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/contacts"
	"porchlight/agent/identity"
	"porchlight/agent/join"
	"porchlight/agent/overlay"
	"porchlight/agent/reach"
)

// Config is where a Reporter looks.
type Config struct {
	Name      string
	Version   string
	Listen    string
	Overlay   *overlay.Overlay
	Joiner    *join.Joiner
	Keeper    *reach.Keeper
	Contacts  *contacts.Book
	Shares    func() []api.Share
	Transfers func() []api.Transfer
	Work      func() api.Work
	Relayed   func() int64
}

// Reporter makes snapshots.
type Reporter struct {
	cfg   Config
	began time.Time

	mu   sync.Mutex
	name string
	seen map[identity.Address]*meter
}

// meter sums the traffic of one device over its sessions.
type meter struct {
	session        *overlay.Session
	sent, received int64 // of earlier sessions
	lastSent       int64
	lastReceived   int64
	lastSeen       time.Time
}

// maxMeters bounds how many devices' traffic is kept.
const maxMeters = 1024

// New returns a Reporter.
func New(cfg Config) *Reporter {
	return &Reporter{cfg: cfg, began: time.Now(), name: cfg.Name, seen: map[identity.Address]*meter{}}
}

// Name returns what the owner calls the device.
func (r *Reporter) Name() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.name
}

// SetName changes what the owner calls the device.
func (r *Reporter) SetName(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.name = name
}

// Report returns the present status.
func (r *Reporter) Report() api.Status {
	state := r.cfg.Keeper.State()
	s := api.Status{
		Address:       r.cfg.Overlay.Address().String(),
		Name:          r.Name(),
		Version:       r.cfg.Version,
		Reachability:  state.Verdict,
		Doubt:         state.Doubt,
		CheckedUnixMS: unixMS(state.Checked),
		NAT:           state.NAT,
		Listen:        r.cfg.Listen,
		Link:          r.cfg.Keeper.Link().String(),
		RSSBytes:      residentBytes(),
		UptimeMS:      time.Since(r.began).Milliseconds(),
		Contacts:      []api.Contact{},
		Helpers:       r.helpers(),
		Transfers:     r.cfg.Transfers(),
		Shares:        r.cfg.Shares(),
		Work:          r.cfg.Work(),
	}
	if state.Public.IsValid() {
		s.Public = state.Public.String()
	}
	r.measure()
	for _, c := range r.cfg.Contacts.List() {
		s.Contacts = append(s.Contacts, r.contact(c))
	}
	s.Traffic = r.total()
	s.Traffic.RelayedBytes = r.cfg.Relayed()
	return s
}

func (r *Reporter) helpers() []api.Helper {
	helpers := r.cfg.Keeper.Helpers()
	for i := range helpers {
		if a, err := identity.ParseAddress(helpers[i].Address); err == nil {
			if c, ok := r.cfg.Contacts.Get(a); ok {
				helpers[i].Name = c.Name
			}
		}
	}
	return helpers
}

func (r *Reporter) contact(c contacts.Contact) api.Contact {
	out := api.Contact{
		Name:    c.Name,
		Address: c.Link.Address.String(),
		Role:    string(c.Role),
		Blocked: c.Blocked,
	}
	if s := r.cfg.Overlay.Current(c.Link.Address); s != nil {
		out.Online = true
		out.RTTMS = float64(s.RTT().Microseconds()) / 1000
		info := r.cfg.Joiner.Info(c.Link.Address)
		out.Path, out.Local, out.Remote, out.Reason = info.Path, info.Local, info.Remote, info.Reason
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if m := r.seen[c.Link.Address]; m != nil {
		out.SentBytes, out.ReceivedBytes = m.sent+m.lastSent, m.received+m.lastReceived
		out.LastSeenUnixMS = unixMS(m.lastSeen)
	}
	return out
}

// measure reads the counters of all sessions.
func (r *Reporter) measure() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.cfg.Overlay.Connected() {
		s := r.cfg.Overlay.Current(a)
		if s == nil {
			continue
		}
		m := r.seen[a]
		if m == nil {
			if len(r.seen) >= maxMeters {
				continue
			}
			m = &meter{session: s}
			r.seen[a] = m
		}
		if m.session != s {
			m.sent, m.received = m.sent+m.lastSent, m.received+m.lastReceived
			m.session = s
		}
		m.lastSent, m.lastReceived = s.Traffic()
		m.lastSeen = time.Now()
	}
}

func (r *Reporter) total() (t api.Traffic) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.seen {
		t.SentBytes += m.sent + m.lastSent
		t.ReceivedBytes += m.received + m.lastReceived
	}
	return t
}

func unixMS(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// residentBytes reads the resident memory of this process (proc(5), statm).
func residentBytes() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
