package status

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"reflect"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"porchlight/agent/api"
	"porchlight/agent/contacts"
	"porchlight/agent/identity"
	"porchlight/agent/join"
	"porchlight/agent/overlay"
	"porchlight/agent/people"
	"porchlight/agent/reach"
	"porchlight/nat"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// files keeps a book in memory.
type files struct{}

func (files) ReadJSON(string, any) error  { return nil }
func (files) WriteJSON(string, any) error { return nil }

// at is a Finder that looks at one place.
type at struct {
	socket *nat.Socket
	place  netip.AddrPort
}

func (f at) Find(context.Context, identity.Address) (*nat.Peer, error) {
	if !f.place.IsValid() {
		return nil, errors.New("nowhere")
	}
	peer := f.socket.NewPeer()
	return peer, peer.SetPath(nat.Path{Kind: nat.KindDirect, Addr: f.place})
}

func (f at) Adopt(_ identity.Address, remote net.Addr) *nat.Peer {
	return f.socket.Adopt(remote.(*net.UDPAddr).AddrPort())
}
func (at) Wrong(_ identity.Address, peer *nat.Peer) { peer.Close() }
func (at) Ended(_ identity.Address, peer *nat.Peer) { peer.Close() }

var quiet = slog.New(slog.DiscardHandler)

// end is one end of sessions.
func end(t *testing.T, seed byte, place netip.AddrPort) (*overlay.Overlay, *identity.Device, *nat.Socket) {
	t.Helper()
	socket, err := nat.Listen(t.Context(), nat.Config{Addr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	device := identity.FromSeed(bytes.Repeat([]byte{seed}, 32))
	o := overlay.New(overlay.Config{Device: device, Socket: socket, Logger: quiet})
	o.Use(at{socket, place})
	if err := o.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		o.Close()
		socket.Close()
	})
	return o, device, socket
}

// reporter returns a Reporter of a device that can call another, bob, whose
// "sink" takes what it is sent.
func reporter(t *testing.T) (*Reporter, *overlay.Overlay, identity.Address) {
	t.Helper()
	bob, bobDevice, bobSocket := end(t, 2, netip.AddrPort{})
	sink, err := bob.Listen("sink")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := sink.Accept()
			if err != nil {
				return
			}
			io.Copy(io.Discard, conn)
			conn.Close()
		}
	}()
	o, device, socket := end(t, 1, bobSocket.LocalAddr().(*net.UDPAddr).AddrPort())
	book, err := contacts.Open(files{})
	if err != nil {
		t.Fatal(err)
	}
	for name, a := range map[string]identity.Address{"bob": bobDevice.Address(), "eve": identity.FromSeed(bytes.Repeat([]byte{3}, 32)).Address()} {
		if _, err := book.Add(identity.Link{Address: a}, name, contacts.Friend); err != nil {
			t.Fatal(err)
		}
	}
	if err := book.Block("eve", true); err != nil {
		t.Fatal(err)
	}
	joiner := join.New(join.Config{Device: device, Socket: socket, Logger: quiet})
	t.Cleanup(func() { joiner.Close() })
	keeper := reach.New(reach.Config{Device: device, Overlay: o, Logger: quiet})
	return New(Config{
		Name:      "porch",
		Version:   "1.2.3",
		Listen:    "127.0.0.1:4001",
		Overlay:   o,
		Joiner:    joiner,
		Keeper:    keeper,
		Contacts:  book,
		Shares:    func() []api.Share { return []api.Share{{Name: "music"}} },
		Transfers: func() []api.Transfer { return []api.Transfer{} },
		Work:      func() api.Work { return api.Work{Done: 3} },
		Relayed:   func() int64 { return 42 },
		People: People{
			Owner:    func() identity.Address { return identity.Address{} },
			Requests: func() []api.Request { return []api.Request{} },
			Standing: func(identity.Address) string { return "mutual" },
			Devices:  book.Devices,
			Seen:     func(a identity.Address) people.Seen { return people.Seen{Name: "pi-" + a.Short()} },
			Unread:   func(identity.Address) int { return 2 },
		},
	}), o, bobDevice.Address()
}

// send moves size bytes to a device and waits until they arrived.
func send(t *testing.T, o *overlay.Overlay, to identity.Address, size int) {
	t.Helper()
	conn, err := o.Dial(t.Context(), to, "sink")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	conn.(*overlay.Conn).CloseWrite()
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Fatal(err)
	}
}

func TestAReportSaysWhatThereIs(t *testing.T) {
	r, o, _ := reporter(t)
	s := r.Report()
	if s.Address != o.Address().String() || s.Name != "porch" || s.Version != "1.2.3" || s.Listen != "127.0.0.1:4001" {
		t.Errorf("%+v", s)
	}
	if s.Reachability != api.Checking || s.CheckedUnixMS != 0 || s.Public != "" || s.Link == "" {
		t.Errorf("%+v", s)
	}
	if s.RSSBytes < 1<<20 || s.RSSBytes > 1<<32 || s.UptimeMS < 0 || s.UptimeMS > 60_000 {
		t.Errorf("%d bytes, %d ms", s.RSSBytes, s.UptimeMS)
	}
	if s.Work.Done != 3 || len(s.Shares) != 1 || s.Transfers == nil || s.Helpers == nil || s.Traffic != (api.Traffic{RelayedBytes: 42}) {
		t.Errorf("%+v", s)
	}
	if len(s.Contacts) != 2 {
		t.Fatalf("%+v", s.Contacts)
	}
	for i, want := range []api.Contact{{Name: "bob", Role: "friend"}, {Name: "eve", Role: "friend", Blocked: true}} {
		want.Address = s.Contacts[i].Address
		want.Standing, want.Unread = "mutual", 2
		want.Devices = []api.Member{{Address: want.Address, Name: "pi-" + want.Address[:8]}}
		if len(want.Address) != identity.AddressLength || !reflect.DeepEqual(s.Contacts[i], want) {
			t.Errorf("%+v, want %+v", s.Contacts[i], want)
		}
	}
	r.SetName("cellar")
	if r.Report().Name != "cellar" || r.Name() != "cellar" {
		t.Error("the name did not change")
	}
}

func TestTrafficAddsUpOverSessions(t *testing.T) {
	r, o, bob := reporter(t)
	contact := func() api.Contact { return r.Report().Contacts[0] }
	var before api.Contact
	for session := range 3 {
		send(t, o, bob, 100_000)
		during := contact()
		if !during.Online || during.RTTMS <= 0 || during.LastSeenUnixMS == 0 {
			t.Errorf("session %d: %+v", session, during)
		}
		if sent := during.SentBytes - before.SentBytes; sent < 100_000 || sent > 200_000 {
			t.Errorf("session %d: %d bytes more sent, of 100000", session, sent)
		}
		if during.ReceivedBytes <= before.ReceivedBytes {
			t.Errorf("session %d: nothing more received: %d after %d", session, during.ReceivedBytes, before.ReceivedBytes)
		}
		ended := o.Current(bob)
		ended.Close()
		<-ended.Done()
		before = contact()
		if before.Online || before.Path != "" || before.SentBytes != during.SentBytes || before.LastSeenUnixMS == 0 {
			t.Errorf("after session %d: %+v, during it %+v", session, before, during)
		}
	}
	total := r.Report().Traffic
	if total.SentBytes != before.SentBytes || total.ReceivedBytes != before.ReceivedBytes {
		t.Errorf("all devices: %+v, the only one: %+v", total, before)
	}
}

func TestMetersAreBounded(t *testing.T) {
	r, o, bob := reporter(t)
	other := func(i uint32) identity.Address {
		return identity.NewAddress(binary.BigEndian.AppendUint32(make([]byte, 28), i), bob.Kind())
	}
	for i := range uint32(maxMeters - 1) {
		r.seen[other(i)] = &meter{lastSent: 1}
	}
	send(t, o, bob, 1)
	if r.Report(); len(r.seen) != maxMeters {
		t.Errorf("at the limit: %d meters", len(r.seen))
	}
	r.seen[other(maxMeters)] = r.seen[bob]
	delete(r.seen, bob)
	if r.Report(); len(r.seen) != maxMeters || r.seen[bob] != nil {
		t.Errorf("above the limit: %d meters", len(r.seen))
	}
}

func TestResidentBytesAreThoseOfTheKernel(t *testing.T) {
	if _, err := os.Stat("/proc/self/statm"); err != nil {
		t.Skip("no proc file system")
	}
	before := residentBytes()
	// Not from the heap, which may have room already.
	ballast, err := syscall.Mmap(-1, 0, 64<<20, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	for i := range ballast {
		ballast[i] = 1
	}
	after := residentBytes()
	if err := syscall.Munmap(ballast); err != nil {
		t.Error(err)
	}
	if grown := after - before; grown < 32<<20 || grown > 128<<20 {
		t.Errorf("grew by %d bytes with %d more in use", grown, len(ballast))
	}
}
