package gateway

import (
	"encoding/json"
	"fmt"
	"html"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// refusal is an answer of ours instead of the contact's.
type refusal struct {
	status      int
	code        string
	title, text string
	retryS      int // seconds after which to try again, 0 if that would not help
}

// The refusals that need no contact.
var (
	wrongSource = &refusal{status: http.StatusForbidden, code: "source", title: "Only on this machine",
		text: "This page is shown only in a browser on the device itself."}
	wrongHost = &refusal{status: http.StatusMisdirectedRequest, code: "host", title: "Not under this name",
		text: "Contacts are found at http://NAME.localhost and at http://localhost, with the port of this gateway."}
	tooLong = &refusal{status: http.StatusRequestURITooLong, code: "too_long", title: "The address is too long",
		text: "Shorten what follows the contact's name."}
	wrongMethod = &refusal{status: http.StatusMethodNotAllowed, code: "method", title: "That cannot be done here",
		text: "Contacts answer GET, HEAD and PUT."}
	noWorkers = &refusal{status: http.StatusForbidden, code: "service_worker", title: "No service workers",
		text: "A contact's page works without a service worker."}
	foreign = &refusal{status: http.StatusForbidden, code: "origin", title: "Not from another site",
		text: "Another site's page has asked for this. Open it in a window of its own."}
	notHere = &refusal{status: http.StatusNotFound, code: "not_found", title: "There is nothing here",
		text: "Choose a contact from the list."}
)

// The refusals that concern one contact.
var (
	unknown = &refusal{status: http.StatusNotFound, code: "unknown_contact", title: "No contact goes by this name",
		text: "Look for it in the list, or add it: porchlight contacts add LINK NAME"}
	busy = &refusal{status: http.StatusServiceUnavailable, code: "busy", title: "Too much at once",
		text: "Many files are on their way from this contact already. Try again when some have arrived.", retryS: 2}
	elsewhere = &refusal{status: http.StatusBadGateway, code: "elsewhere", title: "This leads elsewhere",
		text: "The contact's device sends you to another site, which it may not."}
	nonsense = &refusal{status: http.StatusBadGateway, code: "bad_answer", title: "The answer makes no sense",
		text: "The contact's device answered in a way that is not understood. It may need an update."}
	noLength = &refusal{status: http.StatusLengthRequired, code: "length", title: "How long is it?",
		text: "An upload has to say its length."}
)

// offline is the refusal for a contact that does not answer.
func (g *Gateway) offline(p place) *refusal {
	text := "Its device does not answer at the moment. It may be switched off, or without a connection."
	for _, e := range g.cfg.Contacts() {
		if seen := ago(e.LastSeenUnixMS, time.Now()); e.Label == p.name && seen != "" {
			text += " It was last seen " + seen + "."
		}
	}
	return &refusal{status: http.StatusServiceUnavailable, code: "offline", title: "Not on-line now", text: text, retryS: 30}
}

// ago says how long ago a time was, "" if that is unknown or, by a clock that
// was set back, in the future.
func ago(unixMS int64, now time.Time) string {
	if unixMS <= 0 {
		return ""
	}
	d := now.Sub(time.UnixMilli(unixMS))
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := int64(d / unit.length); n == 1 {
			return "1 " + unit.name + " ago"
		} else if n > 1 {
			return fmt.Sprintf("%d %ss ago", n, unit.name)
		}
	}
	if d < 0 {
		return ""
	}
	return "a moment ago"
}

// said turns an error in plain words, as the share service gives them, into a
// page of ours around them.
func said(status int, text string) *refusal {
	no := &refusal{status: status, code: "peer", title: "The contact's device says no", text: text}
	switch status {
	case http.StatusForbidden, http.StatusUnauthorized:
		no.code, no.title = "not_allowed", "Not for you"
	case http.StatusNotFound, http.StatusGone:
		no.code, no.title, no.text = "not_found", "Not found", "The contact serves nothing under this address, or not to you."
	case http.StatusServiceUnavailable:
		no.code, no.title, no.retryS = "unavailable", "Not at the moment", 30
	}
	return no
}

// fail writes a refusal as a page or, if that is asked for, as JSON.
func (g *Gateway) fail(w http.ResponseWriter, r *http.Request, p place, no *refusal) {
	if no.retryS > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(no.retryS))
	}
	if no == wrongMethod {
		w.Header().Set("Allow", "GET, HEAD, PUT")
	}
	if wantsJSON(r) {
		writeJSON(w, no.status, map[string]any{"error": no.code, "message": no.text, "retry_ms": 1000 * no.retryS})
		return
	}
	foot := ""
	if no.retryS > 0 {
		foot = `<p><a href="">Try again</a></p>`
	}
	if no != wrongSource && no != wrongHost {
		foot += `<p><a href="` + html.EscapeString(home(r)) + `">All contacts</a></p>`
	}
	about := ""
	if p.name != "" {
		about = `<p class="who">` + html.EscapeString(p.name) + `</p>`
	}
	writePage(w, no.status, no.title, about+"<p>"+html.EscapeString(no.text)+"</p>"+foot)
}

// home is the address of the list of contacts.
func home(r *http.Request) string { return "http://" + localhost(r) + "/" }

// localhost is "localhost" with the port the request came to.
func localhost(r *http.Request) string {
	if _, port, err := net.SplitHostPort(r.Host); err == nil {
		return net.JoinHostPort("localhost", port)
	}
	return "localhost"
}

// index lists the contacts.
func (g *Gateway) index(w http.ResponseWriter, r *http.Request) {
	entries := g.cfg.Contacts()
	if wantsJSON(r) {
		type line struct {
			Name   string `json:"name"`
			Label  string `json:"label"`
			Online bool   `json:"online"`
			URL    string `json:"url"`
		}
		lines := []line{}
		for _, e := range entries {
			lines = append(lines, line{e.Name, e.Label, e.Online, "http://" + e.Label + "." + localhost(r) + "/"})
		}
		writeJSON(w, http.StatusOK, map[string]any{"contacts": lines})
		return
	}
	var b strings.Builder
	if len(entries) == 0 {
		b.WriteString("<p>There are no contacts yet. Add one: porchlight contacts add LINK NAME</p>")
	}
	b.WriteString("<ul>")
	for _, e := range entries {
		state := "not on-line"
		if e.Online {
			state = "on-line"
		} else if seen := ago(e.LastSeenUnixMS, time.Now()); seen != "" {
			state = "last seen " + seen
		}
		label := html.EscapeString(e.Label)
		fmt.Fprintf(&b, `<li><a href="http://%s.%s/">%s</a> <span>%s</span> <a class="by-path" href="/~%s/">by path</a></li>`,
			label, html.EscapeString(localhost(r)), html.EscapeString(e.Name), state, label)
	}
	b.WriteString("</ul>")
	writePage(w, http.StatusOK, "Contacts", b.String())
}

const pageForm = `<!doctype html><html lang="en"><head><meta charset="utf-8">` +
	`<meta name="viewport" content="width=device-width"><title>%s</title>` +
	`<style>body{font:1rem/1.6 system-ui;margin:3rem auto;max-width:34rem;padding:0 1rem;color-scheme:light dark}` +
	`h1{font-size:1.4rem;font-weight:600}ul{padding:0;list-style:none}li{padding:.3rem 0}` +
	`span,.who,.by-path{opacity:.7}.by-path{font-size:.8rem;margin-left:.5rem}</style></head>` +
	`<body><h1>%s</h1>%s</body></html>` + "\n"

// writePage writes a page of ours; body is HTML.
func writePage(w http.ResponseWriter, status int, title, body string) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	w.WriteHeader(status)
	title = html.EscapeString(title)
	// The reader has gone: nobody to tell.
	_, _ = fmt.Fprintf(w, pageForm, title, title, body)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cross-Origin-Resource-Policy", "same-origin")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the reader has gone: nobody to tell
}

// wantsHTML is true for browsers, which name text/html first.
func wantsHTML(r *http.Request) bool {
	accept := r.Header.Get("Accept")
	page, other := strings.Index(accept, "text/html"), strings.Index(accept, "json")
	return page >= 0 && (other < 0 || page < other)
}

func wantsJSON(r *http.Request) bool {
	return !wantsHTML(r) && strings.Contains(r.Header.Get("Accept"), "json")
}
