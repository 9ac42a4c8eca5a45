package dtls

import (
	"context"
	"errors"
	"net"
)

// ErrNone is the result of every attempt to speak DTLS.
var ErrNone = errors.New("dtls is not part of this program")

// Config has the fields that are set by those who would use it.
type Config struct {
	ServerName         string
	InsecureSkipVerify bool
}

// Conn is never made.
type Conn struct{ net.Conn }

// Client refuses.
func Client(net.Conn, *Config) (*Conn, error) { return nil, ErrNone }

// ClientWithContext refuses.
func ClientWithContext(context.Context, net.Conn, *Config) (*Conn, error) { return nil, ErrNone }
