package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"

	"go.uber.org/fx"

	"porchlight/agent/beacon"
	"porchlight/agent/config"
	"porchlight/agent/contacts"
	"porchlight/agent/dht"
	"porchlight/agent/dialback"
	"porchlight/agent/directory"
	"porchlight/agent/identity"
	"porchlight/agent/introduce"
	"porchlight/agent/join"
	"porchlight/agent/overlay"
	"porchlight/agent/owner"
	"porchlight/agent/people"
	"porchlight/agent/public"
	"porchlight/agent/reach"
	"porchlight/agent/state"
	"porchlight/nat"
	"porchlight/nat/netwatch"
	"porchlight/nat/portmap"
	"porchlight/nat/relay"
	"porchlight/nat/stun"
)

// deviceFile keeps what the device chose or was told about itself.
const deviceFile = "device.json"

// settings is the content of deviceFile.
type settings struct {
	// Port is chosen once and kept for the device's life.
	Port uint16 `json:"port"`
	// Name is what the owner calls the device; "" means the host's name.
	Name string `json:"name,omitempty"`
}

func openState(h *held, cfg config.Config) (*state.Folder, error) {
	folder, err := state.Open(cfg.State)
	if err != nil {
		return nil, err
	}
	h.keep(folder.Close)
	return folder, nil
}

func loadDevice(folder *state.Folder) (*identity.Device, error) { return identity.Load(folder) }

func openContacts(folder *state.Folder) (*contacts.Book, error) { return contacts.Open(folder) }

// openSocket opens the device's one UDP socket at the port it always had.
func openSocket(h *held, cfg config.Config, folder *state.Folder, log *slog.Logger) (*nat.Socket, error) {
	var s settings
	if err := folder.ReadJSON(deviceFile, &s); err != nil {
		return nil, err
	}
	addr, err := cfg.ListenAddr(s.Port)
	if err != nil {
		return nil, err
	}
	socket, err := nat.Listen(context.Background(), nat.Config{Addr: addr.String(), Logger: log})
	if err != nil {
		return nil, fmt.Errorf("open the UDP port: %w; choose another with --listen", err)
	}
	h.keep(socket.Close)
	if cfg.Listen == "" && s.Port != socket.Port() {
		s.Port = socket.Port()
		if err := folder.WriteJSON(deviceFile, s); err != nil {
			return nil, err
		}
	}
	return socket, nil
}

// secondPort is the port behaviour discovery is answered from; 0 if it was
// taken.
type secondPort uint16

// newMux serves STUN on the socket and, for behaviour discovery, on a second
// port.
func newMux(h *held, socket *nat.Socket, log *slog.Logger) (*stun.Mux, secondPort, error) {
	cfg := stun.Config{Serve: true, Open: stun.OpenUDP, Logger: log}
	second := secondPort(socket.Port() + 2)
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{Port: int(second)})
	if err == nil {
		cfg.AltPort = conn
	} else {
		second = 0
		log.Debug("no second port for behaviour discovery", "err", err)
	}
	mux, err := stun.NewMux(socket, cfg)
	if err != nil {
		if conn != nil {
			conn.Close()
		}
		return nil, 0, err
	}
	socket.HandleSTUN(mux.Handle)
	h.keep(mux.Close)
	return mux, second, nil
}

// newNaming reads what the owner calls this device.
func newNaming(cfg config.Config, folder *state.Folder) (*naming, error) {
	var s settings
	if err := folder.ReadJSON(deviceFile, &s); err != nil {
		return nil, err
	}
	if s.Name == "" {
		s.Name = cfg.Name
	}
	return &naming{text: s.Name}, nil
}

func newClock() *clock { return &clock{} }

// arrivals tells who has just begun a session. Whoever wants to know takes its
// place before the overlay starts.
type arrivals struct{ tell func(identity.Address) }

func newArrivals() *arrivals { return &arrivals{tell: func(identity.Address) {}} }

func newOverlay(device *identity.Device, socket *nat.Socket, book *contacts.Book, owners *owner.Store, arrived *arrivals,
	log *slog.Logger) *overlay.Overlay {
	book.Use(ownership{owners}, func() {})
	return overlay.New(overlay.Config{
		Device: device,
		Socket: socket,
		Admit:  book.Admit,
		Proved: owners.Prove,
		Upkeep: []string{introduce.Service, dialback.Service},
		Began:  func(a identity.Address) { arrived.tell(a) },
		Logger: log,
	})
}

func newIntroduceClient(device *identity.Device, o *overlay.Overlay) *introduce.Client {
	return introduce.NewClient(device, o)
}

// newMapper returns nil where no router is to be asked: the owner has said how
// the device is reached, or everything happens on one machine.
func newMapper(cfg config.Config, device *identity.Device, socket *nat.Socket, log *slog.Logger) *portmap.Mapper {
	if cfg.Reachability != reach.Auto || cfg.Loopback {
		return nil
	}
	return portmap.New(portmap.Config{
		UDPPort: socket.Port(),
		TCPPort: socket.Port(), // of packets in frames
		Secret:  device.Derive("port mapping"),
		Logger:  log,
	})
}

func newDialbackClient(o *overlay.Overlay, mux *stun.Mux) *dialback.Client {
	return dialback.NewClient(o, dialback.OverMux(mux))
}

func newDialbackServer(cfg config.Config, o *overlay.Overlay, mux *stun.Mux, keeper *reach.Keeper, log *slog.Logger) *dialback.Server {
	return dialback.NewServer(dialback.Config{
		Sessions: o,
		Observed: dialback.Observed(o),
		Register: dialback.OverMux(mux),
		Willing:  func() bool { return cfg.Reachability != reach.Private },
		NoUDP:    func() bool { return keeper.State().NoUDP },
		Loopback: cfg.Loopback,
		Logger:   log,
	})
}

func newKeeper(cfg config.Config, device *identity.Device, o *overlay.Overlay, mux *stun.Mux, client *introduce.Client,
	socket *nat.Socket, mapper *portmap.Mapper, knocks *dialback.Client, book *contacts.Book, fellows *reach.Fellows, known *introducers, c *clock,
	log *slog.Logger) (*reach.Keeper, error) {
	bootstrap, err := cfg.Links()
	if err != nil {
		return nil, err
	}
	var router reach.Mapper // nil, and not a nil *portmap.Mapper
	if mapper != nil {
		router = mapper
	}
	return reach.New(reach.Config{
		Device:  device,
		Overlay: o,
		Mux:     mux,
		Client:  client,
		Knocks:  knocks,
		Mapper:  router,
		Links: func() []identity.Link {
			return slices.Concat(bootstrap, friends(book), known.links(), fellows.Links(), named(book))
		},
		Listen:     socket.LocalAddr().(*net.UDPAddr).AddrPort(),
		Policy:     cfg.Reachability,
		Loopback:   cfg.Loopback,
		Registered: noteRegistration(fellows, c, log),
		Refused:    func(r introduce.Registration) { fellows.Suggest(r.Others...) },
		Logger:     log,
	}), nil
}

// named lists the rendezvous that the links of contacts name.
func named(book *contacts.Book) []identity.Link {
	var links []identity.Link
	for _, c := range book.List() {
		for _, v := range c.Link.Via {
			if !c.Blocked && v.At.IsValid() {
				links = append(links, identity.Link{Address: v.Address, At: []netip.AddrPort{v.At}})
			}
		}
	}
	return links
}

// friends lists the contacts that may introduce this device, if they can.
func friends(book *contacts.Book) []identity.Link {
	var links []identity.Link
	for _, c := range book.List() {
		if c.Role != contacts.None && !c.Blocked && c.Link.Address.Kind() == identity.KindDevice {
			links = append(links, c.Link)
		}
	}
	return links
}

func newJoiner(cfg config.Config, device *identity.Device, socket *nat.Socket, mux *stun.Mux, client *introduce.Client,
	o *overlay.Overlay, keeper *reach.Keeper, servers *stunServers, places whereabouts, log *slog.Logger) *join.Joiner {
	return join.New(join.Config{
		Device:     device,
		Socket:     socket,
		Mux:        mux,
		Introducer: client,
		Sessions:   o,
		Situation:  situation{keeper, servers},
		Hints:      places,
		Directory:  places,
		Loopback:   cfg.Loopback,
		Logger:     log,
	})
}

func newIntroduceServer(device *identity.Device, o *overlay.Overlay, joiner *join.Joiner, keeper *reach.Keeper,
	host *public.Host, book *contacts.Book, work *work, shares *sharing, owners *owner.Store, presence *people.Presence,
	fellows *reach.Fellows, log *slog.Logger) *introduce.Server {
	return introduce.NewServer(introduce.Config{
		Device:   device,
		Sessions: o,
		Answerer: joiner,
		// A stranger may come in only where something is open to everybody.
		Welcome: func(a identity.Address) bool {
			c, known := book.Get(a)
			_, inviting := owners.Invitation()
			return known && !c.Blocked || !known && (shares.public() || work.public() || inviting)
		},
		Willing:     func() bool { return keeper.State().Reachable },
		Ticket:      func(a identity.Address) *relay.Ticket { return host.Ticket(a) },
		WelcomeNote: presence.Receive,
		Told:        presence.Handle,
		Left:        presence.Left,
		Others:      func(a identity.Address) []identity.Via { return fellows.For(a, introduce.MaxOthers) },
		Reachable:   func(a identity.Address, at []netip.AddrPort) { noteReachable(fellows, a, at) },
		Seen:        func(a identity.Address) netip.AddrPort { return seenAt(o, a) },
		Reach: func(ctx context.Context, back identity.Via) error {
			if back.At.Addr().IsPrivate() || back.At.Addr().IsLoopback() || back.At.Addr().IsLinkLocalUnicast() {
				return errInward
			}
			joiner.Remember(identity.Link{Address: back.Address, At: []netip.AddrPort{back.At}})
			_, err := o.Session(ctx, back.Address)
			return err
		},
		Logger: log,
	})
}

// errInward says that somebody wanted this device to dial into its own network.
var errInward = errors.New("it leads into this network")

// noteReachable keeps that a device which registers here can be called itself:
// others may want to register there.
func noteReachable(fellows *reach.Fellows, a identity.Address, at []netip.AddrPort) {
	for _, one := range at {
		if one.Addr().IsGlobalUnicast() && !one.Addr().IsPrivate() {
			fellows.Suggest(identity.Via{Address: a, At: one})
			return
		}
	}
}

// seenAt is where a device's packets come from, if they come directly.
func seenAt(o *overlay.Overlay, a identity.Address) netip.AddrPort {
	if s := o.Current(a); s != nil {
		if path := s.Peer().Path(); path.Kind == nat.KindDirect {
			return path.Addr
		}
	}
	return netip.AddrPort{}
}

// webPort is let out by networks that let out nothing else. It is taken only
// where the owner says that the device is public.
const webPort = 443

func newHost(cfg config.Config, socket *nat.Socket, mux *stun.Mux, second secondPort, keeper *reach.Keeper,
	joiner *join.Joiner, knocks *dialback.Client, book *contacts.Book, log *slog.Logger) *public.Host {
	web := uint16(0)
	if cfg.Reachability == reach.Public && !cfg.Loopback {
		web = webPort
	}
	return public.New(public.Config{
		Socket:     socket,
		WebPort:    web,
		Mux:        mux,
		SecondPort: uint16(second),
		State:      keeper.State,
		Private:    cfg.Reachability == reach.Private,
		Knocks:     knocks.HandleFramed,
		Asked:      joiner.Asked,
		RespondSTUN: func(b []byte, from netip.AddrPort) []byte {
			answer, err := stun.Answer(b, from)
			if err != nil {
				return nil
			}
			return answer
		},
		Friend:   func(a identity.Address) bool { return book.Allows(a, []string{"friends"}) },
		Loopback: cfg.Loopback,
		Logger:   log,
	})
}

func startOverlay(lc fx.Lifecycle, o *overlay.Overlay, joiner *join.Joiner, keeper *reach.Keeper, server *introduce.Server,
	arrived *arrivals, presence *people.Presence) {
	arrived.tell = presence.Saw
	o.Use(joiner)
	keeper.Use(joiner, server.Epoch)
	lc.Append(fx.StartStopHook(o.Start, o.Close))
}

// startJoining comes after the services: whoever is introduced finds them.
func startJoining(lc fx.Lifecycle, joiner *join.Joiner, keeper *reach.Keeper, server *introduce.Server) {
	lc.Append(fx.StopHook(joiner.Close))
	lc.Append(fx.StartStopHook(server.Start, server.Close))
	lc.Append(fx.StartStopHook(keeper.Start, keeper.Close))
}

// startMapper asks the router, if one is to be asked, and gives back what it
// gave.
func startMapper(lc fx.Lifecycle, mapper *portmap.Mapper) {
	if mapper != nil {
		lc.Append(fx.StartStopHook(mapper.Start, mapper.Close))
	}
}

// startWatch tells everybody when this machine's addresses or routes change.
func startWatch(lc fx.Lifecycle, joiner *join.Joiner, keeper *reach.Keeper, presence *people.Presence, lan *beacon.Beacon,
	node *dht.Node, dir *directory.Directory, log *slog.Logger) {
	watcher := netwatch.New(netwatch.Config{Logger: log})
	stop, done := make(chan struct{}), make(chan struct{})
	lc.Append(fx.StartStopHook(func() {
		watcher.Start()
		go func() {
			defer close(done)
			for {
				select {
				case <-watcher.Changed():
					keeper.Moved()
					joiner.Moved()
					if lan != nil {
						lan.Moved()
					}
					if node != nil {
						node.Moved()
					}
					dir.Changed()
					presence.Moved()
				case <-stop:
					return
				}
			}
		}()
	}, func() error {
		close(stop)
		<-done
		return watcher.Close()
	}))
}

func startHost(lc fx.Lifecycle, host *public.Host) {
	lc.Append(fx.StartStopHook(host.Start, host.Close))
}
