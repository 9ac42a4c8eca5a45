package compute

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"porchlight/compute/sandbox"
)

// Grants decides who may have work done here.
type Grants interface {
	// Allows says whether the caller of r is one of who: roles or names, as
	// the owner has configured them.
	Allows(r *http.Request, who []string) bool
}

// Runner executes a task; *sandbox.Sandbox is one.
type Runner interface {
	Run(ctx context.Context, t sandbox.Task) (sandbox.Result, error)
}

// DonorConfig says what a donor gives. Zero numbers mean the defaults beside
// them.
type DonorConfig struct {
	Runner Runner // required
	Grants Grants // required
	Who    []string
	// Caller names the peer behind a request, for the counts of [Stats];
	// nil puts all under one name.
	Caller      func(r *http.Request) string
	ModuleDir   string         // required; modules are kept here
	SpoolDir    string         // required; inputs wait here, without a name
	Limits      sandbox.Limits // of each task
	Workers     int            // tasks at once; 1
	Queue       int            // tasks waiting; 16
	ModuleBytes int64          // all stored modules; 64 MiB
	InputBytes  int64          // one input; 256 MiB
	SpoolBytes  int64          // all inputs waiting or in use; 512 MiB
	Logger      *slog.Logger
}

const (
	defaultWorkers     = 1
	defaultQueue       = 16
	defaultModuleBytes = 64 << 20
	defaultInputBytes  = 256 << 20
	defaultSpoolBytes  = 512 << 20
	// stall is how long a peer may neither send nor take a byte.
	stall = 30 * time.Second
	// retryAfter is what a busy donor asks for.
	retryAfter = 5 * time.Second
	// maxCallers bounds the counts by caller; others are counted as "".
	maxCallers = 256
)

// Donor is the service. It serves HTTP and is safe for concurrent use.
type Donor struct {
	cfg     DonorConfig
	mux     *http.ServeMux
	modules *moduleStore
	slots   chan struct{} // one token per worker
	spool   quota

	mu      sync.Mutex
	on      bool
	closed  bool
	session context.Context // ends when donation is switched off
	end     context.CancelCauseFunc
	stats   Stats
	tasks   sync.WaitGroup
}

// Stats counts since the start.
type Stats struct {
	Enabled   bool                   `json:"enabled"`
	Running   int                    `json:"running"`
	Queued    int                    `json:"queued"`
	Done      int64                  `json:"done"`    // ended by themselves
	Stopped   int64                  `json:"stopped"` // ended at a limit or cancelled
	Refused   int64                  `json:"refused"` // never begun: busy, off, no grant
	CPUMillis int64                  `json:"cpu_ms"`
	ByCaller  map[string]CallerStats `json:"by_caller"`
}

// CallerStats is what one caller has had.
type CallerStats struct {
	Tasks     int64 `json:"tasks"`
	CPUMillis int64 `json:"cpu_ms"`
}

var errDonationOff = errors.New("donation was switched off")

// NewDonor returns a donor that is switched off.
func NewDonor(cfg DonorConfig) (*Donor, error) {
	if cfg.Runner == nil || cfg.Grants == nil || cfg.ModuleDir == "" || cfg.SpoolDir == "" {
		return nil, errors.New("donor needs a runner, grants, a module folder and a spool folder")
	}
	setDefault(&cfg.Workers, defaultWorkers)
	setDefault(&cfg.Queue, defaultQueue)
	setDefault(&cfg.ModuleBytes, defaultModuleBytes)
	setDefault(&cfg.InputBytes, defaultInputBytes)
	setDefault(&cfg.SpoolBytes, defaultSpoolBytes)
	if cfg.Caller == nil {
		cfg.Caller = func(*http.Request) string { return "" }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	modules, err := openModules(cfg.ModuleDir, cfg.ModuleBytes)
	if err != nil {
		return nil, err
	}
	d := &Donor{cfg: cfg, modules: modules, slots: make(chan struct{}, cfg.Workers), spool: quota{left: cfg.SpoolBytes}}
	d.stats.ByCaller = map[string]CallerStats{}
	d.session, d.end = context.WithCancelCause(context.Background())
	d.end(errDonationOff)
	d.mux = http.NewServeMux()
	d.mux.HandleFunc("HEAD /modules/{hash}", d.headModule)
	d.mux.HandleFunc("PUT /modules/{hash}", d.putModule)
	d.mux.HandleFunc("POST /tasks", d.postTask)
	return d, nil
}

func setDefault[T int | int64](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// SetEnabled switches donation on or off. Off ends all running and waiting
// tasks; their callers are told why.
func (d *Donor) SetEnabled(on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || on == d.on {
		return
	}
	d.on = on
	if on {
		d.session, d.end = context.WithCancelCause(context.Background())
	} else {
		d.end(errDonationOff)
	}
}

// Stats returns the counts of this moment.
func (d *Donor) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.stats
	s.Enabled = d.on
	s.ByCaller = make(map[string]CallerStats, len(d.stats.ByCaller))
	for k, v := range d.stats.ByCaller {
		s.ByCaller[k] = v
	}
	return s
}

// Close switches donation off for good and waits for running tasks to end.
func (d *Donor) Close() error {
	d.SetEnabled(false)
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.tasks.Wait()
	return nil
}

// ServeHTTP implements http.Handler.
func (d *Donor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !d.cfg.Grants.Allows(r, d.cfg.Who) {
		d.count(func(s *Stats) { s.Refused++ })
		refuse(w, CodeNotAllowed, "this device does no work for you: ask its owner")
		return
	}
	d.mux.ServeHTTP(w, r)
}

func (d *Donor) count(f func(s *Stats)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(&d.stats)
}

// admit takes a place in the queue, or says why there is none. The context
// ends when donation is switched off.
func (d *Donor) admit() (context.Context, *Refusal) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case !d.on:
		d.stats.Refused++
		return nil, &Refusal{CodeDonationOff, "this device gives no processor time at the moment"}
	case d.stats.Queued+d.stats.Running >= d.cfg.Workers+d.cfg.Queue:
		d.stats.Refused++
		return nil, &Refusal{CodeBusy, fmt.Sprintf("%d tasks are waiting already: try again later", d.stats.Queued)}
	}
	d.stats.Queued++
	d.tasks.Add(1)
	return d.session, nil
}

// leave gives the place back and counts what became of the task.
func (d *Donor) leave(caller string, began bool, res sandbox.Result) {
	d.count(func(s *Stats) {
		if !began {
			s.Queued--
			s.Stopped++
			return
		}
		s.Running--
		if res.Stop == sandbox.StopNone {
			s.Done++
		} else {
			s.Stopped++
		}
		s.CPUMillis += res.CPU.Milliseconds()
		if _, known := s.ByCaller[caller]; !known && len(s.ByCaller) >= maxCallers {
			caller = ""
		}
		c := s.ByCaller[caller]
		c.Tasks++
		c.CPUMillis += res.CPU.Milliseconds()
		s.ByCaller[caller] = c
	})
	d.tasks.Done()
}

// quota is a number of bytes shared by all.
type quota struct {
	mu   sync.Mutex
	left int64
}

func (q *quota) take(n int64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n > q.left {
		return false
	}
	q.left -= n
	return true
}

func (q *quota) give(n int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.left += n
}
