package main

import (
	"context"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"porchlight/agent/api"
	"porchlight/nat/natlab"
)

// revokeLimit is within what a contact that is on-line knows of a device that
// was revoked.
const revokeLimit = 5 * time.Second

// devicesOf is what an agent says of its owner.
func devicesOf(ctx context.Context, a *agent) (d api.Devices) {
	if err := a.run(ctx, &d, "devices", "list"); err != nil {
		return api.Devices{}
	}
	return d
}

// invited has an agent make a code.
func (s *scene) invited(by *agent) api.Invitation {
	s.t.Helper()
	var i api.Invitation
	check(s.t, by.run(s.ctx, &i, "devices", "invite"))
	return i
}

// joins brings a device under the owner of another by nothing but a code, and
// returns how long that took.
func (s *scene) joins(a, by *agent) time.Duration {
	s.t.Helper()
	code := s.invited(by).Code
	var d api.Devices
	began := time.Now()
	check(s.t, a.run(s.ctx, &d, "devices", "join", code))
	took := time.Since(began)
	if d.Owner == "" || d.Owner != devicesOf(s.ctx, by).Owner {
		s.t.Errorf("%s belongs to %q now, %s to %q", a.name, d.Owner, by.name, devicesOf(s.ctx, by).Owner)
	}
	if err := a.run(s.ctx, nil, "devices", "join", code); err == nil {
		s.t.Error("a code works twice")
	}
	return took
}

// owned is an owner as others know one.
type owned struct{ address, link string }

// household brings devices under the owner of the first.
func (s *scene) household(first *agent, others ...*agent) owned {
	s.t.Helper()
	for _, a := range others {
		s.t.Logf("%s joins %s in %.2f s", a.name, first.name, s.joins(a, first).Seconds())
	}
	d := devicesOf(s.ctx, first)
	var l struct{ Link string }
	check(s.t, first.run(s.ctx, &l, "link", "--me"))
	if l.Link != d.Link {
		s.t.Errorf("two links: %s and %s", l.Link, d.Link)
	}
	return owned{d.Owner, d.Link}
}

func TestDevicesJoinByCode(t *testing.T) {
	t.Parallel()
	s := newNeighbourhood(t, 2)
	attic, atticHost := s.settled("attic", natlab.PortRestricted)
	cabin, _ := s.settled("cabin", natlab.Symmetric)
	far := s.joins(cabin, attic)
	t.Logf("in another home, found by the code alone: %.2f s", far.Seconds())

	// In the same house nobody else is needed.
	besideHost, err := s.lab.AddDevice(atticHost, "desk")
	check(t, err)
	atticHost.Cut(true)
	desk := s.run("desk", besideHost)
	near := s.joins(desk, attic)
	t.Logf("in the same house without internet: %.2f s", near.Seconds())
	if near > 10*time.Second {
		t.Errorf("a device of the house took %v to join", near)
	}
	if n := len(devicesOf(s.ctx, attic).Devices); n != 3 {
		t.Errorf("the owner has %d devices, not 3", n)
	}
	atticHost.Cut(false)
	took := await(t, s.ctx, "cabin learns of the third device", patience, func() bool {
		return len(devicesOf(s.ctx, cabin).Devices) == 3
	})
	t.Logf("the one far away knows of it %.2f s after the line is back", took.Seconds())
	stopInTime(t, desk, cabin, attic)
	check(t, desk.start(s.ctx))
	if d := devicesOf(s.ctx, desk); len(d.Devices) != 3 || d.HoldsKey {
		t.Errorf("after a restart: %+v", d)
	}
}

func TestAPersonIsTheBestOfTheirDevices(t *testing.T) {
	t.Parallel()
	s := newNeighbourhood(t, 2)
	attic, _ := s.settled("attic", natlab.PortRestricted)
	cabin, _ := s.settled("cabin", natlab.Symmetric)
	barn, _ := s.settled("barn", natlab.PortRestricted)
	mill, _ := s.settled("mill", natlab.FullCone)
	person := s.household(attic, cabin)

	// Barn has the person's link, mill nothing but the address; the person has
	// both. What is granted to the person is granted to each device.
	check(t, barn.run(s.ctx, nil, "contacts", "add", person.link, "pat"))
	check(t, mill.run(s.ctx, nil, "contacts", "add", person.address, "pat"))
	for _, a := range []*agent{attic, cabin} {
		check(t, a.run(s.ctx, nil, "contacts", "add", s.linkOf(barn), "barn"))
		check(t, a.run(s.ctx, nil, "contacts", "add", s.linkOf(mill), "mill"))
	}
	dir := filepath.Join(s.dir, "for-pat")
	check(t, writeText(filepath.Join(dir, "letter.txt"), "dear Pat"))
	check(t, barn.run(s.ctx, nil, "shares", "add", dir, "--name", "letters", "--read", "pat"))

	for _, a := range []*agent{barn, mill} {
		s.reaches(a, "pat", time.Now())
		await(t, s.ctx, a.name+" sees both devices on-line", patience, func() bool { return onlineDevices(s.ctx, a, "pat") == 2 })
	}
	for _, a := range []*agent{attic, cabin} {
		check(t, a.run(s.ctx, nil, "get", "barn:/letters/letter.txt", "-o", filepath.Join(s.dir, "letter-"+a.name)))
	}

	// When the one is off, the other answers.
	for _, off := range []*agent{attic, cabin} {
		stopInTime(t, off)
		for _, a := range []*agent{barn, mill} {
			_, took := s.reaches(a, "pat", time.Now())
			t.Logf("%s is off: %s reaches the other after %.2f s", off.name, a.name, took.Seconds())
		}
		check(t, off.start(s.ctx))
		await(t, s.ctx, off.name+" is seen again", patience, func() bool {
			return onlineDevices(s.ctx, barn, "pat") == 2 && onlineDevices(s.ctx, mill, "pat") == 2
		})
	}
}

func TestRevokedDevice(t *testing.T) {
	t.Parallel()
	s := newNeighbourhood(t, 2)
	attic, _ := s.settled("attic", natlab.PortRestricted)
	phone, _ := s.settled("phone", natlab.CGNAT)
	barn, _ := s.settled("barn", natlab.PortRestricted)
	mill, _ := s.settled("mill", natlab.FullCone)
	person := s.household(attic, phone)
	for _, a := range []*agent{barn, mill} {
		check(t, a.run(s.ctx, nil, "contacts", "add", person.link, "pat"))
		for _, own := range []*agent{attic, phone} {
			check(t, own.run(s.ctx, nil, "contacts", "add", s.linkOf(a), a.name))
		}
		dir := filepath.Join(s.dir, "for-pat-at-"+a.name)
		check(t, writeText(filepath.Join(dir, "letter.txt"), "dear Pat"))
		check(t, a.run(s.ctx, nil, "shares", "add", dir, "--name", "letters", "--read", "pat"))
		await(t, s.ctx, a.name+" sees both devices on-line", patience, func() bool { return onlineDevices(s.ctx, a, "pat") == 2 })
	}
	gets := func(from *agent) bool {
		return phone.run(s.ctx, nil, "get", from.name+":/letters/letter.txt", "-o", filepath.Join(s.dir, "phone-letter"), "--overwrite") == nil
	}
	if !gets(barn) || !gets(mill) {
		t.Fatal("the phone gets nothing before it is lost")
	}
	lost := s.address(phone)

	// Barn is on-line and learns it; mill is off.
	stopInTime(t, mill)
	began := time.Now()
	check(t, attic.run(s.ctx, nil, "devices", "revoke", "phone"))
	for gets(barn) && time.Since(began) < patience {
		pause(s.ctx, 50*time.Millisecond)
	}
	took := time.Since(began)
	t.Logf("refused by a contact on-line %.2f s after it was revoked", took.Seconds())
	if took > revokeLimit {
		t.Errorf("refused after %v, %v are allowed", took, revokeLimit)
	}
	s.knowsOnly(barn, "pat", s.address(attic))

	// Mill hears it from the person's devices, or looks for it.
	check(t, mill.start(s.ctx))
	came := time.Now()
	await(t, s.ctx, "mill knows that the phone is lost", patience, func() bool { return !slices.Contains(membersOf(s.ctx, mill, "pat"), lost) })
	t.Logf("known to a contact that was off-line %.2f s after its start", time.Since(came).Seconds())
	if gets(mill) {
		t.Error("mill still serves the lost phone")
	}
	if gets(barn) {
		t.Error("barn serves the lost phone again")
	}
	for _, a := range []*agent{barn, mill} {
		s.reaches(a, "pat", time.Now())
		if names, err := s.shareNames(phone, a.name); err == nil && len(names) > 0 {
			t.Errorf("the lost phone sees %q at %s", names, a.name)
		}
	}
}

// membersOf lists the addresses of a contact's devices, as an agent knows them.
func membersOf(ctx context.Context, a *agent, name string) (all []string) {
	status, err := a.status(ctx)
	if err != nil {
		return nil
	}
	for _, c := range status.Contacts {
		if c.Name == name {
			for _, d := range c.Devices {
				all = append(all, d.Address)
			}
		}
	}
	return all
}

// knowsOnly checks which devices of a person an agent knows.
func (s *scene) knowsOnly(a *agent, name string, want ...string) {
	s.t.Helper()
	await(s.t, s.ctx, a.name+" knows the present devices of "+name, patience, func() bool {
		return slices.Equal(membersOf(s.ctx, a, name), want)
	})
}

func TestWordsBringTheOwnerBack(t *testing.T) {
	t.Parallel()
	s := newNeighbourhood(t, 2)
	attic, _ := s.settled("attic", natlab.PortRestricted)
	cabin, _ := s.settled("cabin", natlab.Symmetric)
	barn, _ := s.settled("barn", natlab.PortRestricted)
	person := s.household(attic, cabin)
	check(t, barn.run(s.ctx, nil, "contacts", "add", person.link, "pat"))
	check(t, attic.run(s.ctx, nil, "contacts", "add", s.linkOf(barn), "barn"))
	dir := filepath.Join(s.dir, "for-pat")
	check(t, writeText(filepath.Join(dir, "letter.txt"), "dear Pat"))
	check(t, barn.run(s.ctx, nil, "shares", "add", dir, "--name", "letters", "--read", "pat"))
	s.reaches(barn, "pat", time.Now())
	var backup struct{ Words []string }
	check(t, attic.run(s.ctx, &backup, "backup", "words"))
	if len(backup.Words) != 24 {
		t.Fatalf("%d words", len(backup.Words))
	}

	// All is lost but the words.
	attic.kill()
	cabin.kill()
	fresh, _ := s.settled("fresh", natlab.FullCone)
	var d api.Devices
	began := time.Now()
	check(t, fresh.run(s.ctx, &d, append([]string{"backup", "restore"}, backup.Words...)...))
	if d.Owner != person.address || !d.HoldsKey {
		t.Fatalf("restored: %+v", d)
	}
	t.Logf("restored in %.2f s, with %d devices", time.Since(began).Seconds(), len(d.Devices))
	check(t, fresh.run(s.ctx, nil, "contacts", "add", s.linkOf(barn), "barn"))
	await(t, s.ctx, "barn takes the fresh device for the person's", patience, func() bool {
		return fresh.run(s.ctx, nil, "get", "barn:/letters/letter.txt", "-o", filepath.Join(s.dir, "fresh-letter"), "--overwrite") == nil
	})
	t.Logf("gets what is granted to the person %.2f s after", time.Since(began).Seconds())
	s.knowsOnly(barn, "pat", s.address(fresh))
	s.reaches(barn, "pat", time.Now())
}
