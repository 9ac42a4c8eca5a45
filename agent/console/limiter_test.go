package console

import (
	"encoding/binary"
	"net/http"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// attacker is the n-th of many addresses in one network.
func attacker(n int) netip.Prefix {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 10<<24|uint32(n))
	return sourceKey(netip.AddrFrom4(b))
}

// guesses counts how many of 10,000 tries, spread over one hour and the given
// number of addresses, reach the password.
func guesses(t *testing.T, l *limiter, addresses int) int {
	t.Helper()
	const tries = 10_000
	let := 0
	for i := range tries {
		if l.take(attacker(i%addresses)) == 0 {
			let++
		}
		advance(t, time.Hour/tries)
	}
	return let
}

func TestGuessesInAnHour(t *testing.T) {
	for _, tt := range []struct {
		name       string
		addresses  int
		most, last int
	}{
		{"from one address", 1, 75, 55},
		{"from a thousand addresses", 1000, commonBurst + 1201, 1000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLimiter()
				got := guesses(t, l, tt.addresses)
				t.Logf("%d guesses an hour %s", got, tt.name)
				if got > tt.most || got < tt.last {
					t.Errorf("%d guesses, want %d to %d", got, tt.last, tt.most)
				}
				if len(l.sources) > maxSources {
					t.Errorf("%d sources remembered", len(l.sources))
				}
			})
		})
	}
}

func TestTheOwnerIsNotLockedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter()
		home := sourceKey(netip.MustParseAddr("192.168.1.77"))
		if l.take(home) != 0 {
			t.Fatal("the first try waits")
		}
		l.forgive(home)
		guesses(t, l, 1000)
		if wait := l.take(home); wait != 0 {
			t.Errorf("the owner's usual place waits %v during an attack", wait)
		}
		elsewhere := sourceKey(netip.MustParseAddr("192.168.1.78"))
		if wait := l.take(elsewhere); wait > commonEvery {
			t.Errorf("the owner's new place waits %v", wait)
		}
	})
}

func TestPausesGrowAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter()
		src := attacker(1)
		for i := 1; i <= freeTries; i++ {
			if wait := l.take(src); wait != 0 {
				t.Fatalf("try %d waits %v", i, wait)
			}
		}
		for _, want := range []time.Duration{5, 10, 20, 40, 60, 60} {
			wait := l.take(src)
			if wait != want*time.Second {
				t.Fatalf("waits %v, want %d s", wait, want)
			}
			advance(t, wait-time.Nanosecond)
			if l.take(src) == 0 {
				t.Fatal("let in too early")
			}
			advance(t, time.Nanosecond)
			if l.take(src) != 0 {
				t.Fatal("still waits after the pause")
			}
		}
		advance(t, forgetAfter+time.Second)
		for range 2 {
			if l.take(src) != 0 {
				t.Error("not forgotten after an hour")
			}
		}
	})
}

func TestSuccessForgives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter()
		src := attacker(1)
		for range 50 {
			if wait := l.take(src); wait != 0 {
				t.Fatalf("waits %v after a success", wait)
			}
			l.forgive(src)
		}
		for n := range maxKnown + 10 {
			l.forgive(attacker(n))
		}
		if len(l.known) != maxKnown {
			t.Errorf("%d places known, want %d", len(l.known), maxKnown)
		}
	})
}

func TestSourcesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter()
		for n := range maxSources + 5 {
			l.common = commonBurst // the bound must hold by itself
			l.take(attacker(n))
			if want := min(n+1, maxSources); len(l.sources) != want {
				t.Fatalf("%d sources after %d, want %d", len(l.sources), n+1, want)
			}
			advance(t, time.Millisecond)
		}
		if l.sources[attacker(0)] != nil || l.sources[attacker(maxSources)] == nil {
			t.Error("not the oldest was forgotten")
		}
	})
}

func TestSourcesOfOneNetworkCountTogether(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		same bool
	}{
		{"fd00::1", "fd00::ffff:2", true},
		{"fd00::1", "fd00:0:0:1::1", false},
		{"192.168.1.1", "192.168.1.2", false},
	} {
		if got := sourceKey(netip.MustParseAddr(tt.a)) == sourceKey(netip.MustParseAddr(tt.b)); got != tt.same {
			t.Errorf("%s and %s: same %v", tt.a, tt.b, got)
		}
	}
}

func TestTooManyTriesSayWhenToComeBack(t *testing.T) {
	c := newTest(t, nil)
	logIn(t, c)
	for range freeTries {
		if res := do(c, ask("POST", "/api/v1/session", passwordJSON("wrong, wrong"))); res.StatusCode != http.StatusUnauthorized {
			t.Fatalf("got %s", res.Status)
		}
	}
	res := do(c, ask("POST", "/api/v1/session", passwordJSON(testSecret)))
	if res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") != "5" {
		t.Fatalf("got %s, Retry-After %q", res.Status, res.Header.Get("Retry-After"))
	}
	if got := answer(t, res); got["error"] != "too_many" || got["retry_ms"].(float64) <= 4000 {
		t.Errorf("got %v", got)
	}
	r := ask("POST", "/api/v1/session", passwordJSON(testSecret))
	r.RemoteAddr = "192.168.1.78:1"
	if res := do(c, r); res.StatusCode != http.StatusOK {
		t.Errorf("another place in the home: got %s", res.Status)
	}
}
