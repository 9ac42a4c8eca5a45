package app

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"go.uber.org/fx"

	"porchlight/agent/config"
	"porchlight/agent/contacts"
	"porchlight/agent/dialback"
	"porchlight/agent/identity"
	"porchlight/agent/introduce"
	"porchlight/agent/join"
	"porchlight/agent/overlay"
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

func newOverlay(device *identity.Device, socket *nat.Socket, book *contacts.Book, log *slog.Logger) *overlay.Overlay {
	return overlay.New(overlay.Config{Device: device, Socket: socket, Admit: book.Admit, Logger: log})
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
	socket *nat.Socket, mapper *portmap.Mapper, knocks *dialback.Client, book *contacts.Book, log *slog.Logger) (*reach.Keeper, error) {
	bootstrap, err := cfg.Links()
	if err != nil {
		return nil, err
	}
	var router reach.Mapper // nil, and not a nil *portmap.Mapper
	if mapper != nil {
		router = mapper
	}
	return reach.New(reach.Config{
		Device:   device,
		Overlay:  o,
		Mux:      mux,
		Client:   client,
		Knocks:   knocks,
		Mapper:   router,
		Links:    func() []identity.Link { return append(bootstrap[:len(bootstrap):len(bootstrap)], friends(book)...) },
		Listen:   socket.LocalAddr().(*net.UDPAddr).AddrPort(),
		Policy:   cfg.Reachability,
		Loopback: cfg.Loopback,
		Logger:   log,
	}), nil
}

// friends lists the contacts that may introduce this device, if they can.
func friends(book *contacts.Book) []identity.Link {
	var links []identity.Link
	for _, c := range book.List() {
		if c.Role != contacts.None && !c.Blocked {
			links = append(links, c.Link)
		}
	}
	return links
}

func newJoiner(cfg config.Config, device *identity.Device, socket *nat.Socket, mux *stun.Mux, client *introduce.Client,
	o *overlay.Overlay, keeper *reach.Keeper, servers *stunServers, book *contacts.Book, log *slog.Logger) *join.Joiner {
	return join.New(join.Config{
		Device:     device,
		Socket:     socket,
		Mux:        mux,
		Introducer: client,
		Sessions:   o,
		Situation:  situation{keeper, servers},
		Hints:      book,
		Loopback:   cfg.Loopback,
		Logger:     log,
	})
}

func newIntroduceServer(device *identity.Device, o *overlay.Overlay, joiner *join.Joiner, keeper *reach.Keeper,
	host *public.Host, book *contacts.Book, work *work, shares *sharing, log *slog.Logger) *introduce.Server {
	return introduce.NewServer(introduce.Config{
		Device:   device,
		Sessions: o,
		Answerer: joiner,
		// A stranger may come in only where something is open to everybody.
		Welcome: func(a identity.Address) bool {
			c, known := book.Get(a)
			return known && !c.Blocked || !known && (shares.public() || work.public())
		},
		Willing: func() bool { return keeper.State().Reachable },
		Ticket:  func(a identity.Address) *relay.Ticket { return host.Ticket(a) },
		Logger:  log,
	})
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

func startOverlay(lc fx.Lifecycle, o *overlay.Overlay, joiner *join.Joiner, keeper *reach.Keeper, server *introduce.Server) {
	o.Use(joiner)
	keeper.Use(joiner, server.Epoch)
	lc.Append(fx.StartStopHook(o.Start, o.Close))
}

// startJoining comes after the services: whoever is introduced finds them.
func startJoining(lc fx.Lifecycle, joiner *join.Joiner, keeper *reach.Keeper) {
	lc.Append(fx.StopHook(joiner.Close))
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
func startWatch(lc fx.Lifecycle, joiner *join.Joiner, keeper *reach.Keeper, log *slog.Logger) {
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
