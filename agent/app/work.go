package app

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"porchlight/agent/api"
	"porchlight/agent/config"
	"porchlight/agent/contacts"
	"porchlight/agent/overlay"
	"porchlight/agent/state"
	"porchlight/compute"
	"porchlight/compute/sandbox"
)

// WorkService is the service that runs tasks for others.
const WorkService = "compute"

const donateFile = "donate.json"

// work is the donated processor time in the words of the API.
type work struct {
	donor  *compute.Donor
	folder *state.Folder
	book   *contacts.Book

	mu     sync.Mutex
	donate api.Donate
}

func newWork(h *held, cfg config.Config, folder *state.Folder, book *contacts.Book, log *slog.Logger) (*work, error) {
	w := &work{folder: folder, book: book, donate: api.Donate{To: []string{}}}
	if err := folder.ReadJSON(donateFile, &w.donate); err != nil {
		return nil, err
	}
	dir := cfg.Work
	if dir == "" {
		dir = folder.Path("work")
	}
	modules, spool := filepath.Join(dir, "modules"), filepath.Join(dir, "spool")
	if err := errors.Join(os.MkdirAll(modules, 0o700), os.MkdirAll(spool, 0o700)); err != nil {
		return nil, fmt.Errorf("make the folder for tasks: %w; choose another with --work", err)
	}
	var err error
	w.donor, err = compute.NewDonor(compute.DonorConfig{
		Runner:    sandbox.New(sandbox.Config{Command: cfg.TaskCommand, Logger: log}),
		Grants:    w,
		Caller:    func(r *http.Request) string { return overlay.Caller(r).String() },
		ModuleDir: modules,
		SpoolDir:  spool,
		Limits:    sandbox.DefaultLimits(),
		Logger:    log,
	})
	if err != nil {
		return nil, err
	}
	w.donor.SetEnabled(w.donate.Enabled)
	h.keep(w.donor.Close)
	return w, nil
}

// Allows implements compute.Grants: for whom work is done can change at any
// time, so the list is the present one and not the donor's.
func (w *work) Allows(r *http.Request, _ []string) bool {
	return w.book.Allows(overlay.Caller(r), w.Donate().To)
}

// Donate implements control.Work.
func (w *work) Donate() api.Donate {
	w.mu.Lock()
	defer w.mu.Unlock()
	return api.Donate{Enabled: w.donate.Enabled, To: slices.Clone(w.donate.To)}
}

// SetDonate implements control.Work.
func (w *work) SetDonate(d api.Donate) error {
	d.To = orEmpty(d.To)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.folder.WriteJSON(donateFile, d); err != nil {
		return err
	}
	w.donate = d
	w.donor.SetEnabled(d.Enabled)
	return nil
}

// public reports whether everybody may have work done.
func (w *work) public() bool {
	d := w.Donate()
	return d.Enabled && slices.Contains(d.To, "everybody")
}

func (w *work) status() api.Work {
	s := w.donor.Stats()
	return api.Work{Enabled: s.Enabled, Running: s.Running, Done: s.Done, Stopped: s.Stopped, CPUMS: s.CPUMillis}
}
