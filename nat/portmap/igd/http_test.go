//go:build !mips

// These tests use real sockets, which user-mode emulation of big-endian MIPS
// does not offer.

package igd

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

func TestCageReachesOneHost(t *testing.T) {
	var asked []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Path)
		if r.URL.Path == "/away" {
			http.Redirect(w, r, "/home", http.StatusFound)
			return
		}
		io.WriteString(w, "<a/>")
	}))
	defer srv.Close()
	t.Setenv("HTTP_PROXY", "http://127.0.0.2:1")
	client := newCage(netip.Addr{}, netip.MustParseAddr("127.0.0.1"))
	port := srv.URL[strings.LastIndexByte(srv.URL, ':'):]
	for _, c := range []struct {
		url string
		ok  bool
	}{
		{srv.URL + "/home", true},
		{srv.URL + "/away", false},
		{"http://[::ffff:127.0.0.1]" + port + "/home", true},
		{"http://localhost" + port + "/home", false},
		{"http://127.0.0.2" + port + "/home", false},
		{"http://user@127.0.0.1" + port + "/home", false},
		{"https://127.0.0.1" + port + "/home", false},
		{"http://127.1" + port + "/home", false},
	} {
		resp, err := client.Get(c.url)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrElsewhere) {
			t.Errorf("%s: error %v, want ok %v", c.url, err, c.ok)
		}
		if err == nil {
			resp.Body.Close()
		}
	}
	if want := "/home /away /home"; strings.Join(asked, " ") != want {
		t.Errorf("asked for %v, want %s", asked, want)
	}
}

func TestHeaderLimit(t *testing.T) {
	size := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Long", strings.Repeat("x", size))
		io.WriteString(w, "<a/>")
	}))
	defer srv.Close()
	client := newCage(netip.Addr{}, netip.MustParseAddr("127.0.0.1"))
	for _, c := range []struct {
		size int
		ok   bool
	}{{MaxHeader / 2, true}, {MaxHeader + 8<<10, false}} {
		size = c.size
		resp, err := client.Get(srv.URL)
		if (err == nil) != c.ok {
			t.Errorf("header of %d bytes: error %v, want ok %v", c.size, err, c.ok)
		}
		if err == nil {
			resp.Body.Close()
		}
	}
}
