package main

import (
	"os"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"porchlight/nat/natlab"
)

// TestMain lets the test program be the child that it starts.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == childWord {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

func TestKindsThatAreAskedFor(t *testing.T) {
	for _, tc := range []struct {
		only string
		want []natlab.Kind
		err  string
	}{
		{only: "", want: natlab.PublishedKinds()},
		{only: "all", want: natlab.Kinds()},
		{only: "symmetric, public", want: []natlab.Kind{natlab.Symmetric, natlab.Public}},
		{only: "symmetric,garden", err: `unknown kind "garden"`},
		{only: "symmetric,", err: `unknown kind ""`},
		{only: "symmetric,public,symmetric", err: `kind "symmetric" is named twice`},
	} {
		got, err := kindsOf(tc.only)
		if tc.err != "" {
			if err == nil || !strings.HasPrefix(err.Error(), tc.err) {
				t.Errorf("%q: error %v, want %q", tc.only, err, tc.err)
			}
			continue
		}
		if err != nil || !slices.Equal(got, tc.want) {
			t.Errorf("%q: %v, %v, want %v", tc.only, got, err, tc.want)
		}
	}
}

func TestWhatCannotBeRunIsRefused(t *testing.T) {
	for _, args := range [][]string{{"-repeat", "0"}, {"matrix"}, {"-json", "public"}, {"-kinds", "garden"}} {
		if err := run(args); err == nil {
			t.Errorf("%q was run", args)
		}
	}
}
