package owner_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"strings"
	"testing"

	"porchlight/agent/identity"
	"porchlight/agent/owner"
	"porchlight/agent/state"
)

// owners makes the n-th of many owners.
func ownerNumber(n int) *identity.Owner {
	return identity.OwnerFromSeed(binary.BigEndian.AppendUint32(make([]byte, 28), uint32(n)))
}

func TestLearn(t *testing.T) {
	n := newWorld().add(t, 1, nil)
	o, other := person(9), person(8)
	n.wanted[o.Address()] = true
	steps := []struct {
		name    string
		owner   identity.Address
		roster  []byte
		changed bool
		err     error
	}{
		{"an owner nobody knows", other.Address(), owner.SignRoster(other, 1, nil), false, owner.ErrUnwanted},
		{"a device as owner", device(1).Address(), owner.SignRoster(o, 1, nil), false, owner.ErrUnwanted},
		{"nobody", identity.Address{}, owner.SignRoster(o, 1, nil), false, owner.ErrUnwanted},
		{"garbage", o.Address(), []byte("hello"), false, owner.ErrRoster},
		{"another's signature", o.Address(), owner.SignRoster(other, 5, nil), false, owner.ErrRoster},
		{"the first", o.Address(), owner.SignRoster(o, 5, devices(2)), true, nil},
		{"the same again", o.Address(), owner.SignRoster(o, 5, devices(2)), false, nil},
		{"another of the same version", o.Address(), owner.SignRoster(o, 5, devices(1)), false, owner.ErrStale},
		{"an older one", o.Address(), owner.SignRoster(o, 4, devices(3)), false, owner.ErrStale},
		{"a newer one of another", o.Address(), owner.SignRoster(other, 6, devices(3)), false, owner.ErrRoster},
		{"a newer one", o.Address(), owner.SignRoster(o, 6, devices(1)), true, nil},
		{"the last there can be", o.Address(), owner.SignRoster(o, math.MaxUint64, devices(3)), true, nil},
	}
	for _, s := range steps {
		signal, writes := n.Changed(), n.disk.writes
		changed, err := n.Learn(s.owner, s.roster)
		if changed != s.changed || !errors.Is(err, s.err) {
			t.Errorf("%s: %t, %v", s.name, changed, err)
		}
		if closed(signal) != s.changed || (n.disk.writes > writes) != s.changed {
			t.Errorf("%s: told %t, %d writes", s.name, closed(signal), n.disk.writes-writes)
		}
	}
	check(t, "the third", n.OwnerOf(device(3).Address()), o.Address())
	n.reopen(t)
	if n.Version(o.Address()) != math.MaxUint64 || !bytes.Equal(n.Roster(o.Address()), owner.SignRoster(o, math.MaxUint64, devices(3))) {
		t.Error("the roster was lost over a restart")
	}
	if n.Roster(other.Address()) != nil || n.Version(identity.Address{}) != 0 || len(n.Devices(identity.Address{})) != 0 {
		t.Error("something is known of owners nobody knows")
	}
}

func TestProofs(t *testing.T) {
	n := newWorld().add(t, 1, nil)
	o, other := person(9).Address(), person(8).Address()
	d := device(2).Address()
	n.wanted[o], n.wanted[other] = true, true
	learn := func(p *identity.Owner, version uint64, list []identity.Address) {
		t.Helper()
		if _, err := n.Learn(p.Address(), owner.SignRoster(p, version, list)); err != nil {
			t.Fatal(err)
		}
	}
	check(t, "a stranger", n.OwnerOf(d), identity.Address{})
	n.Prove(d, o, 3)
	check(t, "by its certificate", n.OwnerOf(d), o)
	learn(person(9), 2, nil)
	check(t, "certificate newer than the roster", n.OwnerOf(d), o)
	learn(person(9), 3, nil)
	check(t, "certificate as old as the roster", n.OwnerOf(d), identity.Address{})
	n.Prove(d, o, 3)
	check(t, "proved again, and still revoked", n.OwnerOf(d), identity.Address{})
	learn(person(9), 4, []identity.Address{d})
	check(t, "listed again", n.OwnerOf(d), o)
	// Another owner lists it too: whoever was first, until the device says.
	learn(person(8), 1, []identity.Address{d})
	check(t, "listed by two", n.OwnerOf(d), o)
	n.Prove(d, other, 1)
	check(t, "listed by two, proved the second", n.OwnerOf(d), other)
	learn(person(8), 2, nil)
	check(t, "revoked by the second", n.OwnerOf(d), o)
	n.reopen(t)
	check(t, "after a restart", n.OwnerOf(d), o)
	check(t, "an owner's address", n.OwnerOf(o), identity.Address{})
}

func TestProofsAreBounded(t *testing.T) {
	n := newWorld().add(t, 1, nil)
	o := person(9).Address()
	for i := range owner.MaxProofs + 100 {
		n.Prove(identity.NewAddress(ownerNumber(i).Address().Key(), identity.KindDevice), o, 1)
		if i == owner.MaxProofs-1 && len(n.Devices(o)) != owner.MaxProofs {
			t.Errorf("%d proofs are remembered", len(n.Devices(o)))
		}
	}
	if got := len(n.Devices(o)); got != owner.MaxProofs {
		t.Errorf("%d proofs are remembered", got)
	}
}

func TestOwnersAreBoundedAndForgotten(t *testing.T) {
	n := newWorld().add(t, 1, nil)
	list := devices(owner.MaxDevices)
	learn := func(i int) error {
		o := ownerNumber(i)
		n.wanted[o.Address()] = true
		_, err := n.Learn(o.Address(), owner.SignRoster(o, 1, list))
		return err
	}
	var stored []map[string]any
	for i := range owner.MaxOwners - 1 {
		o := ownerNumber(i)
		n.wanted[o.Address()] = true
		stored = append(stored, map[string]any{"owner": o.Address(), "roster": owner.SignRoster(o, 1, list)})
	}
	if err := n.disk.WriteJSON("owners.json", stored); err != nil {
		t.Fatal(err)
	}
	n.reopen(t)
	if err := learn(owner.MaxOwners - 1); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	if err := learn(owner.MaxOwners); err == nil {
		t.Error("one more than the limit was kept")
	}
	if size := len(n.disk.files["owners.json"]); size > state.MaxFile/2 {
		t.Errorf("they take %d bytes", size)
	}
	// Whom nobody wants any more makes room.
	delete(n.wanted, ownerNumber(0).Address())
	if err := learn(owner.MaxOwners); err != nil {
		t.Error(err)
	}
	if n.Roster(ownerNumber(0).Address()) != nil || n.Roster(ownerNumber(1).Address()) == nil {
		t.Error("another than the unwanted one was forgotten")
	}
	// What is damaged is left out; the others stay.
	broken := bytes.Replace(n.disk.files["owners.json"], []byte(`"roster": "A`), []byte(`"roster": "B`), 1)
	n.disk.files["owners.json"] = broken
	n.reopen(t)
	if n.Roster(ownerNumber(1).Address()) != nil || n.Roster(ownerNumber(2).Address()) == nil {
		t.Error("one damaged entry did not cost that entry alone")
	}
}

func TestAnOwnerHasAtMostSoManyDevices(t *testing.T) {
	w := newWorld()
	a := w.add(t, 1, nil)
	o := a.create(t, "")
	for i := 2; i <= owner.MaxDevices; i++ {
		a.bring(t, w.add(t, byte(i), nil), "")
	}
	if _, err := a.Invite(0); !errors.Is(err, owner.ErrFull) {
		t.Errorf("an invitation too many: %v", err)
	}
	// The words come to one more device: the key does, the device has to wait.
	extra := w.add(t, 100, func(c *owner.Config) {
		c.Newest = nil
	})
	extra.wanted[o] = true
	if _, err := extra.Learn(o, a.Roster(o)); err != nil {
		t.Fatal(err)
	}
	words, _ := a.Words()
	key, err := owner.FromWords(words)
	if err != nil {
		t.Fatal(err)
	}
	if err := extra.Restore(t.Context(), key, ""); !errors.Is(err, owner.ErrFull) {
		t.Errorf("Restore = %v", err)
	}
	if got := extra.Own(); !got.HoldsKey || !got.Revoked || got.Version != owner.MaxDevices+1 {
		t.Errorf("own %+v", got)
	}
	if err := extra.Revoke(device(3).Address()); err != nil {
		t.Fatal(err)
	}
	if err := extra.Create(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	check(t, "the extra device", extra.Owner(), o)
}

// TestNoWriteIsFatal: for each n, the n-th write fails, the device restarts,
// and whatever was going on can be done again; at no moment is a key without
// an owner that it could not continue, or an owner older than before.
func TestNoWriteIsFatal(t *testing.T) {
	for _, late := range []bool{false, true} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("late=%t restart=%t", late, restart), func(t *testing.T) { failEachWrite(t, late, restart) })
		}
	}
}

func failEachWrite(t *testing.T, late, restart bool) {
	points := 0
	for n := 1; ; n++ {
		w := newWorld()
		a, b := w.add(t, 1, nil), w.add(t, 2, nil)
		a.disk.failing(n)
		a.disk.late = late
		var version uint64
		// again does something until it succeeds, over a restart if it fails.
		again := func(what string, do func() error) {
			t.Helper()
			for range 3 {
				err := do()
				if err == nil {
					break
				}
				if late && restart && (errors.Is(err, owner.ErrOwned) || errors.Is(err, owner.ErrUnlisted) || errors.Is(err, owner.ErrNoOwner)) {
					break // it is done already
				}
				if !errors.Is(err, errDisk) && !errors.Is(err, owner.ErrAnswer) {
					t.Fatalf("write %d, %s: %v", n, what, err)
				}
				if restart {
					a.reopen(t)
				}
			}
			v := a.Own().Version
			if v < version && what != "leave" {
				t.Errorf("write %d, %s: version %d after %d", n, what, v, version)
			}
			version = v
			a.reopen(t)
		}
		again("create", func() error { return a.Create(t.Context(), "box") })
		again("join", func() error {
			i, err := a.Invite(0)
			if err != nil {
				return err
			}
			return b.Join(t.Context(), b.client(), a.address(), i.Code, "")
		})
		again("revoke", func() error { return a.Revoke(b.address()) })
		again("rename", func() error { return a.Rename(a.address(), "shelf") })
		words, _ := a.Words()
		key, err := owner.FromWords(words)
		if err != nil {
			t.Fatalf("write %d: %v", n, err)
		}
		again("leave", a.Leave)
		again("restore", func() error {
			err := a.Restore(t.Context(), key, "")
			if errors.Is(err, owner.ErrOwned) && a.Own().HoldsKey {
				return nil
			}
			return err
		})
		if got := a.Own(); got.Owner != key.Address() || !got.HoldsKey || got.Revoked || a.shown(t).Owner != key.Address() {
			t.Errorf("write %d: in the end %+v", n, got)
		}
		if a.disk.failAt > 0 {
			break // there were not so many
		}
		points++
	}
	if points < 8 {
		t.Errorf("only %d points failed", points)
	}
	t.Logf("%d points, 0 broken", points)
}

func TestAnInterruptedCreateGoesOnWithItsKey(t *testing.T) {
	n := newWorld().add(t, 1, func(c *owner.Config) { c.Now = clock(60) })
	n.disk.failing(2)
	if err := n.Create(t.Context(), ""); !errors.Is(err, errDisk) {
		t.Fatal(err)
	}
	key := bytes.Clone(n.disk.files["owner.key"])
	n.reopen(t)
	if !n.Owner().IsZero() || n.Own().HoldsKey {
		t.Errorf("half an owner counts: %+v", n.Own())
	}
	n.create(t, "")
	if !bytes.Equal(n.disk.files["owner.key"], key) || n.Own().Version != 1 {
		t.Errorf("it is another owner now, version %d", n.Own().Version)
	}
}

func TestNothingIsWrittenWithoutAChange(t *testing.T) {
	w := newWorld()
	a, b := w.add(t, 1, nil), w.add(t, 2, nil)
	a.create(t, "")
	a.bring(t, b, "")
	before := a.disk.writes + b.disk.writes
	for range 5 {
		if err := a.Tell(t.Context(), a.client(), b.address()); err != nil {
			t.Fatal(err)
		}
		meet(t, a, b)
		a.reopen(t)
		b.reopen(t)
	}
	if got := a.disk.writes + b.disk.writes; got != before {
		t.Errorf("%d writes", got-before)
	}
}

func TestRenewing(t *testing.T) {
	w := newWorld()
	a, b := w.add(t, 1, nil), w.add(t, 2, nil)
	a.create(t, "")
	a.bring(t, b, "")
	if err := b.Renew(); !errors.Is(err, owner.ErrNoKey) {
		t.Errorf("b renews: %v", err)
	}
	old := b.Presigned()
	a.cfg.Presign = func(ed25519.PrivateKey, []byte, uint64) []byte { return []byte("fresh") }
	a.reopen(t)
	if err := a.Renew(); err != nil {
		t.Fatal(err)
	}
	if err := a.Tell(t.Context(), a.client(), b.address()); err != nil {
		t.Fatal(err)
	}
	if string(b.Presigned()) != "fresh" || b.Own().Version != 2 {
		t.Errorf("b may publish %q, version %d", b.Presigned(), b.Own().Version)
	}
	// A newer roster that came by way of others is not published with the
	// signatures of the older one.
	words, _ := a.Words()
	key, err := owner.FromWords(words)
	if err != nil {
		t.Fatal(err)
	}
	c := w.add(t, 3, nil)
	a.bring(t, c, "")
	if _, err := c.Learn(key.Address(), owner.SignRoster(key, 4, []identity.Address{a.address(), c.address()})); err != nil {
		t.Fatal(err)
	}
	if got := c.Presigned(); got != nil {
		t.Errorf("c may publish %q with a roster it was not made for", got)
	}
	if err := a.Tell(t.Context(), a.client(), b.address()); err != nil {
		t.Fatal(err)
	}
	// What was presigned before is not taken back.
	a.disk.files["owner.json"] = bytes.Replace(a.disk.files["owner.json"], []byte(`"renewed": 1`), []byte(`"renewed": 0`), 1)
	a.reopen(t)
	a.Tell(t.Context(), a.client(), b.address())
	if string(b.Presigned()) != "fresh" || bytes.Equal(old, b.Presigned()) {
		t.Errorf("b went back to %q", b.Presigned())
	}
}

func TestPresignedSizes(t *testing.T) {
	for size, kept := range map[int]bool{owner.MaxPresigned - 1: true, owner.MaxPresigned: true, owner.MaxPresigned + 1: false} {
		w := newWorld()
		a := w.add(t, 1, func(c *owner.Config) {
			c.Presign = func(ed25519.PrivateKey, []byte, uint64) []byte { return make([]byte, size) }
		})
		b, c := w.add(t, 2, nil), w.add(t, 3, nil)
		a.create(t, strings.Repeat("é", owner.MaxName))
		a.bring(t, b, "")
		a.bring(t, c, "")
		if told := a.Spread(t.Context(), a.client(), []identity.Address{b.address()}); len(told) != 1 {
			t.Errorf("%d bytes could not be spread", size)
		}
		for _, n := range []*node{a, b, c} {
			if got := len(n.Presigned()); (got == size) != kept {
				t.Errorf("%d bytes presigned: %d kept", size, got)
			}
		}
		for name, file := range a.disk.files {
			if len(file) > state.MaxFile {
				t.Errorf("%s has %d bytes", name, len(file))
			}
		}
	}
}

func TestDamageIsNoticed(t *testing.T) {
	w := newWorld()
	a, b := w.add(t, 1, nil), w.add(t, 2, nil)
	a.create(t, "")
	b.create(t, "")
	good := a.disk.files
	for name, spoil := range map[string]func(f map[string][]byte){
		"half a key":          func(f map[string][]byte) { f["owner.key"] = []byte(`{"form":"porchlight-owner-key-1","seed":"AAAA"}`) },
		"another form of key": func(f map[string][]byte) { f["owner.key"] = []byte(`{"form":"x"}`) },
		"no JSON":             func(f map[string][]byte) { f["owner.json"] = []byte(`{`) },
		"another device's":    func(f map[string][]byte) { f["owner.json"] = b.disk.files["owner.json"] },
		"no roster": func(f map[string][]byte) {
			f["owner.json"] = bytes.Replace(f["owner.json"], []byte(`"roster"`), []byte(`"x"`), 1)
		},
		"a leaf without an owner": func(f map[string][]byte) {
			f["owner.json"] = bytes.Replace(f["owner.json"], []byte(`"certificate"`), []byte(`"x"`), 1)
		},
		"owners that are no list": func(f map[string][]byte) { f["owners.json"] = []byte(`{}`) },
	} {
		a.disk.files = map[string][]byte{}
		for k, v := range good {
			a.disk.files[k] = bytes.Clone(v)
		}
		spoil(a.disk.files)
		if _, err := owner.Open(a.cfg); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

// TestAJoinThatWasNotStoredIsRepeated: the inviter counts it as done.
func TestAJoinThatWasNotStoredIsRepeated(t *testing.T) {
	w := newWorld()
	a, b := w.add(t, 1, nil), w.add(t, 2, nil)
	o := a.create(t, "")
	b.disk.failing(1)
	code := a.invite(t)
	if err := b.Join(t.Context(), b.client(), a.address(), code, "b"); !errors.Is(err, errDisk) {
		t.Fatalf("Join = %v", err)
	}
	check(t, "b after the failed write", b.Owner(), identity.Address{})
	if err := b.Join(t.Context(), b.client(), a.address(), code, "b"); !errors.Is(err, owner.ErrCode) {
		t.Errorf("with the code that was used: %v", err)
	}
	a.bring(t, b, "b")
	check(t, "b", b.Owner(), o)
	if v := a.Version(o); v != 2 {
		t.Errorf("the second join made version %d", v)
	}
}

// TestWhatWasKnownBeforeDoesNotComeBack: b knew the owner as a friend's, then
// is that owner's itself, sees c revoked, and leaves.
func TestWhatWasKnownBeforeDoesNotComeBack(t *testing.T) {
	w := newWorld()
	a, b, c := w.add(t, 1, nil), w.add(t, 2, nil), w.add(t, 3, nil)
	o := a.create(t, "")
	a.bring(t, c, "")
	b.wanted[o] = true
	if _, err := b.Learn(o, a.Roster(o)); err != nil {
		t.Fatal(err)
	}
	check(t, "c, of a friend", b.OwnerOf(c.address()), o)
	a.bring(t, b, "")
	if err := a.Revoke(c.address()); err != nil {
		t.Fatal(err)
	}
	if err := a.Tell(t.Context(), a.client(), b.address()); err != nil {
		t.Fatal(err)
	}
	check(t, "c, revoked", b.OwnerOf(c.address()), identity.Address{})
	if err := b.Leave(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		check(t, "c, after b left", b.OwnerOf(c.address()), identity.Address{})
		check(t, "a, after b left", b.OwnerOf(a.address()), o)
		b.reopen(t)
	}
}

// TestInAStateFolder: what the agent will do with it.
func TestInAStateFolder(t *testing.T) {
	folder, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	n := newWorld().add(t, 1, func(c *owner.Config) { c.Files = folder })
	o := n.create(t, "box")
	written := folder.Written()
	n.reopen(t)
	if got := n.Own(); got.Owner != o || !got.HoldsKey || got.Names[n.address()] != "box" || folder.Written() != written {
		t.Errorf("after a restart %+v, %d bytes written", got, folder.Written()-written)
	}
	for _, name := range []string{"owner.key", "owner.json"} {
		info, err := os.Stat(folder.Path(name))
		if err != nil || info.Mode() != fs.FileMode(0o600) {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if err := n.Leave(); err != nil {
		t.Fatal(err)
	}
	if b, _ := folder.ReadFile("owner.key"); bytes.Contains(b, []byte("seed")) {
		t.Error("the key is still there")
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	w := newWorld()
	a := w.add(t, 1, nil)
	a.create(t, "")
	i, err := a.Invite(0)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := json.Marshal(i)
	if text := fmt.Sprintf("%v %+v %#v %s", i, i, i, b); strings.Contains(text, i.Code.Text()[:4]) {
		t.Errorf("an invitation prints %s", text)
	}
}
