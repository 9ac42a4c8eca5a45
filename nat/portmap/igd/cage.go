package igd

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"
	"unicode/utf8"
)

// What a router may cost.
const (
	// MaxBody is the largest reply read, in bytes. Descriptions have 2–20 KiB.
	MaxBody = 256 << 10
	// MaxHeader bounds status line and header fields, in bytes.
	MaxHeader = 16 << 10
	// MaxDepth is how deeply elements may be nested. Descriptions need 10.
	MaxDepth = 32
	// MaxElements is how many elements a reply may have. Descriptions have
	// some 100.
	MaxElements = 1024
	// MaxAttributes is how many attributes they may have together.
	MaxAttributes = 1024
	// MaxRequest is how long one request may take from dial to last byte.
	// Slow routers need half a second to add a mapping.
	MaxRequest = 2500 * time.Millisecond
)

// What the cage ends requests with.
var (
	ErrElsewhere = errors.New("url leads away from the router")
	ErrTooLarge  = errors.New("reply too large")
)

// cage is the transport of every request to one device: to its address only,
// one at a time, without redirects, with small bounded replies.
type cage struct {
	host netip.Addr
	base *http.Transport
	turn chan struct{}
}

// newCage returns a client that can reach host and nothing else, from local.
func newCage(local, host netip.Addr) *http.Client {
	c := &cage{host: host, turn: make(chan struct{}, 1)}
	dialer := net.Dialer{Timeout: MaxRequest}
	if local.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
	}
	c.base = &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			port, err := portOf(addr)
			if err != nil {
				return nil, err
			}
			return dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(host, port).String())
		},
		DisableKeepAlives:      true,
		DisableCompression:     true, // no bombs
		MaxResponseHeaderBytes: MaxHeader,
	}
	return &http.Client{Transport: c, CheckRedirect: refuseRedirect}
}

func refuseRedirect(*http.Request, []*http.Request) error {
	return fmt.Errorf("redirect: %w", ErrElsewhere)
}

func portOf(addr string) (uint16, error) {
	_, p, err := net.SplitHostPort(addr)
	if err != nil {
		return 0, err
	}
	port, err := strconv.ParseUint(p, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("port %q: %w", p, ErrElsewhere)
	}
	return uint16(port), nil
}

// atHost reports whether u is a plain http URL whose host is the literal
// address of host. Zones in URLs are the router's own names for its
// interfaces and mean nothing here.
func atHost(u *url.URL, host netip.Addr) bool {
	a, err := netip.ParseAddr(u.Hostname())
	return err == nil && u.Scheme == "http" && u.User == nil && a.Unmap().WithZone("") == host.WithZone("")
}

// RoundTrip implements http.RoundTripper.
func (c *cage) RoundTrip(req *http.Request) (*http.Response, error) {
	if !atHost(req.URL, c.host) {
		return nil, fmt.Errorf("%s: %w", req.URL.Redacted(), ErrElsewhere)
	}
	ctx, cancel := context.WithTimeout(req.Context(), MaxRequest)
	defer cancel()
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	resp, err := c.base.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := readReply(resp.Body)
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	resp.ContentLength = int64(len(body))
	return resp, nil
}

// readReply reads a whole reply and refuses it unless it is small and shallow.
func readReply(r io.Reader) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, MaxBody+1))
	if err != nil {
		return nil, fmt.Errorf("read reply: %w", err)
	}
	if len(body) > MaxBody {
		return nil, fmt.Errorf("more than %d bytes: %w", MaxBody, ErrTooLarge)
	}
	body = toUTF8(body)
	return body, checkShape(body)
}

// toUTF8 takes what is not UTF-8 for ISO-8859-1, and drops the XML
// declaration, whose encoding may now be wrong.
func toUTF8(b []byte) []byte {
	b = bytes.TrimLeft(bytes.TrimPrefix(b, []byte("\ufeff")), " \t\r\n")
	if bytes.HasPrefix(b, []byte("<?xml")) {
		if end := bytes.Index(b, []byte("?>")); end >= 0 {
			b = b[end+2:]
		}
	}
	if utf8.Valid(b) {
		return b
	}
	out := make([]byte, 0, len(b)*2)
	for _, c := range b {
		out = utf8.AppendRune(out, rune(c))
	}
	return out
}

// checkShape counts depth, elements and attributes without building a tree:
// encoding/xml keeps some 100 bytes for every open element, goupnp 1.3 kB for
// every <device>. A reply without any element (an error page, an empty body)
// passes; the decoders refuse it.
func checkShape(b []byte) error {
	d := xml.NewDecoder(bytes.NewReader(b))
	d.Strict = false
	var depth, elements, attributes int
	for {
		t, err := d.RawToken()
		if err != nil {
			return nil // the end, or what the decoders refuse at this very place
		}
		switch t := t.(type) {
		case xml.StartElement:
			depth++
			elements++
			attributes += len(t.Attr)
		case xml.EndElement:
			depth--
		}
		if depth > MaxDepth || elements > MaxElements || attributes > MaxAttributes {
			return fmt.Errorf("%d levels, %d elements, %d attributes: %w", depth, elements, attributes, ErrTooLarge)
		}
	}
}
