package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/beacon"
	"porchlight/agent/control"
	"porchlight/agent/directory"
	"porchlight/agent/identity"
	"porchlight/agent/join"
	"porchlight/agent/overlay"
	"porchlight/agent/owner"
	"porchlight/agent/people"
	"porchlight/agent/reach"
	"porchlight/agent/record"
)

const (
	// meetEvery is how often an open invitation is put into the directory, by
	// which a new device finds it that has nothing but the code.
	meetEvery = 2 * time.Minute
	// findLimit is how long the inviter is looked for, and createLimit how long
	// the search for an older list of devices may take.
	findLimit   = 25 * time.Second
	createLimit = 10 * time.Second
	// dismissLimit is how long a device may take to hear that it is revoked.
	dismissLimit = 3 * time.Second
	// joinParameter carries the code in the link of an invitation.
	joinParameter = "join"
)

// devices is the owner and the owner's devices in the words of the API.
type devices struct {
	owners   *owner.Store
	home     *household
	keeper   *reach.Keeper
	presence *people.Presence
	joiner   *join.Joiner
	lan      *beacon.Beacon
	table    directory.Table
	clock    *clock
	named    *naming
	client   *http.Client

	mu     sync.Mutex
	invite context.CancelFunc // ends the announcement of the invitation
	ending sync.WaitGroup
}

func newDevices(owners *owner.Store, home *household, keeper *reach.Keeper, presence *people.Presence, joiner *join.Joiner,
	lan *beacon.Beacon, t directory.Table, c *clock, named *naming, o *overlay.Overlay) *devices {
	return &devices{
		owners: owners, home: home, keeper: keeper, presence: presence, joiner: joiner,
		lan: lan, table: t, clock: c, named: named, client: o.Client(owner.Service),
	}
}

// invitedBy is the key of the beacons that lead to the open invitation.
func invitedBy(owners *owner.Store) (material [32]byte, open bool) {
	i, open := owners.Invitation()
	if !open {
		return material, false
	}
	return beaconKey(i.Code), true
}

func beaconKey(code owner.Code) [32]byte { return code.Meeting().Derive("beacon") }

// List implements control.Devices.
func (d *devices) List() api.Devices {
	own := d.owners.Own()
	list := api.Devices{HoldsKey: own.HoldsKey, Devices: []api.Member{}}
	if !d.owners.Owner().IsZero() {
		list.Owner = own.Owner.String()
		list.Link = personLink(d.keeper, d.owners).String()
	}
	for _, one := range d.home.own() {
		seen := d.presence.State(one)
		m := api.Member{
			Address: one.String(), Name: nameOf(one, own, d.presence),
			// Who has just joined has a way here, and was not heard of otherwise.
			Online:         seen.Online || d.joiner.Info(one).Path != "",
			LastSeenUnixMS: unixMS(seen.LastSeen), This: one == d.home.self,
		}
		if m.This {
			m.Online, m.Name = true, d.named.name()
		}
		list.Devices = append(list.Devices, m)
	}
	return list
}

// Invite implements control.Devices. The first invitation makes the owner.
func (d *devices) Invite() (api.Invitation, error) {
	if d.owners.Owner().IsZero() {
		ctx, cancel := context.WithTimeout(context.Background(), createLimit)
		defer cancel()
		if err := d.owners.Create(ctx, d.named.name()); err != nil {
			return api.Invitation{}, err
		}
	}
	i, err := d.owners.Invite(0)
	if err != nil {
		return api.Invitation{}, control.Invalid(err)
	}
	d.announce(i)
	link := d.keeper.Link().String()
	separator := "?"
	if strings.Contains(link, "?") {
		separator = "&"
	}
	return api.Invitation{
		Code:     i.Code.Text(),
		Link:     link + separator + joinParameter + "=" + i.Code.Text(),
		ExpiresS: int64(i.Left.Seconds()),
	}, nil
}

// announce puts where this device is found under the key that the code makes,
// for as long as the invitation is open.
func (d *devices) announce(i owner.Invitation) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.invite != nil {
		d.invite()
	}
	ctx, cancel := context.WithTimeout(context.Background(), i.Left)
	d.invite = cancel
	if d.lan != nil {
		d.lan.Moved() // beacons tell of it at once
	}
	d.ending.Go(func() {
		defer cancel()
		meeting := i.Code.Meeting()
		for {
			if now, open := d.owners.Invitation(); !open || now.Code.Text() != i.Code.Text() {
				return
			}
			now, _ := d.clock.now()
			body := []byte(d.keeper.Link().String())
			item, err := record.Seal(meeting, meeting.Address(), record.PeriodAt(meeting.Address(), now), now.Unix(), body)
			if err == nil {
				d.table.Put(ctx, item) // again soon, whether it was stored or not
			}
			select {
			case <-time.After(meetEvery):
			case <-ctx.Done():
				return
			}
		}
	})
}

// Close ends what announces an invitation.
func (d *devices) Close() error {
	d.mu.Lock()
	if d.invite != nil {
		d.invite()
	}
	d.mu.Unlock()
	d.ending.Wait()
	return nil
}

// Cancel implements control.Devices.
func (d *devices) Cancel() { d.owners.Cancel() }

// Join implements control.Devices: a link of an invitation says where to go, a
// code alone has the inviter looked for in this network and in the directory.
func (d *devices) Join(ctx context.Context, text string) error {
	link, code, err := readInvitation(text)
	if err != nil {
		return control.Invalid(err)
	}
	if link.Address.IsZero() {
		if link, err = d.find(ctx, code); err != nil {
			return err
		}
	}
	d.joiner.Remember(link)
	err = d.owners.Join(ctx, d.client, link.Address, code, d.named.name())
	if errors.Is(err, owner.ErrCode) || errors.Is(err, owner.ErrOwned) {
		err = control.Invalid(err)
	}
	return err
}

// readInvitation reads a code, or the link of an invitation.
func readInvitation(text string) (link identity.Link, code owner.Code, err error) {
	if rest, isLink := strings.CutPrefix(strings.TrimSpace(text), identity.Scheme+":"); isLink {
		if link, err = identity.ParseLink(text); err != nil {
			return link, code, err
		}
		_, query, _ := strings.Cut(rest, "?")
		values, err := url.ParseQuery(query)
		if err != nil || !values.Has(joinParameter) {
			return link, code, errors.New("the link is no invitation; make one with: porchlight devices invite --qr")
		}
		text = values.Get(joinParameter)
	}
	code, err = owner.ParseCode(text)
	return link, code, err
}

// errNobody says that nobody could be found by a code.
var errNobody = errors.New("nobody who made this code was found; is the other device on, and was the code made less than ten minutes ago?")

// find looks for who made a code, near and far at the same time.
func (d *devices) find(ctx context.Context, code owner.Code) (identity.Link, error) {
	ctx, cancel := context.WithTimeout(ctx, findLimit)
	defer cancel()
	found := make(chan identity.Link, 2)
	var searching sync.WaitGroup
	if d.lan != nil {
		searching.Go(func() {
			if a, at, err := d.lan.Find(ctx, beaconKey(code)); err == nil {
				found <- identity.Link{Address: a, At: at}
			}
		})
	}
	searching.Go(func() {
		for ctx.Err() == nil {
			if link, err := d.lookUp(ctx, code); err == nil {
				found <- link
				return
			}
			select {
			case <-time.After(2 * time.Second):
			case <-ctx.Done():
			}
		}
	})
	defer searching.Wait()
	defer cancel()
	select {
	case link := <-found:
		return link, nil
	case <-ctx.Done():
		return identity.Link{}, control.NotFound(errNobody)
	}
}

// lookUp reads what announce has put.
func (d *devices) lookUp(ctx context.Context, code owner.Code) (identity.Link, error) {
	now, _ := d.clock.now()
	address := code.Meeting().Address()
	period := record.PeriodAt(address, now)
	for _, p := range []uint64{period, period + 1, period - 1} {
		key, err := record.Key(address, p)
		if err != nil {
			return identity.Link{}, err
		}
		item, err := d.table.Get(ctx, key, nil, 0, func(record.Item) bool { return true })
		if err != nil {
			continue
		}
		if body, _, err := record.Open(address, p, item); err == nil {
			return identity.ParseLink(string(body))
		}
	}
	return identity.Link{}, errNobody
}

// Revoke implements control.Devices.
func (d *devices) Revoke(name string) error {
	for _, m := range d.List().Devices {
		if m.Address != name && m.Name != name {
			continue
		}
		a, err := identity.ParseAddress(m.Address)
		if err == nil {
			err = d.owners.Revoke(a)
		}
		if err == nil && d.joiner.Info(a).Path != "" {
			d.dismiss(a)
		}
		return invalidOwner(err)
	}
	return control.NotFound(fmt.Errorf("%q is none of your devices; see: porchlight devices list", name))
}

// dismiss tells a device that is there that it is revoked: nobody tells it
// anything as one of the owner's any more.
func (d *devices) dismiss(device identity.Address) {
	ctx, cancel := context.WithTimeout(context.Background(), dismissLimit)
	defer cancel()
	d.owners.Tell(ctx, d.client, device) // it may be in a thief's hands
}

// invalidOwner marks what cannot be done here.
func invalidOwner(err error) error {
	for _, wrong := range []error{owner.ErrNoKey, owner.ErrNoOwner, owner.ErrFull, owner.ErrUnlisted, owner.ErrWords, owner.ErrOwned} {
		if errors.Is(err, wrong) {
			return control.Invalid(err)
		}
	}
	return err
}

// Leave implements control.Devices.
func (d *devices) Leave() error { return invalidOwner(d.owners.Leave()) }

// Words implements control.Devices.
func (d *devices) Words() ([]string, error) {
	if d.owners.Owner().IsZero() {
		return nil, control.Invalid(owner.ErrNoOwner)
	}
	text, err := d.owners.Words()
	return strings.Fields(text), invalidOwner(err)
}

// Restore implements control.Devices.
func (d *devices) Restore(ctx context.Context, words string) error {
	key, err := owner.FromWords(words)
	if err != nil {
		return control.Invalid(err)
	}
	return invalidOwner(d.owners.Restore(ctx, key, d.named.name()))
}

// Backup implements control.Devices.
func (d *devices) Backup(passphrase string) (string, error) {
	file, err := d.owners.Backup(passphrase)
	return string(file), invalidOwner(err)
}

// RestoreFile implements control.Devices.
func (d *devices) RestoreFile(ctx context.Context, file, passphrase string) error {
	key, err := owner.FromBackup([]byte(file), passphrase)
	if err != nil {
		return control.Invalid(err)
	}
	return invalidOwner(d.owners.Restore(ctx, key, d.named.name()))
}
