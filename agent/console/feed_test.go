package console

import (
	"bufio"
	"encoding/json"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/agent/api"
)

// device is a status that a test changes.
type device struct {
	mu    sync.Mutex
	st    api.Status
	asked int
}

func (d *device) status() api.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked++
	st := d.st
	st.Contacts = append([]api.Contact(nil), d.st.Contacts...)
	return st
}

// questions is how often the status was asked for.
func (d *device) questions() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.asked
}

func (d *device) change(f func(*api.Status)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(&d.st)
}

func withContact() api.Status {
	st := testStatus()
	st.CheckedUnixMS = 1_700_000_000_000
	st.Contacts = []api.Contact{{Name: "Alice", Address: "a", Online: true, Path: "direct", RTTMS: 18, SentBytes: 5e6,
		Devices: []api.Member{{Address: "a1", Online: true}, {Address: "a2"}}}}
	st.Helpers = []api.Helper{{Address: "h", Online: true, RTTMS: 40}}
	return st
}

func TestVisibleChanges(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*api.Status)
		want   bool
	}{
		{"nothing", func(*api.Status) {}, false},
		{"time passes", func(s *api.Status) { s.UptimeMS += 5e3; s.RSSBytes += 4096 }, false},
		{"keep-alives", func(s *api.Status) { s.Contacts[0].SentBytes += 999; s.Traffic.SentBytes += 999 }, false},
		{"a kilobyte of many", func(s *api.Status) { s.Contacts[0].SentBytes += 1000 }, false},
		{"a hundredth more", func(s *api.Status) { s.Contacts[0].SentBytes += 5e4 }, true},
		{"a counter starts anew", func(s *api.Status) { s.Contacts[0].SentBytes = 0 }, true},
		{"round trip wavers", func(s *api.Status) { s.Contacts[0].RTTMS = 20.6; s.Helpers[0].RTTMS = 45 }, false},
		{"round trip grows", func(s *api.Status) { s.Contacts[0].RTTMS = 21 }, true},
		{"round trip is lost", func(s *api.Status) { s.Contacts[0].RTTMS = 0 }, true},
		{"seen again", func(s *api.Status) { s.Contacts[0].LastSeenUnixMS += 9e3 }, false},
		{"its device seen again", func(s *api.Status) { s.Contacts[0].Devices[0].LastSeenUnixMS += 9e3 }, false},
		{"its device goes", func(s *api.Status) { s.Contacts[0].Devices[0].Online = false }, true},
		{"its other device seen", func(s *api.Status) { s.Contacts[0].Devices[1].LastSeenUnixMS += 9e3 }, true},
		{"a request comes", func(s *api.Status) { s.Requests = []api.Request{{Name: "Eve"}} }, true},
		{"a message comes", func(s *api.Status) { s.Contacts[0].Unread++ }, true},
		{"path changes", func(s *api.Status) { s.Contacts[0].Path = "relay" }, true},
		{"contact is renamed", func(s *api.Status) { s.Contacts[0].Name = "Al" }, true},
		{"contact is replaced", func(s *api.Status) { s.Contacts[0].Address = "b" }, true},
		{"contact is removed", func(s *api.Status) { s.Contacts = nil }, true},
		{"helper goes", func(s *api.Status) { s.Helpers[0].Online = false }, true},
		{"verdict changes", func(s *api.Status) { s.Reachability = api.NATEasy }, true},
		{"confirmed again", func(s *api.Status) { s.CheckedUnixMS += 59_999 }, false},
		{"confirmed a minute later", func(s *api.Status) { s.CheckedUnixMS += 60_000 }, true},
		{"never confirmed", func(s *api.Status) { s.CheckedUnixMS = 0 }, true},
		{"transfer starts", func(s *api.Status) { s.Transfers = []api.Transfer{{ID: "1"}} }, true},
		{"packets passed on", func(s *api.Status) { s.Traffic.RelayedBytes += 64 << 10 }, true},
		{"less than a second of work", func(s *api.Status) { s.Work.CPUMS += 900 }, false},
		{"a second of work", func(s *api.Status) { s.Work.CPUMS += 1000 }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			next := withContact()
			tt.change(&next)
			if got := changed(withContact(), next); got != tt.want {
				t.Errorf("changed: %v", got)
			}
		})
	}
}

func TestFeedAsksOnlyWhileSomebodyLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &device{st: withContact()}
		f := newFeed(d.status, "")
		defer f.close()
		advance(t, time.Minute)
		if n := d.questions(); n != 0 {
			t.Fatalf("asked %d times with nobody there", n)
		}
		s, snapshot := f.open()
		if !strings.Contains(string(snapshot), "Alice") {
			t.Fatalf("snapshot %s", snapshot)
		}
		advance(t, 10*time.Second+time.Millisecond)
		if n := d.questions(); n < 10 || n > 12 || len(s.next) != 0 {
			t.Fatalf("asked %d times in 10 s, %d events", n, len(s.next))
		}
		f.remove(s)
		advance(t, 2*time.Second)
		before := d.questions()
		advance(t, time.Minute)
		if d.questions() != before {
			t.Error("goes on asking for nobody")
		}
		again, _ := f.open()
		d.change(func(st *api.Status) { st.Name = "Barn" })
		advance(t, 2*feedEvery)
		if got := string(<-again.next); !strings.Contains(got, "Barn") {
			t.Errorf("the second looker got %s", got)
		}
	})
}

func TestASlowStreamGetsTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &device{st: withContact()}
		f := newFeed(d.status, "")
		defer f.close()
		s, _ := f.open()
		for _, name := range []string{"one", "two", "three"} {
			d.change(func(st *api.Status) { st.Name = name })
			advance(t, feedEvery+time.Millisecond)
		}
		if got := string(<-s.next); !strings.Contains(got, "three") || len(s.next) != 0 {
			t.Errorf("got %s and %d more", got, len(s.next))
		}
	})
}

func TestAStatusJSONCannotHoldIsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &device{st: withContact()}
		f := newFeed(d.status, "")
		defer f.close()
		s, _ := f.open()
		d.change(func(st *api.Status) { st.Contacts[0].RTTMS = math.NaN() })
		advance(t, feedEvery+time.Millisecond)
		if got := <-s.next; !json.Valid(got) {
			t.Errorf("sent %q", got)
		}
	})
}

func TestStreamsAreBounded(t *testing.T) {
	f := newFeed(testStatus, "")
	defer f.close()
	for n := 1; n <= maxStreams+1; n++ {
		if s, _ := f.open(); (s != nil) != (n <= maxStreams) {
			t.Fatalf("stream %d: %v", n, s != nil)
		}
	}
}

// openEvents starts a real server and a stream, as a browser would.
func openEvents(t *testing.T, d *device) (*Console, *http.Cookie, *bufio.Scanner, *http.Response) {
	t.Helper()
	c := newTest(t, func(cfg *Config) { cfg.Status = d.status })
	server := httptest.NewServer(c.Handler())
	t.Cleanup(server.Close)
	at := strings.TrimPrefix(server.URL, "http://")
	setup := ask("POST", "/api/v1/setup", passwordJSON(testSecret))
	setup.Host = at
	follow(setup)
	cookie := do(c, setup).Cookies()[0]
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/api/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.AddCookie(cookie)
	res, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return c, cookie, bufio.NewScanner(res.Body), res
}

// nextEvent reads one event's name and data.
func nextEvent(t *testing.T, lines *bufio.Scanner) (name, data string) {
	t.Helper()
	for lines.Scan() {
		switch key, value, _ := strings.Cut(lines.Text(), ": "); key {
		case "event":
			name = value
		case "data":
			return name, value
		}
	}
	return "", ""
}

func TestEventsOverTheNetwork(t *testing.T) {
	d := &device{st: withContact()}
	c, cookie, lines, res := openEvents(t, d)
	if res.Header.Get("Content-Type") != "text/event-stream" || res.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("headers %v", res.Header)
	}
	if name, data := nextEvent(t, lines); name != "hello" || !strings.Contains(data, c.assets.build) {
		t.Errorf("first %s %s", name, data)
	}
	var st api.Status
	name, data := nextEvent(t, lines)
	if err := json.Unmarshal([]byte(data), &st); err != nil || name != "status" || st.Name != "Attic Pi" {
		t.Fatalf("second %s %s: %v", name, data, err)
	}
	d.change(func(s *api.Status) { s.Reachability = api.CGNAT })
	if _, data := nextEvent(t, lines); !strings.Contains(data, `"cgnat"`) {
		t.Fatalf("third %s", data)
	}
	c.sessions.end(keyOfRaw(cookie))
	d.change(func(s *api.Status) { s.Reachability = api.Public })
	if name, data := nextEvent(t, lines); data != "" {
		t.Errorf("after the log-out: %s %s", name, data)
	}
}

func TestClosingEndsTheStreams(t *testing.T) {
	c, _, lines, _ := openEvents(t, &device{st: withContact()})
	nextEvent(t, lines)
	nextEvent(t, lines)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if name, data := nextEvent(t, lines); data != "" {
		t.Errorf("still talks: %s %s", name, data)
	}
}

func keyOfRaw(cookie *http.Cookie) sessionKey {
	_, port, _ := strings.Cut(cookie.Name, "-")
	r := ask("GET", "/", "")
	r.Host = net.JoinHostPort("127.0.0.1", port)
	r.AddCookie(cookie)
	return sessionID(r)
}

// stuckWriter takes one write and then times out, as a socket does whose
// reader has stopped reading.
type stuckWriter struct {
	http.ResponseWriter
	writes   int
	deadline time.Time
}

func (s *stuckWriter) Flush() {}

func (s *stuckWriter) SetWriteDeadline(t time.Time) error {
	s.deadline = t
	return nil
}

func (s *stuckWriter) Write(b []byte) (int, error) {
	if s.writes++; s.writes > 2 {
		<-time.After(time.Until(s.deadline))
		return 0, net.ErrClosed
	}
	return len(b), nil
}

func TestASlowReaderIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &device{st: withContact()}
		c := newTest(t, func(cfg *Config) { cfg.Status = d.status })
		r := ask("GET", "/api/v1/events", "")
		r.AddCookie(sessionCookie(r, c.sessions.start()))
		ended := make(chan struct{})
		go func() {
			c.Handler().ServeHTTP(&stuckWriter{ResponseWriter: httptest.NewRecorder()}, r)
			close(ended)
		}()
		synctest.Wait()
		d.change(func(s *api.Status) { s.Name = "Barn" })
		began := time.Now()
		<-ended
		if took := time.Since(began); took < slowReader || took > slowReader+2*feedEvery {
			t.Errorf("dropped after %v", took)
		}
		if len(c.feed.streams) != 0 {
			t.Error("its stream is still there")
		}
		c.Close()
	})
}

func TestASilentStreamBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTest(t, nil)
		w := httptest.NewRecorder()
		r := ask("GET", "/api/v1/events", "")
		cookie := sessionCookie(r, c.sessions.start())
		r.AddCookie(cookie)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			out := recorderWithDeadline{w}
			c.Handler().ServeHTTP(out, r)
		}()
		advance(t, time.Minute+time.Second)
		c.sessions.end(keyOf(cookie))
		<-ended // the next beat notices
		if got := strings.Count(w.Body.String(), ":\n\n"); got != 3 {
			t.Errorf("%d beats in a minute", got)
		}
		if size := w.Body.Len(); size > 4000 {
			t.Errorf("%d bytes in an idle minute", size)
		}
		c.Close()
	})
}

type recorderWithDeadline struct{ *httptest.ResponseRecorder }

func (recorderWithDeadline) SetWriteDeadline(time.Time) error { return nil }
