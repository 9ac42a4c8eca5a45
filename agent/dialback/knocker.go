package dialback

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"porchlight/nat"
	"porchlight/nat/probe"
	"porchlight/nat/stun"
)

const (
	// tcpLimit is how long a connection may take. The kernel repeats a SYN
	// after one second (RFC 6298 §2.1): shorter, so that it sends only one.
	tcpLimit = 700 * time.Millisecond
	// exchangeLimit is how long the question and its answer may take then.
	exchangeLimit = time.Second
	// again is the pause before a UDP knock is repeated.
	again = 150 * time.Millisecond
)

// Knock is one order to knock.
type Knock struct {
	At      netip.AddrPort
	Network string
	Key     probe.Credentials
	// Times is how often a UDP knock is sent.
	Times int
}

// Net knocks over the network, each time from a fresh socket.
type Net struct{}

// Knock knocks once and tells what became of it.
func (Net) Knock(ctx context.Context, k Knock) Outcome {
	question, _, err := probe.Ask(k.Key, "dialback")
	if err != nil {
		return Unable
	}
	if k.Network == UDP {
		return knockUDP(ctx, k, question)
	}
	return knockTCP(ctx, k, question)
}

func knockUDP(ctx context.Context, k Knock, question []byte) Outcome {
	network := "udp6"
	if k.At.Addr().Is4() {
		network = "udp4"
	}
	var lc net.ListenConfig
	conn, err := lc.ListenPacket(ctx, network, ":0")
	if err != nil {
		return Unable
	}
	defer conn.Close()
	sent := Unable
	for i := range k.Times {
		if i > 0 {
			select {
			case <-time.After(again):
			case <-ctx.Done():
				return sent
			}
		}
		if _, err := conn.WriteTo(question, net.UDPAddrFromAddrPort(k.At)); err == nil {
			sent = Sent
		}
	}
	return sent
}

func knockTCP(ctx context.Context, k Knock, question []byte) Outcome {
	d := net.Dialer{Timeout: tcpLimit}
	conn, err := d.DialContext(ctx, "tcp", k.At.String())
	if err != nil {
		return outcomeOf(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(exchangeLimit))
	frame := append(binary.BigEndian.AppendUint16(nil, uint16(len(question))), question...)
	if _, err := conn.Write(frame); err != nil {
		return Silent
	}
	answer, err := readFrame(conn)
	if err != nil {
		return Silent
	}
	if stun.Check(answer) != nil {
		return Wrong
	}
	if _, err := probe.Answered(answer, k.Key); err != nil {
		return Wrong
	}
	return Answered
}

// outcomeOf reads why no connection came about.
func outcomeOf(err error) Outcome {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return Refused
	}
	for _, here := range []error{syscall.ENETUNREACH, syscall.EADDRNOTAVAIL, syscall.EAFNOSUPPORT, syscall.EACCES, syscall.EPERM, syscall.EMFILE} {
		if errors.Is(err, here) {
			return Unable
		}
	}
	return Silent
}

// readFrame reads one packet behind its length (RFC 4571 §2).
func readFrame(r io.Reader) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n > nat.MaxPacket {
		return nil, nat.ErrTooLarge
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}

// knockAll knocks at all places at once. UDP knocks are repeated as far as
// MaxPlaces packets allow.
func knockAll(ctx context.Context, k Knocker, ip netip.Addr, d doors) []Outcome {
	outcomes := make([]Outcome, len(d.Places))
	spare := MaxPlaces - len(d.Places)
	var all sync.WaitGroup
	for i, p := range d.Places {
		order := Knock{At: netip.AddrPortFrom(ip, p.Port), Network: p.Network, Key: d.key(i), Times: 1}
		if p.Network == UDP {
			order.Times, spare = order.Times+spare, 0
		}
		all.Go(func() { outcomes[i] = k.Knock(ctx, order) })
	}
	all.Wait()
	return outcomes
}
