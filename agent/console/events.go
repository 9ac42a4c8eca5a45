package console

import (
	"fmt"
	"net/http"
	"time"
)

const (
	// heartbeat is how often a silent stream says that it is alive.
	heartbeat = 20 * time.Second
	// slowReader is how long one event may take to be written; whoever is
	// slower is dropped and comes back by itself.
	slowReader = 10 * time.Second
)

// getEvents streams the status: event "hello" with the build of the page,
// then "status" with an api.Status at once and after each visible change.
func (c *Console) getEvents(w http.ResponseWriter, r *http.Request) {
	s, snapshot := c.feed.open()
	if s == nil {
		refusal{status: http.StatusServiceUnavailable, code: "streams", retry: 30 * time.Second,
			message: "Too many pages are open. Close one, then load this one again."}.write(w, r)
		return
	}
	defer c.feed.remove(s)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	if r.Method == http.MethodHead {
		return
	}
	out := eventWriter{w: w, control: http.NewResponseController(w)}
	hello := fmt.Appendf(nil, `{"build":%q}`, c.feed.build)
	if out.event("hello", hello) != nil || out.event("status", snapshot) != nil {
		return
	}
	c.stream(r, s, out)
}

// stream goes on until the reader goes, is too slow or logs out, or the
// console closes.
func (c *Console) stream(r *http.Request, s *stream, out eventWriter) {
	id := sessionID(r)
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		var err error
		select {
		case <-r.Context().Done():
			return
		case <-c.feed.done:
			return
		case data := <-s.next:
			if !c.sessions.valid(id) {
				return
			}
			err = out.event("status", data)
		case <-beat.C:
			if !c.sessions.valid(id) {
				return
			}
			err = out.write([]byte(":\n\n"))
		}
		if err != nil {
			return
		}
	}
}

// eventWriter writes server-sent events, each within slowReader.
type eventWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func (e eventWriter) event(name string, data []byte) error {
	return e.write(fmt.Appendf(nil, "event: %s\ndata: %s\n\n", name, data))
}

func (e eventWriter) write(text []byte) error {
	if err := e.control.SetWriteDeadline(time.Now().Add(slowReader)); err != nil {
		return err
	}
	if _, err := e.w.Write(text); err != nil {
		return err
	}
	return e.control.Flush()
}
