package nat

import (
	"net"
	"sync"
	"time"
)

// readDeadline lets two parties share the one read deadline of the kernel
// socket: the reader's owner, who sets real deadlines, and senders of injected
// packets, who must wake a reader that is blocked in the kernel. The second is
// done by a deadline in the past ("kick"), taken back by the reader.
type readDeadline struct {
	conn *net.UDPConn

	mu     sync.Mutex
	user   time.Time // what SetReadDeadline was told
	kicked bool      // the kernel has the past instead of user
}

// set stores the owner's deadline. While a kick is under way the kernel keeps
// the past deadline, else the reader could fall asleep over a queued packet.
func (d *readDeadline) set(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.user = t
	if d.kicked {
		return nil
	}
	return d.conn.SetReadDeadline(t)
}

// kick wakes a blocked reader. Errors mean that the socket is closed, and then
// nobody is blocked.
func (d *readDeadline) kick() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.kicked {
		d.kicked = true
		_ = d.conn.SetReadDeadline(time.Unix(1, 0))
	}
}

// rearm takes a kick back. The reader calls it before it looks at the queue of
// injected packets and then blocks.
func (d *readDeadline) rearm() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.kicked {
		d.kicked = false
		_ = d.conn.SetReadDeadline(d.user)
	}
}

// expired tells a real deadline from a kick.
func (d *readDeadline) expired() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.user.IsZero() && !time.Now().Before(d.user)
}
