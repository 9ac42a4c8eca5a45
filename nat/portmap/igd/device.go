package igd

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"unicode"

	"github.com/huin/goupnp"
	"github.com/huin/goupnp/dcps/internetgateway2"
	"github.com/huin/goupnp/soap"
)

const (
	// MaxName is the longest router name kept, in runes.
	MaxName = 64
	// MaxServices is how many services of one device are tried.
	MaxServices = 4
)

// ErrNoDevice says that nothing on the link offers UPnP for routers.
var ErrNoDevice = errors.New("no upnp router answered")

// ErrNonsense says that something answered, but not as a router does.
var ErrNonsense = errors.New("nonsense from a upnp device")

// Device is a router that has described itself.
type Device struct {
	// Addr is where it answered from.
	Addr netip.Addr
	// Name is its make and model, printable and at most [MaxName] runes.
	Name string
	// Services offer mappings, WANIPConnection 2 first.
	Services []*Service
	// Firewalls offer IPv6 pinholes.
	Firewalls []*Firewall
}

// Discover searches on the link and calls found for each router as soon as it
// has described itself, each in a goroutine of its own. It returns when all of
// them have returned. Errors: [ErrNoDevice], [ErrNonsense], the system's.
func Discover(ctx context.Context, l Link, log *slog.Logger, found func(*Device)) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var devices int
	result := ErrNoDevice
	err := search(ctx, l, func(from netip.Addr, location *url.URL) {
		wg.Go(func() {
			d, err := describe(ctx, l, from, location)
			mu.Lock()
			if err != nil {
				log.Debug("upnp device refused", "address", from, "error", err)
				result = fmt.Errorf("%w: %w", ErrNonsense, err)
			} else {
				devices++
			}
			mu.Unlock()
			if err == nil {
				found(d)
			}
		})
	})
	wg.Wait()
	if devices > 0 || err != nil {
		return err
	}
	return result
}

// describe fetches and reads the description at location.
func describe(ctx context.Context, l Link, from netip.Addr, location *url.URL) (*Device, error) {
	client := newCage(l.Local.Addr(), from)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, location.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("describe upnp device: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("describe upnp device: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("describe upnp device: status %d", resp.StatusCode)
	}
	body, err := io.ReadAll(resp.Body) // bounded by the cage
	if err != nil {
		return nil, fmt.Errorf("describe upnp device: %w", err)
	}
	root, err := parseDescription(body, location)
	if err != nil {
		return nil, err
	}
	return newDevice(root, client, from), nil
}

// parseDescription reads a description and makes its URLs absolute: against
// URLBase if that is on the same device, else against location.
func parseDescription(body []byte, location *url.URL) (*goupnp.RootDevice, error) {
	root := new(goupnp.RootDevice)
	d := xml.NewDecoder(bytes.NewReader(body))
	d.DefaultSpace = goupnp.DeviceXMLNamespace
	if err := d.Decode(root); err != nil {
		return nil, fmt.Errorf("parse upnp description: %w", err)
	}
	base := location
	if u, err := url.Parse(strings.TrimSpace(root.URLBaseStr)); err == nil && u.Host != "" && u.Hostname() == location.Hostname() {
		base = u
	}
	root.SetURLBase(base)
	return root, nil
}

func newDevice(root *goupnp.RootDevice, client *http.Client, from netip.Addr) *Device {
	d := &Device{Addr: from, Name: routerName(&root.Device)}
	// Best first: the order of Services is the order of trying.
	for _, urn := range []string{
		internetgateway2.URN_WANIPConnection_2, internetgateway2.URN_WANIPConnection_1, internetgateway2.URN_WANPPPConnection_1,
	} {
		for _, s := range root.Device.FindService(urn) {
			if c, ok := serviceClient(s, client, from); ok && len(d.Services) < MaxServices {
				d.Services = append(d.Services, newService(urn, c))
			}
		}
	}
	for _, s := range root.Device.FindService(internetgateway2.URN_WANIPv6FirewallControl_1) {
		if c, ok := serviceClient(s, client, from); ok && len(d.Firewalls) < MaxServices {
			d.Firewalls = append(d.Firewalls, &Firewall{&internetgateway2.WANIPv6FirewallControl1{ServiceClient: c}})
		}
	}
	return d
}

// serviceClient puts the SOAP client of s into the cage. A control URL that
// leads elsewhere is a service we do not see.
func serviceClient(s *goupnp.Service, client *http.Client, from netip.Addr) (goupnp.ServiceClient, bool) {
	if !s.ControlURL.Ok || !atHost(&s.ControlURL.URL, from) {
		return goupnp.ServiceClient{}, false
	}
	c := soap.NewSOAPClient(s.ControlURL.URL)
	c.HTTPClient = *client
	return goupnp.ServiceClient{SOAPClient: c, Service: s}, true
}

// routerName is make and model, or else the friendly name.
func routerName(d *goupnp.Device) string {
	maker, model := printable(d.Manufacturer), printable(d.ModelName)
	switch {
	case model == "":
		return printable(d.FriendlyName)
	case maker == "" || strings.HasPrefix(model, maker):
		return model
	}
	return printable(maker + " " + model)
}

// printable keeps what can be shown to people: no control or format
// characters (no right-to-left override), single spaces, at most [MaxName]
// runes.
func printable(s string) string {
	var b strings.Builder
	n, space := 0, false
	for _, r := range s {
		if unicode.IsSpace(r) {
			space = n > 0
			continue
		}
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			continue
		}
		if space {
			b.WriteByte(' ')
			n++
		}
		space = false
		if n >= MaxName {
			break
		}
		b.WriteRune(r)
		n++
	}
	return strings.TrimSpace(b.String())
}
