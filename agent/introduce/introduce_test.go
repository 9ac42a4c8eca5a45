package introduce

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"porchlight/agent/identity"
	"porchlight/agent/overlay"
	"porchlight/agent/sealed"
	"porchlight/nat/ice"
	"porchlight/nat/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func device(n byte) *identity.Device { return identity.FromSeed(bytes.Repeat([]byte{n}, 32)) }

// world carries requests between devices that have sessions.
type world struct {
	mu       sync.Mutex
	handlers map[identity.Address]http.Handler
	asked    []string // "METHOD path at address"
}

func newWorld() *world { return &world{handlers: map[identity.Address]http.Handler{}} }

func (w *world) put(a identity.Address, h http.Handler) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.handlers[a] = h
}

// count is how many requests with a method and path reached a device.
func (w *world) count(method, path string, at identity.Address) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.asked {
		if a == method+" "+path+" "+at.String() {
			n++
		}
	}
	return n
}

// sessions is what one device sees of the world.
type sessions struct {
	world *world
	own   identity.Address
}

func (s sessions) Current(a identity.Address) *overlay.Session {
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	if s.world.handlers[a] == nil {
		return nil
	}
	return &overlay.Session{}
}

func (s sessions) Client(string) *http.Client { return &http.Client{Transport: s} }

// RoundTrip asks the handler of the device that the host of the URL names.
func (s sessions) RoundTrip(r *http.Request) (*http.Response, error) {
	to, err := identity.ParseAddress(r.URL.Host)
	if err != nil {
		return nil, err
	}
	s.world.mu.Lock()
	h := s.world.handlers[to]
	s.world.asked = append(s.world.asked, r.Method+" "+r.URL.Path+" "+to.String())
	s.world.mu.Unlock()
	if h == nil {
		return nil, errors.New("dialled a device without a session")
	}
	if raw, ok := h.(rawHandler); ok {
		return raw(r), nil
	}
	w := httptest.NewRecorder()
	request := r.Clone(overlay.WithCaller(r.Context(), s.own))
	if request.Body == nil {
		request.Body = http.NoBody
	}
	h.ServeHTTP(w, request)
	return w.Result(), nil
}

// rawHandler makes responses that no http.ResponseWriter would.
type rawHandler func(*http.Request) *http.Response

func (rawHandler) ServeHTTP(http.ResponseWriter, *http.Request) {}

type answerFunc func(identity.Address, Offer) (Offer, error)

func (f answerFunc) Answer(_ context.Context, from identity.Address, o Offer) (Offer, error) {
	return f(from, o)
}

func description(candidates int) ice.Description {
	d := ice.Description{Ufrag: "abcdefgh", Pwd: strings.Repeat("p", 26)}
	for i := range candidates {
		addr := netip.AddrFrom4([4]byte{203, 0, 113, byte(i)})
		d.Candidates = append(d.Candidates, ice.Candidate{Kind: ice.Host, Addr: netip.AddrPortFrom(addr, 4001)})
	}
	return d
}

// node is one device with server and client.
type node struct {
	*Server
	*Client
	device  *identity.Device
	address identity.Address
	cfg     *Config
}

func newNode(w *world, seed byte, change func(*Config)) *node {
	d := device(seed)
	cfg := Config{
		Device:   d,
		Sessions: sessions{w, d.Address()},
		Answerer: answerFunc(func(identity.Address, Offer) (Offer, error) { return Offer{ICE: description(1)}, nil }),
		Welcome:  func(identity.Address) bool { return true },
		Willing:  func() bool { return true },
		Ticket:   func(identity.Address) *relay.Ticket { return nil },
		Logger:   slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	n := &node{Server: NewServer(cfg), Client: NewClient(d, cfg.Sessions), device: d, address: d.Address(), cfg: &cfg}
	w.put(n.address, n.Server)
	return n
}

func (n *node) register(t *testing.T, at *node) {
	t.Helper()
	if _, err := n.Register(t.Context(), at.address, n.Epoch()); err != nil {
		t.Fatal(err)
	}
}

// three returns a caller, a rendezvous and a device that is registered there.
func three(t *testing.T) (w *world, a, r, b *node) {
	w = newWorld()
	a, r, b = newNode(w, 1, nil), newNode(w, 2, nil), newNode(w, 3, nil)
	b.register(t, r)
	return w, a, r, b
}

// send makes one request as a caller, without a Client.
func send(t *testing.T, s http.Handler, caller identity.Address, method, target string, body []byte) *httptest.ResponseRecorder {
	t.Helper()
	request := httptest.NewRequest(method, target, bytes.NewReader(body))
	request = request.WithContext(overlay.WithCaller(request.Context(), caller))
	w := httptest.NewRecorder()
	s.ServeHTTP(w, request)
	return w
}

func sealOffer(t *testing.T, from, to *node, purpose string, o Offer) []byte {
	t.Helper()
	message, err := seal(from.device, to.address, purpose, o)
	if err != nil {
		t.Fatal(err)
	}
	return message
}

func TestAnOfferReachesTheDeviceAndItsAnswerTheCaller(t *testing.T) {
	for _, direct := range []bool{false, true} {
		t.Run(fmt.Sprint("direct=", direct), func(t *testing.T) {
			_, a, r, b := three(t)
			var from identity.Address
			var got Offer
			b.Server.cfg.Answerer = answerFunc(func(f identity.Address, o Offer) (Offer, error) {
				from, got = f, o
				return Offer{ICE: description(2), Mapping: "none"}, nil
			})
			via := r.address
			if direct {
				via = b.address
			}
			answer, err := a.Offer(t.Context(), via, b.address, Offer{ICE: description(3), NoUDP: true})
			if err != nil {
				t.Fatal(err)
			}
			if from != a.address || len(got.ICE.Candidates) != 3 || !got.NoUDP {
				t.Errorf("the device got %+v of %s", got, from.Short())
			}
			if len(answer.ICE.Candidates) != 2 || answer.Mapping != "none" {
				t.Errorf("answer %+v", answer)
			}
		})
	}
}

func TestAnOfferIsAnsweredOnce(t *testing.T) {
	_, a, _, b := three(t)
	message := sealOffer(t, a, b, purposeOffer, Offer{Epoch: b.Epoch(), Session: sealed.NewNonce(), ICE: description(1)})
	target := "/v1/offer?to=" + b.address.String()
	if w := send(t, b, a.address, "POST", target, message); w.Code != http.StatusOK {
		t.Fatalf("first time: %d %s", w.Code, w.Body)
	}
	if w := send(t, b, a.address, "POST", target, message); w.Code != http.StatusForbidden {
		t.Errorf("replayed: %d", w.Code)
	}
}

func TestADeviceRefuses(t *testing.T) {
	_, a, r, b := three(t)
	fresh := func() Offer { return Offer{Epoch: b.Epoch(), Session: sealed.NewNonce(), ICE: description(1)} }
	forged := sealOffer(t, a, b, purposeOffer, fresh())
	forged[len(forged)-1] ^= 1
	manyRelays := fresh()
	manyRelays.Relay = make([]netip.AddrPort, MaxRelays+1)
	for i := range manyRelays.Relay {
		manyRelays.Relay[i] = netip.MustParseAddrPort("203.0.113.9:1")
	}
	tooMany := fresh()
	for range MaxCandidates + 1 { // short ones, so that all fit
		tooMany.ICE.Candidates = append(tooMany.ICE.Candidates, ice.Candidate{Kind: ice.Host, Addr: netip.MustParseAddrPort("1.1.1.1:1")})
	}
	noRelay := fresh()
	noRelay.Relay = []netip.AddrPort{{}}
	zone := fresh()
	zone.Relay = []netip.AddrPort{netip.MustParseAddrPort("[fe80::1%eth0]:1")}
	stale := fresh()
	stale.Epoch = sealed.NewNonce()
	weak := fresh()
	weak.ICE.Pwd = "short"
	tests := []struct {
		name    string
		message []byte
		want    int
	}{
		{"nothing", nil, 403},
		{"garbage", bytes.Repeat([]byte{1}, 500), 403},
		{"a forged message", forged, 403},
		{"one for another device", sealOffer(t, a, r, purposeOffer, fresh()), 403},
		{"one for another purpose", sealOffer(t, a, b, purposeAnswer, fresh()), 403},
		{"too many candidates", sealOffer(t, a, b, purposeOffer, tooMany), 403},
		{"too many relays", sealOffer(t, a, b, purposeOffer, manyRelays), 403},
		{"a relay that is nowhere", sealOffer(t, a, b, purposeOffer, noRelay), 403},
		{"a relay in a zone", sealOffer(t, a, b, purposeOffer, zone), 403},
		{"a weak password", sealOffer(t, a, b, purposeOffer, weak), 403},
		{"another epoch", sealOffer(t, a, b, purposeOffer, stale), 409},
		{"one byte too much", make([]byte, sealed.MaxMessage+1), 413},
		{"as much as may be", make([]byte, sealed.MaxMessage), 403},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := send(t, b, a.address, "POST", "/v1/offer?to="+b.address.String(), tt.message)
			if w.Code != tt.want {
				t.Errorf("%d %s, want %d", w.Code, w.Body, tt.want)
			}
			if tt.want == 403 && w.Body.String() != "refused\n" {
				t.Errorf("a stranger learns %q", w.Body)
			}
		})
	}
}

func TestWhoIsNotWelcomeLearnsNothingAndFillsNothing(t *testing.T) {
	_, a, _, b := three(t)
	b.Server.cfg.Welcome = func(identity.Address) bool { return false }
	o := Offer{Epoch: sealed.NewNonce(), Session: sealed.NewNonce(), ICE: description(1)}
	w := send(t, b, a.address, "POST", "/v1/offer?to="+b.address.String(), sealOffer(t, a, b, purposeOffer, o))
	if w.Code != http.StatusForbidden {
		t.Errorf("another epoch: %d, which tells a stranger something", w.Code)
	}
	o.Epoch = b.Epoch()
	message := sealOffer(t, a, b, purposeOffer, o)
	send(t, b, a.address, "POST", "/v1/offer?to="+b.address.String(), message)
	b.Server.cfg.Welcome = func(identity.Address) bool { return true }
	if w := send(t, b, a.address, "POST", "/v1/offer?to="+b.address.String(), message); w.Code != http.StatusOK {
		t.Errorf("the refused offer was remembered: %d", w.Code)
	}
}

func TestAChangedEpochIsFetchedAnewExactlyOnce(t *testing.T) {
	w, a, r, b := three(t)
	stale := sealed.NewNonce()
	if _, err := b.Register(t.Context(), r.address, stale); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Offer(t.Context(), r.address, b.address, Offer{ICE: description(1)}); err != nil {
		t.Fatalf("the rendezvous knew an old epoch: %v", err)
	}
	if n := w.count("GET", "/v1/epoch", r.address); n != 2 {
		t.Errorf("asked %d times for the epoch, want 2", n)
	}
	if n := w.count("GET", "/v1/epoch", b.address); n != 1 {
		t.Errorf("the rendezvous renewed it %d times, want once", n)
	}

	// A rendezvous that lies about the epoch gets a second chance and no third.
	lies := 0
	delete(a.learnt, b.address)
	w.put(r.address, http.HandlerFunc(func(rw http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/v1/epoch" {
			lies++
			fmt.Fprintf(rw, `{"epoch":"%032d"}`, lies)
			return
		}
		r.ServeHTTP(rw, q)
	}))
	if _, err := a.Offer(t.Context(), r.address, b.address, Offer{ICE: description(1)}); !errors.Is(err, sealed.ErrEpoch) {
		t.Errorf("a lying rendezvous: %v", err)
	}
	if lies != 2 {
		t.Errorf("asked the liar %d times, want 2", lies)
	}
}

func TestAKnownEpochIsNotAskedForAgain(t *testing.T) {
	w, a, r, b := three(t)
	if _, err := b.Register(t.Context(), r.address, b.Epoch()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Learn(t.Context(), r.address, b.address); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := a.Offer(t.Context(), r.address, b.address, Offer{ICE: description(1)}); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.count("GET", "/v1/epoch", r.address); n != 1 {
		t.Errorf("asked %d times for the epoch, want once", n)
	}
}

func TestWhatIsLearntIsBounded(t *testing.T) {
	w, a, r, b := three(t)
	w.put(r.address, http.HandlerFunc(func(rw http.ResponseWriter, q *http.Request) {
		fmt.Fprintf(rw, `{"epoch":"%032d"}`, 7)
	}))
	for i := range maxEpochs + 1 {
		key := bytes.Repeat([]byte{9}, 32)
		key[0], key[1] = byte(i), byte(i>>8)
		if _, err := a.Learn(t.Context(), r.address, identity.NewAddress(key, identity.KindDevice)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.Learn(t.Context(), r.address, b.address); err != nil || len(a.learnt) != maxEpochs {
		t.Errorf("%d epochs remembered, %v", len(a.learnt), err)
	}
}

func TestBodiesOfRegistrationsAreBounded(t *testing.T) {
	_, a, r, _ := three(t)
	body := func(size int) []byte {
		b := fmt.Appendf(nil, `{"epoch":"%032d"}`, 7)
		return append(b, bytes.Repeat([]byte{' '}, size-len(b))...)
	}
	for size, want := range map[int]int{100: 200, maxBody: 200, maxBody + 1: 413} {
		if w := send(t, r, a.address, "PUT", "/v1/register", body(size)); w.Code != want {
			t.Errorf("%d bytes: %d, want %d", size, w.Code, want)
		}
	}
	for _, bad := range []string{"", "{}", "[]", `{"epoch":"12"}`, `{"epoch":"` + strings.Repeat("0", 31) + `1"} x`} {
		if w := send(t, r, a.address, "PUT", "/v1/register", []byte(bad)); w.Code != 400 {
			t.Errorf("body %q: %d", bad, w.Code)
		}
	}
}

func TestAnUnwillingRendezvousServesOnlyItself(t *testing.T) {
	_, a, r, b := three(t)
	r.Server.cfg.Willing = func() bool { return false }
	if _, err := b.Register(t.Context(), r.address, b.Epoch()); !errors.Is(err, ErrUnwilling) {
		t.Errorf("register: %v", err)
	}
	if w := send(t, r, a.address, "GET", "/v1/epoch?of="+b.address.String(), nil); w.Code != 404 {
		t.Errorf("epoch: %d", w.Code)
	}
	if w := send(t, r, a.address, "POST", "/v1/offer?to="+b.address.String(), []byte("x")); w.Code != 404 {
		t.Errorf("offer: %d", w.Code)
	}
	if _, err := a.Offer(t.Context(), r.address, b.address, Offer{ICE: description(1)}); !errors.Is(err, ErrNotHere) {
		t.Errorf("offer of a client: %v", err)
	}
	if _, err := a.Offer(t.Context(), r.address, r.address, Offer{ICE: description(1)}); err != nil {
		t.Errorf("offer to the rendezvous itself: %v", err)
	}
}

func TestARendezvousUsesOnlySessionsOfWhoRegistered(t *testing.T) {
	w, a, r, b := three(t)
	stranger := newNode(w, 9, nil) // has a session, did not register
	if got := send(t, r, a.address, "POST", "/v1/offer?to="+stranger.address.String(), []byte("x")); got.Code != 404 {
		t.Errorf("to who never registered: %d", got.Code)
	}
	w.put(b.address, nil) // the session ends
	if got := send(t, r, a.address, "POST", "/v1/offer?to="+b.address.String(), []byte("x")); got.Code != 404 {
		t.Errorf("to who is gone: %d", got.Code)
	}
	if n := w.count("POST", "/v1/offer", b.address) + w.count("POST", "/v1/offer", stranger.address); n != 0 {
		t.Errorf("the rendezvous dialled %d times", n)
	}
}

func TestWithoutCallerOrAddressARequestIsRefused(t *testing.T) {
	_, a, r, b := three(t)
	if w := send(t, r, identity.Address{}, "PUT", "/v1/register", nil); w.Code != 401 {
		t.Errorf("no caller: %d", w.Code)
	}
	for _, target := range []string{"/v1/epoch?of=x", "/v1/epoch", "/v1/epoch?of=" + b.address.String()[1:]} {
		if w := send(t, r, a.address, "GET", target, nil); w.Code != 400 {
			t.Errorf("%s: %d", target, w.Code)
		}
	}
	if w := send(t, r, a.address, "POST", "/v1/offer?to=nobody", nil); w.Code != 400 {
		t.Errorf("offer to nobody: %d", w.Code)
	}
}

func TestCarriedOffersAreLimitedForEachCaller(t *testing.T) {
	_, a, r, b := three(t)
	target := "/v1/offer?to=" + b.address.String()
	for i := range offersPerMinute {
		if w := send(t, r, a.address, "POST", target, []byte("x")); w.Code != 403 {
			t.Fatalf("offer %d: %d", i+1, w.Code)
		}
	}
	if w := send(t, r, a.address, "POST", target, []byte("x")); w.Code != 429 {
		t.Errorf("offer %d: %d", offersPerMinute+1, w.Code)
	}
	// What one caller used up is still there for another, also at the device.
	other := newNode(newWorld(), 8, nil)
	o := Offer{Epoch: b.Epoch(), Session: sealed.NewNonce(), ICE: description(1)}
	if w := send(t, r, other.address, "POST", target, sealOffer(t, other, b, purposeOffer, o)); w.Code != 200 {
		t.Errorf("another caller: %d", w.Code)
	}
}

func TestASenderIsAnsweredSoOftenWhoeverCarriesIt(t *testing.T) {
	_, a, r, b := three(t)
	for i := range offersPerMinute + 1 {
		o := Offer{Epoch: b.Epoch(), Session: sealed.NewNonce(), ICE: description(1)}
		w := send(t, b, r.address, "POST", "/v1/offer?to="+b.address.String(), sealOffer(t, a, b, purposeOffer, o))
		if ok := w.Code == 200; ok != (i < offersPerMinute) {
			t.Fatalf("offer %d: %d", i+1, w.Code)
		}
	}
}

func TestLimitsForgetTheLeastSpentOnly(t *testing.T) {
	l, now := newLimits(2), time.Now()
	flooder := device(1).Address()
	l.allow(flooder, now)
	l.allow(flooder, now)
	for i := range 2 * maxCallers {
		key := bytes.Repeat([]byte{9}, 32)
		key[0], key[1] = byte(i), byte(i>>8)
		if !l.allow(identity.NewAddress(key, identity.KindDevice), now) {
			t.Fatalf("newcomer %d was refused", i)
		}
	}
	if len(l.all) > maxCallers {
		t.Errorf("%d remembered, at most %d", len(l.all), maxCallers)
	}
	if l.allow(flooder, now) {
		t.Error("a flood of newcomers gave the flooder a new allowance")
	}
	if !l.allow(flooder, now.Add(time.Minute)) {
		t.Error("a minute later nothing is allowed")
	}
}

func TestRegistrationsOfTheAbsentMakeRoom(t *testing.T) {
	_, a, r, b := three(t)
	r.mu.Lock()
	for i := range maxCallers {
		key := bytes.Repeat([]byte{9}, 32)
		key[0], key[1] = byte(i), byte(i>>8)
		r.registrations[identity.NewAddress(key, identity.KindDevice)] = &registration{epoch: sealed.NewNonce()}
	}
	r.mu.Unlock()
	a.register(t, r)
	r.mu.Lock()
	n := len(r.registrations)
	r.mu.Unlock()
	if n != 2 {
		t.Errorf("%d registrations, want those of the two that have sessions", n)
	}
	b.register(t, r)
}

// endless is a body without end.
type endless struct{}

func (endless) Read(b []byte) (int, error) { return copy(b, bytes.Repeat([]byte{' '}, len(b))), nil }
func (endless) Close() error               { return nil }

func TestARendezvousThatLiesIsSurvived(t *testing.T) {
	w, a, r, b := three(t)
	earlier, err := seal(b.device, a.address, purposeAnswer, Offer{Session: sealed.NewNonce(), ICE: description(1)})
	if err != nil {
		t.Fatal(err)
	}
	eve := newNode(newWorld(), 7, nil)
	body := func(code int, b io.ReadCloser) *http.Response { return &http.Response{StatusCode: code, Body: b} }
	text := func(code int, b []byte) *http.Response { return body(code, io.NopCloser(bytes.NewReader(b))) }
	epoch := fmt.Appendf(nil, `{"epoch":"%032d"}`, 1)
	tests := []struct {
		name         string
		epoch, offer func(sent Offer) *http.Response
		want         error
	}{
		{"garbage as epoch", func(Offer) *http.Response { return text(200, []byte("?")) }, nil, ErrRendezvous},
		{"an endless epoch", func(Offer) *http.Response { return body(200, endless{}) }, nil, ErrRendezvous},
		{"a strange status", func(Offer) *http.Response { return text(999, nil) }, nil, ErrRendezvous},
		{"a redirect", nil, func(Offer) *http.Response { return text(302, nil) }, ErrRendezvous},
		{"garbage as answer", nil, func(Offer) *http.Response { return text(200, bytes.Repeat([]byte{1}, 300)) }, sealed.ErrMessage},
		{"an endless answer", nil, func(Offer) *http.Response { return body(200, endless{}) }, sealed.ErrTooLarge},
		{"an answer of an earlier session", nil, func(Offer) *http.Response { return text(200, earlier) }, sealed.ErrReplayed},
		{"an answer of somebody else", nil, func(Offer) *http.Response {
			m, _ := seal(eve.device, a.address, purposeAnswer, Offer{ICE: description(1)})
			return text(200, m)
		}, sealed.ErrReplayed},
		{"the offer itself", nil, func(Offer) *http.Response {
			m, _ := seal(b.device, a.address, purposeOffer, Offer{ICE: description(1)})
			return text(200, m)
		}, sealed.ErrMessage},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w.put(r.address, rawHandler(func(q *http.Request) *http.Response {
				switch {
				case q.URL.Path == "/v1/epoch" && tt.epoch != nil:
					return tt.epoch(Offer{})
				case q.URL.Path == "/v1/epoch":
					return text(200, epoch)
				}
				return tt.offer(Offer{})
			}))
			_, err := a.Offer(t.Context(), r.address, b.address, Offer{ICE: description(1)})
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), b.address.Short()) {
				t.Errorf("error %v, want one of %v that names the device", err, tt.want)
			}
		})
	}
	w.put(r.address, rawHandler(func(*http.Request) *http.Response { return body(200, endless{}) }))
	if _, err := b.Register(t.Context(), r.address, b.Epoch()); !errors.Is(err, ErrRendezvous) {
		t.Errorf("an endless registration: %v", err)
	}
}

func TestADeviceCannotPutWordsInTheRendezvousMouth(t *testing.T) {
	w, a, r, b := three(t)
	for status, want := range map[int]int{0: 502, 101: 502, 302: 502, 404: 502, 500: 502, 200: 200, 403: 403, 409: 409, 429: 429} {
		w.put(b.address, rawHandler(func(*http.Request) *http.Response {
			return &http.Response{StatusCode: status, Body: endless{}}
		}))
		got := send(t, r, a.address, "POST", "/v1/offer?to="+b.address.String(), []byte("x"))
		if got.Code != want {
			t.Errorf("device said %d, rendezvous %d, want %d", status, got.Code, want)
		}
		if got.Body.Len() > sealed.MaxMessage {
			t.Errorf("device said %d: %d bytes carried", status, got.Body.Len())
		}
	}
}

func TestSealDropsTheWorstCandidatesUntilItFits(t *testing.T) {
	_, a, _, b := three(t)
	// A long word for the NAT, so that not all have room.
	o := Offer{ICE: description(0), Mapping: strings.Repeat("x", 300)}
	for i := range MaxCandidates {
		addr := netip.MustParseAddr(fmt.Sprintf("2001:db8:1111:2222:3333:4444:5555:%x", 0x6600+i))
		o.ICE.Candidates = append(o.ICE.Candidates, ice.Candidate{Kind: ice.Srflx, Addr: netip.AddrPortFrom(addr, 54321)})
	}
	all := o.ICE.Candidates
	message, err := seal(a.device, b.address, purposeOffer, o)
	if err != nil || len(message) > sealed.MaxMessage {
		t.Fatalf("%d bytes, %v", len(message), err)
	}
	_, got, err := open(b.device, purposeOffer, message)
	if err != nil {
		t.Fatal(err)
	}
	n := len(got.ICE.Candidates)
	if n == 0 || n == len(all) || got.ICE.Candidates[0] != all[0] || got.ICE.Candidates[n-1] != all[n-1] {
		t.Errorf("%d of %d candidates left: %v", n, len(all), got.ICE.Candidates)
	}
	o.Mapping = strings.Repeat("x", sealed.MaxBody)
	if _, err := seal(a.device, b.address, purposeOffer, o); !errors.Is(err, sealed.ErrTooLarge) {
		t.Errorf("what never fits: %v", err)
	}
}

func FuzzParseOffer(f *testing.F) {
	f.Add([]byte(`{"epoch":"00000000000000000000000000000001","session":"00000000000000000000000000000002","ice":{"ufrag":"abcd","pwd":"abcdefghijklmnopqrstuvwx","candidates":["host 1.2.3.4:5"]},"relay":["5.6.7.8:9"],"mapping":"none"}`))
	f.Add([]byte(`{"ice":{"ufrag":"abcd","pwd":"abcdefghijklmnopqrstuvwx","candidates":null},"no_udp":true}`))
	f.Add([]byte(`{"relay":[""]}`))
	f.Add([]byte(`{} {}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := parseOffer(b)
		if err != nil {
			if !errors.Is(err, ErrOffer) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		if len(o.ICE.Candidates) > MaxCandidates || len(o.Relay) > MaxRelays || o.ICE.Validate() != nil {
			t.Fatalf("accepted %+v", o)
		}
		for _, a := range o.Relay {
			if !a.IsValid() || a.Port() == 0 {
				t.Fatalf("accepted relay %v", a)
			}
		}
	})
}
