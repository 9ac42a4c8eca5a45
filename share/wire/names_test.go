package wire

import (
	"net/url"
	"path"
	"strings"
	"testing"
)

func TestSplitPath(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Path
		ok   bool
	}{
		{"/", Path{"", ".", true}, true},
		{"/m", Path{"m", ".", false}, true},
		{"/m/", Path{"m", ".", true}, true},
		{"/m/a b/c", Path{"m", "a b/c", false}, true},
		{"/m/a/b/", Path{"m", "a/b", true}, true},
		{"/m/a..b/c.", Path{"m", "a..b/c.", false}, true},
		{"", Path{}, false}, {"m", Path{}, false}, {"//", Path{}, false},
		{"/m//a", Path{}, false}, {"/m/a//", Path{}, false},
		{"/m/..", Path{}, false}, {"/m/../x", Path{}, false}, {"/m/./x", Path{}, false},
		{"/m/.x", Path{}, false}, {"/.m", Path{}, false},
		{"/m/a\x00b", Path{}, false}, {"/m/a\\b", Path{}, false}, {"/m/a\nb", Path{}, false},
		{"/m/\xff", Path{}, false}, {"/m/a" + PartSuffix, Path{}, false},
		{"/m/" + strings.Repeat("a", MaxName), Path{"m", strings.Repeat("a", MaxName), false}, true},
		{"/m/" + strings.Repeat("a", MaxName+1), Path{}, false},
		{strings.Repeat("/a", MaxDepth), Path{"a", strings.Repeat("/a", MaxDepth-1)[1:], false}, true},
		{strings.Repeat("/a", MaxDepth+1), Path{}, false},
		{"/" + strings.Repeat(strings.Repeat("a", 127)+"/", 33), Path{}, false},
	} {
		if got, ok := SplitPath(c.in); got != c.want || ok != c.ok {
			t.Errorf("%.60q: %+v, %v, want %+v, %v", c.in, got, ok, c.want, c.ok)
		}
	}
}

func FuzzSplitPath(f *testing.F) {
	for _, s := range []string{"/", "/m/a", "/m/../../etc/passwd", "/m/%2e%2e/x", "/m/a\\..\\b", "/m/．．/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, ok := SplitPath(s)
		if !ok {
			return
		}
		full := path.Join("/", p.Share, p.Rest)
		if path.Clean(full) != full || strings.TrimSuffix(s, "/") != strings.TrimSuffix(full, "/") {
			t.Fatalf("%q became %q", s, full)
		}
		u, err := url.Parse("http://h" + EscapePath(s))
		if err != nil || u.Path != s {
			t.Fatalf("%q escaped to %v, %v", s, u, err)
		}
	})
}
