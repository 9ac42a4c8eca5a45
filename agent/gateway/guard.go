package gateway

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// place is what a URL of ours names.
type place struct {
	// name is the contact's label, "" for ourselves.
	name string
	// prefix is "/~name.token" in the form by path, "" in the form by host.
	prefix, token string
	// path is escaped and begins with a slash, or is empty.
	path string
}

// check runs every rule that needs no contact, from the widest to the
// narrowest, and says which place is asked for.
func (g *Gateway) check(r *http.Request) (place, *refusal) {
	if src, err := netip.ParseAddrPort(r.RemoteAddr); err != nil || !src.Addr().Unmap().IsLoopback() {
		return place{}, wrongSource
	}
	p, ok := locate(r)
	switch {
	case !ok || r.URL.IsAbs() || r.Method == http.MethodConnect:
		return place{}, wrongHost
	case len(r.RequestURI) > maxTarget:
		return place{}, tooLong
	case r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodPut, r.Header.Get("Upgrade") != "":
		return place{}, wrongMethod
	case r.Header.Get("Service-Worker") != "":
		return place{}, noWorkers
	case r.Method == http.MethodPut && !mayChange(r, p), r.Method != http.MethodPut && isForeign(r) && !g.isOwn(p):
		return place{}, foreign
	}
	return p, nil
}

// locate reads the Host header and, in the form by path, the path.
func locate(r *http.Request) (place, bool) {
	host, port, err := net.SplitHostPort(r.Host)
	if err != nil {
		host, port = strings.TrimSuffix(strings.TrimPrefix(r.Host, "["), "]"), "80"
	}
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); !ok || port != portOf(local) {
		return place{}, false
	}
	path := r.URL.EscapedPath()
	host = strings.ToLower(host)
	if name, ok := strings.CutSuffix(host, ".localhost"); ok {
		return place{name: name, path: path}, isLabel(name)
	}
	if addr, err := netip.ParseAddr(host); host != "localhost" && (err != nil || addr != loopback4 && addr != netip.IPv6Loopback()) {
		return place{}, false
	}
	return byPath(path), true
}

var loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})

func portOf(a *net.TCPAddr) string {
	_, port, _ := net.SplitHostPort(a.String()) // its own form cannot fail
	return port
}

// byPath takes /~name/… and /~name.token/… apart. Names that are no labels are
// our own paths, which do not exist.
func byPath(path string) place {
	rest, ok := strings.CutPrefix(path, "/~")
	first, _, _ := strings.Cut(rest, "/")
	name, token, _ := strings.Cut(first, ".")
	if !ok || !isLabel(name) {
		return place{path: path}
	}
	return place{name: name, prefix: "/~" + first, token: token, path: rest[len(first):]}
}

// token is what only the pages of one contact know. It changes with each start.
func (g *Gateway) token(name string) string {
	mac := hmac.New(sha256.New, g.secret[:])
	mac.Write([]byte(name))
	return strings.ToLower(base32.StdEncoding.EncodeToString(mac.Sum(nil))[:tokenLength])
}

// tokenLength is the length of a token, of five bits a character.
const tokenLength = 26

// isOwn reports whether a request below /~name/ comes from a page of the same
// contact, or from who was given its address.
func (g *Gateway) isOwn(p place) bool {
	return p.prefix != "" && subtle.ConstantTimeCompare([]byte(p.token), []byte(g.token(p.name))) == 1
}

// isForeign reports whether another site sends the request, other than by
// opening a page in a window of its own. Browsers without Sec-Fetch-Site
// (https://www.w3.org/TR/fetch-metadata/) at least name a foreign Origin.
func isForeign(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "same-origin", "none":
		return false
	case "":
		return len(r.Header["Origin"]) > 0 && !sameOrigin(r)
	}
	opens := r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
	return !opens
}

// mayChange reports whether a PUT comes from the contact's own page. Below
// /~name/ pages have no origin, and the one they seem to have is everybody's.
func mayChange(r *http.Request, p place) bool {
	site := r.Header.Get("Sec-Fetch-Site")
	return p.name != "" && p.prefix == "" && sameOrigin(r) && (site == "" || site == "same-origin")
}

// sameOrigin reports whether the request carries exactly one Origin, which is
// the host and port it was sent to.
func sameOrigin(r *http.Request) bool {
	all := r.Header["Origin"]
	return len(all) == 1 && strings.EqualFold(all[0], "http://"+r.Host)
}
