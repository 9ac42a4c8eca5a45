package config_test

import (
	"strings"
	"testing"

	"porchlight/agent/config"
)

func TestNodesOfTheDHT(t *testing.T) {
	tests := []struct {
		name string
		list []string
		want int
		err  string
	}{
		{"the well-known", nil, 5, ""},
		{"none", []string{"none"}, 0, ""},
		{"both families", []string{"44.128.0.1:4005", "[3fff::1]:4005"}, 2, ""},
		{"a name", []string{"router.example:6881"}, 0, "literal IP"},
		{"no port", []string{"44.128.0.1:0"}, 0, "literal IP"},
		{"none among others", []string{"none", "44.128.0.1:1"}, 0, "literal IP"},
		{"at the limit", strings.Split(strings.Repeat("44.128.0.1:1,", 63)+"44.128.0.1:1", ","), 64, ""},
		{"above it", strings.Split(strings.Repeat("44.128.0.1:1,", 64)+"44.128.0.1:1", ","), 0, "more than 64"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := config.Default()
			c.DHTNodes = tt.list
			nodes, err := c.Nodes()
			if len(nodes) != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("Nodes = %v, %v; want %d, %q", nodes, err, tt.want, tt.err)
			}
			if (c.Check() == nil) != (tt.err == "") {
				t.Errorf("Check = %v", c.Check())
			}
		})
	}
}
