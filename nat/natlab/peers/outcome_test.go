package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"porchlight/nat/natlab"
)

// pairOf is a pair that met within a second.
func pairOf(caller, called selected) reached {
	return reached{caller: &caller, called: &called, connected: 951 * time.Millisecond, first: 999500 * time.Microsecond}
}

func TestOutcomeIsRelayedIfEitherSideSaysSo(t *testing.T) {
	for _, tc := range []struct {
		caller, called selected
		want           string
	}{
		{selected{"host", "host"}, selected{"host", "host"}, direct},
		{selected{"srflx", "prflx"}, selected{"host", "srflx"}, direct},
		{selected{"relay", "host"}, selected{"host", "prflx"}, relayed},
		{selected{"host", "relay"}, selected{"host", "prflx"}, relayed},
		{selected{"host", "prflx"}, selected{"relay", "host"}, relayed},
		{selected{"host", "prflx"}, selected{"host", "relay"}, relayed},
		{selected{"relay", "relay"}, selected{"relay", "relay"}, relayed},
	} {
		var o outcome
		o.settle(pairOf(tc.caller, tc.called), nil)
		if o.Result != tc.want || o.FirstS != 1 || o.ConnectedS != 0.951 {
			t.Errorf("%v and %v: %+v, want %s", tc.caller, tc.called, o, tc.want)
		}
	}
}

func TestOutcomeAsALine(t *testing.T) {
	met := outcome{Round: 1, A: natlab.PortRestricted, B: natlab.Symmetric}
	met.settle(pairOf(selected{"host", "relay"}, selected{"relay", "host"}), nil)
	never := outcome{Round: 2, A: natlab.UDPBlocked, B: natlab.UDPBlocked}
	never.settle(reached{first: time.Second}, errors.New("no way"))
	for _, tc := range []struct {
		outcome    outcome
		line, json string
	}{
		{met, "port-restricted        symmetric              relay 1.00  host relay",
			`{"round":1,"a":"port-restricted","b":"symmetric","result":"relay","first_s":1,"connected_s":0.951,"candidates":"host relay"}`},
		{never, "udp-blocked            udp-blocked            fail  no way",
			`{"round":2,"a":"udp-blocked","b":"udp-blocked","result":"fail","error":"no way"}`},
	} {
		if got := tc.outcome.line(); got != tc.line {
			t.Errorf("line %q, want %q", got, tc.line)
		}
		if got, err := json.Marshal(tc.outcome); err != nil || string(got) != tc.json {
			t.Errorf("%s, %v, want %s", got, err, tc.json)
		}
	}
}

func TestTableAndTotalCountEveryPairOnce(t *testing.T) {
	pairs := []outcome{
		{A: "x", B: "x", Result: direct, FirstS: 0.1},
		{A: "x", B: "y", Result: relayed, FirstS: 2.35},
		{A: "y", B: "y", Result: failed},
	}
	var out bytes.Buffer
	table(&out, []natlab.Kind{"x", "y"}, pairs)
	total(&out, pairs)
	want := `
seconds to first byte; one kind calls (row) another (column)
   x            y
x  direct 0.10  relay 2.35
y               fail

3 pairs: 1 direct, 1 relayed, 1 failed
seconds to first byte, direct median 0.10, 90 % within 0.10
seconds to first byte, relay  median 2.35, 90 % within 2.35
`
	if got := out.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestPercentileIsAValueThatWasMeasured(t *testing.T) {
	ten := []float64{10, 9, 8, 7, 6, 5, 4, 3, 2, 1}
	for p, want := range map[int]float64{0: 1, 10: 1, 50: 5, 90: 9, 91: 10, 100: 10} {
		if got := percentile(ten, p); got != want {
			t.Errorf("%d %%: %v, want %v", p, got, want)
		}
	}
}
