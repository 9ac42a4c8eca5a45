package dialback

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"porchlight/agent/identity"
	"porchlight/agent/overlay"
	"porchlight/nat/probe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func device(n byte) identity.Address {
	return identity.FromSeed(bytes.Repeat([]byte{n}, 32)).Address()
}

var both = []Place{{UDP, 4001}, {TCP, 4001}}

func addrs(texts ...string) (all []netip.Addr) {
	for _, t := range texts {
		all = append(all, netip.MustParseAddr(t))
	}
	return all
}

func TestAStrangerKnocksAtBothDoors(t *testing.T) {
	w := newWorld()
	a, h1 := w.add(1, "44.1.1.1:4001"), w.add(2, "44.2.2.2:4001")
	h2 := w.add(3, "44.3.3.3:4001")
	known := w.add(4, "44.4.4.4:4001")
	lodger := w.add(5, "44.1.1.1:5000") // behind the same router
	hidden := w.add(6, "192.168.1.6:4001")
	told := map[int]netip.AddrPort{}
	r, err := a.client.Knock(t.Context(), h1.address, Question{
		Places: both, Met: addrs("44.2.2.2", "44.4.4.4"),
		Came: func(place int, from netip.AddrPort) { told[place] = from },
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(told) != 2 || told[0] != r.From[0] || told[1] != r.From[1] {
		t.Errorf("told of %v", told)
	}
	for i, from := range r.From {
		if from.Addr() != h2.at.Addr() || from.Port() == h2.at.Port() {
			t.Errorf("knock %d came from %v, want a fresh port of %v", i, from, h2.at.Addr())
		}
	}
	if len(h1.knocks)+len(known.knocks)+len(lodger.knocks)+len(hidden.knocks) != 0 {
		t.Error("somebody knocked who proves nothing")
	}
	if len(a.expected)+len(a.client.framed) != 0 {
		t.Error("knocks are still waited for")
	}
}

func TestWithoutStrangersTheHelperKnocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, h1 := w.add(1, "44.1.1.1:4001"), w.add(2, "44.2.2.2:4001")
		met := w.add(3, "44.3.3.3:4001")
		a.filter = func(_ netip.AddrPort, network string) bool { return network == UDP }
		r, err := a.client.Knock(t.Context(), h1.address, Question{Places: both, Met: addrs("44.2.2.2", "44.3.3.3")})
		if err != nil {
			t.Fatal(err)
		}
		if r.By != Helper || r.IP != a.at.Addr() || r.From[0].Addr() != h1.at.Addr() || r.From[1].IsValid() {
			t.Errorf("%+v", r)
		}
		if r.Outcomes[0] != Sent || r.Outcomes[1] != Silent || len(met.knocks) != 0 {
			t.Errorf("%v, and %d knocks of somebody met", r.Outcomes, len(met.knocks))
		}
	})
}

func TestWhoCannotKnockIsPassedOver(t *testing.T) {
	w := newWorld()
	a, h1 := w.add(1, "44.1.1.1:4001"), w.add(2, "44.2.2.2:4001")
	broken, blocked, off := w.add(3, "44.3.3.3:4001"), w.add(4, "44.4.4.4:4001"), w.add(5, "44.5.5.5:4001")
	broken.unable, blocked.noUDP, off.willing = true, true, false
	r, err := a.client.Knock(t.Context(), h1.address, Question{Places: both, Met: nil})
	if err != nil {
		t.Fatal(err)
	}
	if r.From[0].Addr() != h1.at.Addr() {
		t.Errorf("knocked by %v, want the helper itself", r.From)
	}
	for _, n := range []*node{broken, blocked, off} {
		if w.count("/v1/knock", n.seed) != 1 {
			t.Errorf("device %d was asked %d times", n.seed, w.count("/v1/knock", n.seed))
		}
	}
	if len(blocked.knocks) != 0 {
		t.Error("a device without UDP pretended to knock")
	}
}

func TestTheOtherFamilyIsTestedWhereTheDeviceAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, h1 := w.add(1, "44.1.1.1:4001"), w.add(2, "44.2.2.2:4001")
		h2 := w.add(3, "44.3.3.3:4001")
		six := netip.MustParseAddrPort("[3fff::1]:4001")
		question := Question{Places: both, At: six}
		if _, err := a.client.Knock(t.Context(), h1.address, question); !errors.Is(err, ErrNotSeen) {
			t.Errorf("the device is not there: %v", err)
		}
		if len(h1.sent) != 2 || len(h1.knocks)+len(h2.knocks) != 0 {
			t.Errorf("%d questions, %d knocks", len(h1.sent), len(h1.knocks)+len(h2.knocks))
		}
		w.add(4, "44.4.4.4:4001").also = six // somebody else is
		if _, err := a.client.Knock(t.Context(), h1.address, question); !errors.Is(err, ErrNotSeen) {
			t.Errorf("somebody else is there: %v", err)
		}
		delete(w.nodes, device(4))
		a.also = six
		r, err := a.client.Knock(t.Context(), h1.address, question)
		if err != nil || !r.From[0].IsValid() || !r.From[1].IsValid() {
			t.Fatalf("%+v, %v", r, err)
		}
		for _, k := range h2.knocks {
			if k.At != six {
				t.Errorf("knocked at %v", k.At)
			}
		}
		for _, at := range []string{"[fd00::1]:4001", "[::1]:4001", "192.168.1.1:4001", "[fe80::1]:4001"} {
			h1.sent = nil
			a.also = netip.MustParseAddrPort(at)
			<-time.After(time.Minute)
			if _, err := a.client.Knock(t.Context(), h1.address, Question{Places: both, At: a.also}); !errors.Is(err, ErrNotSeen) || len(h1.sent) != 0 {
				t.Errorf("%s: %v, %d questions", at, err, len(h1.sent))
			}
		}
		if len(a.expected) != 0 || len(h1.expected) != 0 {
			t.Error("somebody still listens")
		}
	})
}

func TestPacketsTowardsAnAddressAreFew(t *testing.T) {
	for _, places := range [][]Place{both, both[:1], {{UDP, 4001}, {UDP, 4002}, {TCP, 4001}}, {{TCP, 443}}} {
		w := newWorld()
		a, h1 := w.add(1, "44.1.1.1:4001"), w.add(2, "44.2.2.2:4001")
		h2 := w.add(3, "44.3.3.3:4001")
		question := ask{doors: newDoors(places)}
		body, err := encode(&question, &question.doors)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := post(t.Context(), a.client.http, h1.address, "/v1/ask", body); err != nil {
			t.Fatal(err)
		}
		packets, size := 0, 0
		for _, k := range h2.knocks {
			if k.At.Addr() != a.at.Addr() {
				t.Errorf("knocked at %v", k.At)
			}
			packets += k.Times
			probe, _, err := probe.Ask(k.Key, "dialback")
			if err != nil {
				t.Fatal(err)
			}
			size += k.Times * (len(probe) + 48) // with headers of IPv6 and UDP
		}
		if packets == 0 || packets > MaxPlaces || size > len(body) {
			t.Errorf("%d packets of %d bytes for a request of %d", packets, size, len(body))
		}
	}
}

func TestNothingIsSentToAddressesThatAreNotPublic(t *testing.T) {
	for _, at := range []string{
		"127.0.0.1:4001", "192.168.1.1:4001", "10.0.0.1:4001", "100.64.0.1:4001", "169.254.169.254:4001", "[::1]:4001",
		"[fe80::1]:4001", "[fd00::1]:4001", "[::ffff:127.0.0.1]:4001", "[64:ff9b::7f00:1]:4001", "[2002:7f00:1::]:4001",
		"224.0.0.1:4001", "255.255.255.255:4001", "0.0.0.0:4001",
	} {
		w := newWorld()
		a, h1 := w.add(1, at), w.add(2, "44.2.2.2:4001")
		h2 := w.add(3, "44.3.3.3:4001")
		if _, err := a.client.Knock(t.Context(), h1.address, Question{Places: both}); !errors.Is(err, ErrNotSeen) {
			t.Errorf("%s asked: %v", at, err)
		}
		if status, _ := send(t, h1, h2, "/v1/knock", order(a.at.Addr())); status != http.StatusBadRequest {
			t.Errorf("%s ordered: %d", at, status)
		}
		if len(h1.knocks)+len(h2.knocks) != 0 {
			t.Errorf("%s was knocked at", at)
		}
	}
}

// order is the body of a request to knock.
func order(ip netip.Addr) []byte {
	k := knock{doors: newDoors(both), IP: ip}
	b, err := encode(&k, &k.doors)
	if err != nil {
		panic(err)
	}
	return b
}

// send posts a body from one device to another.
func send(t *testing.T, from, to *node, path string, body []byte) (status int, answer string) {
	t.Helper()
	request := httptest.NewRequest(http.MethodPost, "http://x"+path, bytes.NewReader(body))
	w := httptest.NewRecorder()
	to.server.ServeHTTP(w, request.WithContext(overlay.WithCaller(t.Context(), from.address)))
	return w.Code, w.Body.String()
}

func TestAsksAreLimitedPerDeviceAndNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		h1 := w.add(200, "44.2.2.2:4001")
		question := ask{doors: newDoors(both)}
		body, _ := encode(&question, &question.doors)
		served := 0
		a := w.add(1, "44.1.1.1:4001")
		for range 60 {
			if status, _ := send(t, a, h1, "/v1/ask", body); status == http.StatusOK {
				served++
			}
			<-time.After(time.Second)
		}
		if served != asksPerMinute-1 { // half of them at once, then one every 20 s
			t.Errorf("one device was served %d times in a minute, want %d", served, asksPerMinute-1)
		}
		// Many devices of one network share its limit.
		served = 0
		for seed := byte(2); seed < 100; seed++ {
			n := w.add(seed, fmt.Sprintf("44.9.9.%d:4001", seed))
			if status, _ := send(t, n, h1, "/v1/ask", body); status == http.StatusOK {
				served++
			}
		}
		if served != asksPerNetworkMinute/2 {
			t.Errorf("one network was served %d times at once, want %d", served, asksPerNetworkMinute/2)
		}
	})
}

func TestOrdersAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		h2 := w.add(200, "44.3.3.3:4001")
		count := func(helper *node, ip func(i int) netip.Addr) (served int) {
			for i := range 100 {
				if status, _ := send(t, helper, h2, "/v1/knock", order(ip(i))); status == http.StatusOK {
					served++
				}
			}
			return served
		}
		anywhere := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{44, byte(i), byte(i), 1}) }
		if n := count(w.add(1, "44.1.1.1:1"), anywhere); n != knocksPerMinute/2 {
			t.Errorf("one helper: %d at once", n)
		}
		<-time.After(10 * time.Minute)
		n := 0
		for seed := byte(10); seed < 60; seed++ {
			n += count(w.add(seed, "44.1.1.1:1"), func(i int) netip.Addr { return netip.AddrFrom4([4]byte{44, 9, 9, byte(i)}) })
		}
		if n != knocksPerNetworkMinute/2 {
			t.Errorf("one network: %d at once", n)
		}
		<-time.After(10 * time.Minute)
		n = 0
		for seed := byte(60); seed < 110; seed++ {
			n += count(w.add(seed, "44.1.1.1:1"), func(i int) netip.Addr { return netip.AddrFrom4([4]byte{44, seed, byte(i), 1}) })
		}
		if n != knocksTotalMinute/2 {
			t.Errorf("all together: %d at once", n)
		}
	})
}

func TestLimitsForgetWhoGainsLeast(t *testing.T) {
	l, now := newLimits[int](2), time.Now()
	if !l.allow(-1, now) || l.allow(-1, now) {
		t.Fatal("one at once")
	}
	for i := range 2 * maxRemembered {
		l.allow(i, now.Add(time.Second))
		if len(l.all) > maxRemembered {
			t.Fatalf("%d remembered", len(l.all))
		}
	}
	if !l.allow(-2, now.Add(time.Hour)) {
		t.Error("a new one is refused")
	}
}

func TestRequestsAreCheckedAtTheirLimits(t *testing.T) {
	w := newWorld()
	a, h1 := w.add(1, "44.1.1.1:4001"), w.add(2, "44.2.2.2:4001")
	valid := func(change func(*ask)) []byte {
		question := ask{doors: newDoors(both), Salt: make([]byte, saltSize), Met: make([]byte, 2*MaxMet)}
		change(&question)
		b, err := encode(&question, &question.doors)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	sized := func(n int) []byte {
		b := valid(func(a *ask) { a.Met = nil })
		return bytes.Replace(b, []byte(`"pad":"`), []byte(`"pad":"`+strings.Repeat("-", n-len(b))), 1)
	}
	short := bytes.Replace(valid(func(a *ask) { a.Met = nil }), []byte("--"), []byte("-"), 1)
	tests := []struct {
		name string
		body []byte
		want int
	}{
		{"as large as it may be", valid(func(*ask) {}), http.StatusOK},
		{"smallest body", valid(func(a *ask) { a.Met = nil }), http.StatusOK},
		{"too small a body", short, http.StatusBadRequest},
		{"largest body", sized(maxBody), http.StatusOK},
		{"too large a body", sized(maxBody + 1), http.StatusRequestEntityTooLarge},
		{"no places", valid(func(a *ask) { a.Places = nil }), http.StatusBadRequest},
		{"most places", valid(func(a *ask) { a.Places = append(a.Places, Place{UDP, 4002}) }), http.StatusOK},
		{"too many places", valid(func(a *ask) { a.Places = append(a.Places, both...) }), http.StatusBadRequest},
		{"other network", valid(func(a *ask) { a.Places = []Place{{"sctp", 4001}} }), http.StatusBadRequest},
		{"first port", valid(func(a *ask) { a.Places = []Place{{TCP, firstPort}} }), http.StatusOK},
		{"privileged port", valid(func(a *ask) { a.Places = []Place{{TCP, firstPort - 1}} }), http.StatusBadRequest},
		{"https", valid(func(a *ask) { a.Places = []Place{{TCP, 443}} }), http.StatusOK},
		{"no port", valid(func(a *ask) { a.Places = []Place{{TCP, 0}} }), http.StatusBadRequest},
		{"too many met", valid(func(a *ask) { a.Met = make([]byte, 2*MaxMet+2) }), http.StatusBadRequest},
		{"half an address", valid(func(a *ask) { a.Met = make([]byte, 3) }), http.StatusBadRequest},
		{"long salt", valid(func(a *ask) { a.Salt = make([]byte, saltSize+1) }), http.StatusBadRequest},
		{"colon in the user name", valid(func(a *ask) { a.Ufrag = "abcd:efgh" }), http.StatusBadRequest},
		{"short user name", valid(func(a *ask) { a.Ufrag = strings.Repeat("a", minUfrag-1) }), http.StatusBadRequest},
		{"long user name", valid(func(a *ask) { a.Ufrag = strings.Repeat("a", maxUfrag+1) }), http.StatusBadRequest},
		{"short password", valid(func(a *ask) { a.Pwd = strings.Repeat("a", minPwd-1) }), http.StatusBadRequest},
		{"long password", valid(func(a *ask) { a.Pwd = strings.Repeat("a", maxPwd+1) }), http.StatusBadRequest},
		{"privileged port elsewhere", valid(func(a *ask) { a.Met, a.At = nil, netip.MustParseAddrPort("[3fff::1]:53") }), http.StatusBadRequest},
		{"no JSON", bytes.Repeat([]byte("{"), minBody), http.StatusBadRequest},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h1.server.asks = newLimits[identity.Address](asksPerMinute)
			h1.server.askers = newLimits[netip.Prefix](asksPerNetworkMinute)
			if got, answer := send(t, a, h1, "/v1/ask", tt.body); got != tt.want {
				t.Errorf("%d %s, want %d", got, answer, tt.want)
			}
		})
	}
}

func TestOnlyDevicesAreServed(t *testing.T) {
	w := newWorld()
	a, h1 := w.add(1, "44.1.1.1:4001"), w.add(2, "44.2.2.2:4001")
	recorder := httptest.NewRecorder()
	h1.server.ServeHTTP(recorder, httptest.NewRequest(http.MethodPost, "/v1/ask", nil))
	if recorder.Code != http.StatusUnauthorized {
		t.Errorf("nobody: %d", recorder.Code)
	}
	h1.willing = false
	if status, _ := send(t, a, h1, "/v1/ask", nil); status != http.StatusForbidden {
		t.Errorf("unwilling: %d", status)
	}
	h1.willing = true
	for range maxAtOnce {
		h1.server.slots <- struct{}{}
	}
	if status, _ := send(t, a, h1, "/v1/ask", nil); status != http.StatusServiceUnavailable {
		t.Errorf("busy: %d", status)
	}
}

// liar answers every request with the same body.
type liar struct {
	body   string
	status int
}

func (l liar) Connected() []identity.Address { return nil }
func (l liar) Client(string) *http.Client    { return &http.Client{Transport: l} }
func (l liar) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: l.status, Body: io.NopCloser(strings.NewReader(l.body))}, nil
}

func TestAHelpersNonsenseIsNoTest(t *testing.T) {
	nobody := func(string, func([]byte, netip.AddrPort)) (Endpoint, error) {
		return newWorld().add(1, "44.1.1.1:1").register("", nil)
	}
	for name, l := range map[string]liar{
		"no JSON":           {"hello", 200},
		"too few outcomes":  {`{"by":"stranger","outcomes":["sent"]}`, 200},
		"too many outcomes": {`{"outcomes":["sent","sent","sent","sent"]}`, 200},
		"endless":           {`{"by":"` + strings.Repeat("a", maxReport) + `","outcomes":["sent","silent"]}`, 200},
		"refusal":           {"", 403},
		"limit":             {"", 429},
	} {
		c := NewClient(l, nobody)
		if r, err := c.Knock(t.Context(), device(9), Question{Places: both}); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
		if len(c.framed) != 0 {
			t.Errorf("%s: still waiting", name)
		}
	}
}

func TestOnlyTheRightKeyIsAKnock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a := w.add(1, "44.1.1.1:4001")
		d := newDoors(both)
		came := make(chan arrival, 4)
		forget, err := a.client.expect(d, came)
		if err != nil {
			t.Fatal(err)
		}
		from := netip.MustParseAddrPort("44.3.3.3:1")
		forged, _, _ := probe.Ask(probe.Credentials{Ufrag: d.key(1).Ufrag, Pwd: strings.Repeat("x", minPwd)}, "x")
		if answer := a.client.HandleFramed(forged, from); answer != nil || len(came) != 0 {
			t.Error("a knock with another key was taken")
		}
		right, _, _ := probe.Ask(d.key(1), "x")
		for i := range right {
			b := bytes.Clone(right)
			b[i] ^= 1
			a.client.HandleFramed(b, from)
		}
		if len(came) != 0 {
			t.Error("a damaged knock was taken")
		}
		answer := a.client.HandleFramed(right, from)
		if len(answer) == 0 || len(answer) > len(right) || len(came) != 1 {
			t.Errorf("%d bytes of answer, %d knocks", len(answer), len(came))
		}
		forget()
		if a.client.HandleFramed(right, from) != nil {
			t.Error("answered although nobody waits")
		}
	})
}

func TestExpectedPlacesAreLimited(t *testing.T) {
	a := newWorld().add(1, "44.1.1.1:4001")
	came := make(chan arrival, 1)
	for range maxExpected {
		if _, err := a.client.expect(newDoors(both[1:]), came); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.client.expect(newDoors(both), came); err == nil {
		t.Error("one above the limit")
	}
	if len(a.expected) != 0 {
		t.Error("the place by UDP is still waited at")
	}
}

func TestMetIsToldByDigestsOnly(t *testing.T) {
	m := NewMet()
	var met []netip.Addr
	for i := range 2 * MaxMet {
		met = append(met, netip.AddrFrom4([4]byte{44, 0, 1, byte(i)}))
	}
	var a ask
	m.tell(&a, met)
	if len(a.Met) != 2*MaxMet {
		t.Fatalf("%d bytes", len(a.Met))
	}
	for _, addr := range met[:MaxMet] {
		if !a.met(addr) || !a.met(netip.AddrFrom16(addr.As16())) {
			t.Errorf("%v is not found", addr)
		}
	}
	strangers := 0
	for i := range 10_000 {
		if a.met(netip.AddrFrom4([4]byte{45, 1, byte(i >> 8), byte(i)})) {
			strangers++
		}
	}
	if strangers > 50 { // 64 in 65536 are expected: 10
		t.Errorf("%d of 10000 strangers are taken for met", strangers)
	}
	if b, _ := json.Marshal(a); bytes.Contains(b, []byte("44.0.1")) {
		t.Error("an address is told")
	}
}

func FuzzRequests(f *testing.F) {
	question := ask{doors: newDoors(both), Salt: []byte{1}, Met: []byte{1, 2}}
	b, _ := encode(&question, &question.doors)
	f.Add(b)
	f.Add(order(netip.MustParseAddr("44.1.1.1")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := parseAsk(b); err == nil {
			a.met(netip.MustParseAddr("44.1.1.1"))
			if len(a.Places) == 0 || len(a.Places) > MaxPlaces {
				t.Fatalf("%d places", len(a.Places))
			}
			if _, _, err := probe.Ask(a.key(0), "x"); err != nil {
				t.Fatal(err)
			}
		}
		if k, err := parseKnock(b); err == nil {
			knockable(k.IP, false)
		}
	})
}
