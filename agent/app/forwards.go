package app

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"go.uber.org/fx"

	"porchlight/agent/api"
	"porchlight/agent/config"
	"porchlight/agent/contacts"
	"porchlight/agent/control"
	"porchlight/agent/forward"
	"porchlight/agent/gateway"
	"porchlight/agent/identity"
	"porchlight/agent/overlay"
	"porchlight/agent/people"
	"porchlight/agent/resolve"
	"porchlight/agent/state"
	"porchlight/nat"
)

// servicesFile keeps what is exposed.
const servicesFile = "services.json"

type exposedFile struct{ folder *state.Folder }

func (f exposedFile) Load() (list []forward.Exposed, err error) {
	return list, f.folder.ReadJSON(servicesFile, &list)
}

func (f exposedFile) Save(list []forward.Exposed) error {
	return f.folder.WriteJSON(servicesFile, list)
}

// services is what contacts may connect to, and what of theirs is used here,
// in the words of the API.
type services struct {
	table     *forward.Table
	server    *forward.Server
	forwarder *forward.Forwarder
}

func newServices(cfg config.Config, folder *state.Folder, socket *nat.Socket, o *overlay.Overlay, book *contacts.Book, log *slog.Logger) (*services, error) {
	own := []uint16{socket.Port()}
	for _, address := range []string{cfg.Console, cfg.Gateway} {
		if _, text, err := net.SplitHostPort(address); err == nil {
			if port, err := strconv.ParseUint(text, 10, 16); err == nil {
				own = append(own, uint16(port))
			}
		}
	}
	table, err := forward.Open(exposedFile{folder}, forward.KeepPorts(own...))
	if err != nil {
		return nil, err
	}
	return &services{
		table:     table,
		server:    forward.NewServer(forward.Config{Table: table, Allows: book.Allows, Logger: log}),
		forwarder: forward.NewForwarder(o, log),
	}, nil
}

func toService(e forward.Exposed) api.Service {
	return api.Service{Name: e.Name, Network: e.Network, Target: e.Target.String(), To: orEmpty(e.To)}
}

// List implements control.Services.
func (s *services) List() []api.Service {
	list := []api.Service{}
	for _, e := range s.table.List() {
		list = append(list, toService(e))
	}
	return list
}

// Add implements control.Services.
func (s *services) Add(a api.Service) (api.Service, error) {
	e, err := forward.NewExposed(a.Name, a.Network, a.Target, a.To)
	if err == nil {
		err = s.table.Add(e)
	}
	if err != nil {
		return api.Service{}, control.Invalid(err)
	}
	return toService(e), nil
}

// Remove implements control.Services.
func (s *services) Remove(network, name string) error {
	err := s.table.Remove(network, name)
	if errors.Is(err, forward.ErrUnknown) {
		err = control.NotFound(err)
	}
	return err
}

// Listen implements control.Services.
func (s *services) Listen(ctx context.Context, to identity.Address, network, name, local string) (netip.AddrPort, error) {
	at, err := s.forwarder.Listen(ctx, to, network, name, local)
	switch {
	case errors.Is(err, forward.ErrNotOffered):
		err = control.NotAllowed(err)
	case errors.Is(err, forward.ErrName), errors.Is(err, forward.ErrNetwork), errors.Is(err, forward.ErrLocal):
		err = control.Invalid(err)
	}
	return at, err
}

// startForwards ends what is carried before the overlay closes.
func startForwards(lc fx.Lifecycle, s *services) {
	lc.Append(fx.StopHook(func() error { return errors.Join(s.forwarder.Close(), s.server.Close()) }))
}

// newGateway returns nil if it is off.
func newGateway(cfg config.Config, o *overlay.Overlay, book *contacts.Book, r *resolve.Resolver, presence *people.Presence,
	log *slog.Logger) *gateway.Gateway {
	if cfg.Gateway == "off" {
		return nil
	}
	return gateway.New(gateway.Config{
		Resolve: func(ctx context.Context, label string) (identity.Address, error) {
			link, err := book.Resolve(labelled(book, label))
			if err == nil {
				err = book.Admit(link.Address)
			}
			if err != nil {
				return identity.Address{}, errors.Join(gateway.ErrUnknown, err)
			}
			return r.Device(ctx, link)
		},
		Client:   o.Client(ShareService),
		Contacts: func() []gateway.Entry { return entries(book, presence) },
		Logger:   log,
	})
}

// entries lists the contacts that browsers are shown.
func entries(book *contacts.Book, presence *people.Presence) (all []gateway.Entry) {
	list := slices.DeleteFunc(book.List(), func(c contacts.Contact) bool { return c.Blocked })
	names := make([]string, len(list))
	for i, c := range list {
		names[i] = c.Name
	}
	for i, label := range gateway.Labels(names) {
		seen := presence.Person(list[i].Link.Address.String())
		all = append(all, gateway.Entry{Name: names[i], Label: label, Online: seen.Online, LastSeenUnixMS: unixMS(seen.LastSeen)})
	}
	return all
}

// labelled returns the name whose label that is; an address stays as it is.
func labelled(book *contacts.Book, label string) string {
	list := book.List()
	names := make([]string, len(list))
	for i, c := range list {
		names[i] = c.Name
	}
	if i := slices.Index(gateway.Labels(names), label); i >= 0 {
		return names[i]
	}
	return label
}

// startGateway listens for browsers on this machine.
func startGateway(lc fx.Lifecycle, cfg config.Config, g *gateway.Gateway, log *slog.Logger) {
	if g == nil {
		return
	}
	server := g.Server()
	done := make(chan struct{})
	lc.Append(fx.StartStopHook(func() error {
		listener, err := net.Listen("tcp", cfg.Gateway)
		if err != nil {
			close(done)
			// Another agent on this machine may have it; nothing else needs it.
			log.Warn("no gateway for browsers; choose another address with --gateway", "err", err)
			return nil
		}
		log.Info("gateway", "url", "http://"+listener.Addr().String()+"/")
		go func() {
			defer close(done)
			server.Serve(listener)
		}()
		return nil
	}, func() error {
		err := server.Close()
		<-done
		return err
	}))
}
