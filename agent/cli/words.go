package cli

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"porchlight/agent/api"
)

// wording is how a verdict is told: a headline, a sentence, and what the owner
// can do, "" if there is nothing. {Braces} are filled in by situation.values.
// The console's page has the same sentences (console/web/src/words/en.ts, whose
// test compares them); only what is to be done may differ, where the page has a
// button for it.
type wording struct{ head, say, todo string }

const (
	lit     = "Your light is on."
	helped  = "Your light is on, with a little help."
	relayed = "Your light is on, by relay."
)

// verdictWords has the words of every verdict.
var verdictWords = map[api.Verdict]wording{
	api.Mapped: {lit,
		"People you trust can reach {device} directly, from anywhere. Your router opened a door for it and keeps it open.",
		""},
	api.Forwarded: {lit,
		"People you trust can reach {device} directly, from anywhere. The port you opened at {router} leads to it.",
		""},
	api.Public: {lit,
		"People you trust can reach {device} directly, from anywhere. It has its own public address.",
		""},
	api.IPv6Only: {lit,
		"People with IPv6 can reach {device} directly. Everybody else is introduced by a helper first.",
		"To open IPv4 too: switch on UPnP at {router}."},
	api.NATEasy: {helped,
		"Your router lets nobody in first. A helper introduces callers; after that they talk to {device} directly.",
		"To need no help: switch on UPnP at {router}."},
	api.NATHard: {helped,
		"Your router uses a new port for every connection. Helpers introduce callers; most then find a direct way, some go by relay.",
		"To need no help: switch on UPnP at {router}, or its setting “open NAT” or “full cone”."},
	api.DoubleNAT: {helped,
		"There are two routers between {device} and the internet: {router} and, beyond it, {outer}. Helpers introduce callers; most then get in directly.",
		"To need no help: set the outer one to “bridge”, or switch on UPnP there too."},
	api.CGNAT: {helped,
		"Your provider shares one address among many homes, so no door can be opened from here. Helpers introduce callers; most then get in directly.",
		"Nothing at home changes this. Your provider can: ask for IPv6 or a public IPv4 address."},
	api.MapLies: {helped,
		"Your router says it opened a door, but nobody outside could come through. Helpers introduce callers.",
		"To need no help: restart {theRouter}. If that is not enough, forward {port} to {local} by hand."},
	api.Refused: {helped,
		"Your router understands the wish to open a door, and refuses. Helpers introduce callers.",
		"To need no help: allow UPnP for {local} at {router}, or forward {port} to it."},
	api.UDPBlocked: {relayed,
		"This network blocks what direct paths need (UDP). Everything goes through helpers, encrypted. Slower, but it works.",
		"If the network is yours: allow outgoing UDP. Otherwise nothing to do."},
	api.WebOnly: {relayed,
		"This network lets only web traffic out. Everything goes through helpers on port 443, encrypted.",
		"If the network is yours: allow outgoing UDP. Otherwise nothing to do."},
	api.NoHelper: {"Your light is off.",
		"{device} is on the internet, but found nobody to introduce callers.",
		"To do: add one person’s link (porchlight contacts add LINK NAME), or switch on UPnP at {router}. We keep trying."},
	api.NoInternet: {"Only this home.",
		"The internet is not answering. Devices in this home still find each other, and everything you share here still works.",
		"To do: look at {theRouter}. We try again by ourselves."},
	api.Captive: {"This network wants a sign-in.",
		"It holds back everything until somebody accepts its page.",
		"To do: open any web page on {device}’s network and sign in. We try again by ourselves."},
	api.NoNetwork: {"{device} has no network.",
		"No cable and no Wi-Fi gave it an address.",
		"To do: check the cable, or the Wi-Fi name and password."},
	api.Blocked: {"This network lets nothing through.",
		"Neither direct nor relayed traffic leaves it.",
		"To do: ask whoever runs it to allow UDP, or TCP to port 443."},
	api.Private: {"You keep your light off.",
		"Nobody can reach {device}, and nothing is served. Files, contacts and messages stay.",
		"To turn the light on: start {device} with --reachability auto."},
	api.Checking: {"Trying the doors…",
		"This takes a few seconds. What worked before goes on working.",
		""},
}

// verdictWord finds the words of a verdict; one of a later version is told as
// being checked: never worse news than is true.
func verdictWord(v api.Verdict) wording {
	if w, ok := verdictWords[v]; ok {
		return w
	}
	return verdictWords[api.Checking]
}

const (
	doubtOutside = "It did not answer from outside a minute ago. Checking again before we say so."
	doubtInside  = "The last check found less than before. Checking again before we say so."
)

// doubtWords is added while a verdict is being checked again.
func doubtWords(v api.Verdict) string {
	if verdictWord(v).head == lit {
		return doubtOutside
	}
	return doubtInside
}

// reasonWords say why a path is not direct.
var reasonWords = map[api.Reason]string{
	api.Trying:          "Looking for a direct way.",
	api.BothRandom:      "Both routers choose ports at random, so there is no direct way. It would be direct if either of you switched on UPnP.",
	api.UDPBlockedHere:  "This network blocks UDP, so there is no direct way.",
	api.UDPBlockedThere: "The network around {peer} blocks UDP, so there is no direct way.",
	api.WebOnlyThere:    "The network around {peer} lets only web traffic out, so there is no direct way.",
	api.NoCommonIP:      "One of you has only IPv4, the other only IPv6.",
	api.PeerWish:        "{peer} takes relayed traffic only.",
	api.OwnWish:         "You asked for relays only.",
	api.Busy:            "This router is busy; the search waits so as not to disturb it.",
	api.NoDirect:        "Every direct way was tried and none answered. The next try follows by itself.",
}

// whyNotDirect tells a reason of a path to peer in a sentence; "" if there is
// none. A reason of a later version is told with its code.
func whyNotDirect(r api.Reason, peer string) string {
	if r == "" {
		return ""
	}
	text, ok := reasonWords[r]
	if !ok {
		return "There is no direct way at the moment (" + printable(string(r)) + ")."
	}
	return sentence(text, map[string]string{"peer": peer})
}

// sentence fills values into {braces} and begins with a capital letter.
func sentence(text string, values map[string]string) string {
	var pairs []string
	for name, value := range values {
		pairs = append(pairs, "{"+name+"}", value)
	}
	text = strings.NewReplacer(pairs...).Replace(text)
	if text == "" {
		return ""
	}
	first, size := utf8.DecodeRuneInString(text)
	return string(unicode.ToUpper(first)) + text[size:]
}

// maxName is how many characters of a name that others chose are shown.
const maxName = 40

// printable makes a name that others chose harmless to a terminal: what is
// not to be seen (control characters, direction marks) is left out, and what
// is longer than maxName is cut.
func printable(name string) string {
	out := []rune(strings.TrimSpace(harmless(name)))
	if len(out) > maxName {
		out = append(out[:maxName-1], '…')
	}
	return string(out)
}

// harmless leaves out of one line of somebody's text what would speak to the
// terminal.
func harmless(line string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, line)
}

// wrap breaks a text into lines of at most width characters, unless one word
// is longer.
func wrap(text string, width int) []string {
	var lines []string
	line, length := "", 0
	for _, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case length == 0:
			line, length = word, n
		case length+1+n <= width:
			line, length = line+" "+word, length+1+n
		default:
			lines = append(lines, line)
			line, length = word, n
		}
	}
	if length > 0 {
		lines = append(lines, line)
	}
	return lines
}
