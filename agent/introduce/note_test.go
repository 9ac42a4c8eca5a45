package introduce

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"porchlight/agent/identity"
	"porchlight/agent/sealed"
)

// telling makes a device answer notes: it echoes them behind its mark.
func telling(c *Config) {
	c.WelcomeNote = func(identity.Address) Reception { return Known }
	c.Told = func(_ context.Context, _ identity.Address, body []byte) ([]byte, error) {
		return append([]byte("heard "), body...), nil
	}
}

// threeTelling is three whose device answers notes.
func threeTelling(t *testing.T) (w *world, a, r, b *node) {
	w = newWorld()
	a, r, b = newNode(w, 1, nil), newNode(w, 2, nil), newNode(w, 3, telling)
	b.register(t, r)
	return w, a, r, b
}

func sealedNote(t *testing.T, from *identity.Device, to *node, purpose string, n note) []byte {
	t.Helper()
	message, err := sealNote(from, to.address, purpose, n)
	if err != nil {
		t.Fatal(err)
	}
	return message
}

func TestANoteReachesTheDeviceAndItsAnswerTheSender(t *testing.T) {
	for _, direct := range []bool{false, true} {
		t.Run(fmt.Sprint("direct=", direct), func(t *testing.T) {
			_, a, r, b := threeTelling(t)
			via := r.address
			if direct {
				via = b.address
			}
			answer, err := a.Tell(t.Context(), via, b.address, []byte("hello"), nil)
			if err != nil || string(answer) != "heard hello" {
				t.Errorf("answer %q, %v", answer, err)
			}
		})
	}
}

func TestANoteMayBeSoLong(t *testing.T) {
	_, a, r, b := threeTelling(t)
	for size, want := range map[int]error{0: nil, MaxNote - 6: nil, MaxNote - 5: ErrNotHere, MaxNote + 1: sealed.ErrTooLarge} {
		answer, err := a.Tell(t.Context(), r.address, b.address, make([]byte, size), nil)
		if !errors.Is(err, want) || err == nil && len(answer) != size+6 {
			t.Errorf("%d bytes: %d answered, %v, want %v", size, len(answer), err, want)
		}
	}
}

func TestEveryHostileNoteIsAnsweredAsIfNobodyWereThere(t *testing.T) {
	w, a, r, b := threeTelling(t)
	eve := newNode(w, 7, nil)
	fresh := func() note { return note{b.Epoch(), sealed.NewNonce(), []byte("x")} }
	forged := sealedNote(t, a.device, b, purposeNote, fresh())
	forged[len(forged)-1] ^= 1
	version := sealedNote(t, a.device, b, purposeNote, fresh())
	version[0] = sealed.Version + 1
	short, err := sealed.Seal(a.device, b.address, purposeNote, make([]byte, noteHeader-1))
	if err != nil {
		t.Fatal(err)
	}
	seen := sealedNote(t, a.device, b, purposeNote, fresh())
	if got := send(t, b, a.address, "POST", "/v1/note?to="+b.address.String(), seen); got.Code != 200 {
		t.Fatalf("the first time: %d", got.Code)
	}
	stale := fresh()
	stale.epoch = sealed.NewNonce()
	nobody := newNode(newWorld(), 8, nil).address
	absent := send(t, r, a.address, "POST", "/v1/note?to="+nobody.String(), []byte("x"))
	tests := []struct {
		name    string
		message []byte
		want    int
	}{
		{"nothing", nil, 404},
		{"garbage", bytes.Repeat([]byte{1}, 500), 404},
		{"another version", version, 404},
		{"a forged one", forged, 404},
		{"one for another device", sealedNote(t, a.device, r, purposeNote, fresh()), 404},
		{"one for another purpose", sealedNote(t, a.device, b, purposeNoteAnswer, fresh()), 404},
		{"an offer", sealOffer(t, a, b, purposeOffer, Offer{Epoch: b.Epoch(), Session: sealed.NewNonce(), ICE: description(1)}), 404},
		{"one without a header", short, 404},
		{"one seen before", seen, 404},
		{"one of another epoch", sealedNote(t, eve.device, b, purposeNote, stale), 409},
		{"one byte too much", make([]byte, sealed.MaxMessage+1), 413},
		{"as much as may be", make([]byte, sealed.MaxMessage), 404},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, at := range []*node{b, r} {
				got := send(t, at, a.address, "POST", "/v1/note?to="+b.address.String(), tt.message)
				if got.Code != tt.want {
					t.Errorf("%d %s, want %d", got.Code, got.Body, tt.want)
				}
				if tt.want == 404 && (got.Body.String() != absent.Body.String() || got.Header().Get(knownHeader) != "") {
					t.Errorf("the answer %q differs from that about the absent, %q", got.Body, absent.Body)
				}
			}
		})
	}
}

func TestHowNotesAreReceived(t *testing.T) {
	refuses := func(context.Context, identity.Address, []byte) ([]byte, error) { return nil, errors.New("no") }
	tests := []struct {
		name         string
		how          Reception
		told         func(context.Context, identity.Address, []byte) ([]byte, error)
		want         error
		heard, known bool
	}{
		{"unheard", Unheard, nil, ErrNotHere, false, false},
		{"unanswered", Unanswered, nil, ErrNotHere, true, false},
		{"a stranger's", Stranger, nil, nil, true, false},
		{"one of who is known", Known, nil, nil, true, true},
		{"refused", Known, refuses, ErrNotHere, true, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, a, r, b := threeTelling(t)
			heard := false
			b.Server.cfg.WelcomeNote = func(identity.Address) Reception { return tt.how }
			told := b.Server.cfg.Told
			if tt.told != nil {
				told = tt.told
			}
			b.Server.cfg.Told = func(ctx context.Context, from identity.Address, body []byte) ([]byte, error) {
				heard = from == a.address && string(body) == "x"
				return told(ctx, from, body)
			}
			_, err := a.Tell(t.Context(), r.address, b.address, []byte("x"), nil)
			if !errors.Is(err, tt.want) || heard != tt.heard {
				t.Errorf("%v, heard %v", err, heard)
			}
			n := note{b.Epoch(), sealed.NewNonce(), nil}
			got := send(t, b, r.address, "POST", "/v1/note?to="+b.address.String(), sealedNote(t, a.device, b, purposeNote, n))
			if known := got.Header().Get(knownHeader) != ""; known != tt.known {
				t.Errorf("says that it knows the sender: %v", known)
			}
			// Who is not answered must not learn that there is an epoch.
			n.epoch, n.session = sealed.NewNonce(), sealed.NewNonce()
			got = send(t, b, r.address, "POST", "/v1/note?to="+b.address.String(), sealedNote(t, a.device, b, purposeNote, n))
			if conflict := got.Code == 409; conflict != (tt.how >= Stranger) {
				t.Errorf("another epoch: %d", got.Code)
			}
		})
	}
}

func TestADeviceWithoutNotesIsAbsentToThem(t *testing.T) {
	_, a, r, b := three(t)
	if _, err := a.Tell(t.Context(), r.address, b.address, nil, nil); !errors.Is(err, ErrNotHere) {
		t.Error(err)
	}
}

func TestNotesAreLimited(t *testing.T) {
	_, a, r, b := threeTelling(t)
	target := "/v1/note?to=" + b.address.String()
	for i := range carriedNotesPerMinute + 1 {
		got := send(t, r, a.address, "POST", target, []byte("x"))
		if want := map[bool]int{true: 404, false: 429}[i < carriedNotesPerMinute]; got.Code != want {
			t.Fatalf("note %d of a caller: %d, want %d", i+1, got.Code, want)
		}
	}
	// Calls have an allowance of their own.
	if _, err := a.Offer(t.Context(), r.address, b.address, Offer{ICE: description(1)}); err != nil {
		t.Errorf("a call after a flood of notes: %v", err)
	}
	other := newNode(newWorld(), 8, nil)
	for i := range notesPerMinute + 1 {
		n := note{b.Epoch(), sealed.NewNonce(), nil}
		got := send(t, b, r.address, "POST", target, sealedNote(t, other.device, b, purposeNote, n))
		if ok := got.Code == 200; ok != (i < notesPerMinute) {
			t.Fatalf("note %d of a sender: %d", i+1, got.Code)
		}
	}
	if _, err := r.Tell(t.Context(), b.address, b.address, nil, nil); err != nil {
		t.Errorf("another sender: %v", err)
	}
}

func TestAThousandStrangersAreHeardNoMoreThanAFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // so that no time passes
		_, _, r, b := threeTelling(t)
		heard := 0
		friend := newNode(newWorld(), 8, nil)
		b.Server.cfg.WelcomeNote = func(a identity.Address) Reception {
			if a == friend.address {
				return Known
			}
			return Stranger
		}
		b.Server.cfg.Told = func(context.Context, identity.Address, []byte) ([]byte, error) {
			heard++
			return nil, nil
		}
		target := "/v1/note?to=" + b.address.String()
		for i := range strangersPerMinute + 10 {
			seed := make([]byte, 32)
			binary.BigEndian.PutUint32(seed, uint32(i+1))
			n := note{b.Epoch(), sealed.NewNonce(), nil}
			// They come by as many rendezvous as they like.
			send(t, b, key(i), "POST", target, sealedNote(t, identity.FromSeed(seed), b, purposeNote, n))
		}
		for i := range 1000 { // as if opened
			if b.hear(key(i), Stranger, note{b.Epoch(), sealed.NewNonce(), nil}) == nil {
				heard++
			}
		}
		if heard != strangersPerMinute {
			t.Errorf("%d strangers were heard, the limit is %d a minute", heard, strangersPerMinute)
		}
		n := note{b.Epoch(), sealed.NewNonce(), nil}
		got := send(t, b, r.address, "POST", target, sealedNote(t, friend.device, b, purposeNote, n))
		if got.Code != 200 || heard != strangersPerMinute+1 {
			t.Errorf("a friend among them: %d", got.Code)
		}
	})
}

func TestAChangedEpochOfNotesIsFetchedAnew(t *testing.T) {
	_, a, r, b := threeTelling(t)
	if _, err := b.Register(t.Context(), r.address, sealed.NewNonce()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Tell(t.Context(), r.address, b.address, nil, nil); err != nil {
		t.Errorf("the rendezvous knew an old epoch: %v", err)
	}
}

func TestALyingRendezvousCannotAnswerANote(t *testing.T) {
	w, a, r, b := threeTelling(t)
	eve := newNode(w, 7, nil)
	answer := func(from *node, purpose string) []byte {
		m, err := sealNote(from.device, a.address, purpose, note{session: sealed.NewNonce()})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	tests := []struct {
		name string
		body io.Reader
		want error
	}{
		{"garbage", bytes.NewReader(bytes.Repeat([]byte{1}, 300)), sealed.ErrMessage},
		{"without end", endless{}, sealed.ErrTooLarge},
		{"an answer of an earlier note", bytes.NewReader(answer(b, purposeNoteAnswer)), sealed.ErrReplayed},
		{"an answer of somebody else", bytes.NewReader(answer(eve, purposeNoteAnswer)), sealed.ErrReplayed},
		{"a note of the recipient", bytes.NewReader(answer(b, purposeNote)), sealed.ErrMessage},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w.put(r.address, rawHandler(func(q *http.Request) *http.Response {
				if q.URL.Path == "/v1/epoch" {
					return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(fmt.Sprintf(`{"epoch":"%032d"}`, 1)))}
				}
				return &http.Response{StatusCode: 200, Body: io.NopCloser(tt.body)}
			}))
			answer, err := a.Tell(t.Context(), r.address, b.address, nil, nil)
			if !errors.Is(err, tt.want) || answer != nil {
				t.Errorf("%q, %v, want %v", answer, err, tt.want)
			}
		})
	}
}

func TestADeviceCannotPutWordsAboutNotesInTheRendezvousMouth(t *testing.T) {
	w, a, r, b := threeTelling(t)
	for status, want := range map[int]int{0: 502, 302: 502, 500: 502, 200: 200, 403: 403, 404: 404, 409: 409, 429: 429} {
		w.put(b.address, rawHandler(func(*http.Request) *http.Response {
			return &http.Response{StatusCode: status, Body: endless{}}
		}))
		got := send(t, r, a.address, "POST", "/v1/note?to="+b.address.String(), []byte("x"))
		if got.Code != want || got.Body.Len() > sealed.MaxMessage {
			t.Errorf("device said %d, rendezvous %d with %d bytes, want %d", status, got.Code, got.Body.Len(), want)
		}
	}
}

func FuzzParseNote(f *testing.F) {
	f.Add(make([]byte, noteHeader-1))
	f.Add(make([]byte, noteHeader))
	f.Add(make([]byte, noteHeader+1))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := parseNote(b)
		if err != nil {
			if !errors.Is(err, ErrNote) || len(b) >= noteHeader {
				t.Fatalf("%d bytes: %v", len(b), err)
			}
			return
		}
		again := append(append(n.epoch[:], n.session[:]...), n.body...)
		if !bytes.Equal(again, b) {
			t.Fatalf("read %x, would write %x", b, again)
		}
	})
}
