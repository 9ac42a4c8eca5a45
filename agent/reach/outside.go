package reach

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	pion "github.com/pion/stun/v2"
)

const (
	// outsideAfter is how long there must be no registration until the
	// network is asked what is wrong, and outsideEvery how often then.
	outsideAfter = 3 * time.Second
	outsideEvery = 15 * time.Second
	// outsideLimit is how long one connection may take.
	outsideLimit = 3 * time.Second
	// maxOutside is how many rendezvous are asked.
	maxOutside = 4
)

// nowhere is in TEST-NET-1 (RFC 5737): nobody has it, so whoever answers there
// sits in between.
var nowhere = netip.MustParseAddrPort("192.0.2.1:80")

// finding is what connections to the outside came to when no helper was there.
type finding string

const (
	unasked   finding = ""
	answers   finding = "answers"   // something out there answers
	portal    finding = "portal"    // something in between answers
	forbidden finding = "forbidden" // something in between forbids
	silence   finding = "silence"   // nothing answers at all
)

// lookOutside finds out, while there is no helper, what is in the way.
func (k *Keeper) lookOutside() {
	for {
		wait := outsideEvery
		k.mu.Lock()
		alone, hosts := k.count() == 0, len(k.hosts)
		since := time.Since(k.served)
		k.mu.Unlock()
		switch {
		case !alone:
			wait = outsideAfter
			k.mu.Lock()
			k.outside = unasked
			k.mu.Unlock()
		case since < outsideAfter:
			wait = outsideAfter - since
		case hosts > 0:
			found := k.askOutside()
			k.set(func() { k.outside = found })
		}
		select {
		case <-time.After(wait):
		case <-k.renewed():
		case <-k.ctx.Done():
			return
		}
	}
}

// askOutside tries a few rendezvous, and one address that nobody has.
func (k *Keeper) askOutside() finding {
	var at []netip.AddrPort
	for _, link := range k.cfg.Links() {
		for _, a := range link.At {
			if len(at) < maxOutside && k.public(a) {
				at = append(at, a)
			}
		}
	}
	found := make([]finding, len(at))
	var all sync.WaitGroup
	for i, a := range at {
		all.Go(func() { found[i] = askNode(k.ctx, k.dial, a) })
	}
	all.Wait()
	if len(at) > 0 && !slices.Contains(found, answers) && !k.cfg.Loopback {
		found = append(found, askNowhere(k.ctx, k.dial))
	}
	return conclude(found)
}

// conclude puts together what the attempts came to. One silent node may be
// off; that all of several are says more.
func conclude(found []finding) finding {
	count := map[finding]int{}
	for _, f := range found {
		count[f]++
	}
	switch {
	case count[answers] > 0:
		return answers
	case count[portal] > 0:
		return portal
	case count[forbidden] > 1 && count[forbidden] == len(found):
		return forbidden
	case count[silence] > 1 && count[silence] == len(found):
		return silence
	}
	return unasked
}

// dialer connects by TCP.
type dialer func(ctx context.Context, to netip.AddrPort) (net.Conn, error)

func dialTCP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{Timeout: outsideLimit}
	return d.DialContext(ctx, "tcp", to.String())
}

// askNode asks a rendezvous, where it accepts framed connections, for a STUN
// binding. A portal that answers in its place speaks HTTP.
func askNode(ctx context.Context, dial dialer, to netip.AddrPort) finding {
	began := time.Now()
	conn, err := dial(ctx, to)
	if err != nil {
		return unreached(err, time.Since(began))
	}
	defer conn.Close()
	m, err := pion.Build(pion.TransactionID, pion.BindingRequest, pion.Fingerprint)
	if err != nil {
		return unasked
	}
	request := append(binary.BigEndian.AppendUint16(nil, uint16(len(m.Raw))), m.Raw...)
	head, err := exchange(conn, request)
	switch {
	case isHTTP(head):
		return portal
	case err != nil || !bytes.Equal(head[2:4], []byte{1, 1}): // RFC 8489 §5: Binding success
		return unasked
	}
	return answers
}

// askNowhere asks an address that nobody has for a web page.
func askNowhere(ctx context.Context, dial dialer) finding {
	conn, err := dial(ctx, nowhere)
	if err != nil {
		return silence // as it should be
	}
	defer conn.Close()
	head, _ := exchange(conn, []byte("GET /generate_204 HTTP/1.1\r\nHost: 192.0.2.1\r\nConnection: close\r\n\r\n"))
	if isHTTP(head) {
		return portal
	}
	return silence
}

// headSize is how much of an answer tells what it is.
const headSize = 5

// exchange sends a request and returns the first bytes of the answer.
func exchange(conn net.Conn, request []byte) ([]byte, error) {
	conn.SetDeadline(time.Now().Add(outsideLimit))
	if _, err := conn.Write(request); err != nil {
		return nil, err
	}
	head := make([]byte, headSize)
	_, err := io.ReadFull(conn, head)
	return head, err
}

func isHTTP(head []byte) bool { return bytes.Equal(head, []byte("HTTP/")) }

// soon is how quickly a prohibition comes back. A neighbour that does not
// answer ends in the same error after the kernel has asked for it thrice.
const soon = 500 * time.Millisecond

// unreached reads why no connection came about: a refusal comes from out
// there, a prohibition from in between.
func unreached(err error, took time.Duration) finding {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return answers
	case errors.Is(err, syscall.EHOSTUNREACH) && took < soon, errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return forbidden
	}
	return silence
}
