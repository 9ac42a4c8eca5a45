package relay

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func TestOnlyTheTicketsCertificateIsAccepted(t *testing.T) {
	s, other := startDual(t, Config{}), startDual(t, Config{})
	ticket := s.Ticket(Grant{Client: "a"})
	for _, c := range []struct {
		name string
		pin  string
		want error
	}{
		{"right", ticket.Pin, nil},
		{"another server's", other.Ticket(Grant{}).Pin, ErrPin},
		{"none", "", ErrPin},
		{"cut off", ticket.Pin[:len(ticket.Pin)-1], ErrPin},
		{"with padding", ticket.Pin + "=", ErrPin},
	} {
		tk := s.Ticket(Grant{Client: "a"})
		tk.Pin = c.pin
		a, err := Allocate(within(t, patience), tk, Options{Network: "tls"})
		if !errors.Is(err, c.want) {
			t.Errorf("pin %s: %v, want %v", c.name, err, c.want)
		}
		if err == nil {
			a.Close()
		}
	}
	eventually(t, "end of all connections", func() bool { return s.Stats().Connections == 0 })
}

func TestOwnCertificateIsValidAtAnyTimeAndNamesNobody(t *testing.T) {
	c, err := ownCertificate()
	if err != nil {
		t.Fatal(err)
	}
	x, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if x.NotBefore.Unix() != 0 || x.NotAfter.Year() != 9999 || x.Subject.String() != "" {
		t.Errorf("valid from %v to %v, for %q", x.NotBefore, x.NotAfter, x.Subject)
	}
}

// A stranger gets a connection for SetUp at most, whatever it does with TLS.
func TestTLSConnectionsMustComeToThePoint(t *testing.T) {
	s := startDual(t, Config{Limits: Limits{SetUp: 100 * time.Millisecond}})
	at := s.Ticket(Grant{}).TLS[0]
	dial := func() net.Conn {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetReadDeadline(time.Now().Add(patience))
		return c
	}
	if n, err := dial().Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("mute: %d bytes, %v", n, err)
	}
	web := dial()
	io.WriteString(web, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if b, _ := io.ReadAll(web); strings.Contains(string(b), "TURN") || len(b) > 100 {
		t.Errorf("garbage is answered with %q", b)
	}
	c := tls.Client(dial(), &tls.Config{InsecureSkipVerify: true})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if !closedByServer(c) {
		t.Error("a mute connection stays open after the handshake")
	}
	eventually(t, "end of all connections", func() bool { return s.Stats().Connections == 0 })
}

// Who does not read must not hold up the server, which closes under its lock.
func TestClosingAFullTLSStreamDoesNotWait(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	own, err := ownCertificate()
	if err != nil {
		t.Fatal(err)
	}
	go func() { // shakes hands, then never reads
		c, err := net.Dial("tcp4", l.Addr().String())
		if err == nil {
			defer c.Close()
			tls.Client(c, &tls.Config{InsecureSkipVerify: true}).Handshake()
			<-t.Context().Done()
		}
	}()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	secured := tls.Server(c, serverTLS(own))
	if err := secured.Handshake(); err != nil {
		t.Fatal(err)
	}
	full := make([]byte, 1<<20)
	for err == nil {
		c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		_, err = c.Write(full) // beneath TLS, which would remember the error
	}
	c.SetWriteDeadline(time.Time{})
	start := time.Now()
	newStreamConn(secured).Close()
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
}
