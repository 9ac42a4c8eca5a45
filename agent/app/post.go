package app

import (
	"errors"
	"log/slog"
	"os"

	"porchlight/agent/api"
	"porchlight/agent/contacts"
	"porchlight/agent/control"
	"porchlight/agent/identity"
	"porchlight/agent/mail"
	"porchlight/agent/overlay"
	"porchlight/agent/people"
	"porchlight/agent/state"
)

// post is messages in the words of the API.
type post struct {
	mail *mail.Mail
	book *contacts.Book
}

// mailFolder keeps messages in the state folder.
const mailFolder = "mail"

func newPost(folder *state.Folder, device *identity.Device, o *overlay.Overlay, home *household, l *lookers,
	presence *people.Presence, c *clock, log *slog.Logger) (*post, error) {
	dir := folder.Path(mailFolder)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	book := home.book
	m, err := mail.New(mail.Config{
		Device: device,
		Client: o.Client(mail.Service),
		FS:     mail.Dir(dir),
		Known: func(device identity.Address) (identity.Address, bool) {
			c, known := book.Get(device)
			if !known || c.Blocked {
				return identity.Address{}, false
			}
			if of := home.owners.OwnerOf(device); !of.IsZero() && of == home.owners.Owner() {
				return of, true
			}
			return c.Link.Address, true
		},
		Devices:    l.devices,
		Own:        home.own,
		Helpers:    func(to identity.Address) []identity.Address { return helpersFor(to, home, presence) },
		Online:     func(device identity.Address) bool { return presence.State(device).Online },
		MayDeposit: func(from identity.Address) bool { return book.Allows(from, []string{"friends"}) },
		Now:        c.now,
		Logger:     log,
	})
	if err != nil {
		return nil, err
	}
	return &post{mail: m, book: book}, nil
}

// helpersFor lists who may hold a message: own devices, then friends', as far
// as they are on-line.
func helpersFor(to identity.Address, home *household, presence *people.Presence) (all []identity.Address) {
	for _, p := range home.peers() {
		if p.Address != to && presence.State(p.Address).Online && home.book.Allows(p.Address, []string{"friends"}) {
			all = append(all, p.Address)
		}
	}
	return all
}

// Send implements control.Messages.
func (p *post) Send(to contacts.Contact, text string) (api.Message, error) {
	m, err := p.mail.Send(to.Link.Address, text)
	if errors.Is(err, mail.ErrText) {
		err = control.Invalid(err)
	}
	return p.toAPI(m), err
}

// List implements control.Messages.
func (p *post) List(of contacts.Contact, limit int) []api.Message {
	list := []api.Message{}
	for _, m := range p.mail.List(of.Link.Address, "", limit) {
		list = append(list, p.toAPI(m))
	}
	return list
}

// MarkRead implements control.Messages.
func (p *post) MarkRead(of contacts.Contact) error { return p.mail.MarkRead(of.Link.Address) }

func (p *post) toAPI(m mail.Message) api.Message {
	peer := m.Contact.String()
	if c, ok := p.book.Get(m.Contact); ok && c.Name != "" {
		peer = c.Name
	}
	return api.Message{ID: m.ID, Peer: peer, Out: m.Out, Text: m.Text, UnixMS: m.UnixMS, State: string(m.State)}
}
