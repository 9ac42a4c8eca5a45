package mail

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/sealed"
)

// text is a well-formed message number seq of stream 7.
func text(seq, floor uint64, words string) *body {
	return &body{kind: kindText, stream: 7, seq: seq, floor: floor, id: messageID{byte(seq), byte(floor), byte(len(words))}, text: words}
}

func seal(t *testing.T, from, to byte, inside []byte) []byte {
	t.Helper()
	b, err := sealed.Seal(device(from), address(to), purpose, inside)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// deliver brings a sealed message to b as caller.
func deliver(t *testing.T, b *node, caller byte, message []byte) (int, reply) {
	t.Helper()
	response := ask(b.handler, address(caller), http.MethodPut, "http://x/v1/deliver", message)
	var r reply
	body, _ := io.ReadAll(response.Body)
	if err := json.Unmarshal(body, &r); err != nil {
		t.Errorf("answer %q: %v", body, err)
	}
	return response.StatusCode, r
}

func deposit(n *node, from byte, to identity.Address, ttl, ref string, message []byte) int {
	q := url.Values{"to": {to.String()}, "ttl": {ttl}, "ref": {ref}}
	return ask(n.handler, address(from), http.MethodPost, "http://x/v1/deposit?"+q.Encode(), message).StatusCode
}

func ref(n int) string {
	b := parcelRef{0: byte(n), 1: byte(n >> 8)}
	return hex.EncodeToString(b[:])
}

func TestAHelperCannotRepeatReorderHoldBackOrForge(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.add(1)
		b := w.add(2)
		w.add(3)
		one, two, three := seal(t, 1, 2, text(1, 1, "one").marshal()), seal(t, 1, 2, text(2, 1, "two").marshal()), seal(t, 1, 2, text(3, 1, "three").marshal())
		late := seal(t, 1, 2, text(6, 6, "six").marshal())
		flipped := bytes.Clone(one)
		flipped[90] ^= 1
		steps := []struct {
			name    string
			caller  byte
			message []byte
			status  int
			texts   string
		}{
			{"the second first", 3, two, http.StatusConflict, ""},
			{"forged", 3, flipped, http.StatusNotFound, ""},
			{"to somebody else", 3, seal(t, 1, 3, text(1, 1, "x").marshal()), http.StatusNotFound, ""},
			{"the first", 3, one, http.StatusOK, "one"},
			{"the first again", 3, one, http.StatusOK, "one"},
			{"by another", 1, one, http.StatusOK, "one"},
			{"a gap", 3, three, http.StatusConflict, "one"},
			{"the second", 3, two, http.StatusOK, "one two"},
			{"the sixth, what lies between expired", 3, late, http.StatusOK, "one two six"},
			{"the third, held back", 3, three, http.StatusOK, "one two six"},
		}
		for _, s := range steps {
			status, r := deliver(t, b, s.caller, s.message)
			if status != s.status {
				t.Errorf("%s: %d %+v", s.name, status, r)
			}
			if s.caller == 3 && (r.Last != 0 || r.ID != "" || r.Want != 0) {
				t.Errorf("%s: the helper is told %+v", s.name, r)
			}
			var got []string
			for _, m := range b.mail.List(address(1), "", 0) {
				got = append(got, m.Text)
			}
			if strings.Join(got, " ") != s.texts {
				t.Errorf("%s: %q, want %q", s.name, got, s.texts)
			}
		}
		pass(5 * 24 * time.Hour)
		b.mail.Close()
		b.start()
		for _, m := range [][]byte{one, two, three, late} {
			deliver(t, b, 3, m)
		}
		if n := len(b.mail.List(address(1), "", 0)); n != 3 {
			t.Errorf("after replays and a restart %d messages", n)
		}
	})
}

func TestTheSenderIsToldHowFarItsStreamIs(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.add(1)
		b := w.add(2)
		if status, r := deliver(t, b, 1, seal(t, 1, 2, text(3, 2, "x").marshal())); status != http.StatusConflict || r.Want != 2 {
			t.Errorf("a gap: %d %+v", status, r)
		}
		for seq := uint64(2); seq < 4; seq++ {
			deliver(t, b, 1, seal(t, 1, 2, text(seq, 2, "x").marshal()))
		}
		for _, tt := range []struct {
			caller byte
			stream string
			status int
			last   uint64
		}{
			{1, "7", 200, 3}, {1, "8", 200, 0}, {2, "7", 404, 0}, {9, "7", 404, 0},
			{1, "0", 400, 0}, {1, "", 400, 0}, {1, "x", 400, 0}, {1, "10000000000000000", 400, 0},
		} {
			response := ask(b.handler, address(tt.caller), http.MethodGet, "http://x/v1/ack?stream="+tt.stream, nil)
			var r reply
			json.NewDecoder(response.Body).Decode(&r)
			if response.StatusCode != tt.status || r.Last != tt.last {
				t.Errorf("%+v: %d %+v", tt, response.StatusCode, r)
			}
		}
	})
}

func TestStrangersAreAnsweredAsIfNothingWereHere(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		b := w.add(2)
		stranger := seal(t, 9, 2, text(1, 1, "buy").marshal())
		garbage := bytes.Repeat([]byte{1}, len(stranger))
		s1, r1 := deliver(t, b, 9, stranger)
		s2, r2 := deliver(t, b, 9, garbage)
		if s1 != http.StatusNotFound || s1 != s2 || fmt.Sprint(r1) != fmt.Sprint(r2) {
			t.Errorf("%d %+v, garbage %d %+v", s1, r1, s2, r2)
		}
		if n := b.mail.Stats().Messages; n != 0 {
			t.Errorf("%d messages", n)
		}
		if got := ask(b.handler, identity.Address{}, http.MethodPut, "http://x/v1/deliver", stranger).StatusCode; got != http.StatusUnauthorized {
			t.Errorf("without a key: %d", got)
		}
	})
}

func TestACopyOfAStrangersOwnIsNoMessageOfTheOwner(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.add(1)
		b := w.add(2)
		c := w.add(3)
		m := text(1, 1, "I owe you")
		m.copied, m.contact = true, c.person
		if status, _ := deliver(t, b, 1, seal(t, 1, 2, m.marshal())); status != http.StatusOK {
			t.Errorf("status %d", status)
		}
		list := b.mail.List(identity.Address{}, "", 0)
		if len(list) != 1 || list[0].Out || list[0].Contact != address(1) {
			t.Errorf("%+v", list)
		}
	})
}

func TestWordsOfOthersCannotHarmATerminal(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.add(1)
		b := w.add(2)
		deliver(t, b, 1, seal(t, 1, 2, text(1, 1, "a\x1b[2J\xff\u009bb\n").marshal()))
		if got := b.mail.List(address(1), "", 0)[0].Text; got != "a\uFFFD[2J\uFFFD\uFFFDb\n" {
			t.Errorf("%q", got)
		}
	})
}

func TestAFullHelperSaysSoAndAnotherIsTaken(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b, h1, h2, h3 := w.add(1), w.add(2), w.add(3), w.add(4), w.add(5)
		a.helpers = []identity.Address{h1.address(), h2.address(), h3.address()}
		b.set(false)
		for i := range maxHeldPair {
			if got := deposit(h1, 1, b.address(), "3600", ref(i), []byte("x")); got != 200 {
				t.Fatalf("message %d: %d", i, got)
			}
		}
		if got := deposit(h1, 1, b.address(), "3600", ref(99), []byte("x")); got != http.StatusInsufficientStorage {
			t.Errorf("one more: %d", got)
		}
		a.send(b, "x")
		synctest.Wait()
		if h2.mail.Stats().Held != 1 || h3.mail.Stats().Held != 1 {
			t.Errorf("held: %d, %d", h2.mail.Stats().Held, h3.mail.Stats().Held)
		}
		// Room comes when what is held has outlived its time.
		pass(2 * time.Hour)
		if got := deposit(h1, 1, b.address(), "3600", ref(99), []byte("x")); got != 200 {
			t.Errorf("after the others expired: %d", got)
		}
	})
}

// A recipient that lies in its answers can spoil its own conversation only,
// and cannot make the sender work without end.
func TestARecipientThatLies(t *testing.T) {
	big := strings.Repeat("x", maxReply)
	for _, answer := range []string{
		`{"last":99,"id":"00000000000000000000000000000000"}`, `{"last":1,"id":"00000000000000000000000000000000"}`,
		`{"last":0}`, `{}`, `{"last":-1}`, `{"last":18446744073709551615,"id":"00000000000000000000000000000000"}`,
		`{"last":1}`, `{"last":1,"id":"x"}`, `[`, ``, `{"id":"` + big + `"}`,
	} {
		for _, status := range []int{200, 409, 500, 302, 404, 429} {
			inBubble(t, func(t *testing.T, w *world) {
				a, b := w.add(1), w.add(2)
				b.answerBy(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
					rw.WriteHeader(status)
					io.WriteString(rw, answer)
				}))
				a.send(b, "x")
				pass(10 * time.Hour)
				if n := w.requests("PUT /v1/deliver"); n > 40 {
					t.Errorf("%d %.40s: %d requests in ten hours", status, answer, n)
				}
				a.states(b, Waiting)
				b.answerBy(b.mail.Handler())
				pass(time.Hour)
				b.has(a, "x")
			})
		}
	}
}

func TestAHelperThatLies(t *testing.T) {
	for _, tt := range []struct {
		name    string
		handler http.HandlerFunc
	}{
		{"drops everything", func(http.ResponseWriter, *http.Request) {}},
		{"refuses", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }},
		{"endless", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, strings.Repeat("x", 1<<20)) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				a, b, h := w.add(1), w.add(2), w.add(3)
				a.helpers = []identity.Address{h.address()}
				h.answerBy(tt.handler)
				b.set(false)
				a.send(b, "x")
				pass(6 * 24 * time.Hour)
				if n := w.requests("POST /v1/deposit"); n > 6*24+10 {
					t.Errorf("%d deposits in six days", n)
				}
				b.set(true)
				synctest.Wait()
				b.has(a, "x")
				a.states(b, Delivered)
			})
		})
	}
}

func TestReceiptsOfOthersConfirmNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b, eve := w.add(1), w.add(2), w.add(3)
		b.set(false)
		a.send(b, "x")
		synctest.Wait()
		o := a.mail.store.out[b.address()]
		for _, from := range []byte{2, 3} {
			for _, last := range []uint64{1, 2} {
				receipt := &body{kind: kindReceipt, stream: o.stream, seq: last}
				deliver(t, a, 3, seal(t, from, 1, receipt.marshal()))
			}
		}
		synctest.Wait()
		a.states(b, Waiting)
		b.set(true)
		synctest.Wait()
		b.has(a, "x")
		eve.has(a)
	})
}

// A damaged log keeps what can be read, and gives no number a second time.
func TestADamagedLog(t *testing.T) {
	for at := range 8 {
		inBubble(t, func(t *testing.T, w *world) {
			a, b := w.add(1), w.add(2)
			a.send(b, "one")
			a.send(b, "two")
			synctest.Wait()
			a.mail.Close()
			for _, n := range a.fs.now {
				if len(n.content) > 0 {
					n.content = bytes.Clone(n.content)
					n.content[at*(len(n.content)-1)/7] ^= 0xff
				}
			}
			a.start()
			if a.mail.Stats().Damaged != 1 {
				t.Errorf("damage is not told: %+v", a.mail.Stats())
			}
			a.send(b, "three")
			a.send(b, "four")
			synctest.Wait()
			b.has(a, "one", "two", "three", "four")
			a.mail.Close()
			a.start()
			if a.mail.Stats().Damaged != 0 {
				t.Error("the log was not mended")
			}
		})
	}
}

// One of three that wait is lost in a damaged log: by helpers alone the two
// others arrive.
func TestAGapFromDamageHoldsNothingUp(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b, h := w.add(1), w.add(2), w.add(3)
		b.set(false)
		for _, words := range []string{"one", "two", "three"} {
			a.send(b, words)
		}
		synctest.Wait()
		a.mail.Close()
		log := a.fs.now[messagesLog]
		log.content = bytes.Clone(log.content)
		log.content[bytes.Index(log.content, []byte("two"))] ^= 1
		a.helpers = []identity.Address{h.address()}
		a.start()
		synctest.Wait()
		a.set(false)
		b.set(true)
		synctest.Wait()
		b.has(a, "one", "three")
	})
}

func TestAHelperKeepsWhatTheRecipientCouldNotTake(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b, h := w.add(1), w.add(2), w.add(3)
		a.set(false)
		b.set(false)
		two, one := seal(t, 1, 2, text(2, 1, "two").marshal()), seal(t, 1, 2, text(1, 1, "one").marshal())
		four := seal(t, 1, 2, text(4, 1, "four").marshal())
		for i, m := range [][]byte{two, four, one} {
			deposit(h, 1, b.address(), "360000", ref(i), m)
		}
		b.fs.dead = b.fs.ops + 1
		b.set(true)
		synctest.Wait()
		b.has(a)
		if n := h.mail.Stats().Held; n != 3 {
			t.Errorf("%d are held for a recipient whose disk fails", n)
		}
		b.fs.dead = 0
		h.mail.Came(b.address())
		synctest.Wait()
		b.has(a, "one", "two")
		if items := h.mail.mailbox.waiting(b.address()); len(items) != 1 || !bytes.Equal(items[0].sealed, four) {
			t.Errorf("%d are held, not the one behind the gap", len(items))
		}
	})
}

func TestAHelperThatComesLaterIsUsed(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b, h := w.add(1), w.add(2), w.add(3)
		a.helpers = []identity.Address{h.address()}
		b.set(false)
		h.set(false)
		a.send(b, "x")
		pass(10 * time.Minute)
		a.states(b, Waiting)
		tries := w.requests("PUT /v1/deliver")
		h.set(true)
		synctest.Wait()
		a.states(b, Stored)
		pass(time.Minute)
		if n := w.requests("PUT /v1/deliver"); n != tries {
			t.Error("a helper that comes makes the device try the recipient out of turn")
		}
	})
}

func TestHeldMessagesAndClocks(t *testing.T) {
	y2026 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	tests := []struct {
		name         string
		before, then time.Time
		held         int
	}{
		{"no clock", time.Time{}, time.Time{}, 1},
		{"set since", time.Time{}, y2026, 1},
		{"1970 after a reboot", y2026, time.Time{}, 1},
		{"a day back", y2026, y2026.AddDate(0, 0, -1), 1},
		{"an hour less a second", y2026, y2026.Add(time.Hour - time.Second), 1},
		{"an hour", y2026, y2026.Add(time.Hour), 0},
	}
	for _, tt := range tests {
		inBubble(t, func(t *testing.T, w *world) {
			w.add(1)
			h := w.add(3)
			h.setWall(tt.before)
			deposit(h, 1, address(9), "3600", ref(1), []byte("x"))
			h.mail.Close()
			h.setWall(tt.then)
			h.start()
			pass(20 * time.Minute)
			if n := h.mail.Stats().Held; n != tt.held {
				t.Errorf("%s: %d held, want %d", tt.name, n, tt.held)
			}
		})
	}
}
