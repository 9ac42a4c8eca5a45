package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"porchlight/agent/api"
)

// showNetcheck prints what the agent found out, in words or, with --json, as
// the agent wrote it: a field of a later agent is not lost.
func showNetcheck(c *call) error {
	if err := c.parse(0, 0); err != nil {
		return err
	}
	var raw json.RawMessage
	if err := c.client.do(c.ctx, http.MethodGet, "netcheck", nil, &raw); err != nil {
		return err
	}
	if c.json {
		return c.print(raw, nil)
	}
	var n api.Netcheck
	if err := json.Unmarshal(raw, &n); err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	s, _ := c.status() // only for the device's name, without which it goes too
	return c.print(nil, func(w io.Writer) { netcheckText(w, n, s.Name, time.Now()) })
}

// width is how long a line of prose gets, in characters.
const width = 78

func netcheckText(w io.Writer, n api.Netcheck, device string, now time.Time) {
	words, values := verdictWord(n.Verdict), netcheckValues(n, device)
	fmt.Fprintln(w, sentence(words.head, values))
	prose := []string{sentence(words.say, values), sentence(words.todo, values)}
	if n.Doubt {
		prose = append(prose, doubtWords(n.Verdict))
	}
	prose = append(prose, checkedWords(n.CheckedUnixMS, now))
	for _, text := range prose {
		for _, line := range wrap(text, width) {
			fmt.Fprintln(w, line)
		}
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(t, name+"\t"+format+"\n", args...) }
	row("verdict", "%s", n.Verdict)
	seenRows(row, n)
	doorRows(row, n.Doors, now)
	routerRows(row, n.Router)
	for _, h := range n.Helpers {
		row("helper", "%s", helperWords(h))
	}
	for _, c := range n.Candidates {
		row("candidate", "%s", c)
	}
	t.Flush()
}

// netcheckValues are what {braces} stand for, as far as it is known.
func netcheckValues(n api.Netcheck, device string) map[string]string {
	values := map[string]string{
		"device": "this device", "router": "your router", "theRouter": "your router",
		"outer": "another one", "port": "its UDP port", "local": "this device",
	}
	set := func(name, value string) {
		if value != "" {
			values[name] = value
		}
	}
	set("device", printable(device))
	if r := n.Router; r.Address != "" {
		at := r.Address + inBrackets(printable(r.Name))
		values["router"], values["theRouter"] = at, "the router at "+at
	}
	if inside := insideOf(n); inside.IsValid() {
		values["local"], values["port"] = inside.Addr().String(), "UDP port "+strconv.Itoa(int(inside.Port()))
	}
	if m, ok := mappingOf(n); ok {
		if e, err := netip.ParseAddrPort(m.External); err == nil && e.Addr().IsPrivate() {
			values["outer"] = "another one, where the first has the address " + e.Addr().String()
		}
	}
	return values
}

func inBrackets(text string) string {
	if text == "" {
		return ""
	}
	return " (" + text + ")"
}

// mappingOf finds the mapping of the UDP port by IPv4.
func mappingOf(n api.Netcheck) (api.Mapping, bool) {
	for _, m := range n.Router.Mappings {
		if inside, err := netip.ParseAddrPort(m.Internal); err == nil && m.Transport == "udp" && inside.Addr().Is4() {
			return m, true
		}
	}
	return api.Mapping{}, false
}

// insideOf finds the address to forward a port to: that of the mapping, else
// the device's own IPv4 address that is nearest to the router's; not valid if
// none is known, or no router to choose between several by.
func insideOf(n api.Netcheck) (inside netip.AddrPort) {
	if m, ok := mappingOf(n); ok {
		if a, err := netip.ParseAddrPort(m.Internal); err == nil && !a.Addr().IsUnspecified() {
			return a
		}
	}
	router, err := netip.ParseAddr(n.Router.Address)
	noRouter, nearest := err != nil, -1
	for _, c := range n.Candidates {
		text, ok := strings.CutPrefix(c, "host ")
		a, err := netip.ParseAddrPort(text)
		if !ok || err != nil || !a.Addr().Is4() {
			continue
		}
		if noRouter && inside.IsValid() {
			return netip.AddrPort{}
		}
		if bits := commonBits(a.Addr(), router); bits > nearest {
			inside, nearest = a, bits
		}
	}
	return inside
}

// commonBits counts the leading bits that two IPv4 addresses share.
func commonBits(a, b netip.Addr) int {
	if !a.Is4() || !b.Is4() {
		return 0
	}
	for bits := 32; bits > 0; bits-- {
		if p, err := a.Prefix(bits); err == nil && p.Contains(b) {
			return bits
		}
	}
	return 0
}

type rowFunc func(name, format string, args ...any)

// mappingWords and filteringWords say in plain words what RFC 4787 calls
// endpoint-independent and so on.
var (
	mappingWords = map[string]string{
		"endpoint-independent":       "one port for everybody",
		"address-dependent":          "a new port for every address",
		"address-and-port-dependent": "a new port for every destination",
		"none":                       "no NAT in between",
	}
	filteringWords = map[string]string{
		"endpoint-independent":       "anybody may come in once a port is in use",
		"address-dependent":          "only addresses this device wrote to may answer",
		"address-and-port-dependent": "only ports this device wrote to may answer",
		"none":                       "nothing is held back",
	}
)

const unknown = "not known"

// known is the word for a code, or that there is none.
func known(words map[string]string, code string) string {
	if word, ok := words[code]; ok {
		return word
	}
	return unknown
}

// seenRows tell what helpers saw of the device.
func seenRows(row rowFunc, n api.Netcheck) {
	v4, v6 := n.Public, n.PublicIPv6
	if v4 == v6 { // Public is the IPv6 address if there is no other
		v4 = ""
	}
	row("seen by IPv4", "%s", orElse(v4, "no"))
	row("seen by IPv6", "%s", orElse(v6, "no"))
	row("UDP", "%s", udpWords(n))
	row("ports", "%s", portWords(n))
	row("lets in", "%s", known(filteringWords, n.NAT.Filtering))
	row("own address", "%s", known(map[string]string{
		"yes": "is reached from inside too", "no": "is not reached from inside",
	}, n.Ports.Hairpin))
	if s := n.Ports.LifetimeS; s > 0 {
		row("silence", "a port stays open for %d s at least", s)
	} else {
		row("silence", "%s", "how long a port stays open was not measured")
	}
}

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}

func udpWords(n api.Netcheck) string {
	switch {
	case n.Captive:
		return "held back by a sign-in page"
	case n.UDPBlocked:
		return "blocked; helpers are reached by TCP"
	case n.UDP:
		return "gets through"
	}
	return "no helper has answered by it"
}

// portWords say how the router chooses ports: "a new port for every
// destination, +1 each, another than inside: 4001, 4002, 4003".
func portWords(n api.Netcheck) string {
	text, p := known(mappingWords, n.NAT.Mapping), n.Ports
	if p.Delta != 0 {
		text += fmt.Sprintf(", %+d each", p.Delta)
	}
	if len(p.Seen) == 0 {
		return text
	}
	if p.Preserved {
		return text + ", the same as inside"
	}
	seen := make([]string, len(p.Seen))
	for i, port := range p.Seen {
		seen[i] = strconv.Itoa(port)
	}
	return text + ", another than inside: " + strings.Join(seen, ", ")
}

// proofWords say what showed that a door is open.
var proofWords = map[api.Proof]string{
	api.Unproven:    "",
	api.SameAddress: "somebody known came in from a new port",
	api.Stranger:    "somebody never contacted came in",
	api.OwnersWord:  "you say so",
}

func doorRows(row rowFunc, doors []api.Door, now time.Time) {
	for _, d := range doors {
		row("door", "%s", doorWords(d, now))
	}
}

// doorWords tell one door: "UDP by IPv4, 44.128.0.7:4001 (mapped): open,
// somebody never contacted came in 4 min ago".
func doorWords(d api.Door, now time.Time) string {
	at := fmt.Sprintf("%s by %s, %s", strings.ToUpper(d.Transport), strings.Replace(d.Family, "ip", "IP", 1), d.At)
	if d.Mapped {
		at += " (mapped)"
	}
	shown := proofWords[d.Proof]
	switch {
	case d.Reachable:
		at += ": open"
	case shown != "": // what the device's router may let in without being open
		at += ": not open to strangers, as far as shown"
	default:
		at += ": not open"
	}
	switch {
	case shown != "" && d.KnockUnixMS > 0:
		at += ", " + shown + " " + ago(d.KnockUnixMS, now)
	case shown != "":
		at += ", " + shown
	case d.TestUnixMS > 0:
		at += ", nobody came in " + ago(d.TestUnixMS, now)
	default:
		at += ", not tested yet"
	}
	if shown != "" && d.Missed > 0 {
		at += fmt.Sprintf(", %d missed since", d.Missed)
	}
	return at
}

// methods are the ways of asking a router for a port, in the order they are
// shown; outcomeWords what they came to.
var (
	methods = []struct{ code, word string }{
		{"pcp", "PCP"}, {"nat-pmp", "NAT-PMP"}, {"upnp-igd2", "UPnP (IGD 2)"}, {"upnp-igd1", "UPnP (IGD 1)"},
	}
	outcomeWords = map[string]string{
		"pending": "asked, no answer yet",
		"silent":  "no answer",
		"refused": "understood and refused",
		"broken":  "answered with nonsense",
		"granted": "opened a door",
		"offered": "would work, not needed",
	}
)

func methodWord(code string) string {
	for _, m := range methods {
		if m.code == code {
			return m.word
		}
	}
	return printable(code)
}

func routerRows(row rowFunc, r api.Router) {
	row("router", "%s", orElse(r.Address+inBrackets(printable(r.Name)), "none"))
	for _, code := range methodOrder(r.Outcomes) {
		row(methodWord(code), "%s", known(outcomeWords, r.Outcomes[code]))
	}
	for _, m := range r.Mappings {
		row("mapping", "%s %s → %s by %s, %s", strings.ToUpper(m.Transport), m.External, m.Internal, methodWord(m.Method), leftWords(m.LeftS))
	}
}

// methodOrder lists the methods asked: those of the table, then others.
func methodOrder(outcomes map[string]string) (order []string) {
	for _, m := range methods {
		if _, asked := outcomes[m.code]; asked {
			order = append(order, m.code)
		}
	}
	for _, code := range slices.Sorted(maps.Keys(outcomes)) {
		if !slices.Contains(order, code) {
			order = append(order, code)
		}
	}
	return order
}

func leftWords(seconds int64) string {
	if seconds == 0 {
		return "for ever"
	}
	return span(time.Duration(seconds)*time.Second) + " left"
}

// helperWords tell one helper: "Grandma's router on-line by UDP, 41 ms".
func helperWords(h api.Helper) string {
	text := short(printable(h.Name), h.Address) + " " + onOff(h.Online)
	if h.Online {
		text += fmt.Sprintf(" by %s, %.0f ms", strings.ToUpper(h.Transport), h.RTTMS)
	}
	return text
}

func checkedWords(unixMS int64, now time.Time) string {
	if unixMS == 0 {
		return "Not checked yet."
	}
	return "Checked " + ago(unixMS, now) + "."
}

// ago tells a past time for people.
func ago(unixMS int64, now time.Time) string {
	d := now.Sub(time.UnixMilli(unixMS))
	if d < time.Second {
		return "just now"
	}
	return span(d) + " ago"
}

// span rounds a duration as far as anybody cares: 20 s, 4 min, 5 h, 3 days.
func span(d time.Duration) string {
	switch {
	case d < 100*time.Second:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 100*time.Minute:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0f h", d.Hours())
	}
	return fmt.Sprintf("%.0f days", d.Hours()/24)
}
