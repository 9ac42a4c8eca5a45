package netwatch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// dumpTries is how often a dump is asked for that was overtaken by a
	// change while it was read (NLM_F_DUMP_INTR).
	dumpTries = 3
	// dumpTimeout bounds one dump. The kernel makes it up while it is read.
	dumpTimeout = 5 * time.Second
	// drainTime is how long the queue is read after an overrun. It empties
	// in a fraction of that.
	drainTime = 20 * time.Millisecond
	// maxDump is how many messages of one dump are read. A border router has
	// a million routes and more; it is not what this is for.
	maxDump = 1 << 18
)

// errOverrun means that the kernel had to drop messages for us.
var errOverrun = errors.New("netlink queue overrun")

// netlink learns from the kernel. Two sockets, because a dump on the one that
// events come by would mix with them.
type netlink struct {
	events, dumps *os.File
	eventBuf      []byte // wait's
	dumpBuf       []byte // read's
	seq           uint32

	mu    sync.Mutex
	links map[int32]uint32 // flags of interfaces as last heard, by index
}

// groups are the multicast groups of rtnetlink(7) with what is of interest.
const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE

// openNetlink opens both sockets in the network namespace of the thread. The
// error is the kernel's refusal.
func openNetlink() (*netlink, error) {
	events, err := openSocket("netlink events", groups)
	if err != nil {
		return nil, err
	}
	dumps, err := openSocket("netlink dumps", 0)
	if err != nil {
		_ = events.Close()
		return nil, err
	}
	return &netlink{
		events: events, dumps: dumps,
		eventBuf: make([]byte, maxDatagram), dumpBuf: make([]byte, maxDatagram),
		links: make(map[int32]uint32),
	}, nil
}

// openSocket makes a socket that the runtime waits for, so that Close ends a
// read.
func openSocket(name string, groups uint32) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, os.NewSyscallError("socket", err))
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("open %s: %w", name, os.NewSyscallError("bind", err))
	}
	return os.NewFile(uintptr(fd), name), nil
}

// receive reads one datagram that comes from the kernel: its port is 0, and
// nobody else can have that. [errOverrun] if it, or one before it, was lost.
func receive(f *os.File, buf []byte) ([]byte, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	for {
		var n int
		var from unix.Sockaddr
		var failed error
		err = raw.Read(func(fd uintptr) bool {
			n, from, failed = unix.Recvfrom(int(fd), buf, unix.MSG_TRUNC)
			return failed != unix.EAGAIN && failed != unix.EINTR
		})
		switch sender, _ := from.(*unix.SockaddrNetlink); {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, err
		case err != nil: // the runtime has a name of its own for it
			return nil, os.ErrClosed
		case failed == unix.ENOBUFS || n > len(buf):
			return nil, errOverrun
		case failed != nil:
			return nil, os.NewSyscallError("recvfrom", failed)
		case sender != nil && sender.Pid == 0:
			return buf[:n], nil
		}
	}
}

// wait returns nil when the kernel has said something that may be a change,
// and [errOverrun] when it may have.
func (k *netlink) wait() error {
	for {
		b, err := receive(k.events, k.eventBuf)
		if errors.Is(err, errOverrun) {
			return k.drain()
		}
		if err != nil {
			return err
		}
		if k.matter(b) {
			return nil
		}
	}
}

// drain empties the queue after an overrun. Until it is empty the kernel drops
// what comes without telling so again (netlink_overrun), so that a look before
// that could miss a change for good.
func (k *netlink) drain() error {
	defer k.events.SetReadDeadline(time.Time{})
	if err := k.events.SetReadDeadline(time.Now().Add(drainTime)); err != nil {
		return os.ErrClosed
	}
	for {
		_, err := receive(k.events, k.eventBuf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return errOverrun
		case err != nil && !errors.Is(err, errOverrun):
			return err
		}
	}
}

// matter says whether a datagram has a message that may be a change. What
// can't be read may be one.
func (k *netlink) matter(b []byte) bool {
	for len(b) > 0 {
		m, rest, err := nextMessage(b)
		if err != nil || k.mayChange(m) {
			return true
		}
		b = rest
	}
	return false
}

// mayChange keeps most noise from costing a dump: renewed lifetimes remain.
func (k *netlink) mayChange(m message) bool {
	switch m.typ {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		l, err := parseLink(m.body)
		return err != nil || k.linkChanged(l, m.typ == unix.RTM_DELLINK)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		a, err := parseAddress(m.body)
		return err != nil || watched(a.prefix.Addr())
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		_, ok, err := parseRoute(m.body)
		return err != nil || ok
	}
	return false
}

// linkChanged notes the state of an interface and says whether it is another
// than before. Wireless interfaces tell of every scan.
func (k *netlink) linkChanged(l link, gone bool) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	before, known := k.links[l.index]
	if gone {
		delete(k.links, l.index)
		return known
	}
	k.links[l.index] = l.flags
	return !known || link{flags: before}.usable() != l.usable()
}

// read asks the kernel for everything.
func (k *netlink) read() (Snapshot, error) {
	names := make(map[int32]string) // usable interfaces
	flags := make(map[int32]uint32)
	err := k.dump(unix.RTM_GETLINK, func(m message) error {
		l, err := parseLink(m.body)
		if err == nil && m.typ == unix.RTM_NEWLINK {
			flags[l.index] = l.flags
			if l.usable() {
				names[l.index] = l.name
			}
		}
		return err
	})
	if err != nil {
		return Snapshot{}, fmt.Errorf("list interfaces: %w", err)
	}
	var s Snapshot
	if err := k.readAddresses(&s, names); err != nil {
		return Snapshot{}, fmt.Errorf("list addresses: %w", err)
	}
	if err := k.readRoutes(&s, names); err != nil {
		return Snapshot{}, fmt.Errorf("list routes: %w", err)
	}
	k.mu.Lock()
	k.links = flags
	k.mu.Unlock()
	s.order()
	return s, nil
}

func (k *netlink) readAddresses(s *Snapshot, names map[int32]string) error {
	return k.dump(unix.RTM_GETADDR, func(m message) error {
		a, err := parseAddress(m.body)
		if err == nil && m.typ == unix.RTM_NEWADDR && names[a.index] != "" && a.usable() {
			s.add(a.prefix)
		}
		return err
	})
}

func (k *netlink) readRoutes(s *Snapshot, names map[int32]string) error {
	return k.dump(unix.RTM_GETROUTE, func(m message) error {
		r, ok, err := parseRoute(m.body)
		if err != nil || !ok || m.typ != unix.RTM_NEWROUTE {
			return err
		}
		for _, h := range r.hops {
			if name := names[h.index]; name != "" {
				s.addRoute(Route{Gateway: h.gateway, Interface: name, Metric: r.metric})
			}
		}
		return nil
	})
}

// errInterrupted means that a dump was not of one moment.
var errInterrupted = errors.New("netlink dump interrupted by a change")

// dump asks for a list and hands its messages out. When a change overtakes it
// too often, it is taken as it is: the change is an event of its own.
func (k *netlink) dump(typ uint16, each func(message) error) error {
	for try := 1; ; try++ {
		err := k.dumpOnce(typ, each)
		if !errors.Is(err, errInterrupted) {
			return err
		}
		if try == dumpTries {
			return nil
		}
	}
}

func (k *netlink) dumpOnce(typ uint16, each func(message) error) error {
	k.seq++
	if err := k.dumps.SetDeadline(time.Now().Add(dumpTimeout)); err != nil {
		return err
	}
	// struct rtgenmsg with family AF_UNSPEC, padded as struct ifinfomsg, which
	// all kernels accept for every list.
	request := make([]byte, unix.NLMSG_HDRLEN+linkSize)
	native.PutUint32(request, uint32(len(request)))
	native.PutUint16(request[4:], typ)
	native.PutUint16(request[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	native.PutUint32(request[8:], k.seq)
	if _, err := k.dumps.Write(request); err != nil {
		return err
	}
	return k.collect(each)
}

// collect reads the datagrams of a dump up to NLMSG_DONE. What is left of an
// earlier dump is passed over.
func (k *netlink) collect(each func(message) error) error {
	var result error
	for count := 0; ; {
		b, err := receive(k.dumps, k.dumpBuf)
		if err != nil {
			return err
		}
		for len(b) > 0 {
			m, rest, err := nextMessage(b)
			if err != nil {
				return err
			}
			b = rest
			if count++; count > maxDump {
				return fmt.Errorf("%w: more than %d messages", errMalformed, maxDump)
			}
			if m.seq != k.seq {
				continue
			}
			if m.flags&unix.NLM_F_DUMP_INTR != 0 {
				result = errors.Join(result, errInterrupted)
			}
			switch m.typ {
			case unix.NLMSG_DONE:
				return result
			case unix.NLMSG_ERROR:
				return kernelError(m.body)
			}
			if err := each(m); err != nil {
				result = err // to be read to its end all the same
			}
		}
	}
}

// kernelError reads struct nlmsgerr, which begins with a negative errno.
func kernelError(b []byte) error {
	if len(b) < 4 {
		return fmt.Errorf("%w: error of %d bytes", errMalformed, len(b))
	}
	if number := -int32(native.Uint32(b)); number > 0 {
		return unix.Errno(number)
	}
	return io.ErrUnexpectedEOF // an acknowledgement where a list was asked for
}

// Close ends wait.
func (k *netlink) Close() error {
	return errors.Join(k.events.Close(), k.dumps.Close())
}
