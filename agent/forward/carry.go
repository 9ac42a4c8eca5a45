package forward

import (
	"context"
	"io"
	"net"
	"sync"
)

// copyBuffer is how much is read at a time, in bytes, in each direction of a
// connection.
const copyBuffer = 32 << 10

// half is a connection of which each direction ends by itself.
type half interface {
	net.Conn
	CloseRead() error
	CloseWrite() error
}

// carry copies both ways until both directions have ended, or ctx does, and
// closes both connections. An end is passed on as an end, anything else as an
// abort, so that what was cut short is seen to be.
func carry(ctx context.Context, a, b half) {
	defer a.Close()
	defer b.Close()
	abort := func() { abortConn(a); abortConn(b) }
	defer context.AfterFunc(ctx, abort)()
	var other sync.WaitGroup
	other.Go(func() { carryOne(b, a, abort) })
	carryOne(a, b, abort)
	other.Wait()
}

// carryOne copies until from has ended or to takes no more.
func carryOne(to, from half, abort func()) {
	buffer := make([]byte, copyBuffer)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				// It may still have something to say.
				from.CloseRead()
				return
			}
		}
		if err == io.EOF {
			to.CloseWrite()
			return
		}
		if err != nil {
			abort()
			return
		}
	}
}

// abortConn ends a connection so that the other end's Read fails: by RST in TCP.
func abortConn(c net.Conn) {
	switch c := c.(type) {
	case interface{ Abort() error }:
		c.Abort()
	case *net.TCPConn:
		c.SetLinger(0)
	}
	c.Close()
}
