package cli

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/control"
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func before(d time.Duration) int64 { return noon.Add(-d).UnixMilli() }

// home is a device behind a router that says no.
func home() api.Netcheck {
	return api.Netcheck{
		Verdict: api.Refused, CheckedUnixMS: before(4 * time.Minute),
		NAT: api.NAT{Mapping: "address-and-port-dependent", Filtering: "address-and-port-dependent"},
		UDP: true, Public: "44.128.0.7:52011", PublicIPv6: "[2001:db8::7]:41641",
		Candidates: []string{"host 172.17.0.1:41641", "host 192.168.1.23:41641", "host [2001:db8::7]:41641", "srflx 44.128.0.7:52011"},
		Helpers: []api.Helper{
			{Address: strings.Repeat("g", 56), Name: "Grandma’s router", Online: true, RTTMS: 41.2, Transport: "udp"},
			{Address: strings.Repeat("x", 56)},
		},
		Doors: []api.Door{
			{Transport: "udp", Family: "ipv4", At: ":41641", TestUnixMS: before(30 * time.Second)},
			{Transport: "udp", Family: "ipv6", At: "[2001:db8::7]:41641", Reachable: true, Proof: api.Stranger,
				KnockUnixMS: before(2 * time.Minute), TestUnixMS: before(time.Minute), Missed: 1},
			{Transport: "tcp", Family: "ipv4", At: ":41641"},
		},
		Ports: api.Ports{Delta: 1, Seen: []int{52011, 52012, 52013}, Hairpin: "no", LifetimeS: 120},
		Router: api.Router{
			Address: "192.168.1.1", Name: "FRITZ!Box 7590", Settled: true,
			Outcomes: map[string]string{"upnp-igd1": "refused", "pcp": "silent", "later": "curious", "nat-pmp": "silent", "upnp-igd2": "refused"},
		},
	}
}

func TestNetcheckForPeople(t *testing.T) {
	var b bytes.Buffer
	netcheckText(&b, home(), "Attic Pi", noon)
	want := `Your light is on, with a little help.
Your router understands the wish to open a door, and refuses. Helpers
introduce callers.
To need no help: allow UPnP for 192.168.1.23 at 192.168.1.1 (FRITZ!Box 7590),
or forward UDP port 41641 to it.
Checked 4 min ago.

verdict       refused
seen by IPv4  44.128.0.7:52011
seen by IPv6  [2001:db8::7]:41641
UDP           gets through
ports         a new port for every destination, +1 each, another than inside: 52011, 52012, 52013
lets in       only ports this device wrote to may answer
own address   is not reached from inside
silence       a port stays open for 120 s at least
door          UDP by IPv4, :41641: not open, nobody came in 30 s ago
door          UDP by IPv6, [2001:db8::7]:41641: open, somebody never contacted came in 2 min ago, 1 missed since
door          TCP by IPv4, :41641: not open, not tested yet
router        192.168.1.1 (FRITZ!Box 7590)
PCP           no answer
NAT-PMP       no answer
UPnP (IGD 2)  understood and refused
UPnP (IGD 1)  understood and refused
later         not known
helper        Grandma’s router on-line by UDP, 41 ms
helper        xxxxxxxx off-line
candidate     host 172.17.0.1:41641
candidate     host 192.168.1.23:41641
candidate     host [2001:db8::7]:41641
candidate     srflx 44.128.0.7:52011
`
	if b.String() != want {
		t.Errorf("\n%s\nwant\n%s", b.String(), want)
	}
}

func TestNetcheckOfAMappedPort(t *testing.T) {
	n := home()
	n.Verdict, n.Doubt, n.CheckedUnixMS = api.Mapped, true, 0
	n.NAT = api.NAT{Mapping: "endpoint-independent", Filtering: "endpoint-independent"}
	n.Ports = api.Ports{Preserved: true, Seen: []int{41641}, Hairpin: "unknown"}
	n.Router.Outcomes = map[string]string{"pcp": "granted", "nat-pmp": "offered", "upnp-igd2": "pending"}
	n.Router.Mappings = []api.Mapping{
		{Method: "pcp", Transport: "udp", Internal: "192.168.1.23:41641", External: "44.128.0.7:41641", LeftS: 3480},
		{Method: "upnp-igd1", Transport: "tcp", Internal: "192.168.1.23:41641", External: "44.128.0.7:41641"},
	}
	n.Doors = []api.Door{
		{Transport: "udp", Family: "ipv4", At: "44.128.0.7:41641", Mapped: true, Reachable: true, Proof: api.SameAddress, KnockUnixMS: before(0)},
		{Transport: "tcp", Family: "ipv4", At: "44.128.0.7:41641", Reachable: true, Proof: api.OwnersWord},
		{Transport: "udp", Family: "ipv6", At: "[2001:db8::7]:41641", Proof: api.SameAddress, KnockUnixMS: before(9 * time.Second)},
	}
	var b bytes.Buffer
	netcheckText(&b, n, "", noon)
	for _, want := range []string{
		"Your light is on.\nPeople you trust can reach this device directly, from anywhere. Your router\nopened a door for it and keeps it open.\n" +
			"It did not answer from outside a minute ago. Checking again before we say so.\nNot checked yet.\n\n",
		"ports         one port for everybody, the same as inside\n",
		"own address   not known\n",
		"silence       how long a port stays open was not measured\n",
		"door          UDP by IPv4, 44.128.0.7:41641 (mapped): open, somebody known came in from a new port just now\n",
		"door          TCP by IPv4, 44.128.0.7:41641: open, you say so\n",
		"door          UDP by IPv6, [2001:db8::7]:41641: not open to strangers, as far as shown, somebody known came in from a new port 9 s ago\n",
		"PCP           opened a door\nNAT-PMP       would work, not needed\nUPnP (IGD 2)  asked, no answer yet\n",
		"mapping       UDP 44.128.0.7:41641 → 192.168.1.23:41641 by PCP, 58 min left\n",
		"mapping       TCP 44.128.0.7:41641 → 192.168.1.23:41641 by UPnP (IGD 1), for ever\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestWhatIsToBeDone(t *testing.T) {
	double := home()
	double.Router.Name = ""
	double.Router.Mappings = []api.Mapping{{Method: "pcp", Transport: "udp", Internal: "192.168.1.23:41641", External: "10.0.0.12:41641"}}
	lost := home()
	lost.Router = api.Router{}
	one := lost
	one.Candidates = lost.Candidates[1:]
	for _, c := range []struct {
		name    string
		n       api.Netcheck
		verdict api.Verdict
		want    string
	}{
		{"router and name", home(), api.NATEasy, "To need no help: switch on UPnP at 192.168.1.1 (FRITZ!Box 7590)."},
		{"nothing known", api.Netcheck{}, api.NATEasy, "To need no help: switch on UPnP at your router."},
		{"several own addresses and no router", lost, api.Refused, "To need no help: allow UPnP for this device at your router, or forward its UDP port to it."},
		{"one own address and no router", one, api.Refused, "To need no help: allow UPnP for 192.168.1.23 at your router, or forward UDP port 41641 to it."},
		{"to restart", home(), api.MapLies, "To need no help: restart the router at 192.168.1.1 (FRITZ!Box 7590). If that is not enough, forward UDP port 41641 to 192.168.1.23 by hand."},
		{"to restart, nothing known", api.Netcheck{}, api.MapLies, "To need no help: restart your router. If that is not enough, forward its UDP port to this device by hand."},
		{"two routers", double, api.DoubleNAT, "There are two routers between Attic Pi and the internet: 192.168.1.1 and, beyond it, another one, where the first has the address 10.0.0.12. Helpers introduce callers; most then get in directly."},
		{"two routers, nothing known", api.Netcheck{}, api.DoubleNAT, "There are two routers between Attic Pi and the internet: your router and, beyond it, another one. Helpers introduce callers; most then get in directly."},
		{"no internet", home(), api.NoInternet, "To do: look at the router at 192.168.1.1 (FRITZ!Box 7590). We try again by ourselves."},
		{"no network", home(), api.NoNetwork, "Attic Pi has no network."},
		{"sign-in", home(), api.Captive, "To do: open any web page on Attic Pi’s network and sign in. We try again by ourselves."},
	} {
		c.n.Verdict = c.verdict
		var b bytes.Buffer
		netcheckText(&b, c.n, "Attic Pi", noon)
		prose, _, _ := strings.Cut(b.String(), "\n\n")
		if got := strings.Join(strings.Fields(prose), " "); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q in it", c.name, got, c.want)
		}
	}
}

// TestNoNameSpeaksToTheTerminal has an attacker on the home network name the
// router.
func TestNoNameSpeaksToTheTerminal(t *testing.T) {
	n := home()
	n.Router.Name = "\x1b[2J\x1b]52;c;cm0=\x07{device}"
	n.Router.Outcomes = map[string]string{"\x1b[31m": "\x1b[0m"}
	n.Helpers = []api.Helper{{Name: "\x1b[2J", Address: strings.Repeat("x", 56)}}
	var b bytes.Buffer
	netcheckText(&b, n, "\x1b[2J", noon)
	if strings.Contains(b.String(), "\x1b") {
		t.Errorf("%q", b.String())
	}
	if !strings.Contains(b.String(), "{device}") {
		t.Error("a brace in a name was filled in")
	}
}

func TestSpans(t *testing.T) {
	for d, want := range map[time.Duration]string{
		time.Second: "1 s", 99 * time.Second: "99 s", 100 * time.Second: "2 min", 99 * time.Minute: "99 min",
		2 * time.Hour: "2 h", 47 * time.Hour: "47 h", 72 * time.Hour: "3 days",
	} {
		if got := span(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
	if ago(before(-time.Hour), noon) != "just now" || ago(before(time.Hour), noon) != "60 min ago" {
		t.Error(ago(before(-time.Hour), noon), ago(before(time.Hour), noon))
	}
}

// answering serves fixed answers on a control socket in dir.
func answering(t *testing.T, dir string, answers map[string]string) {
	t.Helper()
	listener, err := net.Listen("unix", filepath.Join(dir, control.Socket))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := answers[strings.TrimPrefix(r.URL.Path, "/api/v1/")]
		if !ok {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		w.Write([]byte(text))
	})}
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(listener) }()
	t.Cleanup(func() { server.Close(); <-done })
}

func TestNetcheckAsJSONIsWhatTheAgentSaid(t *testing.T) {
	dir := t.TempDir()
	answering(t, dir, map[string]string{"netcheck": "{\n \"verdict\": \"from_later\",\n \"added\": {\"later\": [1.50, null]}\n}\n"})
	code, out, errOut := run("netcheck", "--json", "--state", dir)
	if want := `{"verdict":"from_later","added":{"later":[1.50,null]}}` + "\n"; code != exitOK || out != want {
		t.Errorf("%d %q %q, want %q", code, out, errOut, want)
	}
	// The name of the device comes from another answer, and is not necessary.
	if code, out, _ := run("netcheck", "--state", dir); code != exitOK || !strings.HasPrefix(out, "Trying the doors…\n") {
		t.Errorf("%d %q", code, out)
	}
}

func TestNetcheckFillsInTheName(t *testing.T) {
	dir := t.TempDir()
	n, err := json.Marshal(home())
	if err != nil {
		t.Fatal(err)
	}
	answers := map[string]string{"netcheck": strings.Replace(string(n), `"refused"`, `"nat_easy"`, 1), "status": `{"name":"Attic Pi"}`}
	answering(t, dir, answers)
	code, out, errOut := run("netcheck", "--state", dir)
	if code != exitOK || !strings.Contains(out, "they\ntalk to Attic Pi directly.\nTo need no help: switch on UPnP at 192.168.1.1 (FRITZ!Box 7590).\n") {
		t.Errorf("%d %q %q", code, out, errOut)
	}
}
