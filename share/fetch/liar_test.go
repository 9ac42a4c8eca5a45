package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/share/merkle"
	"porchlight/share/wire"
)

// liar is a peer of which each answer can be replaced.
type liar struct {
	content []byte
	info    *merkle.Info
	head    func(w http.ResponseWriter)
	layer   func(w http.ResponseWriter)
	bytes   func(w http.ResponseWriter, r *http.Request)
}

const honestTag = `"honest"`

func newLiar(n int) *liar {
	l := &liar{content: pattern(n, 1)}
	l.info = root(l.content)
	l.head = func(w http.ResponseWriter) { w.Header().Set("Content-Length", fmt.Sprint(n)) }
	l.layer = func(w http.ResponseWriter) { l.sendLayer(w, l.info) }
	l.bytes = l.send
	return l
}

func (l *liar) sendLayer(w io.Writer, in *merkle.Info) {
	b, _ := in.AppendBinary(nil)
	w.Write(b)
}

// send answers honestly with l.content.
func (l *liar) send(w http.ResponseWriter, r *http.Request) {
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(l.content))
}

func (l *liar) around(http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", honestTag)
		w.Header().Set("Content-Type", "application/octet-stream")
		switch {
		case r.Method == http.MethodHead:
			l.head(w)
		case r.URL.Query().Has(wire.QueryMerkle):
			l.layer(w)
		default:
			l.bytes(w, r)
		}
	})
}

// endless writes until the client hangs up.
func endless(w io.Writer) {
	for b := make([]byte, 64<<10); ; {
		if _, err := w.Write(b); err != nil {
			return
		}
	}
}

func TestLiars(t *testing.T) {
	const k = merkle.MinPieceSize
	const n = 8*k + 10
	for _, c := range []struct {
		name string
		lie  func(*liar)
		want []error // one of
	}{
		{"the truth", func(*liar) {}, []error{nil}},
		{"one wrong byte, always", func(l *liar) { l.content[3*k]++ }, []error{ErrWrongBytes}},
		{"one wrong byte, once", func(l *liar) {
			var once atomic.Bool
			l.bytes = func(w http.ResponseWriter, r *http.Request) {
				c := bytes.Clone(l.content)
				if once.CompareAndSwap(false, true) {
					c[3*k]++
				}
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(c))
			}
		}, []error{nil}},
		{"all bytes wrong", func(l *liar) { l.content = pattern(n, 9) }, []error{ErrWrongBytes}},
		{"hashes of another file", func(l *liar) { l.info = root(pattern(n, 9)) }, []error{ErrWrongBytes}},
		{"one wrong hash", func(l *liar) { l.info.Layer[2][0]++ }, []error{ErrWrongBytes, ErrWrongLayer}},
		{"wrong root", func(l *liar) { l.info.Root[0]++ }, []error{ErrWrongLayer}},
		{"layer of a shorter file", func(l *liar) { l.info = root(l.content[:n-1]) }, []error{ErrWrongLayer}},
		{"layer of a longer file", func(l *liar) { l.info = root(append(bytes.Clone(l.content), 1)) }, []error{ErrWrongLayer}},
		{"layer of 1e9 pieces", func(l *liar) {
			l.layer = func(w http.ResponseWriter) { w.Write(merkle.AppendHeader(nil, 1e9*k)); endless(w) }
		}, []error{ErrWrongLayer}},
		{"endless layer", func(l *liar) {
			l.layer = func(w http.ResponseWriter) { l.sendLayer(w, l.info); endless(w) }
		}, []error{nil}},
		{"layer that is none", func(l *liar) { l.layer = func(w http.ResponseWriter) { endless(w) } }, []error{ErrWrongLayer}},
		{"layer that always ends early", func(l *liar) {
			l.layer = func(w http.ResponseWriter) { w.Write(merkle.AppendHeader(nil, n)) }
		}, []error{ErrGaveUp}},
		{"layer that changes", func(l *liar) {
			var times atomic.Int64
			l.layer = func(w http.ResponseWriter) {
				h := merkle.Hash{byte(times.Add(1))}
				w.Write(append(merkle.AppendHeader(nil, n), h[:]...))
			}
		}, []error{ErrWrongLayer, ErrWrongBytes}},
		{"body without end", func(l *liar) {
			l.bytes = func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", n-1, n))
				w.WriteHeader(http.StatusPartialContent)
				w.Write(l.content)
				endless(w)
			}
		}, []error{nil}},
		{"whole file without end", func(l *liar) { l.bytes = func(w http.ResponseWriter, _ *http.Request) { endless(w) } }, []error{ErrProtocol}},
		{"another range", func(l *liar) {
			l.bytes = func(w http.ResponseWriter, r *http.Request) {
				r.Header.Set("Range", "bytes=5-")
				l.send(w, r)
			}
		}, []error{ErrProtocol}},
		{"file shorter than said", func(l *liar) { l.content = l.content[:5*k] }, []error{ErrProtocol}},
		{"body that always ends early", func(l *liar) {
			l.bytes = func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", n-1, n))
				w.WriteHeader(http.StatusPartialContent)
				w.(http.Flusher).Flush()
			}
		}, []error{ErrGaveUp}},
		{"size of an exabyte", func(l *liar) {
			l.head = func(w http.ResponseWriter) { w.Header().Set("Content-Length", fmt.Sprint(int64(1)<<60)) }
		}, []error{ErrProtocol}},
		{"weak ETag", func(l *liar) { l.head = func(w http.ResponseWriter) { w.Header().Set("ETag", `W/"x"`) } }, []error{ErrProtocol}},
		{"another ETag for the bytes", func(l *liar) {
			l.bytes = func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("ETag", `"other"`)
				r.Header.Del("If-Match")
				l.send(w, r)
			}
		}, []error{ErrChanged}},
		{"silence", func(l *liar) { l.bytes = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() } }, []error{ErrGaveUp}},
		{"busy for ever", func(l *liar) { l.bytes = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) } }, []error{ErrGaveUp}},
		{"explanation without end", func(l *liar) {
			l.bytes = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403); endless(w) }
		}, []error{ErrNotAllowed}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newLiar(n)
			honest := bytes.Clone(l.content)
			c.lie(l)
			p := newPeer(t, l.around)
			p.client.Stall = 300 * time.Millisecond
			_, err := p.get(Options{GiveUpAfter: 500 * time.Millisecond})
			ok := false
			for _, want := range c.want {
				ok = ok || errors.Is(err, want)
			}
			if !ok || err != nil && c.want[0] == nil {
				t.Fatalf("%v, want %v", err, c.want)
			}
			if err != nil {
				p.absent()
			} else {
				p.holds(honest)
			}
		})
	}
}

func TestBombsCostNoMemory(t *testing.T) {
	l := newLiar(100)
	l.layer = func(w http.ResponseWriter) { w.Write(merkle.AppendHeader(nil, 1e9*merkle.MinPieceSize)); endless(w) }
	p := newPeer(t, l.around)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := p.get(Options{}); !errors.Is(err, ErrWrongLayer) {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 4<<20 {
		t.Errorf("allocated %d KiB", got>>10)
	}
}

func TestRetryWaitsLongerAndGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []error
		c := &Client{HTTP: http.DefaultClient}
		p := patience{client: c, stall: DefaultStall, giveUp: DefaultGiveUp, waiting: func(err error) { told = append(told, err) }}
		start, tries := time.Now(), 0
		away := errors.New("away")
		err := p.retry(t.Context(), func(context.Context, func()) error { tries++; return away })
		took := time.Since(start)
		if !errors.Is(err, ErrGaveUp) || !errors.Is(err, away) || took < DefaultGiveUp || took > DefaultGiveUp+longestWait {
			t.Errorf("%v after %v", err, took)
		}
		if tries < 30 || tries > 80 || told[0] != away {
			t.Errorf("%d tries, told %v", tries, told[:1])
		}
	})
}

func TestProgressRenewsPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Client{HTTP: http.DefaultClient}
		p := patience{client: c, stall: time.Second, giveUp: time.Minute, waiting: func(error) {}}
		start, tries := time.Now(), 0
		err := p.retry(t.Context(), func(ctx context.Context, tick func()) error {
			for tries++; tries < 200; {
				tick()
				<-ctx.Done() // silence until the watchdog barks
				return ctx.Err()
			}
			return nil
		})
		if err != nil || time.Since(start) < 200*time.Second {
			t.Errorf("%v after %v and %d tries", err, time.Since(start), tries)
		}
	})
}

func TestFullDiskKeepsThePart(t *testing.T) {
	p := newPeer(t, nil)
	b := pattern(2<<20, 1)
	p.file("f", b)
	p.dst = smallDisk(t) + "/got"
	_, err := p.get(Options{})
	if !errors.Is(err, ErrDiskFull) || !strings.Contains(err.Error(), "make room") {
		t.Fatalf("%v", err)
	}
	p.absent()
	fi, err := os.Stat(p.dst + wire.PartSuffix)
	if err != nil || fi.Size() < 512<<10 {
		t.Fatalf("partial file: %v", err)
	}
}
