package app

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/contacts"
	"porchlight/agent/control"
	"porchlight/agent/identity"
	"porchlight/agent/state"
	"porchlight/share"
)

func folder(t *testing.T) *state.Folder {
	t.Helper()
	f, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestTransfersHaveNamesAndRates(t *testing.T) {
	files := folder(t)
	bob := identity.FromSeed(bytes.Repeat([]byte{2}, 32)).Address()
	eve := identity.FromSeed(bytes.Repeat([]byte{3}, 32)).Address()
	book, err := contacts.Open(files)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := book.Add(identity.Link{Address: bob}, "bob", contacts.Friend); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		moving := []share.Transfer{
			{ID: 8, Peer: eve.String(), Path: "drop/b", Upload: true, Size: 100},
			// It was resumed: what was there before is no rate.
			{ID: 7, Peer: bob.String(), Path: "pub/music/a", Size: 1 << 30, First: 1 << 20, Position: 1 << 20},
		}
		m := &mover{moving: func() []share.Transfer { return slices.Clone(moving) }, book: book}
		first := m.transfers()
		want := api.Transfer{ID: "7", Name: "a", Direction: "out", Peer: "bob", Bytes: 1 << 20, TotalBytes: 1 << 30}
		if len(first) != 2 || first[0] != want || first[1].Peer != eve.String() || first[1].Direction != "in" {
			t.Fatalf("%+v", first)
		}
		for _, step := range []struct {
			pass  time.Duration
			bytes int64
			rate  float64
		}{
			{time.Second, 1000, 0}, // too soon to tell
			{time.Second, 3000, 2000},
			{time.Second, 9000, 2000}, // of the last window
			{2 * time.Second, 0, 3000},
			{4 * time.Second, 0, 0}, // it stands still
		} {
			time.Sleep(step.pass)
			moving[1].Position += step.bytes
			if got := m.transfers()[0].BytesPerSecond; got != step.rate {
				t.Errorf("after %v and %d bytes: %v B/s, want %v", step.pass, step.bytes, got, step.rate)
			}
		}
		moving = nil
		if m.transfers(); len(m.last) != 0 {
			t.Errorf("ended transfers are kept: %v", m.last)
		}
	})
}

func TestMistakesWithSharesAreTheCallers(t *testing.T) {
	shares, err := openShares(folder(t))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := shares.Add(api.Share{Name: "music", Dir: dir, Read: []string{"everybody"}}); err != nil {
		t.Fatal(err)
	}
	if !shares.public() {
		t.Error("a share for everybody is not public")
	}
	routes := control.New(control.Config{Shares: shares}).Routes()
	for _, c := range []struct {
		name, method, path, body string
		want                     int
	}{
		{"name taken", "POST", "", `{"name":"music","dir":"` + dir + `"}`, http.StatusBadRequest},
		{"name unusable", "POST", "", `{"name":"a/b","dir":"` + dir + `"}`, http.StatusBadRequest},
		{"no such folder", "POST", "", `{"name":"x","dir":"` + dir + `/missing"}`, http.StatusBadRequest},
		{"no such share", "DELETE", "/x", "", http.StatusNotFound},
	} {
		w := httptest.NewRecorder()
		routes.ServeHTTP(w, httptest.NewRequest(c.method, "/api/v1/shares"+c.path, strings.NewReader(c.body)))
		if w.Code != c.want {
			t.Errorf("%s: %d %s", c.name, w.Code, w.Body)
		}
	}
	if err := shares.Remove("music"); err != nil || len(shares.List()) != 0 || shares.public() {
		t.Errorf("%v, %v", err, shares.List())
	}
}

func TestDonationsAreKept(t *testing.T) {
	cfg := loopback(t)
	first := start(t, cfg)
	first.ask("PUT", "donate", api.Donate{Enabled: true, To: []string{"friends"}}, nil)
	first.stop()
	var d api.Donate
	second := start(t, cfg)
	second.ask("GET", "donate", nil, &d)
	if !d.Enabled || len(d.To) != 1 || d.To[0] != "friends" {
		t.Errorf("after a restart: %+v", d)
	}
}
