package mail

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"porchlight/agent/sealed"
)

func TestParseBodyRefuses(t *testing.T) {
	good := text(3, 2, "words").marshal()
	change := func(at int, to ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at:], to)
		return b
	}
	tests := []struct {
		name string
		body []byte
	}{
		{"nothing", nil},
		{"255 bytes", good[:255]},
		{"257 bytes", append(bytes.Clone(good), 0)},
		{"a larger class than needed", append(bytes.Clone(good), make([]byte, 256)...)},
		{"kind 0", change(0, 0)},
		{"kind 3", change(0, 3)},
		{"stream 0", change(1, make([]byte, 8)...)},
		{"number 0", change(9, make([]byte, 8)...)},
		{"number beyond", change(9, 1)},
		{"floor 0", change(17, make([]byte, 8)...)},
		{"floor above the number", change(24, 4)},
		{"a flag", change(41, 2)},
		{"a copy to nobody", change(41, 1)},
		{"no copy but a contact", change(42, bytes.Repeat([]byte{1}, 33)...)},
		{"a contact of another kind", change(41, append(bytes.Repeat([]byte{1}, 33), 7)...)},
		{"written before 1970", change(75, 0xff)},
		{"no text", change(83, 0, 0)},
		{"text beyond the body", change(83, 0, 200)},
		{"text too long", change(83, 0xff, 0xff)},
		{"no zeros behind", change(255, 1)},
	}
	if _, err := parseBody(good); err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		if b, err := parseBody(tt.body); err == nil {
			t.Errorf("%s: %+v", tt.name, b)
		}
	}
	for _, size := range []int{1, 256 - textHead, 257 - textHead, 512 - textHead, 513 - textHead, MaxText} {
		want := text(1, 1, strings.Repeat("x", size))
		if got, err := parseBody(want.marshal()); err != nil || got.text != want.text {
			t.Errorf("text of %d bytes: %v", size, err)
		}
	}
	if _, err := parseBody((&body{kind: kindText, stream: 1, seq: 1, floor: 1, text: strings.Repeat("x", MaxText+1)}).marshal()); err == nil {
		t.Error("a text of one byte too much")
	}
}

func FuzzParseBody(f *testing.F) {
	f.Add(text(1, 1, "hello").marshal())
	f.Add((&body{kind: kindReceipt, stream: 7, seq: 3}).marshal())
	copied := text(1, 1, strings.Repeat("x", 500))
	copied.copied, copied.contact = true, address(1)
	f.Add(copied.marshal())
	f.Fuzz(func(t *testing.T, e []byte) {
		b, err := parseBody(e)
		if err == nil && !bytes.Equal(b.marshal(), e) {
			t.Fatalf("%x became %x", e, b.marshal())
		}
	})
}

func FuzzRequests(f *testing.F) {
	f.Add("PUT", "/v1/deliver", []byte("x"), byte(1))
	f.Add("POST", "/v1/deposit?to="+address(9).String()+"&ttl=60&ref="+ref(1), []byte("x"), byte(1))
	f.Add("GET", "/v1/ack?stream=7", []byte{}, byte(1))
	f.Add("PUT", "/v1/deliver", text(1, 1, "hello").marshal(), byte(1))
	f.Fuzz(func(t *testing.T, method, target string, message []byte, seal byte) {
		u, err := url.ParseRequestURI(target)
		if err != nil || strings.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" || method == "" {
			return
		}
		w := newWorld(t)
		w.add(1)
		b := w.add(2)
		defer w.close()
		if seal%2 == 1 && len(message) <= sealed.MaxBody {
			message, _ = sealed.Seal(device(1), address(2), purpose, message)
		}
		if got := ask(b.handler, address(1), method, "http://x"+u.RequestURI(), message).StatusCode; got >= 500 && got != 507 {
			t.Fatalf("%s %s: %d", method, target, got)
		}
	})
}

func FuzzReply(f *testing.F) {
	f.Add(200, []byte(`{"last":1,"id":"00000000000000000000000000000000","receipt":"AA=="}`))
	f.Add(409, []byte(`{"want":1}`))
	f.Fuzz(func(t *testing.T, status int, answer []byte) {
		w := newWorld(t)
		a, b := w.add(1), w.add(2)
		defer w.close()
		a.mail.cfg.Client = &http.Client{Transport: fixed{status, answer}}
		item := shipment{seq: 1, body: *text(1, 1, "x")}
		last, _, err := a.mail.offer(t.Context(), b.address(), item, false)
		if err == nil && (status != 200 || last < 1) {
			t.Fatalf("%d %q: last %d", status, answer, last)
		}
	})
}

// fixed answers every request alike.
type fixed struct {
	status int
	answer []byte
}

func (f fixed) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: f.status, Body: io.NopCloser(bytes.NewReader(f.answer))}, nil
}
