package directory_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"porchlight/agent/directory"
	"porchlight/agent/identity"
	"porchlight/agent/overlay"
	"porchlight/agent/record"
)

// shelf is a table in memory, or one that reaches nobody.
type shelf struct {
	items map[[32]byte]record.Item
	err   error
}

func (s *shelf) Get(_ context.Context, key [32]byte, _ []byte, floor int64, _ func(record.Item) bool) (record.Item, error) {
	if i, ok := s.items[key]; ok && i.Seq >= floor && s.err == nil {
		return i, nil
	}
	return record.Item{}, errors.Join(errors.New("no node has it"), s.err)
}

func (s *shelf) Put(_ context.Context, i record.Item) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	s.items[i.Key] = i
	return 3, nil
}

// called lets a handler be asked as a device asks it.
type called struct {
	handler http.Handler
	caller  identity.Address
}

func (c called) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	r = r.Clone(overlay.WithCaller(r.Context(), c.caller))
	c.handler.ServeHTTP(w, r)
	return w.Result(), nil
}

func person(n byte) *identity.Device { return identity.FromSeed(bytes.Repeat([]byte{n}, 32)) }

func sealed(t *testing.T, d *identity.Device, seq int64) record.Item {
	t.Helper()
	period := record.PeriodAt(d.Address(), time.Unix(1_800_000_000, 0))
	item, err := record.Seal(d, d.Address(), period, seq, []byte("where it is"))
	if err != nil {
		t.Fatal(err)
	}
	return item
}

// byHelper is the table of a device without UDP, and that of its helper.
func byHelper(helper http.Handler) directory.ByHelpers {
	return directory.ByHelpers{
		Own:     &shelf{err: errors.New("no UDP gets out")},
		Client:  &http.Client{Transport: called{helper, person(1).Address()}},
		Helpers: func() []identity.Address { return []identity.Address{person(2).Address()} },
	}
}

func TestErrandsReachTheTable(t *testing.T) {
	far := &shelf{items: map[[32]byte]record.Item{}}
	near := byHelper(directory.NewErrands(far))
	item := sealed(t, person(1), 7)
	if n, err := near.Put(t.Context(), item); err != nil || n != 3 {
		t.Fatalf("Put = %d, %v", n, err)
	}
	seen := false
	got, err := near.Get(t.Context(), item.Key, nil, item.Seq, func(record.Item) bool { seen = true; return true })
	if err != nil || got.Signature != item.Signature || !seen {
		t.Errorf("Get = %+v, %v", got, err)
	}
	if _, err := near.Get(t.Context(), item.Key, nil, item.Seq+1, func(record.Item) bool { return true }); err == nil {
		t.Error("an old item was taken")
	}
	if _, err := near.Get(t.Context(), [32]byte{1}, nil, 0, func(record.Item) bool { return true }); err == nil {
		t.Error("found what nobody put")
	}
}

func TestTheOwnNodeComesFirst(t *testing.T) {
	own := &shelf{items: map[[32]byte]record.Item{}}
	near := byHelper(http.NotFoundHandler())
	near.Own = own
	item := sealed(t, person(1), 1)
	if n, err := near.Put(t.Context(), item); err != nil || n != 3 || len(own.items) != 1 {
		t.Errorf("Put = %d, %v", n, err)
	}
	if _, err := near.Get(t.Context(), item.Key, nil, 0, func(record.Item) bool { return true }); err != nil {
		t.Error(err)
	}
}

func TestLyingHelpers(t *testing.T) {
	item, other := sealed(t, person(1), 7), sealed(t, person(3), 7)
	forged := item
	forged.Value = bytes.Clone(item.Value)
	forged.Value[0] ^= 1
	answer := func(i record.Item) string {
		b, _ := json.Marshal(map[string]any{"key": i.Key, "seq": i.Seq, "value": i.Value, "signature": i.Signature[:]})
		return string(b)
	}
	tests := map[string]string{
		"another's item": answer(other),
		"a forged one":   answer(forged),
		"an older one":   answer(sealed(t, person(1), 6)),
		"nonsense":       "{",
		"too much":       strings.Repeat(" ", 3000) + answer(item),
		"no signature":   fmt.Sprintf(`{"key":[1],"seq":9,"value":"%s"}`, "aaaa"),
	}
	for name, body := range tests {
		t.Run(name, func(t *testing.T) {
			near := byHelper(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) }))
			if got, err := near.Get(t.Context(), item.Key, nil, item.Seq, func(record.Item) bool { return true }); err == nil {
				t.Errorf("took %x", got.Key)
			}
		})
	}
	honest := byHelper(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer(item)) }))
	if _, err := honest.Get(t.Context(), item.Key, nil, item.Seq, func(record.Item) bool { return true }); err != nil {
		t.Errorf("the control: %v", err)
	}
	near := byHelper(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "0") }))
	if _, err := near.Put(t.Context(), item); !errors.Is(err, directory.ErrNoHelper) {
		t.Errorf("Put at a helper that stores nothing: %v", err)
	}
}

func TestErrandsAreBounded(t *testing.T) {
	e := directory.NewErrands(&shelf{items: map[[32]byte]record.Item{}})
	ask := func(caller identity.Address, method, target, body string) int {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(method, target, strings.NewReader(body))
		e.ServeHTTP(w, r.WithContext(overlay.WithCaller(r.Context(), caller)))
		return w.Code
	}
	if code := ask(identity.Address{}, "GET", "/v1/item", ""); code != http.StatusUnauthorized {
		t.Errorf("without a caller: %d", code)
	}
	for _, c := range []struct {
		method, target, body string
		want                 int
	}{
		{"GET", "/v1/item?key=00&floor=0", "", 400},
		{"GET", "/v1/item?key=" + strings.Repeat("00", 32) + "&floor=x", "", 400},
		{"GET", "/v1/item?key=" + strings.Repeat("00", 32) + "&floor=0&salt=" + strings.Repeat("00", 64), "", 404},
		{"GET", "/v1/item?key=" + strings.Repeat("00", 32) + "&floor=0&salt=" + strings.Repeat("00", 65), "", 400},
		{"PUT", "/v1/item", "{}", 400},
		{"PUT", "/v1/item", strings.Repeat(" ", 2049), 413},
		{"PUT", "/v1/item", strings.Repeat(" ", 2048), 400},
		{"POST", "/v1/item", "", 405},
	} {
		if code := ask(person(4).Address(), c.method, c.target, c.body); code != c.want {
			t.Errorf("%s %.40s: %d, want %d", c.method, c.target, code, c.want)
		}
	}
	for n := range 21 {
		want := map[bool]int{true: 404, false: 429}[n < 20]
		if code := ask(person(5).Address(), "GET", "/v1/item?floor=0&key="+strings.Repeat("00", 32), ""); code != want {
			t.Errorf("errand %d of a minute: %d, want %d", n, code, want)
		}
	}
}
