package control

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/contacts"
	"porchlight/agent/identity"
)

// nowhere is a device that never answers.
var nowhere = device(9)

// requests has one stranger waiting, eve, and notes what was done.
type requests struct{ asked, accepted, refused, forgotten []string }

func (*requests) List() []api.Request {
	return []api.Request{{Address: eve.String(), Name: "eve", Link: "porchlight:" + eve.String()}}
}
func (r *requests) Ask(l identity.Link, note string) error {
	r.asked = append(r.asked, l.Address.Short()+" "+note)
	return nil
}
func (r *requests) Accept(a identity.Address) error {
	r.accepted = append(r.accepted, a.String())
	return nil
}
func (r *requests) Refuse(a identity.Address) error {
	r.refused = append(r.refused, a.String())
	return nil
}
func (r *requests) Forget(a identity.Address) error {
	r.forgotten = append(r.forgotten, a.String())
	return nil
}

// household has one device.
type household struct{ joined, revoked string }

func (h *household) List() api.Devices { return api.Devices{Owner: "owner of " + h.joined} }
func (*household) Invite() (api.Invitation, error) {
	return api.Invitation{Code: "abcd", ExpiresS: 600}, nil
}
func (*household) Cancel() {}
func (h *household) Join(_ context.Context, code string) error {
	h.joined = code
	return nil
}
func (h *household) Revoke(name string) error {
	h.revoked = name
	return nil
}
func (*household) Leave() error             { return nil }
func (*household) Words() ([]string, error) { return []string{"abandon", "ability"}, nil }
func (h *household) Restore(_ context.Context, words string) error {
	h.joined = words
	return nil
}

func (*household) Backup(passphrase string) (string, error) { return "sealed by " + passphrase, nil }
func (h *household) RestoreFile(_ context.Context, file, passphrase string) error {
	h.joined = file + " with " + passphrase
	return nil
}

// texts sends to whoever is named.
type texts struct{ read string }

func (*texts) Send(to contacts.Contact, text string) (api.Message, error) {
	return api.Message{Peer: to.Name, Text: text, Out: true, State: "waiting"}, nil
}
func (*texts) List(of contacts.Contact, limit int) []api.Message {
	return []api.Message{{Peer: of.Name, Text: strings.Repeat("x", limit)}}
}
func (t *texts) MarkRead(of contacts.Contact) error {
	t.read = of.Name
	return nil
}

// exposed listens until it is told to stop.
type exposed struct{ ended chan struct{} }

func (*exposed) List() []api.Service { return []api.Service{{Name: "22", Network: "tcp"}} }
func (*exposed) Add(s api.Service) (api.Service, error) {
	if s.Name == "" {
		return s, Invalid(errors.New("it has no name"))
	}
	return s, nil
}
func (*exposed) Remove(network, name string) error {
	return NotFound(errors.New(network + " " + name + " is not exposed"))
}
func (e *exposed) Listen(ctx context.Context, to identity.Address, network, name, local string) (netip.AddrPort, error) {
	if name == "23" {
		return netip.AddrPort{}, NotAllowed(errors.New("not offered"))
	}
	context.AfterFunc(ctx, func() { close(e.ended) })
	return netip.ParseAddrPort("127.0.0.1:2222")
}

func TestAnswersAboutPeople(t *testing.T) {
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "requests", "", 200, `"name":"eve"`},
		{"POST", "requests/" + eve.String() + "/accept", `{"name":"evi","role":"friend"}`, 200, `"name":"evi"`},
		{"POST", "requests/" + eve.String() + "/accept", `{"name":"","role":"friend"}`, 200, `"name":"eve"`},
		{"POST", "requests/eve/accept", `{"name":"bob","role":"friend"}`, 400, "belongs to another"},
		{"POST", "requests/eve/accept", `{"name":"x","role":"boss"}`, 400, "unknown role"},
		{"POST", "requests/mallory/accept", `{"name":"x","role":"friend"}`, 404, "contacts requests"},
		{"DELETE", "requests/" + eve.String(), "", 200, "{}"},
		{"DELETE", "requests/bob", "", 404, "nobody"},
		{"POST", "contacts", `{"link":"porchlight:` + eve.String() + `","name":"eve","role":"none","note":"hello"}`, 200, `"name":"eve"`},
		{"PUT", "contacts/bob/hidden", "true", 200, "{}"},
		{"PUT", "contacts/eve/hidden", "true", 404, "no such contact"},
		{"GET", "devices", "", 200, `"owner":`},
		{"POST", "devices/invite", "", 200, `"code":"abcd"`},
		{"DELETE", "devices/invite", "", 200, "{}"},
		{"POST", "devices/join", `{"code":"abcd"}`, 200, "owner of abcd"},
		{"POST", "devices/leave", "", 200, "{}"},
		{"DELETE", "devices/attic", "", 200, "{}"},
		{"GET", "messages?peer=bob&limit=3", "", 200, `"text":"xxx"`},
		{"GET", "messages?limit=0", "", 400, "from 1 to 500"},
		{"GET", "messages?limit=501", "", 400, "from 1 to 500"},
		{"GET", "messages?peer=eve", "", 404, "no such contact"},
		{"POST", "messages", `{"peer":"bob","text":"hi"}`, 200, `"state":"waiting"`},
		{"POST", "messages", `{"peer":"` + eve.String() + `","text":"hi"}`, 404, "add it first"},
		{"PUT", "messages/read", `{"peer":"bob"}`, 200, "{}"},
		{"GET", "services", "", 200, `"name":"22"`},
		{"POST", "services", `{"name":"22","network":"tcp","target":"22","to":["me"]}`, 200, `"name":"22"`},
		{"POST", "services", `{"name":"","network":"tcp","target":"22","to":["me"]}`, 400, "no name"},
		{"DELETE", "services/tcp/80", "", 404, "tcp 80"},
		{"GET", "owner/words", "", 200, `["abandon","ability"]`},
		{"POST", "owner/restore", `{"words":"abandon"}`, 200, "owner of abandon"},
		{"POST", "owner/restore", `{"file":"f","passphrase":"p"}`, 200, "owner of f with p"},
		{"POST", "owner/backup", `{"passphrase":"p"}`, 200, `"file":"sealed by p"`},
		{"GET", "lookup?peer=bob", "", 200, `"source":"cache"`},
		{"GET", "lookup?peer=bob&fresh=true", "", 200, `"source":"dht"`},
		{"GET", "resolve?peer=" + nowhere.String(), "", 504, "try again later"},
		{"POST", "forward?peer=bob&network=tcp&name=23", "", 403, "not offered"},
		{"POST", "forward?peer=" + nowhere.String() + "&network=tcp&name=22", "", 504, "try again later"},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			s := New(config(t))
			if status, body := ask(s, c.method, c.path, c.body); status != c.status || !strings.Contains(body, c.want) {
				t.Errorf("%d %s; want %d %s", status, body, c.status, c.want)
			}
		})
	}
}

func TestKeysAreForCommandsOnly(t *testing.T) {
	s := New(config(t))
	for _, target := range []string{"GET /api/v1/owner/words", "POST /api/v1/owner/restore", "POST /api/v1/owner/backup", "POST /api/v1/forward?peer=bob"} {
		method, path, _ := strings.Cut(target, " ")
		w := httptest.NewRecorder()
		s.Routes().ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader("{}")))
		if w.Code != http.StatusNotFound {
			t.Errorf("%s: %d for the console", target, w.Code)
		}
	}
}

func TestABlockedContactIsHungUpOnAndWritesNoMore(t *testing.T) {
	cfg := config(t)
	var hungUp []identity.Address
	cfg.HangUp = func(a identity.Address) { hungUp = append(hungUp, a) }
	s := New(cfg)
	ask(s, "PUT", "contacts/bob/blocked", "true")
	if len(hungUp) != 1 || hungUp[0] != bob {
		t.Errorf("hung up on %v", hungUp)
	}
	if status, body := ask(s, "POST", "messages", `{"peer":"bob","text":"hi"}`); status != 403 {
		t.Errorf("a message to a blocked contact: %d %s", status, body)
	}
}

func TestARequestIsAnsweredOnceItsSenderIsAContact(t *testing.T) {
	cfg := config(t)
	asked := cfg.Requests.(*requests)
	s := New(cfg)
	ask(s, "POST", "requests/eve/accept", `{"name":"bob","role":"friend"}`) // the name is taken
	if len(asked.accepted) != 0 {
		t.Error("accepted although there is no contact")
	}
	ask(s, "POST", "requests/eve/accept", `{"name":"eve","role":"friend"}`)
	if len(asked.accepted) != 1 {
		t.Error("not accepted")
	}
	ask(s, "DELETE", "contacts/eve", "")
	if len(asked.forgotten) != 1 {
		t.Error("not forgotten with the contact")
	}
}

func TestARenamedContactIsNotAskedAgain(t *testing.T) {
	cfg := config(t)
	asked := cfg.Requests.(*requests)
	s := New(cfg)
	for _, body := range []string{
		`{"link":"` + bob.String() + `","name":"robert","role":"me"}`,
		`{"link":"` + eve.String() + `","name":"eve","role":"friend"}`,
		`{"link":"` + bob.String() + `","name":"rob","role":"me","note":"it is me"}`,
	} {
		if status, answer := ask(s, "POST", "contacts", body); status != 200 {
			t.Errorf("%d %s", status, answer)
		}
	}
	if want := []string{eve.Short() + " ", bob.Short() + " it is me"}; !slices.Equal(asked.asked, want) {
		t.Errorf("asked %q, want %q", asked.asked, want)
	}
}

func TestAForwardLastsAsLongAsItsRequest(t *testing.T) {
	cfg := config(t)
	e := &exposed{ended: make(chan struct{})}
	cfg.Services = e
	server := httptest.NewServer(New(cfg).local)
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, "POST", server.URL+"/api/v1/forward?peer=bob&network=udp&name=53", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, _ := response.Body.Read(b)
	if !strings.Contains(string(b[:n]), `"listening":"127.0.0.1:2222"`) {
		t.Errorf("answer %q", b[:n])
	}
	cancel()
	response.Body.Close()
	<-e.ended
	http.DefaultClient.CloseIdleConnections()
}
