package relay

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pion/stun/v2"
)

// certificateFor makes a certificate for coturn and the pool that trusts it.
func certificateFor(t *testing.T, name string) (certFile, keyFile string, pool *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	err = errors.Join(
		os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AddCert(cert)
	return certFile, keyFile, pool
}

// lookupIn is a resolver that knows one name.
func lookupIn(name string, addrs ...netip.Addr) Lookup {
	return func(_ context.Context, host string) ([]netip.Addr, error) {
		if host != name {
			return nil, fmt.Errorf("no host %q", host)
		}
		return addrs, nil
	}
}

func TestAConfiguredCoturnRelaysOverEveryTransport(t *testing.T) {
	t.Parallel()
	certFile, keyFile, pool := certificateFor(t, "relay.test")
	_, port, _ := net.SplitHostPort(startCoturn(t, "--allow-loopback-peers", "--relay-ip", "::1", "--listening-ip", "::1",
		"--cert", certFile, "--pkey", keyFile))
	opts := Options{
		Lookup: lookupIn("relay.test", loopback, loopback6),
		TLS:    &tls.Config{RootCAs: pool},
	}
	for _, c := range []struct {
		uri    string
		family Family
	}{
		{"turn:127.0.0.1:" + port, IPv4},
		{"turn:[::1]:" + port, IPv4},
		{"turn:[::1]:" + port + "?transport=tcp", IPv6},
		{"turn:relay.test:" + port, IPv6},
		{"turn:relay.test:" + port + "?transport=tcp", IPv4},
		{"turns:relay.test:" + port, IPv4},
		{"turns:relay.test:" + port + "?transport=tcp", IPv6},
	} {
		t.Run(c.uri+" as "+c.family.String(), func(t *testing.T) {
			at := map[Family]netip.Addr{IPv4: loopback, IPv6: loopback6}[c.family]
			peer, in := echoPeerAt(t, at), &inbox{}
			opts := opts
			opts.Family, opts.Handler = c.family, in.handle
			a, err := AllocateStock(within(t, patience), Stock{URI: c.uri, Username: "porch", Password: "light"}, opts)
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			if err := a.Permit(within(t, patience), at); err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				msg := bytes.Repeat([]byte{byte(i)}, 1200+i)
				if err := a.WriteTo(msg, peer); err != nil {
					t.Fatal(err)
				}
				eventually(t, "echo", func() bool { return in.got(msg, peer) })
			}
		})
	}
	t.Run("refusals", func(t *testing.T) {
		stock := Stock{URI: "turns:relay.test:" + port, Username: "porch", Password: "light"}
		strange := opts
		strange.TLS = nil
		var unknown x509.UnknownAuthorityError
		if _, err := AllocateStock(within(t, patience), stock, strange); !errors.As(err, &unknown) {
			t.Errorf("certificate of an unknown authority: %v", err)
		}
		misnamed := opts
		misnamed.Lookup = lookupIn("other.test", loopback)
		var hostname x509.HostnameError
		stock.URI = "turns:other.test:" + port
		if _, err := AllocateStock(within(t, patience), stock, misnamed); !errors.As(err, &hostname) {
			t.Errorf("certificate of another host: %v", err)
		}
		for _, transport := range []string{"udp", "tcp"} {
			wrong := Stock{URI: "turn:127.0.0.1:" + port + "?transport=" + transport, Username: "porch", Password: "dark"}
			if _, err := AllocateStock(within(t, patience), wrong, opts); !errors.Is(err, ErrRefused) {
				t.Errorf("%s, wrong password: %v", transport, err)
			}
		}
	})
}

// coturn changes its nonce every second here; the client goes on with each.
func TestStaleNoncesOfCoturnAreReplaced(t *testing.T) {
	t.Parallel()
	addr := startCoturn(t, "--stale-nonce=1")
	a, err := AllocateStock(within(t, patience), Stock{URI: "turn:" + addr, Username: "porch", Password: "light"}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	nonce := func() string {
		a.creds.mu.Lock()
		defer a.creds.mu.Unlock()
		return a.creds.nonce
	}
	first := nonce()
	eventually(t, "another nonce", func() bool {
		if _, err := a.refresh(within(t, patience), defaultLifetime); err != nil {
			t.Fatal(err)
		}
		return nonce() != first
	})
}

// The same server answers for STUN where it is configured with a stun: URI.
func TestAStunURIResolvesToWhatAnswers(t *testing.T) {
	t.Parallel()
	u, err := ParseURI("stun:" + startCoturn(t))
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := u.Resolve(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(addrs[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b, n := make([]byte, 2000), 0
	eventually(t, "answer", func() bool { // coturn opens UDP last
		c.Write(build(t, request(stun.MethodBinding)))
		c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		n, err = c.Read(b)
		return err == nil
	})
	m, err := parseMessage(b[:n])
	if mapped, ok := m.address(attrMapped); err != nil || !ok || mapped != c.LocalAddr().(*net.UDPAddr).AddrPort() {
		t.Errorf("mapped %v, %v", mapped, err)
	}
}
