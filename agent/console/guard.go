package console

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// consoleHeader must accompany each request that changes something. A foreign
// page cannot set it without a preflight, and no preflight is ever answered.
const consoleHeader = "X-Porchlight"

// contentPolicy lets the page use its own files and nothing else.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; " +
	"connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; " +
	"require-trusted-types-for 'script'"

// guard answers whatever must not reach a handler, and sets the headers that
// every answer carries, refusals included.
func (c *Console) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		setHeaders(w.Header())
		if no, refused := c.refuse(r); refused {
			c.log.Debug("console request refused", "code", no.code, "source", r.RemoteAddr)
			no.write(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func setHeaders(h http.Header) {
	h.Set("Content-Security-Policy", contentPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), microphone=(), geolocation=()")
	h.Set("Cache-Control", "no-store")
}

// refuse runs the checks from the cheapest and widest to the narrowest.
func (c *Console) refuse(r *http.Request) (refusal, bool) {
	for _, check := range []func(*http.Request) (refusal, bool){
		c.checkSource, c.checkHost, checkMethod, checkForeign, c.checkChange,
	} {
		if no, refused := check(r); refused {
			return no, true
		}
	}
	return refusal{}, false
}

func (c *Console) checkSource(r *http.Request) (refusal, bool) {
	src, ok := sourceAddress(r)
	if ok && (isHome(src) || c.isOwn(src)) {
		return refusal{}, false
	}
	return refusal{status: http.StatusForbidden, code: "source",
		message: "The console answers only to this home. " +
			"Use it from the same network, under the device's private address."}, true
}

func (c *Console) checkHost(r *http.Request) (refusal, bool) {
	if c.hostAllowed(r.Host) {
		return refusal{}, false
	}
	return refusal{status: http.StatusMisdirectedRequest, code: "host",
		message: "This device does not go by that name. Open the console by its IP address, " +
			"as localhost, or as NAME.local or NAME.lan; further names are allowed in the configuration."}, true
}

func checkMethod(r *http.Request) (refusal, bool) {
	if r.Header.Get("Upgrade") != "" {
		return refusal{status: http.StatusBadRequest, code: "upgrade",
			message: "The console speaks plain HTTP; leave out the Upgrade header."}, true
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost,
		http.MethodPut, http.MethodPatch, http.MethodDelete:
		return refusal{}, false
	}
	return refusal{status: http.StatusMethodNotAllowed, code: "method",
		message: "This method is not used here; see /api/v1/status."}, true
}

// checkForeign refuses what another site's page sends. The page itself may be
// opened from a link anywhere: it holds no data.
func checkForeign(r *http.Request) (refusal, bool) {
	foreign := refusal{status: http.StatusForbidden, code: "origin",
		message: "Only the console's own page may ask this. Open the console directly."}
	if len(r.Header["Origin"]) > 0 && !sameOrigin(r) {
		return foreign, true
	}
	site := r.Header.Get("Sec-Fetch-Site")
	if isAPI(r) && site != "" && site != "same-origin" && site != "none" {
		return foreign, true
	}
	return refusal{}, false
}

// checkChange applies to every request that may change something. Browsers
// send Sec-Fetch-Site only to https and localhost, so over plain HTTP the
// Origin header has to carry the proof and must be there.
func (c *Console) checkChange(r *http.Request) (refusal, bool) {
	if isSafe(r.Method) {
		return refusal{}, false
	}
	if err := c.origins.Check(r); err != nil || !sameOrigin(r) {
		return refusal{status: http.StatusForbidden, code: "origin",
			message: "Changes need an Origin header equal to the console's own address."}, true
	}
	if r.Header.Get(consoleHeader) == "" {
		return refusal{status: http.StatusForbidden, code: "header",
			message: "Changes need the header " + consoleHeader + ": 1."}, true
	}
	return refusal{}, false
}

func isSafe(method string) bool { return method == http.MethodGet || method == http.MethodHead }

func isAPI(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/api/") }

// sameOrigin reports whether the request carries exactly one Origin and it is
// the scheme, host and port the request was sent to.
func sameOrigin(r *http.Request) bool {
	all := r.Header["Origin"]
	if len(all) != 1 {
		return false
	}
	u, err := url.Parse(all[0])
	if err != nil {
		return false
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return u.Scheme == scheme && u.Host != "" && strings.EqualFold(u.Host, r.Host)
}

// hostAllowed decides by the Host header alone. IP literals cannot be rebound
// by DNS; .local and .lan are never asked of the public DNS.
func (c *Console) hostAllowed(hostport string) bool {
	host := strings.ToLower(hostOf(hostport))
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Zone() == "" && (isHome(addr.Unmap()) || c.isOwn(addr.Unmap()))
	}
	if host == "localhost" || c.hosts[host] {
		return true
	}
	label, domain, ok := strings.Cut(host, ".")
	return ok && isLabel(label) && (domain == "local" || domain == "lan")
}

// hostOf strips the port and the brackets of an IPv6 literal.
func hostOf(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	if strings.HasPrefix(hostport, "[") && strings.HasSuffix(hostport, "]") {
		return hostport[1 : len(hostport)-1]
	}
	return hostport
}

// isLabel reports whether s is one label of a host name (RFC 1123 §2.1).
func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, b := range []byte(s) {
		if b != '-' && (b < '0' || b > '9') && (b < 'a' || b > 'z') {
			return false
		}
	}
	return true
}

// sourceAddress is the address the request came from, without zone and with
// v4-mapped forms undone.
func sourceAddress(r *http.Request) (netip.Addr, bool) {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}, false
	}
	return ap.Addr().Unmap().WithZone(""), true
}

// isHome reports whether an address is of this machine or of a home network:
// loopback, RFC 1918, RFC 4193, link-local.
func isHome(a netip.Addr) bool {
	return a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast()
}

// isOwn reports whether an address is one of this machine's own.
func (c *Console) isOwn(a netip.Addr) bool {
	for _, own := range c.own() {
		if own == a {
			return true
		}
	}
	return false
}

func interfaceAddresses() []netip.Addr {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil // then only private and loopback addresses are let in
	}
	var own []netip.Addr
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				own = append(own, addr.Unmap())
			}
		}
	}
	return own
}
