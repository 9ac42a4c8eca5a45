package main

import (
	"encoding/json"
	"net/http"
	"time"

	"porchlight/agent/api"
)

// routes serves what the page asks for beside the status.
func (s *scene) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/netcheck", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.netcheck()) // the reader has gone: nobody to tell
	})
	s.peopleRoutes(mux)
	return mux
}

// netcheck makes up the network that goes with the verdict.
func (s *scene) netcheck() api.Netcheck {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := api.Netcheck{
		Verdict: s.st.Reachability, Doubt: s.st.Doubt, NAT: s.st.NAT, UDP: true, Public: s.st.Public,
		Candidates: []string{"host 172.17.0.1:41641", "host 192.168.1.23:41641", "srflx 44.128.0.7:41641"},
		Helpers:    s.st.Helpers,
		Doors:      []api.Door{{Transport: "udp", Family: "ipv4", At: ":41641", TestUnixMS: time.Now().Add(-time.Minute).UnixMilli()}},
		Ports:      api.Ports{Preserved: true, Seen: []int{41641}, Hairpin: "unknown"},
		Router:     s.router,
	}
	n.Router.Outcomes = map[string]string{"pcp": "silent", "nat-pmp": "silent", "upnp-igd2": "silent", "upnp-igd1": "silent"}
	switch n.Verdict {
	case api.Mapped, api.MapLies:
		open(&n, "44.128.0.7:41641")
	case api.DoubleNAT:
		open(&n, "10.0.0.12:41641")
	case api.Refused:
		n.Router.Outcomes["upnp-igd1"] = "refused"
	case api.NATHard:
		n.Ports = api.Ports{Delta: 1, Seen: []int{52011, 52012, 52013}, Hairpin: "no"}
	case api.NoInternet, api.NoNetwork:
		n.UDP, n.Public = false, ""
	}
	return n
}

// open has the router open a door that is seen from outside at an address;
// whether anybody comes in is for the verdict to say.
func open(n *api.Netcheck, at string) {
	n.Router.Outcomes["upnp-igd1"] = "granted"
	n.Router.Mappings = []api.Mapping{{Method: "upnp-igd1", Transport: "udp", Internal: "192.168.1.23:41641", External: at, LeftS: 3480}}
	d := &n.Doors[0]
	d.At, d.Mapped = at, true
	if n.Verdict == api.Mapped {
		d.Reachable, d.Proof, d.KnockUnixMS = true, api.Stranger, d.TestUnixMS
	}
}
