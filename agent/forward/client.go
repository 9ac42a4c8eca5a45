package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/overlay"
)

// openLimit is how long a connection may wait for its way to be found and for
// the answer of its target.
const openLimit = 30 * time.Second

// Dialer is what is needed of the overlay.
type Dialer interface {
	Dial(ctx context.Context, to identity.Address, service string) (net.Conn, error)
}

// Dial connects to a service of another device: with "tcp" the connection is an
// *overlay.Conn, with "udp" an *overlay.Packets. The errors are those of Ask
// and of the Dialer.
func Dial(ctx context.Context, d Dialer, to identity.Address, network, name string) (net.Conn, error) {
	conn, err := request(ctx, d, to, question{network: network, name: name})
	if err != nil || network == "tcp" {
		return conn, err
	}
	stream, ok := conn.(*overlay.Conn)
	if !ok {
		conn.Close()
		return nil, errors.New("this connection carries no datagrams")
	}
	packets, err := stream.Packets()
	if err != nil {
		conn.Close()
		return nil, err
	}
	return packets, nil
}

// Check asks whether a device offers a service to this one, without using it.
func Check(ctx context.Context, d Dialer, to identity.Address, network, name string) error {
	conn, err := request(ctx, d, to, question{network: network, name: name, only: true})
	if err == nil {
		conn.Close()
	}
	return err
}

// request opens a stream on which the question q was answered with yes.
func request(ctx context.Context, d Dialer, to identity.Address, q question) (net.Conn, error) {
	if _, err := q.append(nil); err != nil {
		return nil, err
	}
	conn, err := d.Dial(ctx, to, Service)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { abortConn(conn) })
	if err := ask(conn, q); err != nil {
		stop()
		conn.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("ask for %s %s: %w", q.network, q.name, ctx.Err())
		}
		return nil, err
	}
	if !stop() {
		conn.Close()
		return nil, fmt.Errorf("ask for %s %s: %w", q.network, q.name, ctx.Err())
	}
	return conn, nil
}
