package owner_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/overlay"
	"porchlight/agent/owner"
)

// TestALife: a makes an owner, brings in b and c, loses c; a friend follows.
func TestALife(t *testing.T) {
	w := newWorld()
	a, b, c, friend := w.add(t, 1, nil), w.add(t, 2, nil), w.add(t, 3, nil), w.add(t, 4, nil)
	if !a.Owner().IsZero() || !a.shown(t).Owner.IsZero() {
		t.Fatal("a new device has an owner")
	}
	if _, err := a.Invite(0); !errors.Is(err, owner.ErrNoKey) {
		t.Errorf("invitation without an owner: %v", err)
	}
	changed := a.Changed()
	o := a.create(t, "box")
	if !closed(changed) {
		t.Error("nobody was told of the new owner")
	}
	if o.Kind() != identity.KindOwner {
		t.Fatalf("owner %v", o)
	}
	a.bring(t, b, "phone")
	a.bring(t, c, "tablet")
	check(t, "b", b.Owner(), o)
	if p := c.shown(t); p.Owner != o || p.Version != 3 {
		t.Errorf("c shows %+v", p)
	}
	if got := c.Own(); got.Version != 3 || len(got.Devices) != 3 || got.HoldsKey || got.Revoked ||
		got.Names[a.address()] != "box" || got.Names[b.address()] != "phone" || got.Names[c.address()] != "tablet" {
		t.Errorf("c knows %+v", got)
	}
	if !bytes.Equal(c.Presigned(), a.Presigned()) || len(c.Presigned()) == 0 || c.Presigned()[0] != 3 {
		t.Errorf("c may publish %d bytes", len(c.Presigned()))
	}
	// b joined before c did: the spreading tells it.
	if told := a.Spread(t.Context(), a.client(), []identity.Address{a.address(), b.address(), c.address(), device(99).Address()}); len(told) != 2 {
		t.Errorf("%d devices were told", len(told))
	}
	if got := b.Own(); got.Version != 3 || got.Names[c.address()] != "tablet" || !bytes.Equal(b.Presigned(), a.Presigned()) {
		t.Errorf("b knows %+v", got)
	}

	// A friend believes the certificate of c until it knows the roster.
	friend.wanted[o] = true
	meet(t, friend, c)
	check(t, "c, at a friend who knows no roster", friend.OwnerOf(c.address()), o)
	if got := friend.Devices(o); len(got) != 1 || got[0] != c.address() {
		t.Errorf("the friend knows %v", got)
	}
	if ok, err := friend.Fetch(t.Context(), friend.client(), c.address(), o); !ok || err != nil {
		t.Fatalf("Fetch = %t, %v", ok, err)
	}
	check(t, "b, by the roster alone", friend.OwnerOf(b.address()), o)
	if friend.Version(o) != 3 || len(friend.Devices(o)) != 3 {
		t.Errorf("the friend knows version %d, %d devices", friend.Version(o), len(friend.Devices(o)))
	}

	// c is lost.
	if err := b.Revoke(c.address()); !errors.Is(err, owner.ErrNoKey) {
		t.Errorf("b revokes without the key: %v", err)
	}
	if err := a.Revoke(c.address()); err != nil {
		t.Fatal(err)
	}
	if err := a.Revoke(c.address()); !errors.Is(err, owner.ErrUnlisted) {
		t.Errorf("revoked twice: %v", err)
	}
	if told := a.Spread(t.Context(), a.client(), []identity.Address{b.address(), friend.address()}); len(told) != 2 {
		t.Errorf("%d devices were told", len(told))
	}
	meet(t, friend, c) // c still shows its certificate, and is no more believed
	for _, at := range []*node{a, b, friend} {
		check(t, "c after its revocation", at.OwnerOf(c.address()), identity.Address{})
		check(t, "b after the revocation of c", at.OwnerOf(b.address()), o)
	}
	// c hears of it from anybody, and stops.
	if ok, err := c.Fetch(t.Context(), c.client(), b.address(), o); !ok || err != nil {
		t.Fatalf("c asks b: %t, %v", ok, err)
	}
	check(t, "c itself", c.Owner(), identity.Address{})
	if !c.Own().Revoked || c.Presigned() != nil || !c.shown(t).Owner.IsZero() {
		t.Errorf("c goes on: %+v", c.Own())
	}
	c.reopen(t)
	if !c.Own().Revoked || !c.shown(t).Owner.IsZero() {
		t.Error("c forgot at its start that it was revoked")
	}
	// It may come back, by a new code.
	a.bring(t, c, "")
	check(t, "c again", c.Owner(), o)
	meet(t, friend, c)
	check(t, "c again, at the friend, whose roster is older", friend.OwnerOf(c.address()), o)
	for _, n := range []*node{a, b, c, friend} {
		before := n.Own()
		n.reopen(t)
		if after := n.Own(); after.Owner != before.Owner || after.Version != before.Version || after.HoldsKey != before.HoldsKey {
			t.Errorf("before the restart %+v, after it %+v", before, after)
		}
	}
	if !a.Own().HoldsKey || friend.Version(o) != 4 {
		t.Error("something was lost over the restart")
	}
}

func TestACodeOpensOnce(t *testing.T) {
	w := newWorld()
	a, b, c := w.add(t, 1, nil), w.add(t, 2, nil), w.add(t, 3, nil)
	o := a.create(t, "")
	code := a.invite(t)
	if i, ok := a.Invitation(); !ok || i.Code.Text() != code.Text() || i.Left > owner.InvitationLife {
		t.Errorf("open invitation: %v, %t", i, ok)
	}
	// What b sends is recorded on the way.
	var sent []byte
	w.meddle = func(_, _ identity.Address, r *http.Request) *http.Response {
		sent, _ = io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(sent))
		return nil
	}
	if err := b.Join(t.Context(), b.client(), a.address(), code, "b"); err != nil {
		t.Fatal(err)
	}
	w.meddle = nil
	check(t, "b", b.Owner(), o)
	if _, ok := a.Invitation(); ok {
		t.Error("the invitation is still open")
	}
	if err := c.Join(t.Context(), c.client(), a.address(), code, "c"); !errors.Is(err, owner.ErrCode) {
		t.Errorf("second use: %v", err)
	}
	for _, caller := range []*node{b, c} {
		if got := post(a.handler, caller.address(), "POST", "/v1/join", sent); got.Code != http.StatusForbidden {
			t.Errorf("replayed: %d %s", got.Code, got.Body)
		}
	}
	// A replay while another code is open counts as a wrong one.
	code = a.invite(t)
	if got := post(a.handler, c.address(), "POST", "/v1/join", sent); got.Code != http.StatusForbidden {
		t.Errorf("replayed: %d %s", got.Code, got.Body)
	}
	if err := b.Join(t.Context(), b.client(), a.address(), code, ""); !errors.Is(err, owner.ErrOwned) {
		t.Errorf("b joins twice: %v", err)
	}
	a.Cancel()
	if err := c.Join(t.Context(), c.client(), a.address(), code, ""); !errors.Is(err, owner.ErrCode) {
		t.Errorf("cancelled: %v", err)
	}
}

// post makes one request as a caller.
func post(h http.Handler, caller identity.Address, method, target string, body []byte) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, bytes.NewReader(body))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r.WithContext(overlay.WithCaller(r.Context(), caller)))
	return w
}

func TestWrongCodesEndAnInvitation(t *testing.T) {
	w := newWorld()
	a, b := w.add(t, 1, nil), w.add(t, 2, nil)
	a.create(t, "")
	wrong := owner.NewCode()
	for tries, good := range map[int]bool{owner.MaxTries - 1: true, owner.MaxTries: false} {
		code := a.invite(t)
		for range tries {
			if err := b.Join(t.Context(), b.client(), a.address(), wrong, ""); !errors.Is(err, owner.ErrCode) {
				t.Errorf("a wrong code: %v", err)
			}
		}
		err := b.Join(t.Context(), b.client(), a.address(), code, "")
		if good && err != nil || !good && !errors.Is(err, owner.ErrCode) {
			t.Errorf("the right code after %d wrong ones: %v", tries, err)
		}
		b.Leave()
	}
}

func TestAnInvitationEndsByItself(t *testing.T) {
	for _, after := range []time.Duration{owner.InvitationLife - time.Second, owner.InvitationLife} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			a, b := w.add(t, 1, nil), w.add(t, 2, nil)
			a.create(t, "")
			i, err := a.Invite(time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(after) // of the bubble's clock
			_, open := a.Invitation()
			err = b.Join(t.Context(), b.client(), a.address(), i.Code, "")
			if good := after < owner.InvitationLife; open != good || (err == nil) != good || !good && !errors.Is(err, owner.ErrCode) {
				t.Errorf("after %v: open %t, %v", after, open, err)
			}
		})
	}
}

// TestAManInTheMiddleGainsNothing: m answers in a's place with its own keys,
// and carries everything between the two.
func TestAManInTheMiddleGainsNothing(t *testing.T) {
	w := newWorld()
	a, b, m := w.add(t, 1, nil), w.add(t, 2, nil), w.add(t, 3, nil)
	a.create(t, "")
	code := a.invite(t)
	// b was led to m; m hands on what it gets, as m, for that is the key it has.
	w.meddle = func(from, to identity.Address, r *http.Request) *http.Response {
		if from != b.address() || to != m.address() {
			return nil
		}
		onward := r.Clone(r.Context())
		onward.URL.Host = a.address().String()
		answer, err := trip{w, m.address()}.RoundTrip(onward)
		if err != nil {
			t.Error(err)
		}
		return answer
	}
	if err := b.Join(t.Context(), b.client(), m.address(), code, ""); !errors.Is(err, owner.ErrCode) {
		t.Errorf("b: %v", err)
	}
	if got := a.Own(); len(got.Devices) != 1 {
		t.Errorf("a brought in %v", got.Devices)
	}
	// m plays inviter with an owner of its own, not knowing the code: it shows
	// b what it granted another device by another code.
	m.create(t, "")
	other := w.add(t, 9, nil)
	var granted []byte
	w.meddle = func(_, to identity.Address, r *http.Request) *http.Response {
		body, _ := io.ReadAll(r.Body)
		granted = post(m.handler, other.address(), r.Method, r.URL.Path, body).Body.Bytes()
		return &http.Response{StatusCode: 200, Body: io.NopCloser(bytes.NewReader(granted))}
	}
	if err := other.Join(t.Context(), other.client(), m.address(), m.invite(t), ""); err != nil {
		t.Fatal(err)
	}
	for name, answer := range map[string]string{
		"another code": string(granted),
		"no code":      `{"grant":{"names":{}},"mac":"AAAA"}`,
		"no answer":    `{}`,
	} {
		w.meddle = func(_, _ identity.Address, _ *http.Request) *http.Response {
			return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(answer))}
		}
		if err := b.Join(t.Context(), b.client(), m.address(), code, ""); !errors.Is(err, owner.ErrStranger) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.meddle = nil
	check(t, "b", b.Owner(), identity.Address{})
}

func TestJoinNeedsAProperAnswer(t *testing.T) {
	w := newWorld()
	a, b := w.add(t, 1, nil), w.add(t, 2, nil)
	a.create(t, "")
	answers := map[string]struct {
		status int
		body   string
	}{
		"an error":  {500, "no"},
		"full":      {409, owner.ErrFull.Error()},
		"no JSON":   {200, "{"},
		"too large": {200, strings.Repeat("x", 600<<10)},
	}
	for name, x := range answers {
		w.meddle = func(_, _ identity.Address, _ *http.Request) *http.Response {
			return &http.Response{StatusCode: x.status, Body: io.NopCloser(strings.NewReader(x.body))}
		}
		if err := b.Join(t.Context(), b.client(), a.address(), a.invite(t), ""); !errors.Is(err, owner.ErrAnswer) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.meddle = nil
	if err := b.Join(t.Context(), b.client(), device(77).Address(), a.invite(t), ""); err == nil {
		t.Error("joined by way of nobody")
	}
	if err := b.Join(t.Context(), b.client(), a.address(), a.invite(t), "a\x07"); !errors.Is(err, owner.ErrName) {
		t.Errorf("a bad name: %v", err)
	}
	if err := b.Join(t.Context(), b.client(), a.address(), a.invite(t), strings.Repeat("é", owner.MaxName+1)); !errors.Is(err, owner.ErrName) {
		t.Errorf("a long name: %v", err)
	}
	if err := b.Join(t.Context(), b.client(), a.address(), a.invite(t), strings.Repeat("é", owner.MaxName)); err != nil {
		t.Errorf("the longest name: %v", err)
	}
}

// TestAllWasLost: every device is gone; the words remain. A friend knows
// version 3, and must believe what the new device says.
func TestAllWasLost(t *testing.T) {
	w := newWorld()
	a, b, friend := w.add(t, 1, nil), w.add(t, 2, nil), w.add(t, 4, nil)
	o := a.create(t, "")
	a.bring(t, b, "")
	friend.wanted[o] = true
	if err := a.Revoke(b.address()); err != nil {
		t.Fatal(err)
	}
	a.Spread(t.Context(), a.client(), []identity.Address{friend.address()})
	words, err := a.Words()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Words(); !errors.Is(err, owner.ErrNoKey) {
		t.Errorf("b tells words: %v", err)
	}
	key, err := owner.FromWords(strings.ToUpper(words))
	if err != nil {
		t.Fatal(err)
	}
	asked := false
	fresh := w.add(t, 5, nil)
	fresh.cfg.Newest = func(ctx context.Context, of identity.Address) []byte {
		asked = true
		signed, err := owner.Ask(ctx, fresh.client(), friend.address(), of)
		if err != nil {
			t.Error(err)
		}
		return signed
	}
	// Ask gets an answer only where it is welcome.
	friend.handler = owner.NewHandler(friend.Store, func(identity.Address) bool { return true })
	w.nodes[friend.address()] = friend.handler
	fresh.reopen(t)
	if err := fresh.Restore(t.Context(), key, "new"); err != nil {
		t.Fatal(err)
	}
	if got := fresh.Own(); !asked || got.Owner != o || got.Version != 4 || len(got.Devices) != 2 || !got.HoldsKey {
		t.Errorf("restored %+v, asked %t", got, asked)
	}
	if told := fresh.Spread(t.Context(), fresh.client(), []identity.Address{friend.address()}); len(told) != 1 {
		t.Error("the friend did not take the new roster over")
	}
	check(t, "the new device", friend.OwnerOf(fresh.address()), o)
	if err := fresh.Revoke(a.address()); err != nil {
		t.Errorf("revoke the lost device: %v", err)
	}
	if err := fresh.Restore(t.Context(), key, ""); !errors.Is(err, owner.ErrOwned) {
		t.Errorf("restored twice: %v", err)
	}
}

// TestNobodyKnowsTheNewest: with a clock that is set, the first roster of a
// restored key is above those before; with one that is not, the friend says so
// and the key signs once more.
func TestNobodyKnowsTheNewest(t *testing.T) {
	for name, now := range map[string]int64{"1970": 60, "2026": 1790000000} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			a, friend := w.add(t, 1, nil), w.add(t, 4, nil)
			fresh := w.add(t, 5, func(c *owner.Config) { c.Now = clock(now) })
			o := a.create(t, "")
			friend.wanted[o] = true
			for range 3 {
				a.bring(t, w.add(t, 7, nil), "")
				if err := a.Revoke(device(7).Address()); err != nil {
					t.Fatal(err)
				}
			}
			a.Spread(t.Context(), a.client(), []identity.Address{friend.address()})
			file, _ := a.Backup("secret")
			key, err := owner.FromBackup(file, "secret")
			if err != nil {
				t.Fatal(err)
			}
			if err := fresh.Restore(t.Context(), key, ""); err != nil {
				t.Fatal(err)
			}
			err = fresh.Tell(t.Context(), fresh.client(), friend.address())
			if now > 1e9 {
				if err != nil || fresh.Version(o) <= 1e9 {
					t.Errorf("version %d: %v", fresh.Version(o), err)
				}
				check(t, "the new device", friend.OwnerOf(fresh.address()), o)
				return
			}
			if !errors.Is(err, owner.ErrStale) || !fresh.Own().Revoked || !fresh.Own().HoldsKey {
				t.Errorf("Tell = %v, own %+v", err, fresh.Own())
			}
			if err := fresh.Create(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
			if err := fresh.Tell(t.Context(), fresh.client(), friend.address()); err != nil {
				t.Error(err)
			}
			check(t, "the new device", friend.OwnerOf(fresh.address()), o)
		})
	}
}

func TestLeaving(t *testing.T) {
	w := newWorld()
	a, b := w.add(t, 1, nil), w.add(t, 2, nil)
	if err := b.Leave(); !errors.Is(err, owner.ErrNoOwner) {
		t.Errorf("nobody's device leaves: %v", err)
	}
	first := a.create(t, "")
	if err := a.Create(t.Context(), ""); !errors.Is(err, owner.ErrOwned) {
		t.Errorf("created twice: %v", err)
	}
	a.bring(t, b, "")
	if err := b.Create(t.Context(), ""); !errors.Is(err, owner.ErrOwned) {
		t.Errorf("b makes an owner of its own: %v", err)
	}
	if err := b.Restore(t.Context(), person(9), ""); !errors.Is(err, owner.ErrOwned) {
		t.Errorf("b takes another owner's key: %v", err)
	}
	if err := b.Leave(); err != nil {
		t.Fatal(err)
	}
	if !b.Owner().IsZero() || !b.shown(t).Owner.IsZero() || b.Own().Revoked {
		t.Errorf("b after leaving: %+v", b.Own())
	}
	// The one with the key takes itself off the list first, and says so.
	if err := a.Revoke(a.address()); err != nil {
		t.Fatal(err)
	}
	if a.Own().Version != 3 || !a.Owner().IsZero() || !a.Own().HoldsKey {
		t.Errorf("a after revoking itself: %+v", a.Own())
	}
	if err := a.Leave(); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(a.disk.files["owner.key"], []byte("seed")) {
		t.Error("the key is still there")
	}
	a.reopen(t)
	if second := a.create(t, ""); second == first {
		t.Error("the old owner came back")
	}
}

// TestTheKeyMayMoveToAnotherDevice: b is a's already, and gets the words.
func TestTheKeyMayMoveToAnotherDevice(t *testing.T) {
	w := newWorld()
	a, b := w.add(t, 1, nil), w.add(t, 2, nil)
	o := a.create(t, "box")
	a.bring(t, b, "phone")
	words, _ := a.Words()
	key, err := owner.FromWords(words)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Restore(t.Context(), key, ""); err != nil {
		t.Fatal(err)
	}
	if got := b.Own(); got.Owner != o || !got.HoldsKey || got.Version != 3 || len(got.Devices) != 2 || got.Names[a.address()] != "box" {
		t.Errorf("b: %+v", got)
	}
	if err := b.Tell(t.Context(), b.client(), a.address()); err != nil {
		t.Fatal(err)
	}
	if err := a.Revoke(b.address()); err != nil {
		t.Error(err)
	}
	if a.Version(o) != 4 {
		t.Errorf("a is at version %d", a.Version(o))
	}
}
