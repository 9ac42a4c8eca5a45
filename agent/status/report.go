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
	"porchlight/agent/people"
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
	People    People
}

// People is what is known of contacts beyond the sessions with them.
type People struct {
	// Owner is whose this device is, zero if nobody's.
	Owner    func() identity.Address
	Requests func() []api.Request
	// Standing says where the owner stands with a contact.
	Standing func(contact identity.Address) string
	// Devices lists those of a contact, Seen says what is known of one.
	Devices func(contacts.Contact) []identity.Address
	Seen    func(device identity.Address) people.Seen
	// Unread counts the messages of a contact that were not read.
	Unread func(contact identity.Address) int
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
		Owner:         r.cfg.People.Owner().String(),
		Requests:      r.cfg.People.Requests(),
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

// contact tells what is known of a contact: of a person, by way of the device
// that packets reach best.
func (r *Reporter) contact(c contacts.Contact) api.Contact {
	out := api.Contact{
		Name:     c.Name,
		Address:  c.Link.Address.String(),
		Role:     string(c.Role),
		Blocked:  c.Blocked,
		Hidden:   c.Hidden,
		Standing: r.cfg.People.Standing(c.Link.Address),
		Unread:   r.cfg.People.Unread(c.Link.Address),
		Devices:  []api.Member{},
	}
	for _, device := range r.cfg.People.Devices(c) {
		m := r.member(device)
		out.Devices = append(out.Devices, m)
		out.Online = out.Online || m.Online
		out.LastSeenUnixMS = max(out.LastSeenUnixMS, m.LastSeenUnixMS)
		r.path(&out, device)
		r.addTraffic(&out, device)
	}
	return out
}

// member tells what is known of one device. Who has a session is there, unless
// it was heard since that it is gone: a session outlives a power cut by 45 s.
func (r *Reporter) member(device identity.Address) api.Member {
	seen := r.cfg.People.Seen(device)
	m := api.Member{Address: device.String(), Name: seen.Name, Online: seen.Online, LastSeenUnixMS: unixMS(seen.LastSeen)}
	if seen.Since.IsZero() && r.cfg.Overlay.Current(device) != nil {
		m.Online = true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if meter := r.seen[device]; meter != nil {
		m.LastSeenUnixMS = max(m.LastSeenUnixMS, unixMS(meter.lastSeen))
	}
	return m
}

// path fills in how packets reach a contact, if this device of it is reached
// better than those before.
func (r *Reporter) path(out *api.Contact, device identity.Address) {
	s := r.cfg.Overlay.Current(device)
	if s == nil || out.Path == direct {
		return
	}
	info := r.cfg.Joiner.Info(device)
	if out.Path != "" && info.Path != direct {
		return
	}
	out.Path, out.Local, out.Remote, out.Reason = info.Path, info.Local, info.Remote, info.Reason
	out.RTTMS = float64(s.RTT().Microseconds()) / 1000
}

// direct is the path that is better than any other.
const direct = "direct"

func (r *Reporter) addTraffic(out *api.Contact, device identity.Address) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m := r.seen[device]; m != nil {
		out.SentBytes += m.sent + m.lastSent
		out.ReceivedBytes += m.received + m.lastReceived
	}
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
