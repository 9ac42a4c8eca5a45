package app

import (
	"cmp"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"path"
	"slices"
	"strconv"
	"sync"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/contacts"
	"porchlight/agent/control"
	"porchlight/agent/identity"
	"porchlight/agent/overlay"
	"porchlight/agent/state"
	"porchlight/share"
)

// ShareService is the service that answers for shared folders.
const ShareService = "share"

// grants decides, for the domain packages, what the caller of a request may.
type grants struct{ book *contacts.Book }

// Allows implements share.Grants and compute.Grants.
func (g grants) Allows(r *http.Request, who []string) bool {
	return g.book.Allows(overlay.Caller(r), who)
}

// shareFile keeps the list of shares in the state folder.
type shareFile struct{ folder *state.Folder }

const sharesFile = "shares.json"

func (f shareFile) Load() (list []share.Share, err error) {
	return list, f.folder.ReadJSON(sharesFile, &list)
}

func (f shareFile) Save(list []share.Share) error { return f.folder.WriteJSON(sharesFile, list) }

// sharing is the shared folders in the words of the API.
type sharing struct{ shares *share.Shares }

func openShares(folder *state.Folder) (*sharing, error) {
	shares, err := share.Open(shareFile{folder}, share.Keep(folder.Path("")))
	if err != nil {
		return nil, err
	}
	return &sharing{shares}, nil
}

func toAPI(s share.Share) api.Share {
	return api.Share{Name: s.Name, Dir: s.Dir, Read: orEmpty(s.Read), Write: orEmpty(s.Write)}
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// List implements control.Shares.
func (s *sharing) List() []api.Share {
	list := []api.Share{}
	for _, one := range s.shares.List() {
		list = append(list, toAPI(one))
	}
	return list
}

// Add implements control.Shares.
func (s *sharing) Add(a api.Share) (api.Share, error) {
	one, err := s.shares.Add(a.Dir, a.Name, a.Read, a.Write)
	for _, wrong := range []error{share.ErrName, share.ErrExists, share.ErrTooMany, share.ErrDir, fs.ErrNotExist} {
		if errors.Is(err, wrong) {
			err = control.Invalid(err)
		}
	}
	return toAPI(one), err
}

// Remove implements control.Shares.
func (s *sharing) Remove(name string) error {
	err := s.shares.Remove(name)
	if errors.Is(err, share.ErrNoShare) {
		err = control.NotFound(err)
	}
	return err
}

// public reports whether anything is shared with everybody.
func (s *sharing) public() bool {
	return slices.ContainsFunc(s.shares.List(), func(one share.Share) bool {
		return slices.Contains(one.Read, "everybody") || slices.Contains(one.Write, "everybody")
	})
}

func newShareHandler(s *sharing, book *contacts.Book, log *slog.Logger) *share.Handler {
	return share.NewHandler(share.Config{
		Shares: s.shares,
		Grants: grants{book},
		Peer:   func(r *http.Request) string { return overlay.Caller(r).String() },
		Log:    log,
	})
}

// mover turns what the share handler knows into transfers with rates.
type mover struct {
	moving func() []share.Transfer
	book   *contacts.Book

	mu   sync.Mutex
	last map[int64]reading
}

// reading is where a transfer stood at a moment.
type reading struct {
	bytes int64
	at    time.Time
	rate  float64
}

// rateWindow is the time over which a rate is taken.
const rateWindow = 2 * time.Second

func (m *mover) transfers() []api.Transfer {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := []api.Transfer{}
	now := map[int64]reading{}
	moving := m.moving()
	slices.SortFunc(moving, func(a, b share.Transfer) int { return cmp.Compare(a.ID, b.ID) })
	for _, t := range moving {
		r, known := m.last[t.ID]
		switch elapsed := time.Since(r.at); {
		case !known:
			r = reading{bytes: t.Bytes(), at: time.Now()}
		case elapsed >= rateWindow:
			r = reading{bytes: t.Bytes(), at: time.Now(), rate: float64(t.Bytes()-r.bytes) / elapsed.Seconds()}
		}
		now[t.ID] = r
		direction := "out"
		if t.Upload {
			direction = "in"
		}
		out = append(out, api.Transfer{
			ID:             strconv.FormatInt(t.ID, 10),
			Name:           path.Base(t.Path),
			Direction:      direction,
			Peer:           m.name(t.Peer),
			Bytes:          t.Position,
			TotalBytes:     t.Size,
			BytesPerSecond: r.rate,
		})
	}
	m.last = now
	return out
}

func (m *mover) name(address string) string {
	if a, err := identity.ParseAddress(address); err == nil {
		if c, ok := m.book.Get(a); ok {
			return c.Name
		}
	}
	return address
}
