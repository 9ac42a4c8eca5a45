package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"

	"porchlight/agent/api"
	"porchlight/agent/contacts"
	"porchlight/agent/identity"
	"porchlight/agent/people"
)

const (
	// messagesDefault and messagesMost are how many messages one answer has.
	messagesDefault = 100
	messagesMost    = 500
	// joinLimit ends an attempt to bring this device under its owner.
	joinLimit = time.Minute
	// lookupLimit ends a search for where a device is.
	lookupLimit = 20 * time.Second
)

// Requests is what the API needs of those who ask to become contacts.
type Requests interface {
	List() []api.Request
	// Ask has a new contact asked to be one mutually.
	Ask(link identity.Link, note string) error
	// Accept answers a request whose sender is a contact now.
	Accept(identity.Address) error
	Refuse(identity.Address) error
	// Forget ends what was asked of a contact that is none any more.
	Forget(identity.Address) error
}

// Devices is what the API needs of the owner and the owner's devices.
type Devices interface {
	List() api.Devices
	Invite() (api.Invitation, error)
	Cancel()
	// Join brings this device under the owner of who invited, by a code or link.
	Join(ctx context.Context, code string) error
	// Revoke takes a device from its owner, by name or address.
	Revoke(name string) error
	Leave() error
	// Words returns the owner's key as words, Restore puts it here.
	Words() ([]string, error)
	Restore(ctx context.Context, words string) error
	// Backup returns the key as the text of a file that a passphrase opens.
	Backup(passphrase string) (string, error)
	// RestoreFile puts the key of such a file here.
	RestoreFile(ctx context.Context, file, passphrase string) error
}

// Messages is what the API needs of short texts.
type Messages interface {
	Send(to contacts.Contact, text string) (api.Message, error)
	// List returns the newest messages, the oldest of them first; with a zero
	// contact those of all.
	List(of contacts.Contact, limit int) []api.Message
	MarkRead(of contacts.Contact) error
}

// Services is what the API needs of services that contacts may connect to,
// and of those of contacts that are used from here.
type Services interface {
	List() []api.Service
	Add(api.Service) (api.Service, error)
	Remove(network, name string) error
	// Listen takes connections, or datagrams, at a local address and carries
	// them to a service of a peer until ctx ends.
	Listen(ctx context.Context, to identity.Address, network, name, local string) (netip.AddrPort, error)
}

// peopleRoutes are the routes about people.
func (s *Server) peopleRoutes(handle func(string, handler)) {
	handle("GET /api/v1/requests", s.listRequests)
	handle("POST /api/v1/requests/{address}/accept", s.acceptRequest)
	handle("DELETE /api/v1/requests/{address}", s.refuseRequest)
	handle("PUT /api/v1/contacts/{name}/hidden", s.hideFrom)
	handle("GET /api/v1/devices", s.listDevices)
	handle("POST /api/v1/devices/invite", s.invite)
	handle("DELETE /api/v1/devices/invite", s.cancelInvitation)
	handle("POST /api/v1/devices/join", s.joinOwner)
	handle("POST /api/v1/devices/leave", s.leaveOwner)
	handle("DELETE /api/v1/devices/{name}", s.revoke)
	handle("GET /api/v1/messages", s.listMessages)
	handle("POST /api/v1/messages", s.sendMessage)
	handle("PUT /api/v1/messages/read", s.markRead)
	handle("GET /api/v1/services", s.listServices)
	handle("POST /api/v1/services", s.addService)
	handle("DELETE /api/v1/services/{network}/{name}", s.removeService)
}

// checkNote refuses a note that would not be sent, before anything is changed.
func checkNote(note string) error {
	if n := utf8.RuneCountInString(note); n > people.MaxNote {
		return Invalid(fmt.Errorf("the note has %d characters of at most %d; make it shorter", n, people.MaxNote))
	}
	return nil
}

func (s *Server) listRequests(http.ResponseWriter, *http.Request) (any, error) {
	return s.cfg.Requests.List(), nil
}

// acceptRequest makes who asked a contact and lets them know.
func (s *Server) acceptRequest(_ http.ResponseWriter, r *http.Request) (any, error) {
	body, err := read[struct {
		Name string `json:"name"`
		Role string `json:"role"`
	}](r)
	if err != nil {
		return nil, err
	}
	role, err := contacts.ParseRole(body.Role)
	if err != nil {
		return nil, Invalid(err)
	}
	address, err := s.requester(r.PathValue("address"))
	if err != nil {
		return nil, err
	}
	if body.Name == "" {
		for _, q := range s.cfg.Requests.List() {
			if q.Address == address.String() {
				body.Name = q.Name
			}
		}
	}
	link, err := s.requested(address)
	if err != nil {
		return nil, err
	}
	// The contact comes first: an answer to somebody who is none would be lost
	// with the power.
	c, err := s.cfg.Contacts.Add(link, body.Name, role)
	if errors.Is(err, contacts.ErrName) {
		err = fmt.Errorf("%w; choose a name, as in: porchlight contacts accept ADDRESS NAME", err)
	}
	if err != nil {
		return nil, err
	}
	return c, s.cfg.Requests.Accept(address)
}

// requester finds who asked, by address or by the name they gave.
func (s *Server) requester(text string) (identity.Address, error) {
	for _, q := range s.cfg.Requests.List() {
		if q.Address == text || q.Name == text {
			return identity.ParseAddress(q.Address)
		}
	}
	return identity.Address{}, NotFound(fmt.Errorf("nobody %q asks to become a contact; see: porchlight contacts requests", text))
}

func (s *Server) requested(a identity.Address) (identity.Link, error) {
	for _, q := range s.cfg.Requests.List() {
		if q.Address == a.String() {
			return identity.ParseLink(q.Link)
		}
	}
	return identity.Link{}, NotFound(errors.New("the request is gone"))
}

func (s *Server) refuseRequest(_ http.ResponseWriter, r *http.Request) (any, error) {
	address, err := s.requester(r.PathValue("address"))
	if err != nil {
		return nil, err
	}
	return nil, s.cfg.Requests.Refuse(address)
}

func (s *Server) hideFrom(_ http.ResponseWriter, r *http.Request) (any, error) {
	hidden, err := read[bool](r)
	if err != nil {
		return nil, err
	}
	return nil, s.cfg.Contacts.Hide(r.PathValue("name"), hidden)
}

func (s *Server) listDevices(http.ResponseWriter, *http.Request) (any, error) {
	return s.cfg.Devices.List(), nil
}

func (s *Server) invite(http.ResponseWriter, *http.Request) (any, error) {
	return s.cfg.Devices.Invite()
}

func (s *Server) cancelInvitation(http.ResponseWriter, *http.Request) (any, error) {
	s.cfg.Devices.Cancel()
	return nil, nil
}

func (s *Server) joinOwner(_ http.ResponseWriter, r *http.Request) (any, error) {
	body, err := read[struct {
		Code string `json:"code"`
	}](r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), joinLimit)
	defer cancel()
	if err := s.cfg.Devices.Join(ctx, body.Code); err != nil {
		return nil, err
	}
	return s.cfg.Devices.List(), nil
}

func (s *Server) leaveOwner(http.ResponseWriter, *http.Request) (any, error) {
	return nil, s.cfg.Devices.Leave()
}

func (s *Server) revoke(_ http.ResponseWriter, r *http.Request) (any, error) {
	return nil, s.cfg.Devices.Revoke(r.PathValue("name"))
}

func (s *Server) listMessages(_ http.ResponseWriter, r *http.Request) (any, error) {
	limit := messagesDefault
	if text := r.URL.Query().Get("limit"); text != "" {
		var err error
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > messagesMost {
			return nil, Invalid(fmt.Errorf("limit %q is no number from 1 to %d", text, messagesMost))
		}
	}
	var of contacts.Contact
	if name := r.URL.Query().Get("peer"); name != "" {
		var err error
		if of, err = s.contact(name); err != nil {
			return nil, err
		}
	}
	return s.cfg.Messages.List(of, limit), nil
}

// contact finds the contact that a name, an address or a link means.
func (s *Server) contact(text string) (contacts.Contact, error) {
	link, err := s.cfg.Contacts.Resolve(text)
	if err != nil {
		return contacts.Contact{}, err
	}
	c, ok := s.cfg.Contacts.Get(link.Address)
	if !ok {
		return contacts.Contact{}, fmt.Errorf("%s: %w; add it first: porchlight contacts add", link.Address.Short(), contacts.ErrUnknown)
	}
	return c, nil
}

func (s *Server) sendMessage(_ http.ResponseWriter, r *http.Request) (any, error) {
	body, err := read[struct {
		Peer string `json:"peer"`
		Text string `json:"text"`
	}](r)
	if err != nil {
		return nil, err
	}
	to, err := s.contact(body.Peer)
	if err != nil {
		return nil, err
	}
	if to.Blocked {
		return nil, fmt.Errorf("%s: %w; let it in again with: porchlight contacts unblock", to.Name, contacts.ErrBlocked)
	}
	return s.cfg.Messages.Send(to, body.Text)
}

func (s *Server) markRead(_ http.ResponseWriter, r *http.Request) (any, error) {
	body, err := read[struct {
		Peer string `json:"peer"`
	}](r)
	if err != nil {
		return nil, err
	}
	of, err := s.contact(body.Peer)
	if err != nil {
		return nil, err
	}
	return nil, s.cfg.Messages.MarkRead(of)
}

func (s *Server) listServices(http.ResponseWriter, *http.Request) (any, error) {
	return s.cfg.Services.List(), nil
}

func (s *Server) addService(_ http.ResponseWriter, r *http.Request) (any, error) {
	service, err := read[api.Service](r)
	if err != nil {
		return nil, err
	}
	return s.cfg.Services.Add(service)
}

func (s *Server) removeService(_ http.ResponseWriter, r *http.Request) (any, error) {
	return nil, s.cfg.Services.Remove(r.PathValue("network"), r.PathValue("name"))
}

// forward listens for as long as the request is held, and first tells where.
func (s *Server) forward(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	to, err := s.device(r)
	if err != nil {
		reply(w, nil, err)
		return
	}
	at, err := s.cfg.Services.Listen(ctx, to, q.Get("network"), q.Get("name"), q.Get("local"))
	if err != nil {
		reply(w, nil, err)
		return
	}
	reply(w, map[string]string{"listening": at.String()}, nil)
	http.NewResponseController(w).Flush()
	<-ctx.Done()
}

func (s *Server) words(http.ResponseWriter, *http.Request) (any, error) {
	words, err := s.cfg.Devices.Words()
	return map[string][]string{"words": words}, err
}

func (s *Server) backup(_ http.ResponseWriter, r *http.Request) (any, error) {
	body, err := read[struct {
		Passphrase string `json:"passphrase"`
	}](r)
	if err != nil {
		return nil, err
	}
	file, err := s.cfg.Devices.Backup(body.Passphrase)
	return map[string]string{"file": file}, err
}

// restore takes words, or a file and its passphrase.
func (s *Server) restore(_ http.ResponseWriter, r *http.Request) (any, error) {
	body, err := read[struct {
		Words      string `json:"words"`
		File       string `json:"file"`
		Passphrase string `json:"passphrase"`
	}](r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), joinLimit)
	defer cancel()
	if body.File != "" {
		err = s.cfg.Devices.RestoreFile(ctx, body.File, body.Passphrase)
	} else {
		err = s.cfg.Devices.Restore(ctx, body.Words)
	}
	if err != nil {
		return nil, err
	}
	return s.cfg.Devices.List(), nil
}

// lookup tells where a device is found at this moment, and from whom.
func (s *Server) lookup(_ http.ResponseWriter, r *http.Request) (any, error) {
	link, err := s.peer(r)
	if err != nil {
		return nil, err
	}
	q := r.URL.Query()
	ctx, cancel := context.WithTimeout(r.Context(), lookupLimit)
	defer cancel()
	began := time.Now()
	answer, err := s.cfg.Lookup(ctx, link, LookupWish{Fresh: q.Get("fresh") == "true", NoSession: q.Get("no_session") == "true"})
	answer.MS = milliseconds(time.Since(began))
	if link.Address.Kind() == identity.KindOwner {
		return answer, unreached(err) // their devices were called
	}
	return answer, unfound(err)
}

// unfound is unreached for who was not called: the directory says what to do.
func unfound(err error) error {
	if coded, ok := unreached(err).(coded); ok {
		coded.error = err
		return coded
	}
	return err
}

// LookupWish says what a look-up leaves out.
type LookupWish struct {
	// Fresh asks the directory although an answer is known; NoSession passes
	// over a session.
	Fresh, NoSession bool
}
