package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"slices"

	"go.uber.org/fx"

	"porchlight/agent/api"
	"porchlight/agent/beacon"
	"porchlight/agent/config"
	"porchlight/agent/contacts"
	"porchlight/agent/dht"
	"porchlight/agent/directory"
	"porchlight/agent/identity"
	"porchlight/agent/introduce"
	"porchlight/agent/overlay"
	"porchlight/agent/owner"
	"porchlight/agent/reach"
	"porchlight/agent/record"
	"porchlight/agent/state"
	"porchlight/nat"
	"porchlight/nat/stun"
)

// dhtOffset is how far above the device's UDP port its DHT node listens. That
// it is the same everywhere makes every rendezvous a node to begin with.
const dhtOffset = 4

// openFellows reads which rendezvous the device knows.
func openFellows(folder *state.Folder, device *identity.Device) (*reach.Fellows, error) {
	return reach.OpenFellows(folder, device.Address())
}

// noteRegistration keeps what a registration tells: who can be asked next
// time, who else, and the time.
func noteRegistration(fellows *reach.Fellows, c *clock, log *slog.Logger) func(identity.Link, introduce.Registration) {
	return func(at identity.Link, r introduce.Registration) {
		if err := fellows.Proved(at); err != nil {
			log.Warn("a rendezvous will be forgotten", "err", err)
		}
		fellows.Suggest(r.Others...)
		c.told(r.UnixS)
	}
}

// nodesFile keeps nodes of the DHT over restarts.
const nodesFile = "nodes.json"

// newNode returns the device's node of the DHT; nil if the owner wants none.
func newNode(h *held, cfg config.Config, folder *state.Folder, socket *nat.Socket, keeper *reach.Keeper, fellows *reach.Fellows,
	lan *beacon.Beacon, home *household, log *slog.Logger) (*dht.Node, error) {
	if cfg.DHT != "on" {
		return nil, nil
	}
	known, err := cfg.Nodes()
	if err != nil {
		return nil, err
	}
	var saved []netip.AddrPort
	if err := folder.ReadJSON(nodesFile, &saved); err != nil {
		log.Warn("nodes of the last time are lost", "err", err)
	}
	conn, err := listenBeside(socket)
	if err != nil {
		return nil, fmt.Errorf("open the port of the directory: %w", err)
	}
	node := dht.New(dht.Config{
		Conn:     conn,
		ReadOnly: func() bool { return !servesTable(keeper) },
		Bootstrap: func() []netip.AddrPort {
			return slices.Concat(saved, lanNodes(lan), besideAll(fellows.Links()), besideAll(named(home.book)), known)
		},
		Logger: log,
	})
	h.keep(node.Close)
	return node, nil
}

// servesTable says whether the device's node keeps things for others: they can
// rely on it only if strangers reach all its ports.
func servesTable(keeper *reach.Keeper) bool {
	state := keeper.State()
	return state.Reachable && state.Open
}

// listenBeside opens the UDP port dhtOffset above the device's own, or any.
func listenBeside(socket *nat.Socket) (net.PacketConn, error) {
	own := socket.LocalAddr().(*net.UDPAddr)
	if own.Port <= math.MaxUint16-dhtOffset {
		conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: own.IP, Port: own.Port + dhtOffset})
		if err == nil {
			return conn, nil
		}
	}
	return net.ListenUDP("udp", &net.UDPAddr{IP: own.IP})
}

// besideAll are the nodes that the devices of links run.
func besideAll(links []identity.Link) (nodes []netip.AddrPort) {
	for _, l := range links {
		for _, at := range l.At {
			if at.Port() <= math.MaxUint16-dhtOffset {
				nodes = append(nodes, netip.AddrPortFrom(at.Addr(), at.Port()+dhtOffset))
			}
		}
	}
	return nodes
}

func lanNodes(lan *beacon.Beacon) []netip.AddrPort {
	if lan == nil {
		return nil
	}
	return lan.DHT()
}

// startNode runs the node, and keeps the nodes it knows when it ends.
func startNode(lc fx.Lifecycle, node *dht.Node, folder *state.Folder) {
	if node == nil {
		return
	}
	lc.Append(fx.StartStopHook(node.Start, func() error {
		nodes := node.Nodes()
		err := node.Close()
		if len(nodes) > 0 {
			err = errors.Join(err, folder.WriteJSON(nodesFile, nodes))
		}
		return err
	}))
}

// table is the DHT as the directory wants it.
type table struct{ node *dht.Node }

// errNoTable says that the owner switched the directory off.
var errNoTable = errors.New("the directory is switched off; see the option --dht")

// Get implements directory.Table.
func (t table) Get(ctx context.Context, key [32]byte, salt []byte, floor int64, enough func(record.Item) bool) (record.Item, error) {
	if t.node == nil {
		return record.Item{}, errNoTable
	}
	item, err := t.node.Get(ctx, key, salt, floor, func(i dht.Item) bool { return enough(record.Item(i)) })
	return record.Item(item), err
}

// Put implements directory.Table.
func (t table) Put(ctx context.Context, item record.Item) (int, error) {
	if t.node == nil {
		return 0, errNoTable
	}
	return t.node.Put(ctx, dht.Item(item))
}

// newTable is the DHT by the device's own node, and where that reaches nobody,
// by the rendezvous it is registered at.
func newTable(node *dht.Node, o *overlay.Overlay, keeper *reach.Keeper) directory.Table {
	return directory.ByHelpers{Own: table{node}, Client: o.Client(directory.Service), Helpers: keeper.Rendezvous}
}

// newErrands lets others send this device to the table.
func newErrands(node *dht.Node) *directory.Errands { return directory.NewErrands(table{node}) }

func newDirectory(folder *state.Folder, device *identity.Device, t directory.Table, keeper *reach.Keeper, owners *owner.Store, c *clock, log *slog.Logger) *directory.Directory {
	return directory.New(directory.Config{
		Device: device,
		Table:  t,
		Self:   func() record.Record { return selfRecord(keeper, owners) },
		Now:    c.now,
		Files:  folder,
		Owned: func() (identity.Address, []byte, record.Presigned, bool) {
			own := owners.Owner()
			if own.IsZero() {
				return identity.Address{}, nil, record.Presigned{}, false
			}
			signed, err := record.ParsePresigned(owners.Presigned())
			return own, owners.Roster(own), signed, err == nil
		},
		Logger: log,
	})
}

// selfRecord is what this device says about itself.
func selfRecord(keeper *reach.Keeper, owners *owner.Store) record.Record {
	link, state := keeper.Link(), keeper.State()
	r := record.Record{At: link.At, Via: link.Via, NAT: record.NATUnknown}
	if state.Reachable {
		r.Flags |= record.Reachable | record.Introduces
	}
	if state.Open && state.Reachable {
		r.Flags |= record.Relays
	}
	switch {
	case state.NoUDP:
		r.NAT = record.NATNoUDP
	case state.NAT.Mapping == string(stun.EndpointIndependent):
		r.NAT = record.NATEasy
	case state.NAT.Mapping == string(stun.AddressDependent), state.NAT.Mapping == string(stun.AddressAndPortDependent):
		r.NAT = record.NATHard
	}
	if own := owners.Owner(); !own.IsZero() {
		r.Owner, r.Roster = own, owners.Version(own)
	}
	return r
}

// whereabouts is where devices may be, from near to far: heard in this network,
// said by the contact's link, found before; and, if that leads nowhere, found
// by search.
type whereabouts struct {
	lan  *beacon.Beacon
	book *contacts.Book
	dir  *directory.Directory
}

func newWhereabouts(lan *beacon.Beacon, book *contacts.Book, dir *directory.Directory) whereabouts {
	return whereabouts{lan, book, dir}
}

// Hints implements join.Hints.
func (w whereabouts) Hints(a identity.Address) (at []netip.AddrPort, via []identity.Via) {
	at = w.heard(a)
	linkAt, linkVia := w.book.Hints(a)
	cacheAt, cacheVia := w.dir.Hints(a)
	return slices.Concat(at, cacheAt, linkAt), slices.Concat(cacheVia, linkVia)
}

// heard is where a device was heard in this network; link-local addresses are
// left out, which the socket cannot reach by their zones.
func (w whereabouts) heard(a identity.Address) []netip.AddrPort {
	if w.lan == nil {
		return nil
	}
	return slices.DeleteFunc(w.lan.Hints(a), func(at netip.AddrPort) bool { return at.Addr().Zone() != "" })
}

// Lookup implements join.Directory.
func (w whereabouts) Lookup(ctx context.Context, a identity.Address) (at []netip.AddrPort, via []identity.Via, err error) {
	r, err := w.dir.Lookup(ctx, a)
	return r.At, r.Via, err
}

// where tells, for people, where a device is found.
func (w whereabouts) where(ctx context.Context, a identity.Address, fresh bool) (api.Lookup, error) {
	answer := api.Lookup{Address: a.String(), At: []string{}, Via: []string{}}
	tell := func(source string, at []netip.AddrPort, via []identity.Via) (api.Lookup, error) {
		answer.Source = source
		for _, one := range at {
			answer.At = append(answer.At, one.String())
		}
		for _, one := range via {
			answer.Via = append(answer.Via, one.Address.String()+"@"+one.At.String())
		}
		return answer, nil
	}
	if !fresh {
		if at := w.heard(a); len(at) > 0 {
			return tell("lan", at, nil)
		}
		if r, ok := w.dir.Cached(a); ok {
			return tell("cache", r.At, r.Via)
		}
		if at, via := w.book.Hints(a); len(at)+len(via) > 0 {
			return tell("link", at, via)
		}
	} else {
		w.dir.Forget(a)
	}
	r, err := w.dir.Lookup(ctx, a)
	if err != nil {
		return answer, err
	}
	return tell("dht", r.At, r.Via)
}

// newBeacon returns nil if the owner wants no beacons.
func newBeacon(cfg config.Config, device *identity.Device, socket *nat.Socket, keeper *reach.Keeper, home *household,
	owners *owner.Store, log *slog.Logger) *beacon.Beacon {
	if cfg.LAN != "on" {
		return nil
	}
	return beacon.New(beacon.Config{
		Device: device,
		Port:   socket.Port(),
		DHTPort: func() uint16 {
			if cfg.DHT != "on" || !servesTable(keeper) || socket.Port() > math.MaxUint16-dhtOffset {
				return 0
			}
			return socket.Port() + dhtOffset
		},
		Known:    home.addresses,
		Invite:   func() ([32]byte, bool) { return invitedBy(owners) },
		Loopback: cfg.Loopback,
		Logger:   log,
	})
}

// startBeacon tells the network that this device is here.
func startBeacon(lc fx.Lifecycle, lan *beacon.Beacon, log *slog.Logger) {
	if lan == nil {
		return
	}
	lc.Append(fx.StartStopHook(func() {
		// Without beacons everything else works.
		if err := lan.Start(); err != nil {
			log.Warn("devices in this network are not found by beacons", "err", err)
		}
	}, lan.Close))
}

func startDirectory(lc fx.Lifecycle, dir *directory.Directory, node *dht.Node) {
	if node != nil {
		lc.Append(fx.StartStopHook(dir.Start, dir.Close))
	}
}
