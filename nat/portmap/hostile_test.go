package portmap

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"porchlight/nat/portmap/hostile"
)

// What a hostile gateway may cost (notes on test 14 of the security plan).
const (
	maxHeapGrowth = 8 << 20
	maxSettle     = 5 * time.Second
)

// stranger is another host of the LAN; the router's namespace plays it too.
const stranger = "192.168.1.66"

// siege is a network for hostile gateways: the device counts packets that leave
// for anywhere but the router and multicast groups, and the router has some
// victims' addresses.
func siege(t *testing.T) *network {
	n := buildNetwork(t, false)
	n.run("addr add "+stranger+"/24 dev lan\naddr add 169.254.169.254/32 dev lan\n", "ip", "-n", n.router, "-batch", "-")
	n.run(`table inet foreign { counter foreign { }
 chain out { type filter hook output priority 0; ip daddr != { 192.168.1.1, 192.168.1.66, 224.0.0.0/4 } counter name foreign
 }
}`,
		"ip", "netns", "exec", n.device, "nft", "-f", "-")
	return n
}

// besiege starts the gateway in the network.
func besiege(t *testing.T, n *network, g *hostile.Gateway) {
	g.Addr, g.Interface = netip.MustParseAddr(lanRouter), "lan"
	if err := g.Start(func(f func() error) error { return within(n.router, f) }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
}

// sieges is how many networks the hostile gateways take turns in.
const sieges = 12

// checkForeign proves that no packet went astray.
func checkForeign(t *testing.T, n *network) {
	t.Helper()
	if out := n.run("", "ip", "netns", "exec", n.device, "nft", "list", "counter", "inet", "foreign", "foreign"); !strings.Contains(out, "packets 0 ") {
		t.Errorf("packets to foreign addresses: %s", out)
	}
}

func many(n int, answer func(i int) []byte) func() [][]byte {
	return func() [][]byte {
		all := make([][]byte, n)
		for i := range all {
			all[i] = answer(i)
		}
		return all
	}
}

// once keeps silent after the first search.
func once(f func() [][]byte) func() [][]byte {
	done := false
	return func() [][]byte {
		if done {
			return nil
		}
		done = true
		return f()
	}
}

func redirect(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
}

// drip writes a byte now and then and never ends.
func drip(w http.ResponseWriter, r *http.Request) {
	for {
		if _, err := io.WriteString(w, "<"); err != nil {
			return
		}
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// header sends header fields without end.
func header(w http.ResponseWriter, _ *http.Request) {
	c, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	rw.WriteString("HTTP/1.1 200 OK\r\n")
	for {
		if _, err := rw.WriteString("X-Long: " + strings.Repeat("x", 4000) + "\r\n"); err != nil {
			return
		}
	}
}

func constantly(code int, actions ...string) func(string, uint16, uint32) int {
	return func(action string, _ uint16, _ uint32) int {
		for _, a := range actions {
			if a == action {
				return code
			}
		}
		return 0
	}
}

func TestHostileGateway(t *testing.T) {
	t.Parallel()
	free := make(chan *network, sieges)
	for range sieges {
		free <- siege(t)
	}
	public := netip.MustParseAddr(wanRouter)
	lease31 := uint32(1 << 31)
	for _, c := range []struct {
		name string
		g    *hostile.Gateway
		want map[Method]Outcome
		see  func(t *testing.T, s State)
	}{
		{"endless xml", &hostile.Gateway{Describe: hostile.Endless}, map[Method]Outcome{IGD1: Broken}, nothing},
		{"endless xml from control", &hostile.Gateway{Control: hostile.Endless}, map[Method]Outcome{IGD1: Broken}, nothing},
		{"a million nested elements", &hostile.Gateway{Describe: hostile.Nested(1e6)}, map[Method]Outcome{IGD1: Broken}, nothing},
		{"80 thousand nested elements", &hostile.Gateway{Describe: hostile.Nested(80e3)}, map[Method]Outcome{IGD1: Broken}, nothing},
		{"slow drip", &hostile.Gateway{Describe: drip}, map[Method]Outcome{IGD1: Broken}, nothing},
		{"slow drip from control", &hostile.Gateway{Control: drip}, map[Method]Outcome{IGD1: Broken}, nothing},
		{"endless header", &hostile.Gateway{Describe: header}, map[Method]Outcome{IGD1: Broken}, nothing},
		{"redirect to loopback", &hostile.Gateway{Describe: redirect("http://127.0.0.1:80/desc.xml")}, map[Method]Outcome{IGD1: Broken}, nothing},
		{"redirect to metadata", &hostile.Gateway{Describe: redirect("http://169.254.169.254/latest")}, map[Method]Outcome{IGD1: Broken}, nothing},
		{"redirect from control", &hostile.Gateway{Control: redirect("http://169.254.169.254/latest")}, map[Method]Outcome{IGD1: Broken}, nothing},
		{"location elsewhere", &hostile.Gateway{Search: many(1, func(int) []byte { return hostile.Answer("http://169.254.169.254/desc.xml") })},
			map[Method]Outcome{IGD1: Silent}, nothing},
		{"location by name", &hostile.Gateway{Search: many(1, func(int) []byte { return hostile.Answer("http://localhost/desc.xml") })},
			map[Method]Outcome{IGD1: Silent}, nothing},
		{"control url elsewhere", &hostile.Gateway{ControlURL: "http://127.0.0.1:80/ctl"}, map[Method]Outcome{IGD1: Silent}, nothing},
		{"10,000 answers", &hostile.Gateway{Search: once(many(10000, func(i int) []byte {
			return hostile.Answer(fmt.Sprintf("http://%s:%d/desc.xml", lanRouter, 10000+i))
		}))}, nil, nothing},
		{"external address private", &hostile.Gateway{External: "10.1.2.3"}, map[Method]Outcome{IGD1: Granted}, external("10.1.2.3")},
		{"external address 0.0.0.0", &hostile.Gateway{External: "0.0.0.0"}, map[Method]Outcome{IGD1: Broken}, nothing},
		{"external address multicast", &hostile.Gateway{External: "224.0.0.1"}, map[Method]Outcome{IGD1: Broken}, nothing},
		{"external address of the other family", &hostile.Gateway{External: "3fff::1"}, map[Method]Outcome{IGD1: Broken}, nothing},
		{"718 for ever", &hostile.Gateway{External: wanRouter, Fault: constantly(718, "AddPortMapping")}, map[Method]Outcome{IGD1: Refused}, nothing},
		{"725 for ever", &hostile.Gateway{External: wanRouter, Fault: constantly(725, "AddPortMapping")}, map[Method]Outcome{IGD1: Refused}, nothing},
		{"724 for ever", &hostile.Gateway{External: wanRouter, Fault: constantly(724, "AddPortMapping")}, map[Method]Outcome{IGD1: Refused}, nothing},
		{"718, then 724 for ever", &hostile.Gateway{External: wanRouter, Fault: func(action string, port uint16, _ uint32) int {
			if action != "AddPortMapping" {
				return 0
			}
			if port == udpPort || port == tcpPort {
				return 718
			}
			return 724
		}}, map[Method]Outcome{IGD1: Refused}, nothing},
		{"permanent leases only", &hostile.Gateway{External: wanRouter, Fault: func(action string, _ uint16, lease uint32) int {
			if action == "AddPortMapping" && lease != 0 {
				return 725
			}
			return 0
		}}, map[Method]Outcome{IGD1: Granted}, lifetime(0)},
		{"lease of 2^31 s by upnp", &hostile.Gateway{External: wanRouter, Lease: &lease31}, map[Method]Outcome{IGD1: Granted}, lifetime(2 * time.Hour)},
		{"lease of 2^31 s by pcp", pcpOf(func(req []byte) [][]byte {
			return [][]byte{hostile.GrantPCP(req, public, 1, lease31)}
		}), map[Method]Outcome{PCP: Granted}, lifetime(24 * time.Hour)},
		{"pcp with the wrong nonce", pcpOf(func(req []byte) [][]byte {
			b := hostile.GrantPCP(req, public, 1, 7200)
			if b != nil {
				b[24] ^= 1
			}
			return [][]byte{b}
		}), map[Method]Outcome{PCP: Broken}, nothing},
		{"pcp cut short", pcpOf(func(req []byte) [][]byte {
			b := hostile.GrantPCP(req, public, 1, 7200)
			return [][]byte{b[:min(len(b), 24)]}
		}), map[Method]Outcome{PCP: Broken}, nothing},
		{"pcp too long", pcpOf(func(req []byte) [][]byte {
			return [][]byte{append(hostile.GrantPCP(req, public, 1, 7200), make([]byte, 1100)...)}
		}), map[Method]Outcome{PCP: Broken}, nothing},
		{"pcp from another host", &hostile.Gateway{Search: silence, Stranger: netip.MustParseAddr(stranger), PortControl: func(req []byte) [][]byte {
			return [][]byte{hostile.GrantPCP(req, public, 1, 7200)}
		}}, map[Method]Outcome{PCP: Silent}, nothing},
		{"nat-pmp from another host", &hostile.Gateway{Search: silence, Stranger: netip.MustParseAddr(stranger), PortControl: func(req []byte) [][]byte {
			return [][]byte{hostile.GrantNATPMP(req, public, 1, 7200)}
		}}, map[Method]Outcome{NATPMP: Silent}, nothing},
		{"pcp flood", pcpOf(func(req []byte) [][]byte {
			return many(2000, func(int) []byte { return make([]byte, 60) })()
		}), map[Method]Outcome{PCP: Broken}, nothing},
		{"nat-pmp, and pcp external 0.0.0.0", pcpOf(func(req []byte) [][]byte {
			if b := hostile.GrantNATPMP(req, public, 1, 7200); b != nil {
				return [][]byte{b}
			}
			return [][]byte{hostile.GrantPCP(req, netip.IPv4Unspecified(), 1, 7200)}
		}), map[Method]Outcome{PCP: Broken, NATPMP: Granted}, external(wanRouter)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := <-free
			t.Cleanup(func() { free <- n })
			besiege(t, n, c.g)
			d := startDevice(t, n.device, helperConfig{UDP: udpPort, TCP: tcpPort})
			got := d.await("settled", func(s State) bool { return s.Settled })
			if got.After > maxSettle {
				t.Errorf("settled after %v, want at most %v", got.After, maxSettle)
			}
			for method, want := range c.want {
				d.await(fmt.Sprintf("%s for %s", want, method), func(s State) bool { return s.Outcomes[method] == want })
			}
			c.see(t, d.last.State)
			if a := c.g.Adds.Load(); a > 14 {
				t.Errorf("asked %d times for two mappings", a)
			}
			if d.last.Heap > maxHeapGrowth {
				t.Errorf("heap grew by %d bytes", d.last.Heap)
			}
			t.Logf("settled after %v, heap + %d KiB", got.After.Round(time.Millisecond), d.last.Heap>>10)
			checkForeign(t, n)
			d.stop()
		})
	}
}

func silence() [][]byte { return [][]byte{} }

func pcpOf(f func([]byte) [][]byte) *hostile.Gateway {
	return &hostile.Gateway{Search: silence, PortControl: f}
}

func nothing(t *testing.T, s State) {
	if len(s.Mappings) != 0 {
		t.Errorf("has mappings %+v", s.Mappings)
	}
}

func external(addr string) func(*testing.T, State) {
	return func(t *testing.T, s State) {
		if len(s.Mappings) != 2 || s.Mappings[0].External.Addr().String() != addr {
			t.Errorf("mappings %+v, want two at %s", s.Mappings, addr)
		}
	}
}

func lifetime(d time.Duration) func(*testing.T, State) {
	return func(t *testing.T, s State) {
		if len(s.Mappings) != 2 || s.Mappings[0].Lifetime != d || s.Mappings[0].Expires.IsZero() != (d == 0) {
			t.Errorf("mappings %+v, want two of %v", s.Mappings, d)
		}
	}
}

func TestDistrustMovesOn(t *testing.T) {
	t.Parallel()
	public := netip.MustParseAddr(wanRouter)
	// Says yes to everything by three methods and maps nothing.
	g := &hostile.Gateway{External: wanRouter, PortControl: func(req []byte) [][]byte {
		if b := hostile.GrantPCP(req, public, 1, 7200); b != nil {
			return [][]byte{b}
		}
		return [][]byte{hostile.GrantNATPMP(req, public, 1, 7200)}
	}}
	n := siege(t)
	besiege(t, n, g)
	d := startDevice(t, n.device, helperConfig{UDP: udpPort, TCP: tcpPort})
	udp := func(s State) (Mapping, bool) {
		for _, m := range s.Mappings {
			if m.Transport == "udp" {
				return m, true
			}
		}
		return Mapping{}, false
	}
	var seen []string
	for _, want := range []Method{PCP, NATPMP, IGD1} {
		got := d.await("mapped by "+string(want), func(s State) bool { m, ok := udp(s); return ok && m.Method == want })
		m, _ := udp(got.State)
		seen = append(seen, fmt.Sprint(m.Method, m.External))
		text, _ := json.Marshal(m)
		d.say("distrust " + string(text))
	}
	got := d.await("mapped with another port", func(s State) bool { m, ok := udp(s); return ok && m.External.Port() != udpPort })
	if n := len(got.State.Mappings); n != 2 {
		t.Errorf("%d mappings, want tcp left alone: %+v (%v)", n, got.State.Mappings, seen)
	}
}

func TestEpochResetMakesMappingsAnew(t *testing.T) {
	t.Parallel()
	public := netip.MustParseAddr(wanRouter)
	var maps, resets atomic.Int32
	g := pcpOf(func(req []byte) [][]byte {
		if len(req) >= 60 {
			maps.Add(1)
		}
		epoch := uint32(100000)
		if maps.Load() >= 2 && resets.Load() < 1 && len(req) == 24 { // the first check after both mappings
			resets.Add(1)
			epoch = 3
		}
		if resets.Load() > 0 {
			epoch = 3
		}
		return [][]byte{hostile.GrantPCP(req, public, epoch, 7200)}
	})
	n := siege(t)
	besiege(t, n, g)
	d := startDevice(t, n.device, helperConfig{UDP: udpPort, TCP: tcpPort, Check: 200 * time.Millisecond})
	d.await("mapped", complete(PCP))
	n.poll("mapped again", func() bool { return maps.Load() >= 4 })
	d.stop()
	checkForeign(t, n)
}
