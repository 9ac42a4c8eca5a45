package overlay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"porchlight/agent/identity"
	"porchlight/nat"
)

const (
	// keepAlive holds the router's mapping open: home routers forget an idle
	// one after 30 s at the earliest.
	keepAlive = 15 * time.Second
	// maxIdle ends a session whose peer is gone.
	maxIdle = 45 * time.Second
	// handshakeIdle ends an attempt towards nobody.
	handshakeIdle = 5 * time.Second

	// Receive windows bound what a peer may make us hold: 2 MiB a stream,
	// 4 MiB a session. At 40 ms that is 50 MB/s a stream.
	maxStreamWindow  = 2 << 20
	maxSessionWindow = 4 << 20

	// maxStreams is how many streams a peer may have open: what forwarding
	// takes of them, and 64 for everything else.
	maxStreams = 192
	// MaxSessions is how many sessions a device has at once.
	MaxSessions = 256
)

// Codes that close a session (RFC 9000 §19.19).
const (
	codeClosed  quic.ApplicationErrorCode = 0
	codeRefused quic.ApplicationErrorCode = 1
	codeBusy    quic.ApplicationErrorCode = 2
)

// ErrClosed says that the overlay was closed.
var ErrClosed = errors.New("the overlay is closed")

// Finder finds a way to a device.
type Finder interface {
	// Find returns a peer of the socket with a path to the device, of which
	// only the key will prove that it leads there.
	Find(ctx context.Context, to identity.Address) (*nat.Peer, error)
	// Adopt takes over the peer of an incoming session, so that its path can
	// be bettered.
	Adopt(from identity.Address, remote net.Addr) *nat.Peer
	// Wrong says that another device answered at the peer's path.
	Wrong(to identity.Address, peer *nat.Peer)
	// Ended says that a session, and with it its use of the peer, ended.
	Ended(with identity.Address, peer *nat.Peer)
}

// Config is what an Overlay needs.
type Config struct {
	Device *identity.Device
	// Socket carries the packets; quic-go reads and writes it.
	Socket *nat.Socket
	// Admit refuses a device after it has proved its key; nil admits all.
	Admit func(identity.Address) error
	// Proved learns, before Admit, which owner a peer's certificates prove and
	// for which version of the owner's list of devices; nil if nobody asks.
	Proved func(device, owner identity.Address, version uint64)
	// Upkeep lists services whose streams keep a session well, and are not what
	// it is for; see [Session.Idle].
	Upkeep []string
	// Began learns of each session that begins; it must not block. nil if
	// nobody asks.
	Began  func(identity.Address)
	Logger *slog.Logger
}

// Overlay keeps the sessions of one device.
type Overlay struct {
	cfg       Config
	finder    Finder
	transport *quic.Transport
	listener  *quic.Listener
	ctx       context.Context
	cancel    context.CancelFunc
	running   sync.WaitGroup
	services  services
	tokens    tokens

	mu       sync.Mutex
	sessions map[identity.Address][]*Session // the newest last
	dialing  map[identity.Address]*dial
	count    int
}

// New returns an Overlay that is not yet started.
func New(cfg Config) *Overlay {
	o := &Overlay{
		cfg:      cfg,
		sessions: map[identity.Address][]*Session{},
		dialing:  map[identity.Address]*dial{},
	}
	o.ctx, o.cancel = context.WithCancel(context.Background())
	o.services.open = map[string]*listener{}
	if o.cfg.Admit == nil {
		o.cfg.Admit = func(identity.Address) error { return nil }
	}
	return o
}

// Use sets who finds ways to devices; before Start.
func (o *Overlay) Use(f Finder) { o.finder = f }

// Address returns the device's own address.
func (o *Overlay) Address() identity.Address { return o.cfg.Device.Address() }

// Start begins to accept sessions.
func (o *Overlay) Start() error {
	// A stateless reset key that outlives restarts tells peers that their
	// session died with the old process (RFC 9000 §10.3), with their next
	// packet of more than 42 bytes: keep-alives are too small to be answered.
	reset := quic.StatelessResetKey(o.cfg.Device.Derive("stateless reset"))
	token := quic.TokenGeneratorKey(o.cfg.Device.Derive("address token"))
	o.transport = &quic.Transport{
		Conn:                o.cfg.Socket,
		ConnectionIDLength:  8,
		StatelessResetKey:   &reset,
		TokenGeneratorKey:   &token,
		VerifySourceAddress: o.unproven,
	}
	listener, err := o.transport.Listen(tlsConfig(o.cfg.Device, identity.Address{}), quicConfig())
	if err != nil {
		return fmt.Errorf("accept sessions: %w", err)
	}
	o.listener = listener
	o.running.Go(o.accept)
	o.running.Go(o.reap)
	return nil
}

// unproven reports whether a new session's address must prove itself first, by
// a Retry (RFC 9000 §8.1.2): it is one packet, smaller than the one that asked,
// where the handshake is up to eight times as many bytes. Only a path that has
// answered something of ours needs none.
func (o *Overlay) unproven(from net.Addr) bool {
	peer := o.cfg.Socket.PeerAt(from)
	return peer == nil || !peer.Proven()
}

func quicConfig() *quic.Config {
	return &quic.Config{
		Versions:             []quic.Version{quic.Version1},
		HandshakeIdleTimeout: handshakeIdle,
		MaxIdleTimeout:       maxIdle,
		KeepAlivePeriod:      keepAlive,
		InitialPacketSize:    nat.PacketSize,
		// A path may change beneath to one that takes less, and quic-go
		// would not notice: constant addresses hide the change from it.
		DisablePathMTUDiscovery:        true,
		InitialStreamReceiveWindow:     256 << 10,
		MaxStreamReceiveWindow:         maxStreamWindow,
		InitialConnectionReceiveWindow: 512 << 10,
		MaxConnectionReceiveWindow:     maxSessionWindow,
		MaxIncomingStreams:             maxStreams,
		MaxIncomingUniStreams:          -1,
		EnableDatagrams:                true,
	}
}

// Close ends all sessions and waits for everything it started.
func (o *Overlay) Close() error {
	o.cancel()
	o.mu.Lock()
	for _, list := range o.sessions {
		for _, s := range list {
			s.conn.CloseWithError(codeClosed, "")
		}
	}
	o.mu.Unlock()
	var err error
	if o.listener != nil {
		err = errors.Join(o.listener.Close(), o.transport.Close())
	}
	o.services.close()
	o.running.Wait()
	return err
}

func (o *Overlay) accept() {
	for {
		conn, err := o.listener.Accept(o.ctx)
		if err != nil {
			return
		}
		o.running.Go(func() { o.welcome(conn) })
	}
}

// welcome admits an incoming connection whose key has been proved.
func (o *Overlay) welcome(conn *quic.Conn) {
	proof, err := o.prove(conn)
	from := proof.Device
	if err == nil {
		err = o.cfg.Admit(from)
	}
	if err != nil {
		o.cfg.Logger.Debug("session refused", "peer", from.Short(), "err", err)
		conn.CloseWithError(codeRefused, "not allowed")
		return
	}
	peer := o.finder.Adopt(from, conn.RemoteAddr())
	if s := o.add(conn, proof, peer, false); s != nil {
		o.serve(s)
	}
}

// connect dials the device over the path that was found.
func (o *Overlay) connect(ctx context.Context, to identity.Address, peer *nat.Peer) (*Session, error) {
	conf := tlsConfig(o.cfg.Device, to)
	quicConf := quicConfig()
	quicConf.TokenStore = o.tokens.of(to)
	conn, err := o.transport.Dial(ctx, peer.Addr(), conf, quicConf)
	var refused *quic.TransportError
	if errors.As(err, &refused) && refused.ErrorCode == quic.InvalidToken {
		// Our address looked another between the Retry and our answer to it,
		// as when the path proves itself meanwhile: then no Retry follows.
		conn, err = o.transport.Dial(ctx, peer.Addr(), conf, quicConf)
	}
	if err != nil {
		return nil, explainDial(to, err)
	}
	proof, err := o.prove(conn)
	if err != nil {
		conn.CloseWithError(codeRefused, "not allowed")
		return nil, fmt.Errorf("call %s: %w", to.Short(), err)
	}
	s := o.add(conn, proof, peer, true)
	if s == nil {
		return nil, fmt.Errorf("call %s: already %d sessions", to.Short(), MaxSessions)
	}
	o.running.Go(func() { o.serve(s) })
	return s, nil
}

func explainDial(to identity.Address, err error) error {
	var transport *quic.TransportError
	var alert tls.AlertError
	if errors.Is(err, ErrImpostor) || errors.As(err, &transport) && errors.Is(transport, ErrImpostor) {
		return fmt.Errorf("call %s: %w", to.Short(), ErrImpostor)
	}
	if errors.As(err, &alert) {
		return fmt.Errorf("call %s: it speaks another version of the protocol: %w", to.Short(), err)
	}
	return fmt.Errorf("call %s: %w", to.Short(), err)
}

// add registers a session; nil if there are too many.
func (o *Overlay) add(conn *quic.Conn, proof identity.Proof, peer *nat.Peer, dialed bool) *Session {
	with := proof.Device
	s := &Session{conn: conn, with: with, proof: proof, peer: peer, dialed: dialed}
	s.overlay = o
	now := time.Now().UnixNano()
	s.used.Store(now)
	s.worked.Store(now)
	o.mu.Lock()
	full := o.count >= MaxSessions
	if !full {
		o.count++
		o.sessions[with] = append(o.sessions[with], s)
	}
	o.mu.Unlock()
	if full {
		o.cfg.Logger.Warn("session refused: too many", "peer", with.Short(), "sessions", MaxSessions)
		conn.CloseWithError(codeBusy, "busy")
		if !dialed {
			o.finder.Ended(with, peer)
		}
		return nil
	}
	if o.cfg.Began != nil {
		o.cfg.Began(with)
	}
	o.cfg.Logger.Debug("session begins", "peer", with.Short(), "dialed", dialed, "remote", conn.RemoteAddr())
	return s
}

// serve accepts the streams of a session until it ends.
func (o *Overlay) serve(s *Session) {
	o.running.Go(s.receivePackets)
	for {
		stream, err := s.conn.AcceptStream(s.conn.Context())
		if err != nil {
			break
		}
		o.running.Go(func() { o.services.dispatch(newConn(stream, s, false)) })
	}
	<-s.conn.Context().Done()
	o.remove(s)
	o.cfg.Logger.Debug("session ends", "peer", s.with.Short(), "err", context.Cause(s.conn.Context()))
	o.finder.Ended(s.with, s.peer)
}

func (o *Overlay) remove(s *Session) {
	o.mu.Lock()
	defer o.mu.Unlock()
	list := o.sessions[s.with]
	for i := range list {
		if list[i] == s {
			o.sessions[s.with] = append(list[:i:i], list[i+1:]...)
			o.count--
			break
		}
	}
	if len(o.sessions[s.with]) == 0 {
		delete(o.sessions, s.with)
	}
}

// reap closes sessions that a newer one to the same device has replaced, and
// those that nobody uses: keeping one open costs eight packets a minute, and
// beginning one anew is a matter of a few hundred milliseconds.
func (o *Overlay) reap() {
	tick := time.NewTicker(reapEvery)
	defer tick.Stop()
	for {
		select {
		case <-o.ctx.Done():
			return
		case <-tick.C:
		}
		o.mu.Lock()
		for _, list := range o.sessions {
			for i, s := range list {
				after := reapAfter
				if i == len(list)-1 {
					after = restAfter
				}
				if s.streams.Load() == 0 && time.Since(time.Unix(0, s.used.Load())) > after {
					s.conn.CloseWithError(codeClosed, "unused")
				}
			}
		}
		o.mu.Unlock()
	}
}
