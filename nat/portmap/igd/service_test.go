package igd

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/huin/goupnp/soap"
)

// fakeConnection is a router of funcs; an unset func fails the test.
type fakeConnection struct {
	t      *testing.T
	add    func(external uint16, lease uint32) error
	remove func(external uint16) error
	lookup func(external uint16) (uint16, string, bool, uint32, error)
	adds   int
}

func (f *fakeConnection) AddPortMappingCtx(_ context.Context, _ string, external uint16, _ string, _ uint16, _ string, _ bool, _ string, lease uint32) error {
	f.adds++
	return f.add(external, lease)
}

func (f *fakeConnection) DeletePortMappingCtx(_ context.Context, _ string, external uint16, _ string) error {
	if f.remove == nil {
		f.t.Error("unexpected delete")
		return nil
	}
	return f.remove(external)
}

func (f *fakeConnection) GetExternalIPAddressCtx(context.Context) (string, error) {
	f.t.Error("unexpected question")
	return "", nil
}

func (f *fakeConnection) GetSpecificPortMappingEntryCtx(_ context.Context, _ string, external uint16, _ string) (uint16, string, bool, string, uint32, error) {
	port, client, enabled, lease, err := f.lookup(external)
	return port, client, enabled, "", lease, err
}

func upnpError(code int) error {
	f := new(soap.SOAPFaultError)
	f.Detail.UPnPError.Errorcode = code
	return f
}

var wanted = Mapping{Transport: "udp", Internal: netip.MustParseAddrPort("192.168.1.50:4000"), External: 4000, Lease: 2 * time.Hour}

func TestAddGivesWay(t *testing.T) {
	ours := func(external uint16) (uint16, string, bool, uint32, error) {
		return 4000, "192.168.1.50", true, 7200, nil
	}
	for _, c := range []struct {
		name   string
		add    func(external uint16, lease uint32) error
		lookup func(uint16) (uint16, string, bool, uint32, error)
		ok     bool
		port   func(uint16) bool
		lease  time.Duration
	}{
		{"granted", func(uint16, uint32) error { return nil }, ours, true, func(p uint16) bool { return p == 4000 }, 2 * time.Hour},
		{"718, then granted", func(p uint16, _ uint32) error {
			if p == 4000 {
				return upnpError(718)
			}
			return nil
		}, ours, true, func(p uint16) bool { return p != 4000 && p > 1023 }, 2 * time.Hour},
		{"725, then granted", func(_ uint16, lease uint32) error {
			if lease != 0 {
				return upnpError(725)
			}
			return nil
		}, ours, true, func(p uint16) bool { return p == 4000 }, 0},
		{"718 and 725", func(p uint16, lease uint32) error {
			if p == 4000 {
				return upnpError(718)
			}
			if lease != 0 {
				return upnpError(725)
			}
			return nil
		}, ours, true, func(p uint16) bool { return p != 4000 }, 0},
		{"718 for ever", func(uint16, uint32) error { return upnpError(718) }, ours, false, nil, 0},
		{"606", func(uint16, uint32) error { return upnpError(606) }, ours, false, nil, 0},
		{"no reply", func(uint16, uint32) error { return errors.New("refused") }, ours, false, nil, 0},
		{"lease shortened", func(uint16, uint32) error { return nil },
			func(uint16) (uint16, string, bool, uint32, error) { return 4000, "192.168.1.50", true, 600, nil }, true,
			func(p uint16) bool { return p == 4000 }, 10 * time.Minute},
		{"lease made permanent", func(uint16, uint32) error { return nil },
			func(uint16) (uint16, string, bool, uint32, error) { return 4000, "192.168.1.50", true, 0, nil }, true,
			func(p uint16) bool { return p == 4000 }, 0},
		{"given to another", func(uint16, uint32) error { return nil },
			func(uint16) (uint16, string, bool, uint32, error) { return 4000, "192.168.1.60", true, 600, nil }, false, nil, 0},
		{"cannot look up", func(uint16, uint32) error { return nil },
			func(uint16) (uint16, string, bool, uint32, error) { return 0, "", false, 0, upnpError(401) }, true,
			func(p uint16) bool { return p == 4000 }, 2 * time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &fakeConnection{t: t, add: c.add, lookup: c.lookup}
			got, err := (&Service{Version: 1, conn: f}).Add(t.Context(), wanted)
			if (err == nil) != c.ok {
				t.Fatalf("error %v, want ok %v", err, c.ok)
			}
			if c.ok && (!c.port(got.External) || got.Lease != c.lease) {
				t.Errorf("got %+v, want lease %v", got, c.lease)
			}
			if f.adds > MaxTries {
				t.Errorf("asked %d times", f.adds)
			}
		})
	}
}

func TestSamePortOnlyStaysAtTheInternalPort(t *testing.T) {
	var asked []uint16
	f := &fakeConnection{t: t, add: func(p uint16, _ uint32) error {
		asked = append(asked, p)
		if p != 4000 {
			return upnpError(724)
		}
		return upnpError(718)
	}}
	m := wanted
	m.External = 5000
	if _, err := (&Service{Version: 1, conn: f}).Add(t.Context(), m); !errors.Is(err, Conflict) {
		t.Errorf("error %v, want %v", err, Conflict)
	}
	if len(asked) != 2 || asked[0] != 5000 || asked[1] != 4000 {
		t.Errorf("asked for %v, want 5000 and 4000", asked)
	}
}

func TestDeleteLeavesOthersAlone(t *testing.T) {
	f := &fakeConnection{t: t, lookup: func(uint16) (uint16, string, bool, uint32, error) { return 4000, "192.168.1.60", true, 0, nil }}
	if err := (&Service{Version: 1, conn: f}).Delete(t.Context(), wanted); err != nil {
		t.Error(err)
	}
	f.lookup = func(uint16) (uint16, string, bool, uint32, error) { return 4000, "192.168.1.50", true, 0, nil }
	removed := 0
	f.remove = func(uint16) error { removed++; return nil }
	if err := (&Service{Version: 1, conn: f}).Delete(t.Context(), wanted); err != nil || removed != 1 {
		t.Errorf("removed %d, %v", removed, err)
	}
}
