package dialback

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/overlay"
	"porchlight/nat/probe"
)

// Service is the name of the service on the overlay.
const Service = "dialback"

// Limits of a Server.
const (
	// asksPerMinute is how many requests of one device are served, and of one
	// network (IPv4 /24, IPv6 /56).
	asksPerMinute        = 6
	asksPerNetworkMinute = 24
	// knocksPerMinute is how many orders of one helper are followed, of all
	// together, and towards one network.
	knocksPerMinute        = 12
	knocksTotalMinute      = 60
	knocksPerNetworkMinute = 12
	// maxAtOnce is how many requests are served at once.
	maxAtOnce = 8
	// maxTried is how many devices are asked to knock until one does.
	maxTried = 3
	// isAtLimit is how long the answer to one question may take.
	isAtLimit = 500 * time.Millisecond
	// serveLimit is how long one request may take.
	serveLimit = 5 * time.Second

	prefix4, prefix6 = 24, 56
)

// Sessions tells whom a helper has sessions with.
type Sessions interface {
	Connected() []identity.Address
	Client(service string) *http.Client
}

// Knocker sends knocks.
type Knocker interface {
	Knock(context.Context, Knock) Outcome
}

// Config is what a Server needs.
type Config struct {
	Sessions Sessions
	// Observed is where the packets of a device with a session come from at
	// this moment; see the function [Observed].
	Observed func(identity.Address) (netip.AddrPort, bool)
	// Knocker sends knocks; nil is [Net].
	Knocker Knocker
	// Register shares the socket, to ask whether devices are where they say;
	// nil believes only what Observed tells.
	Register Register
	// Willing says whether this device does anything for others.
	Willing func() bool
	// NoUDP says that this device's network carries no UDP, so that its
	// knocks would prove nothing.
	NoUDP func() bool
	// Loopback allows knocks at this machine, for several agents on one.
	Loopback bool
	Logger   *slog.Logger
}

// Server answers the service on one device: as helper and as the one who
// knocks.
type Server struct {
	cfg    Config
	client *http.Client
	mux    *http.ServeMux
	slots  chan struct{}

	asks, orders   *limits[identity.Address]
	askers, knocks *limits[netip.Prefix]
	total          *limits[struct{}]
}

// NewServer returns a Server.
func NewServer(cfg Config) *Server {
	if cfg.Knocker == nil {
		cfg.Knocker = Net{}
	}
	s := &Server{
		cfg:    cfg,
		client: cfg.Sessions.Client(Service),
		mux:    http.NewServeMux(),
		slots:  make(chan struct{}, maxAtOnce),
		asks:   newLimits[identity.Address](asksPerMinute),
		askers: newLimits[netip.Prefix](asksPerNetworkMinute),
		orders: newLimits[identity.Address](knocksPerMinute),
		knocks: newLimits[netip.Prefix](knocksPerNetworkMinute),
		total:  newLimits[struct{}](knocksTotalMinute),
	}
	s.mux.HandleFunc("POST /v1/ask", s.ask)
	s.mux.HandleFunc("POST /v1/knock", s.knock)
	return s
}

// ServeHTTP answers one request of the service. Who asks is told by the
// session (overlay.Caller), so a request without a caller is refused.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case overlay.Caller(r).IsZero():
		http.Error(w, "no device proved its key for this request", http.StatusUnauthorized)
		return
	case !s.cfg.Willing():
		http.Error(w, "this device does nothing for others", http.StatusForbidden)
		return
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
		s.mux.ServeHTTP(w, r)
	default:
		http.Error(w, "too many requests at once; try again later", http.StatusServiceUnavailable)
	}
}

// ask has somebody knock at the device that asks.
func (s *Server) ask(w http.ResponseWriter, r *http.Request) {
	caller, now := overlay.Caller(r), time.Now()
	if !s.asks.allow(caller, now) {
		http.Error(w, "too many requests; wait a minute", http.StatusTooManyRequests)
		return
	}
	body, ok := read(w, r)
	if !ok {
		return
	}
	a, err := parseAsk(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), serveLimit)
	defer cancel()
	ip, err := s.locate(ctx, caller, a)
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	if !s.askers.allow(network(ip), now) {
		http.Error(w, "too many requests of your network; wait a minute", http.StatusTooManyRequests)
		return
	}
	json.NewEncoder(w).Encode(s.have(ctx, caller, ip, a))
}

// locate returns the address of the device that asks: where its session comes
// from, or where it says that it is and answers.
func (s *Server) locate(ctx context.Context, caller identity.Address, a ask) (netip.Addr, error) {
	at, ok := s.cfg.Observed(caller)
	if a.At.IsValid() {
		at, ok = a.At, s.isAt(ctx, a)
	}
	ip := at.Addr().Unmap()
	if !ok || !knockable(ip, s.cfg.Loopback) {
		return netip.Addr{}, ErrNotSeen
	}
	return ip, nil
}

// isAt asks at an address for the device that says it is there. It sends two
// questions at most, which together are smaller than the request.
func (s *Server) isAt(ctx context.Context, a ask) bool {
	if s.cfg.Register == nil || !knockable(a.At.Addr(), s.cfg.Loopback) {
		return false
	}
	question, id, err := probe.Ask(a.proofKey(), "dialback")
	if err != nil {
		return false
	}
	there := make(chan struct{}, 1)
	endpoint, err := s.cfg.Register(rand.Text(), func(b []byte, from netip.AddrPort) {
		got, err := probe.Answered(b, a.proofKey())
		if err != nil || got != id {
			return
		}
		select {
		case there <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return false
	}
	defer endpoint.Close()
	for range 2 {
		endpoint.Send(question, a.At)
		select {
		case <-there:
			return true
		case <-time.After(isAtLimit):
		case <-ctx.Done():
			return false
		}
	}
	return false
}

// have finds somebody to knock, or knocks itself.
func (s *Server) have(ctx context.Context, caller identity.Address, ip netip.Addr, a ask) report {
	for _, stranger := range s.strangers(caller, ip, a) {
		r, err := s.order(ctx, stranger, knock{doors: a.doors, IP: ip})
		if err == nil {
			return report{By: Stranger, IP: ip, Outcomes: r.Outcomes}
		}
		s.cfg.Logger.Debug("no knock", "by", stranger.Short(), "err", err)
	}
	return report{By: Helper, IP: ip, Outcomes: knockAll(ctx, s.cfg.Knocker, ip, a.doors)}
}

// strangers lists devices that may knock, in no particular order: those the
// caller did not meet, elsewhere than the caller.
func (s *Server) strangers(caller identity.Address, ip netip.Addr, a ask) []identity.Address {
	var all []identity.Address
	for _, device := range s.cfg.Sessions.Connected() {
		at, ok := s.cfg.Observed(device)
		addr := at.Addr().Unmap()
		if device != caller && ok && addr != ip && knockable(addr, s.cfg.Loopback) && !a.met(addr) {
			all = append(all, device)
		}
	}
	mathrand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:min(len(all), maxTried)]
}

// order asks another device to knock.
func (s *Server) order(ctx context.Context, by identity.Address, k knock) (report, error) {
	body, err := encode(&k, &k.doors)
	if err != nil {
		return report{}, err
	}
	r, err := post(ctx, s.client, by, "/v1/knock", body)
	if err != nil {
		return report{}, err
	}
	if len(r.Outcomes) != len(k.Places) {
		return report{}, fmt.Errorf("%w: %d outcomes for %d places", ErrAnswer, len(r.Outcomes), len(k.Places))
	}
	if slices.Contains(r.Outcomes, Unable) {
		return report{}, fmt.Errorf("%w: its network cannot", ErrAnswer)
	}
	return r, nil
}

// knock knocks for another helper.
func (s *Server) knock(w http.ResponseWriter, r *http.Request) {
	caller, now := overlay.Caller(r), time.Now()
	if !s.orders.allow(caller, now) {
		http.Error(w, "too many orders; wait a minute", http.StatusTooManyRequests)
		return
	}
	body, ok := read(w, r)
	if !ok {
		return
	}
	k, err := parseKnock(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ip := k.IP.Unmap()
	if !knockable(ip, s.cfg.Loopback) {
		http.Error(w, "that address is not public", http.StatusBadRequest)
		return
	}
	if !s.knocks.allow(network(ip), now) || !s.total.allow(struct{}{}, now) {
		http.Error(w, "enough knocks for this minute", http.StatusTooManyRequests)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), serveLimit)
	defer cancel()
	json.NewEncoder(w).Encode(report{By: Helper, IP: ip, Outcomes: s.knockUnlessBlocked(ctx, ip, k.doors)})
}

// knockUnlessBlocked does not pretend to knock where no UDP leaves.
func (s *Server) knockUnlessBlocked(ctx context.Context, ip netip.Addr, d doors) []Outcome {
	udp := slices.ContainsFunc(d.Places, func(p Place) bool { return p.Network == UDP })
	if udp && s.cfg.NoUDP() {
		return slices.Repeat([]Outcome{Unable}, len(d.Places))
	}
	return knockAll(ctx, s.cfg.Knocker, ip, d)
}

// network is the unit that limits count by.
func network(a netip.Addr) netip.Prefix {
	bits := prefix6
	if a = a.Unmap(); a.Is4() {
		bits = prefix4
	}
	p, _ := a.Prefix(bits)
	return p
}

func read(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, "the body is too large", http.StatusRequestEntityTooLarge)
		return nil, false
	}
	return b, true
}

// Errors of a request to another device.
var (
	// ErrAnswer says that the other device did not do what was asked.
	ErrAnswer = errors.New("the device did not have anybody knock")
	// ErrLimited says that it will do so later.
	ErrLimited = errors.New("the device was asked too often; it will do so later")
	// ErrNotSeen says that it knows no public address of this device.
	ErrNotSeen = errors.New("the device sees no public address of this one")
)

// post sends a request and reads the report.
func post(ctx context.Context, client *http.Client, to identity.Address, path string, body []byte) (r report, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+to.String()+path, bytes.NewReader(body))
	if err != nil {
		return r, err
	}
	response, err := client.Do(request)
	if err != nil {
		return r, fmt.Errorf("ask %s: %w", to.Short(), err)
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return r, fmt.Errorf("ask %s: %w", to.Short(), ErrLimited)
	case http.StatusConflict:
		return r, fmt.Errorf("ask %s: %w", to.Short(), ErrNotSeen)
	default:
		return r, fmt.Errorf("ask %s: %w: %s", to.Short(), ErrAnswer, response.Status)
	}
	b, err := io.ReadAll(io.LimitReader(response.Body, maxReport+1))
	if err != nil {
		return r, fmt.Errorf("ask %s: %w", to.Short(), err)
	}
	if len(b) > maxReport || json.Unmarshal(b, &r) != nil || len(r.Outcomes) > MaxPlaces {
		return report{}, fmt.Errorf("ask %s: %w: unusable report", to.Short(), ErrAnswer)
	}
	return r, nil
}
