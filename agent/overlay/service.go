package overlay

import (
	"fmt"
	"net"
	"sync"
)

// acceptQueue is how many streams wait for a service to accept them; one that
// comes while the queue is full is answered "busy".
const acceptQueue = 16

// services is who listens for which streams.
type services struct {
	mu   sync.Mutex
	open map[string]*listener
}

// listener is a net.Listener for one service.
type listener struct {
	name    string
	streams chan net.Conn
	done    chan struct{}
	once    sync.Once
	owner   *services
}

// Listen accepts the streams of one service.
func (o *Overlay) Listen(service string) (net.Listener, error) {
	if err := checkService(service); err != nil {
		return nil, err
	}
	return o.services.listen(service)
}

func (s *services) listen(name string) (net.Listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[name] != nil {
		return nil, fmt.Errorf("service %q is offered already", name)
	}
	l := &listener{name: name, streams: make(chan net.Conn, acceptQueue), done: make(chan struct{}), owner: s}
	s.open[name] = l
	return l, nil
}

// dispatch hands an incoming stream to the service it names.
func (s *services) dispatch(c *Conn) {
	name, err := c.readService()
	if err != nil {
		c.Close()
		return
	}
	c.works(name)
	s.mu.Lock()
	l := s.open[name]
	s.mu.Unlock()
	if l == nil {
		c.refuse(replyNoService)
		return
	}
	// The reply goes first: once queued, the stream belongs to the service.
	if len(l.streams) == cap(l.streams) {
		c.refuse(replyBusy)
		return
	}
	if _, err := c.stream.Write([]byte{replyOK}); err != nil {
		c.Close()
		return
	}
	select {
	case l.streams <- c:
	case <-l.done:
		c.Close()
	}
}

func (s *services) close() {
	s.mu.Lock()
	all := make([]*listener, 0, len(s.open))
	for _, l := range s.open {
		all = append(all, l)
	}
	s.mu.Unlock()
	for _, l := range all {
		l.Close()
	}
}

// Accept waits for the next stream.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.streams:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close ends the service; streams that wait are closed.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.owner.mu.Lock()
		delete(l.owner.open, l.name)
		l.owner.mu.Unlock()
		close(l.done)
		for {
			select {
			case c := <-l.streams:
				c.Close()
			default:
				return
			}
		}
	})
	return nil
}

// Addr names the service.
func (l *listener) Addr() net.Addr { return serviceAddr(l.name) }

type serviceAddr string

func (serviceAddr) Network() string  { return "porchlight" }
func (a serviceAddr) String() string { return string(a) }
