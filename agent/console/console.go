package console

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"porchlight/agent/api"
)

// DefaultSetupWindow is how long after the start the first password may be
// set when [Config.SetupWindow] is zero.
const DefaultSetupWindow = 15 * time.Minute

// Store keeps the password record, a few hundred bytes.
type Store interface {
	// Load returns the record, or nothing (or fs.ErrNotExist) if there is none.
	Load() ([]byte, error)
	// Save replaces the record; it is atomic and durable when it returns.
	Save([]byte) error
}

// Config is what a [Console] needs from its surroundings.
type Config struct {
	// Status returns a snapshot of the device. It is called for each
	// GET /api/v1/status, and once a second while somebody looks.
	Status func() api.Status
	// API serves the further routes below /api/v1/, only to sessions; nil
	// means there are none.
	API http.Handler
	// Store keeps the password record.
	Store Store
	// SetName takes the device's name where setup is given one; nil means
	// that the name cannot be set here.
	SetName func(string) error
	// AllowHosts are further names under which browsers may address the
	// device, without port.
	AllowHosts []string
	// Logger receives log-ins and refusals; nil discards them.
	Logger *slog.Logger
	// SetupWindow is how long after New the first password may be set;
	// default 15 minutes.
	SetupWindow time.Duration
}

// Console serves the page and its interface. Make one with [New].
type Console struct {
	cfg      Config
	log      *slog.Logger
	hosts    map[string]bool
	own      func() []netip.Addr
	assets   *assets
	password *password
	tries    *limiter
	sessions *sessions
	feed     *feed
	closes   time.Time // end of the setup window
	origins  *http.CrossOriginProtection
}

// New loads the password record and starts the console's one goroutine; call
// Close to stop it. A record that cannot be read is an error: it never opens
// the setup again.
func New(cfg Config) (*Console, error) {
	if cfg.Status == nil || cfg.Store == nil {
		return nil, errors.New("console: Status and Store must be set")
	}
	if cfg.SetupWindow <= 0 {
		cfg.SetupWindow = DefaultSetupWindow
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	pw, err := loadPassword(cfg.Store)
	if err != nil {
		return nil, fmt.Errorf("console password: %w", err)
	}
	files, err := loadAssets(dist)
	if err != nil {
		return nil, fmt.Errorf("console page: %w", err)
	}
	return &Console{
		cfg: cfg, log: cfg.Logger,
		hosts: hostSet(cfg.AllowHosts), own: interfaceAddresses,
		assets: files, password: pw,
		tries: newLimiter(), sessions: newSessions(),
		feed:    newFeed(cfg.Status, files.build),
		closes:  time.Now().Add(cfg.SetupWindow),
		origins: http.NewCrossOriginProtection(),
	}, nil
}

// Close ends the event streams and waits for the console's goroutine. It may
// be called more than once. Requests being served end with their server.
func (c *Console) Close() error {
	c.feed.close()
	return nil
}

func hostSet(names []string) map[string]bool {
	set := make(map[string]bool, len(names))
	for _, n := range names {
		set[strings.ToLower(n)] = true
	}
	return set
}
