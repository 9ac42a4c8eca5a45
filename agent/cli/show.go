package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/version"

	"rsc.io/qr"
)

func (c *call) status() (s api.Status, err error) {
	return s, c.client.do(c.ctx, http.MethodGet, "status", nil, &s)
}

func showStatus(c *call) error {
	if err := c.parse(0, 0); err != nil {
		return err
	}
	s, err := c.status()
	if err != nil {
		return err
	}
	return c.print(s, func(w io.Writer) { statusText(w, s) })
}

func statusText(w io.Writer, s api.Status) {
	fmt.Fprintf(w, "%s  %s\n", s.Name, s.Address)
	fmt.Fprintf(w, "reachability  %s: %s\n", s.Reachability, sentence(verdictWord(s.Reachability).head, map[string]string{"device": s.Name}))
	fmt.Fprintf(w, "router        %s; %s\n", known(mappingWords, s.NAT.Mapping), known(filteringWords, s.NAT.Filtering))
	fmt.Fprintf(w, "listens at    %s%s\n", s.Listen, seenAt(s.Public))
	for _, h := range s.Helpers {
		fmt.Fprintf(w, "helper        %s\n", helperWords(h))
	}
	fmt.Fprintf(w, "memory        %.1f MB, running for %s\n\n", float64(s.RSSBytes)/1e6, (time.Duration(s.UptimeMS) * time.Millisecond).Round(time.Second))
	contactTable(w, s.Contacts)
	noticesText(w, s)
}

// noticesText says what waits for the owner.
func noticesText(w io.Writer, s api.Status) {
	for _, p := range s.Contacts {
		if p.Unread > 0 {
			fmt.Fprintf(w, "\n%s from %s that you have not read; see: porchlight messages %[2]s\n", plural(p.Unread, "message"), printable(p.Name))
		}
	}
	switch n := len(s.Requests); n {
	case 0:
	case 1:
		fmt.Fprintf(w, "\n%s asks to become a contact; see: porchlight contacts requests\n", printable(s.Requests[0].Name))
	default:
		fmt.Fprintf(w, "\n%d people ask to become contacts; see: porchlight contacts requests\n", n)
	}
}

func seenAt(public string) string {
	if public == "" {
		return ""
	}
	return ", seen from outside at " + public
}

func onOff(online bool) string {
	if online {
		return "on-line"
	}
	return "off-line"
}

func short(name, address string) string {
	if name != "" || len(address) < 8 {
		return name
	}
	return address[:8]
}

func contactTable(w io.Writer, list []api.Contact) {
	if len(list) == 0 {
		fmt.Fprintln(w, "no contacts yet; add one with: porchlight contacts add LINK NAME")
		return
	}
	var table bytes.Buffer
	t := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CONTACT\tROLE\tPATH\tRTT\tSENT\tRECEIVED")
	for _, p := range list {
		path, rtt := p.Path, ""
		switch {
		case p.Blocked:
			path = "blocked"
		case !p.Online:
			path = presenceWords(false, p.LastSeenUnixMS)
		case p.Path == "":
			path = "on-line"
		default:
			rtt = fmt.Sprintf("%.0f ms", p.RTTMS)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", printable(p.Name), p.Role, path, rtt, size(p.SentBytes), size(p.ReceivedBytes))
	}
	t.Flush()
	for i, row := range strings.SplitAfter(table.String(), "\n") {
		io.WriteString(w, row)
		p := i - 1
		if p < 0 || p >= len(list) || list[p].Blocked {
			continue
		}
		if list[p].Path != "" {
			whyText(w, list[p].Reason, printable(list[p].Name))
		}
		if list[p].Standing == "asked" {
			fmt.Fprintln(w, "  was asked to add you too, and has not so far")
		}
	}
}

// whyText says below a path why it is not direct.
func whyText(w io.Writer, r api.Reason, peer string) {
	for _, line := range wrap(whyNotDirect(r, peer), width-2) {
		fmt.Fprintln(w, " ", line)
	}
}

// size writes a number of bytes for people; the limits leave out what would
// be rounded to 1000 of the smaller unit.
func size(n int64) string {
	switch {
	case n >= 999_950_000:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 999_500:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.0f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d B", n)
}

func showID(c *call) error {
	if err := c.parse(0, 0); err != nil {
		return err
	}
	s, err := c.status()
	if err != nil {
		return err
	}
	return c.print(map[string]string{"address": s.Address}, func(w io.Writer) { fmt.Fprintln(w, s.Address) })
}

func showLink(c *call) error {
	code := c.flags.Bool("qr", false, "draw it as QR code")
	person := c.flags.Bool("me", false, "your own, which leads to the best of your devices")
	if err := c.parse(0, 0); err != nil {
		return err
	}
	link, err := c.link(*person)
	if err != nil {
		return err
	}
	if *code && !c.json {
		if err := drawQR(c.out, link); err != nil {
			return err
		}
	}
	return c.print(map[string]string{"link": link}, func(w io.Writer) { fmt.Fprintln(w, link) })
}

var errNoOwner = errors.New("this device belongs to nobody yet; begin with: porchlight devices invite")

// link returns that of this device, or of the person it belongs to.
func (c *call) link(person bool) (string, error) {
	if !person {
		s, err := c.status()
		return s.Link, err
	}
	var d api.Devices
	if err := c.client.do(c.ctx, http.MethodGet, "devices", nil, &d); err != nil {
		return "", err
	}
	if d.Owner == "" {
		return "", errNoOwner
	}
	return d.Link, nil
}

// quietZone is the white border a reader needs, in modules (ISO/IEC 18004).
const quietZone = 4

// drawQR draws two rows of modules in each line, dark on white whatever the
// terminal's colours are.
func drawQR(w io.Writer, text string) error {
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return fmt.Errorf("draw the link: %w", err)
	}
	for y := -quietZone; y < code.Size+quietZone; y += 2 {
		var line strings.Builder
		for x := -quietZone; x < code.Size+quietZone; x++ {
			line.WriteString([]string{" ", "▄", "▀", "█"}[module(code, x, y)*2+module(code, x, y+1)])
		}
		fmt.Fprintf(w, "\x1b[30;107m%s\x1b[0m\n", line.String())
	}
	return nil
}

func module(code *qr.Code, x, y int) int {
	if code.Black(x, y) {
		return 1
	}
	return 0
}

// lookUp tells where a device is found, and who said so.
func lookUp(c *call) error {
	fresh := c.flags.Bool("fresh", false, "ask the directory although an answer is known")
	noSession := c.flags.Bool("no-session", false, "pass over a connection that stands")
	if err := c.parse(1, 1); err != nil {
		return err
	}
	var l api.Lookup
	path := fmt.Sprintf("lookup?peer=%s&fresh=%t&no_session=%t", url.QueryEscape(c.args[0]), *fresh, *noSession)
	if err := c.client.do(c.ctx, http.MethodGet, path, nil, &l); err != nil {
		return err
	}
	return c.print(l, func(w io.Writer) {
		fmt.Fprintf(w, "%s\n%s (%.1f ms)\n", l.Address, sourceWords(l.Source), l.MS)
		for _, at := range l.At {
			fmt.Fprintf(w, "  at   %s\n", at)
		}
		for _, via := range l.Via {
			fmt.Fprintf(w, "  via  %s\n", via)
		}
	})
}

// sourceWords says who told where a device is.
func sourceWords(source string) string {
	switch source {
	case "session":
		return "connected already; --no-session looks further"
	case "lan":
		return "heard in this network"
	case "link":
		return "its link says where"
	case "cache":
		return "found before; --fresh asks anew"
	case "dht":
		return "found in the directory"
	}
	return "found by " + printable(source)
}

func ping(c *call) error {
	until := c.flags.Bool("until-direct", false, "wait until the path is direct or known to stay relayed")
	limit := c.flags.Duration("timeout", 30*time.Second, "give up after this time")
	if err := c.parse(1, 1); err != nil {
		return err
	}
	path := fmt.Sprintf("ping?peer=%s&until_direct=%t&timeout=%s", url.QueryEscape(c.args[0]), *until, *limit)
	response, err := c.client.send(c.ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	d := json.NewDecoder(io.LimitReader(response.Body, maxAnswer))
	for {
		var p api.Ping
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read the agent's answer: %w", err)
		}
		if err := c.print(p, func(w io.Writer) { pingText(w, p, c.args[0]) }); err != nil {
			return err
		}
	}
}

func pingText(w io.Writer, p api.Ping, peer string) {
	fmt.Fprintf(w, "%s, first byte after %.0f ms, round trip %.1f ms", p.Path, p.FirstByteMS, p.RTTMS)
	if p.DirectMS != nil {
		fmt.Fprintf(w, ", direct after %.0f ms", *p.DirectMS)
	}
	if p.Local != "" { // of who called here only that is known where they are
		p.Local += " → "
	}
	fmt.Fprintf(w, "\n  %s%s\n", p.Local, p.Remote)
	if strings.HasPrefix(peer, "porchlight:") || len(peer) > maxName {
		peer = "that device" // a link or an address says nothing in a sentence
	}
	whyText(w, p.Reason, printable(peer))
}

func showVersion(c *call) error {
	if err := c.parse(0, 0); err != nil {
		return err
	}
	return c.print(map[string]string{"version": version.String()}, func(w io.Writer) { fmt.Fprintln(w, "porchlight", version.String()) })
}
