package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"porchlight/agent/api"
)

// maxText is the length of the longest message, in bytes.
const maxText = 800

// errMissing marks an error about somebody or something that is not there.
var errMissing = errors.New("not there")

// peopleRoutes serves what the page about people asks for, with the same
// answers as the agent's.
func (s *scene) peopleRoutes(mux *http.ServeMux) {
	handle := func(pattern string, do func(r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			s.mu.Lock()
			defer s.mu.Unlock()
			v, err := do(r)
			w.Header().Set("Content-Type", "application/json")
			switch {
			case errors.Is(err, errMissing):
				w.WriteHeader(http.StatusNotFound)
				v = map[string]string{"error": err.Error(), "code": "not_found"}
			case err != nil:
				w.WriteHeader(http.StatusBadRequest)
				v = map[string]string{"error": err.Error(), "code": "invalid"}
			case v == nil:
				v = struct{}{}
			}
			_ = json.NewEncoder(w).Encode(v) // the reader has gone: nobody to tell
		})
	}
	handle("GET /api/v1/requests", func(*http.Request) (any, error) { return s.st.Requests, nil })
	handle("POST /api/v1/requests/{address}/accept", s.accept)
	handle("DELETE /api/v1/requests/{address}", s.refuse)
	handle("POST /api/v1/contacts", s.addContact)
	handle("DELETE /api/v1/contacts/{name}", s.removeContact)
	handle("PUT /api/v1/contacts/{name}/blocked", s.block)
	handle("PUT /api/v1/contacts/{name}/hidden", s.hide)
	handle("GET /api/v1/devices", func(*http.Request) (any, error) { return s.devices, nil })
	handle("POST /api/v1/devices/invite", s.invite)
	handle("DELETE /api/v1/devices/invite", func(*http.Request) (any, error) { return nil, nil })
	handle("POST /api/v1/devices/join", s.joinOwner)
	handle("DELETE /api/v1/devices/{address}", s.revoke)
	handle("GET /api/v1/messages", s.listMessages)
	handle("POST /api/v1/messages", s.send)
	handle("PUT /api/v1/messages/read", s.markRead)
	handle("GET /api/v1/services", func(*http.Request) (any, error) { return someServices(), nil })
}

func body[T any](r *http.Request) (v T, err error) {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	return v, d.Decode(&v)
}

// contact finds a contact by name or address.
func (s *scene) contact(text string) (*api.Contact, error) {
	for i := range s.st.Contacts {
		if c := &s.st.Contacts[i]; c.Name == text || c.Address == text {
			return c, nil
		}
	}
	return nil, fmt.Errorf("%q: %w; see: porchlight contacts list", text, errMissing)
}

// put adds a contact, or changes the one with its address.
func (s *scene) put(n api.Contact) (api.Contact, error) {
	known, err := s.contact(n.Address)
	if n.Name == "" || strings.ContainsAny(n.Name, " :/?@") && (err != nil || known.Name != n.Name) {
		return n, fmt.Errorf("unusable name %q: letters, digits, - _ and . are fine; spaces and : / ? @ are not", n.Name)
	}
	for _, c := range s.st.Contacts {
		if c.Name == n.Name && c.Address != n.Address {
			return n, fmt.Errorf("%q: the name belongs to another contact; choose another", n.Name)
		}
	}
	if err == nil {
		known.Name, known.Role = n.Name, n.Role
		n = *known
	} else {
		s.st.Contacts = append(s.st.Contacts, n)
	}
	slices.SortFunc(s.st.Contacts, func(a, b api.Contact) int { return strings.Compare(a.Name, b.Name) })
	return n, nil
}

func (s *scene) accept(r *http.Request) (any, error) {
	b, err := body[struct{ Name, Role string }](r)
	if err != nil {
		return nil, err
	}
	i := s.request(r.PathValue("address"))
	if i < 0 {
		return nil, fmt.Errorf("the request is gone: %w", errMissing)
	}
	c, err := s.put(api.Contact{
		Name: b.Name, Address: s.st.Requests[i].Address, Role: b.Role, Standing: "mutual", Online: true,
		Path: "direct", RTTMS: 33, LastSeenUnixMS: time.Now().UnixMilli(),
	})
	if err == nil {
		s.st.Requests = slices.Delete(slices.Clone(s.st.Requests), i, i+1)
	}
	return c, err
}

func (s *scene) request(address string) int {
	return slices.IndexFunc(s.st.Requests, func(q api.Request) bool { return q.Address == address })
}

func (s *scene) refuse(r *http.Request) (any, error) {
	i := s.request(r.PathValue("address"))
	if i < 0 {
		return nil, fmt.Errorf("the request is gone: %w", errMissing)
	}
	s.st.Requests = slices.Delete(slices.Clone(s.st.Requests), i, i+1)
	return nil, nil
}

func (s *scene) addContact(r *http.Request) (any, error) {
	b, err := body[struct{ Link, Name, Role, Note string }](r)
	if err != nil {
		return nil, err
	}
	address, _, _ := strings.Cut(strings.TrimPrefix(b.Link, "porchlight:"), "?")
	if len(address) != len(own) {
		return nil, fmt.Errorf("not a link: an address has %d letters and digits, this has %d", len(own), len(address))
	}
	return s.put(api.Contact{Name: b.Name, Address: address, Role: b.Role, Standing: "asked"})
}

func (s *scene) removeContact(r *http.Request) (any, error) {
	c, err := s.contact(r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	gone := c.Address
	s.st.Contacts = slices.DeleteFunc(slices.Clone(s.st.Contacts), func(c api.Contact) bool { return c.Address == gone })
	return nil, nil
}

// block also takes the address of somebody who is no contact.
func (s *scene) block(r *http.Request) (any, error) {
	blocked, err := body[bool](r)
	if err != nil {
		return nil, err
	}
	who := r.PathValue("name")
	if _, err := s.contact(who); err != nil && len(who) == len(own) {
		s.st.Contacts = append(s.st.Contacts, api.Contact{Name: "blocked-" + who[:7], Address: who})
	}
	c, err := s.contact(who)
	if err != nil {
		return nil, err
	}
	c.Blocked = blocked
	return nil, nil
}

func (s *scene) hide(r *http.Request) (any, error) {
	hidden, err := body[bool](r)
	if err != nil {
		return nil, err
	}
	c, err := s.contact(r.PathValue("name"))
	if err == nil {
		c.Hidden = hidden
	}
	return nil, err
}

func (s *scene) invite(*http.Request) (any, error) {
	if s.devices.Owner == "" {
		s.own(true)
	}
	return api.Invitation{
		Code: "maple-7-ferry", ExpiresS: 600,
		Link: "porchlight-join:maple-7-ferry?of=" + own + "&at=192.168.1.23:41641",
	}, nil
}

func (s *scene) joinOwner(r *http.Request) (any, error) {
	b, err := body[struct{ Code string }](r)
	if err != nil {
		return nil, err
	}
	if b.Code != "maple-7-ferry" {
		return nil, errors.New("nobody waits with that code; make a new one on the other device")
	}
	s.own(false)
	return s.devices, nil
}

func (s *scene) revoke(r *http.Request) (any, error) {
	gone := r.PathValue("address")
	if !s.devices.HoldsKey {
		return nil, errors.New("the owner's key lies on another device; revoke there")
	}
	left := slices.DeleteFunc(slices.Clone(s.devices.Devices), func(m api.Member) bool { return m.Address == gone })
	if len(left) == len(s.devices.Devices) {
		return nil, fmt.Errorf("%q: %w", gone, errMissing)
	}
	s.devices.Devices = left
	s.st.Contacts = slices.DeleteFunc(slices.Clone(s.st.Contacts), func(c api.Contact) bool { return c.Address == gone })
	return nil, nil
}

func (s *scene) listMessages(r *http.Request) (any, error) {
	c, err := s.contact(r.URL.Query().Get("peer"))
	if err != nil {
		return nil, err
	}
	limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil {
		return nil, err
	}
	all := s.said[c.Address]
	return append([]api.Message{}, all[max(0, len(all)-limit):]...), nil
}

func (s *scene) send(r *http.Request) (any, error) {
	b, err := body[struct{ Peer, Text string }](r)
	if err != nil {
		return nil, err
	}
	c, err := s.contact(b.Peer)
	switch {
	case err != nil:
		return nil, err
	case b.Text == "" || len(b.Text) > maxText:
		return nil, fmt.Errorf("a message has 1 to %d bytes, this has %d", maxText, len(b.Text))
	}
	return s.say(c, true, b.Text, "waiting", time.Now()), nil
}

func (s *scene) say(c *api.Contact, out bool, text, state string, at time.Time) api.Message {
	s.lastID++
	m := api.Message{ID: strconv.Itoa(s.lastID), Peer: c.Name, Out: out, Text: text, UnixMS: at.UnixMilli(), State: state}
	s.said[c.Address] = append(s.said[c.Address], m)
	return m
}

func (s *scene) markRead(r *http.Request) (any, error) {
	b, err := body[struct{ Peer string }](r)
	if err != nil {
		return nil, err
	}
	c, err := s.contact(b.Peer)
	if err == nil {
		c.Unread = 0
	}
	return nil, err
}
