package ice

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	pion "github.com/pion/ice/v2"

	"porchlight/nat/stun/memnet"
)

// TestEngineThatTakesNothingIsAnError guards against the trap that pion
// gathers nothing, without an error, when NetworkTypes is nil.
func TestEngineThatTakesNothingIsAnError(t *testing.T) {
	local := Description{Ufrag: "ufrag", Pwd: strings.Repeat("p", minPwd), Candidates: []Candidate{{Host, privateA}}}
	p := newPipes(local.Candidates, nil)
	cfg := pionConfig(local, p, slog.New(slog.DiscardHandler))
	if len(cfg.NetworkTypes) != 2 {
		t.Errorf("network types %v", cfg.NetworkTypes)
	}
	cfg.NetworkTypes, cfg.UDPMux = nil, nil
	agent, err := pion.NewAgent(cfg)
	if err != nil {
		t.Fatal(err)
	}
	e := &pionEngine{agent, p}
	if err := e.gather(); !errors.Is(err, errGather) {
		t.Errorf("got %v", err)
	}
	if err := e.close(); err != nil {
		t.Error(err)
	}
}

// TestNothingToWriteTo holds the promise that no user data passes here: the
// engine's own Conn loses what is written before there is a pair.
func TestNothingToWriteTo(t *testing.T) {
	var a any = new(Agent)
	if _, ok := a.(io.Writer); ok {
		t.Error("an Agent can be written to")
	}
	if _, ok := a.(net.Conn); ok {
		t.Error("an Agent is a net.Conn")
	}
	for _, typ := range []reflect.Type{reflect.TypeFor[*Agent](), reflect.TypeFor[Pair]()} {
		for i := range typ.NumMethod() {
			m := typ.Method(i)
			if strings.Contains(m.Name, "Write") || strings.Contains(m.Name, "Read") || strings.Contains(m.Name, "Conn") && m.Name != "Connect" {
				t.Errorf("%v has %s", typ, m.Name)
			}
		}
	}
}

func TestEngineSettings(t *testing.T) {
	cfg := pionConfig(Description{}, nil, slog.New(slog.DiscardHandler))
	if *cfg.MaxBindingRequests < 150 || *cfg.CheckInterval < Ta {
		t.Errorf("%d requests, each %v", *cfg.MaxBindingRequests, *cfg.CheckInterval)
	}
	for _, wait := range []*time.Duration{cfg.SrflxAcceptanceMinWait, cfg.PrflxAcceptanceMinWait, cfg.RelayAcceptanceMinWait} {
		if *wait > 50*time.Millisecond {
			t.Errorf("acceptance wait %v", *wait)
		}
	}
	if cfg.MulticastDNSMode != pion.MulticastDNSModeDisabled || !cfg.DisableActiveTCP {
		t.Error("mDNS or active TCP is on")
	}
	if *cfg.DisconnectedTimeout < time.Hour || *cfg.FailedTimeout < time.Hour {
		t.Error("the engine may end an attempt by itself")
	}
}

// buffer is a log that may be written concurrently.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func TestPasswordsAreNotLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out buffer
		log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
		da, db := homes(t, new(memnet.Net), memnet.ByAddressAndPort)
		a, b := da.agent(Config{Logger: log}), db.agent(Config{Logger: log})
		ra, rb := connect(t.Context(), a, b.Local(), true, 0), connect(t.Context(), b, a.Local(), false, 0)
		if oa, ob := <-ra, <-rb; oa.err != nil || ob.err != nil {
			t.Fatal(oa.err, ob.err)
		}
		if err := errors.Join(a.Close(), b.Close()); err != nil {
			t.Error(err)
		}
		text := out.b.String()
		if !strings.Contains(text, "pair selected") {
			t.Errorf("nothing was logged: %s", text)
		}
		for _, d := range []Description{a.Local(), b.Local()} {
			if strings.Contains(text, d.Pwd) {
				t.Error("a password was logged")
			}
		}
	})
}

func TestPipeDropsTheOldest(t *testing.T) {
	for _, n := range []int{pipeLength - 1, pipeLength, pipeLength + 1} {
		p := newPipe(privateA, nil)
		for i := range n {
			p.put([]byte{byte(i)}, privateB)
		}
		b := make([]byte, 8)
		_, from, err := p.ReadFrom(b)
		if err != nil || from.String() != privateB.String() || int(b[0]) != max(0, n-pipeLength) {
			t.Errorf("%d put, first read %d, %v", n, b[0], err)
		}
		if len(p.queue) != min(n, pipeLength)-1 {
			t.Errorf("%d put, %d left", n, len(p.queue))
		}
	}
}

func TestPacer(t *testing.T) {
	now := time.Unix(0, 0)
	p := newPacer(func() time.Time { return now })
	peer := netip.MustParseAddrPort("44.1.1.1:1")
	// sends counts the checks of a stretch of ticks.
	sends := func(stretch time.Duration) (count int) {
		for end := now.Add(stretch); now.Before(end); now = now.Add(checkInterval) {
			if p.allow(peer) {
				count++
			}
		}
		return count
	}
	if got := sends(10 * time.Second); got != 7 { // 0 0.1 0.3 0.7 1.5 3.1 6.3
		t.Errorf("%d checks to a silent address in 10 s", got)
	}
	p.heard(peer)
	if !p.allow(peer) {
		t.Error("an address just heard has to wait")
	}
	for range 10 {
		p.heard(peer)
		if p.allow(peer) {
			t.Error("checks leave without a pause for an address that only talks")
		}
	}
	p.answered(peer)
	if got := sends(time.Second); got != int(time.Second/checkInterval) {
		t.Errorf("%d checks to an address that answers", got)
	}
}
