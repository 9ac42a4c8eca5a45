package app

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"go.uber.org/fx"

	"porchlight/agent/api"
	"porchlight/agent/config"
	"porchlight/agent/console"
	"porchlight/agent/contacts"
	"porchlight/agent/control"
	"porchlight/agent/dialback"
	"porchlight/agent/directory"
	"porchlight/agent/forward"
	"porchlight/agent/identity"
	"porchlight/agent/introduce"
	"porchlight/agent/join"
	"porchlight/agent/mail"
	"porchlight/agent/overlay"
	"porchlight/agent/owner"
	"porchlight/agent/people"
	"porchlight/agent/public"
	"porchlight/agent/reach"
	"porchlight/agent/resolve"
	"porchlight/agent/state"
	"porchlight/agent/status"
	"porchlight/agent/version"
	"porchlight/nat"
	"porchlight/share"
)

// startServices offers to peers what this device does for them.
func startServices(lc fx.Lifecycle, o *overlay.Overlay, server *introduce.Server, knocker *dialback.Server, files *share.Handler, work *work,
	persons *owner.Handler, post *post, services *services, errands *directory.Errands, book *contacts.Book) {
	plain := &streams{overlay: o}
	lc.Append(fx.StartStopHook(func() error {
		return errors.Join(
			o.Serve(introduce.Service, server),
			o.Serve(dialback.Service, knocker),
			o.Serve(directory.Service, errands),
			o.Serve(owner.Service, persons),
			o.Serve(mail.Service, post.mail.Handler()),
			o.Serve(ShareService, newStrangers(book).guard(files)),
			o.Serve(WorkService, work.donor),
			plain.serve(forward.Service, services.server.Handle),
			plain.serve(control.PingService, echoStream),
		)
	}, plain.wait))
}

// streams serves plain streams until the overlay closes.
type streams struct {
	overlay *overlay.Overlay
	running sync.WaitGroup
}

func (s *streams) serve(name string, handle func(net.Conn)) error {
	listener, err := s.overlay.Listen(name)
	if err != nil {
		return err
	}
	s.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.running.Go(func() { defer conn.Close(); handle(conn) })
		}
	})
	return nil
}

// wait ends with the overlay, which closes all listeners and streams.
func (s *streams) wait() error {
	err := s.overlay.Close()
	s.running.Wait()
	return err
}

const (
	// echoLimit bounds how much one stream echoes, in bytes, and echoTime how
	// long it may take.
	echoLimit = 4 << 10
	echoTime  = time.Minute
)

func echoStream(conn net.Conn) {
	conn.SetDeadline(time.Now().Add(echoTime))
	io.Copy(conn, io.LimitReader(conn, echoLimit))
}

func newReporter(cfg config.Config, folder *state.Folder, socket *nat.Socket, o *overlay.Overlay, joiner *join.Joiner,
	keeper *reach.Keeper, book *contacts.Book, shares *sharing, files *share.Handler, work *work, host *public.Host,
	owners *owner.Store, presence *people.Presence, requests *people.Requests, post *post, named *naming) *status.Reporter {
	m := &mover{moving: files.Transfers, book: book}
	return status.New(status.Config{
		Name:      named.name(),
		Version:   version.String(),
		Listen:    socket.LocalAddr().String(),
		Overlay:   o,
		Joiner:    joiner,
		Keeper:    keeper,
		Contacts:  book,
		Shares:    shares.List,
		Transfers: m.transfers,
		Work:      work.status,
		Relayed:   host.RelayedBytes,
		People:    reporting(book, owners, presence, requests, post),
	})
}

func newControl(device *identity.Device, r *status.Reporter, o *overlay.Overlay, joiner *join.Joiner, keeper *reach.Keeper, book *contacts.Book,
	shares *sharing, work *work, requests *people.Requests, devices *devices, post *post, services *services, best *resolve.Resolver,
	places whereabouts, log *slog.Logger) *control.Server {
	return control.New(control.Config{
		Address:  device.Address(),
		Status:   r.Report,
		Netcheck: func(context.Context) api.Netcheck { return keeper.Netcheck() },
		Contacts: book,
		Overlay:  o,
		Paths:    joiner,
		Shares:   shares,
		Work:     work,
		Requests: askers{requests},
		Devices:  devices,
		Messages: post,
		Services: services,
		Best:     best.Device,
		Lookup: func(ctx context.Context, link identity.Link, wish control.LookupWish) (api.Lookup, error) {
			return lookUp(ctx, link, wish, best, places, o)
		},
		HangUp: func(a identity.Address) {
			for s := o.Current(a); s != nil; s = o.Current(a) {
				s.Close()
			}
		},
		Logger: log,
	})
}

func startControl(lc fx.Lifecycle, folder *state.Folder, server *control.Server) {
	lc.Append(fx.StartStopHook(
		func() error { return server.Start(folder.Path(control.Socket)) },
		server.Close,
	))
}

// lookUp finds the device of a link and tells where it is.
func lookUp(ctx context.Context, link identity.Link, wish control.LookupWish, best *resolve.Resolver, places whereabouts, o *overlay.Overlay) (api.Lookup, error) {
	device, err := best.Device(ctx, link)
	if err != nil {
		return api.Lookup{}, err
	}
	if s := o.Current(device); s != nil && !wish.NoSession && !wish.Fresh {
		answer := api.Lookup{Address: device.String(), Source: "session", At: []string{}, Via: []string{}}
		if path := s.Peer().Path(); path.Addr.IsValid() {
			answer.At = append(answer.At, path.Addr.String())
		}
		return answer, nil
	}
	return places.where(ctx, device, wish.Fresh)
}

// passwordFile keeps the console's password record in the state folder.
type passwordFile struct{ folder *state.Folder }

const consoleFile = "console.json"

func (f passwordFile) Load() ([]byte, error)    { return f.folder.ReadFile(consoleFile) }
func (f passwordFile) Save(record []byte) error { return f.folder.WriteFile(consoleFile, record) }

// newConsole returns nil if the console is off.
func newConsole(h *held, cfg config.Config, folder *state.Folder, r *status.Reporter, server *control.Server, named *naming, presence *people.Presence,
	log *slog.Logger) (*console.Console, error) {
	if cfg.Console == "off" {
		return nil, nil
	}
	c, err := console.New(console.Config{
		Status: r.Report,
		API:    server.Routes(),
		Store:  passwordFile{folder},
		SetName: func(name string) error {
			var s settings
			if err := folder.ReadJSON(deviceFile, &s); err != nil {
				return err
			}
			s.Name = name
			if err := folder.WriteJSON(deviceFile, s); err != nil {
				return err
			}
			r.SetName(name)
			named.set(name)
			presence.Announce()
			return nil
		},
		Logger: log,
	})
	if err != nil {
		return nil, err
	}
	h.keep(c.Close)
	return c, nil
}

// startConsole listens for browsers.
func startConsole(lc fx.Lifecycle, cfg config.Config, c *console.Console, log *slog.Logger) {
	if c == nil {
		return
	}
	server := &http.Server{
		Handler:           c.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	done := make(chan struct{})
	lc.Append(fx.StartStopHook(func() error {
		listener, err := net.Listen("tcp", cfg.Console)
		if err != nil {
			return errors.Join(err, errors.New("the console's address is taken; choose another with --console"))
		}
		log.Info("console", "url", "http://"+listener.Addr().String()+"/")
		go func() {
			defer close(done)
			server.Serve(listener)
		}()
		return nil
	}, func() error {
		// Event streams end with the console, requests with the server.
		err := errors.Join(server.Close(), c.Close())
		<-done
		return err
	}))
}
