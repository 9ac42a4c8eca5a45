package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/control"
	"porchlight/nat/natlab"
)

const (
	// presenceLimit is within what contacts see who comes and who goes in
	// order, cutLimit whose power was cut.
	presenceLimit = 5 * time.Second
	cutLimit      = 60 * time.Second
	// messageLimit is how long a message to somebody on-line may take.
	messageLimit = 2 * time.Second
)

// apart are the options of agents that know no DHT but that of each other.
var apart = []string{"--dht-node", "none", "--gateway", "off"}

// newNeighbourhood builds a laboratory with rendezvous whose DHT is their own.
func newNeighbourhood(t *testing.T, rendezvous int) *scene {
	t.Helper()
	s := newScene(t, natlab.Options{}, 0)
	for i := range rendezvous {
		name := fmt.Sprintf("helper%d", i+1)
		host, err := s.lab.Host(name)
		check(t, err)
		a := s.run(name, host, "--listen", ":4001", "--reachability", "public")
		link, err := a.link(s.ctx)
		check(t, err)
		s.links = append(s.links, link)
	}
	return s
}

// run starts an agent on a host that is there already.
func (s *scene) run(name string, host *natlab.Host, extra ...string) *agent {
	s.t.Helper()
	args := slices.Concat([]string{"--console", "off"}, apart, extra)
	for _, link := range s.links {
		args = append(args, "--bootstrap", link)
	}
	a, err := newAgent(s.dir, s.program, name, host, args...)
	check(s.t, err)
	s.agents = append(s.agents, a)
	check(s.t, a.start(s.ctx))
	return a
}

// settled starts a home, registered at all rendezvous.
func (s *scene) settled(name string, kind natlab.Kind) (*agent, *natlab.Host) {
	s.t.Helper()
	return s.at(name, kind, apart...)
}

// address is what an agent is called by everywhere.
func (s *scene) address(a *agent) string {
	s.t.Helper()
	status, err := a.status(s.ctx)
	check(s.t, err)
	return status.Address
}

// linkOf is the link of an agent's device.
func (s *scene) linkOf(a *agent) string {
	s.t.Helper()
	link, err := a.link(s.ctx)
	check(s.t, err)
	return link
}

// mutual waits until two agents have each other among their contacts, and both
// know it, and returns how long that took.
func (s *scene) mutual(a, b *agent) time.Duration {
	s.t.Helper()
	return await(s.t, s.ctx, a.name+" and "+b.name+" are mutual", patience, func() bool {
		return contact(s.ctx, a, b).Standing == "mutual" && contact(s.ctx, b, a).Standing == "mutual"
	})
}

// acquainted makes devices mutual contacts that see each other on-line.
func (s *scene) acquainted(a, b *agent) {
	s.t.Helper()
	s.friends(a, b)
	s.mutual(a, b)
	await(s.t, s.ctx, a.name+" and "+b.name+" see each other", patience, func() bool {
		return contact(s.ctx, a, b).Online && contact(s.ctx, b, a).Online
	})
}

// refused runs a command that must fail.
func (s *scene) refused(a *agent, args ...string) {
	s.t.Helper()
	if err := a.run(s.ctx, nil, args...); err == nil {
		s.t.Errorf("%s: %s works", a.name, strings.Join(args, " "))
	}
}

// requestsAt are the requests that wait at an agent.
func requestsAt(ctx context.Context, a *agent) []api.Request {
	status, err := a.status(ctx)
	if err != nil {
		return nil
	}
	return status.Requests
}

// shareNames are the names of the shares that an agent sees at a peer.
func (s *scene) shareNames(a *agent, peer string) (names []string, err error) {
	var list []struct{ Name string }
	err = a.run(s.ctx, &list, "ls", peer)
	for _, one := range list {
		names = append(names, one.Name)
	}
	return names, err
}

func TestRequestsAreMutual(t *testing.T) {
	t.Parallel()
	s := newNeighbourhood(t, 2)
	attic, _ := s.settled("attic", natlab.PortRestricted)
	cabin, _ := s.settled("cabin", natlab.Symmetric)
	barn, _ := s.settled("barn", natlab.UDPBlocked)
	file := offer(t, s.ctx, attic, 64<<10)

	began := time.Now()
	check(t, cabin.run(s.ctx, nil, "contacts", "add", s.linkOf(attic), "attic", "--note", "we met at the lake"))
	await(t, s.ctx, "attic is asked", patience, func() bool { return len(requestsAt(s.ctx, attic)) == 1 })
	t.Logf("a request is there after %.2f s", time.Since(began).Seconds())
	if r := requestsAt(s.ctx, attic)[0]; r.Name != "cabin" || r.Note != "we met at the lake" || r.Address != s.address(cabin) {
		t.Errorf("%+v", r)
	}
	if c := contact(s.ctx, cabin, attic); c.Standing != "asked" || c.Online {
		t.Errorf("before it was accepted: standing %q, on-line %v", c.Standing, c.Online)
	}
	s.refused(cabin, "ls", "attic")
	check(t, attic.run(s.ctx, nil, "contacts", "accept", "cabin"))
	t.Logf("accepted: mutual after %.2f s", s.mutual(attic, cabin).Seconds())
	if len(requestsAt(s.ctx, attic)) != 0 {
		t.Error("the request is still there")
	}
	file.get(s.ctx, cabin, "films.bin").arrived()

	// Who adds each other needs no request.
	began = time.Now()
	s.friends(attic, barn)
	s.mutual(attic, barn)
	t.Logf("added by both: mutual after %.2f s", time.Since(began).Seconds())
	for _, a := range []*agent{attic, barn} {
		if list := requestsAt(s.ctx, a); len(list) != 0 {
			t.Errorf("%s was asked: %+v", a.name, list)
		}
	}
	file.get(s.ctx, barn, "for-barn.bin").arrived()

	// Blocked is as if there were nobody, from a session that stands, too.
	check(t, attic.run(s.ctx, nil, "contacts", "block", "cabin"))
	gone := await(t, s.ctx, "cabin sees attic off-line", patience, func() bool { return !contact(s.ctx, cabin, attic).Online })
	t.Logf("blocked: off-line to it after %.2f s", gone.Seconds())
	s.refused(cabin, "ls", "attic")
	s.refused(cabin, "ping", "attic", "--timeout", "3s")
	check(t, attic.run(s.ctx, nil, "contacts", "unblock", "cabin"))
	file.get(s.ctx, cabin, "again.bin").arrived()
}

func TestStrangersGetWhatIsPublic(t *testing.T) {
	t.Parallel()
	s := newNeighbourhood(t, 2)
	attic, _ := s.settled("attic", natlab.PortRestricted)
	hut, _ := s.settled("hut", natlab.PortRestricted)
	mill, _ := s.settled("mill", natlab.FullCone)
	offer(t, s.ctx, attic, 64<<10)
	address := s.address(attic)

	// Refused, it learns nothing.
	check(t, hut.run(s.ctx, nil, "contacts", "add", s.linkOf(attic), "attic"))
	await(t, s.ctx, "attic is asked", patience, func() bool { return len(requestsAt(s.ctx, attic)) == 1 })
	check(t, attic.run(s.ctx, nil, "contacts", "refuse", "hut"))
	s.refused(hut, "ls", "attic")
	s.refused(hut, "ping", "attic", "--timeout", "3s")
	check(t, hut.run(s.ctx, nil, "contacts", "add", s.linkOf(attic), "attic", "--note", "again"))
	pause(s.ctx, 3*time.Second) // that something does not happen takes its time
	if c := contact(s.ctx, hut, attic); c.Standing != "asked" || c.Online {
		t.Errorf("refused: standing %q, on-line %v", c.Standing, c.Online)
	}
	if list := requestsAt(s.ctx, attic); len(list) != 0 {
		t.Errorf("who was refused asked again: %+v", list)
	}

	// Whoever has nothing but the address gets what is public.
	s.refused(mill, "ls", address)
	open := filepath.Join(s.dir, "open")
	check(t, writeText(filepath.Join(open, "hello.txt"), "hello"))
	check(t, attic.run(s.ctx, nil, "shares", "add", open, "--name", "open", "--read", "everybody"))
	var names []string
	await(t, s.ctx, "mill sees what is public", patience, func() (ok bool) {
		var err error
		names, err = s.shareNames(mill, address)
		return err == nil
	})
	if !slices.Equal(names, []string{"open"}) {
		t.Errorf("a stranger sees %q", names)
	}
	check(t, mill.run(s.ctx, nil, "get", address+":/open/hello.txt", "-o", filepath.Join(s.dir, "mill-hello")))
	s.refused(mill, "get", address+":/films/random.bin", "-o", filepath.Join(s.dir, "mill-film"))
	s.refused(mill, "message", address, "hello")

	passed, took := s.flood(mill, attic, 200)
	t.Logf("of 200 requests of one stranger within %.0f s, %d were heard", took.Seconds(), passed)
	// 12 at once and 12 a minute are.
	if most := 12 + int(took.Seconds()/5) + 1; passed < 1 || passed > most {
		t.Errorf("%d requests were heard within %v, at most %d are to be", passed, took, most)
	}
}

// flood has a stranger ask again and again, each time with another note, and
// counts how many of them get as far as the owner.
func (s *scene) flood(from, to *agent, count int) (passed int, took time.Duration) {
	s.t.Helper()
	link := s.linkOf(to)
	heard := map[string]bool{}
	look := func() {
		for _, r := range requestsAt(s.ctx, to) {
			heard[r.Note] = true
		}
	}
	began := time.Now()
	for i := range count {
		body := map[string]string{"link": link, "name": to.name, "role": "friend", "note": fmt.Sprint(i)}
		check(s.t, from.post(s.ctx, "contacts", body))
		for next := time.Now().Add(100 * time.Millisecond); time.Now().Before(next); {
			look()
			pause(s.ctx, 20*time.Millisecond)
		}
	}
	took = time.Since(began)
	look()
	return len(heard), took
}

// post makes one request of the agent's API.
func (a *agent) post(ctx context.Context, path string, body any) error {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", filepath.Join(a.state, control.Socket))
		},
	}}
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://porchlight/api/v1/"+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("post %s: %s", path, response.Status)
	}
	return nil
}

// seenBy waits until each of some agents sees another on-line or off-line, and
// checks how long after began that is.
func (s *scene) seenBy(what string, began time.Time, limit time.Duration, online bool, of *agent, by ...*agent) {
	s.t.Helper()
	took := make([]string, len(by))
	var all sync.WaitGroup
	for i, a := range by {
		all.Go(func() {
			for contact(s.ctx, a, of).Online != online && time.Since(began) < limit+patience && s.ctx.Err() == nil {
				pause(s.ctx, 20*time.Millisecond)
			}
			since := time.Since(began)
			took[i] = fmt.Sprintf("%s %.2f s", a.name, since.Seconds())
			if since > limit {
				s.t.Errorf("%s: %s saw it after %v, %v are allowed", what, a.name, since, limit)
			}
		})
	}
	all.Wait()
	s.t.Logf("%s: %s", what, strings.Join(took, ", "))
}

func TestPresence(t *testing.T) {
	t.Parallel()
	s := newNeighbourhood(t, 2)
	barn, barnHost := s.settled("barn", natlab.PortRestricted)
	attic, _ := s.settled("attic", natlab.AddressRestricted)
	cabin, _ := s.settled("cabin", natlab.Symmetric)
	hut, _ := s.settled("hut", natlab.UDPBlocked)
	farm, _ := s.settled("farm", natlab.CGNAT)
	elsewhere, err := s.lab.Home("elsewhere", natlab.AddressRestricted)
	check(t, err)

	// Farm is not to see barn, from the beginning on.
	check(t, barn.run(s.ctx, nil, "contacts", "add", s.linkOf(farm), "farm"))
	await(t, s.ctx, "farm is asked", patience, func() bool { return len(requestsAt(s.ctx, farm)) == 1 })
	pause(s.ctx, 3*time.Second) // what is under way may still be seen
	check(t, barn.run(s.ctx, nil, "contacts", "hide", "farm"))
	check(t, farm.run(s.ctx, nil, "contacts", "accept", "barn"))
	s.neverOnline(farm, barn)
	for _, a := range []*agent{attic, cabin, hut} {
		s.acquainted(barn, a)
	}
	if c := contact(s.ctx, attic, barn); len(c.Devices) != 1 || c.Devices[0].Name != "barn" || !c.Devices[0].Online {
		t.Errorf("attic sees %+v", c.Devices)
	}

	began := time.Now()
	stopInTime(t, barn)
	s.seenBy("stopped in order", began, presenceLimit, false, barn, attic, cabin, hut)
	lastSeen := time.UnixMilli(contact(s.ctx, attic, barn).LastSeenUnixMS)
	if ago := time.Since(lastSeen); ago > patience {
		t.Errorf("last seen %v ago", ago)
	}
	stopInTime(t, attic)
	check(t, attic.start(s.ctx))
	c := contact(s.ctx, attic, barn)
	if off := time.UnixMilli(c.LastSeenUnixMS).Sub(lastSeen).Abs(); c.Online || off > time.Second {
		t.Errorf("after a restart: on-line %v, last seen %v away from what it was", c.Online, off)
	}
	check(t, attic.awaitHelpers(s.ctx, 2))

	began = time.Now()
	check(t, barn.start(s.ctx))
	s.seenBy("started", began, presenceLimit, true, barn, attic, cabin, hut)
	check(t, barn.awaitHelpers(s.ctx, 2))

	barnHost.Cut(true)
	barn.kill()
	s.seenBy("power cut", time.Now(), cutLimit, false, barn, attic, cabin, hut)
	barnHost.Cut(false)
	began = time.Now()
	check(t, barn.start(s.ctx))
	s.seenBy("started after a power cut", began, presenceLimit, true, barn, attic, cabin, hut)
	check(t, barn.awaitHelpers(s.ctx, 2))

	moved := time.Now()
	check(t, barnHost.MoveTo(elsewhere))
	for _, a := range []*agent{attic, cabin, hut} {
		s.reaches(a, "barn", moved)
	}
	s.seenBy("moved, and reached", time.Now(), presenceLimit, true, barn, attic, cabin, hut)
}

// neverOnline watches until the end of the test that one agent does not see
// another on-line.
func (s *scene) neverOnline(by, of *agent) {
	ctx, cancel := context.WithCancel(s.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if contact(ctx, by, of).Online {
				s.t.Errorf("%s is hidden from %s, and was seen on-line", of.name, by.name)
				return
			}
			pause(ctx, 100*time.Millisecond)
		}
	}()
	s.t.Cleanup(func() { cancel(); <-done })
}

// reaches pings until it works and returns how long after began that was.
func (s *scene) reaches(a *agent, peer string, began time.Time) (p api.Ping, took time.Duration) {
	s.t.Helper()
	var last error
	for {
		if last = a.run(s.ctx, &p, "ping", peer, "--timeout", "10s"); last == nil {
			break
		}
		if time.Since(began) > patience || s.ctx.Err() != nil {
			s.t.Fatalf("%s does not reach %s within %v: %v", a.name, peer, patience, last)
		}
		pause(s.ctx, 100*time.Millisecond)
	}
	took = time.Since(began)
	s.t.Logf("%s reaches %s after %.2f s, by %s", a.name, peer[:min(12, len(peer))], took.Seconds(), p.Path)
	return p, took
}
