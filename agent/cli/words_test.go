package cli

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"testing"

	"porchlight/agent/api"
)

// constants lists the values of every constant of a type in a folder's Go
// files.
func constants(t *testing.T, dir, of string) (values []string) {
	t.Helper()
	files, err := fs.Glob(os.DirFS(dir), "*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path.Join(dir, name), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || len(spec.Values) != 1 {
				return true
			}
			kind, _ := spec.Type.(*ast.Ident)
			if literal, ok := spec.Values[0].(*ast.BasicLit); ok && kind != nil && kind.Name == of {
				value, err := strconv.Unquote(literal.Value)
				if err != nil {
					t.Fatal(err)
				}
				values = append(values, value)
			}
			return true
		})
	}
	return values
}

func TestEveryCodeHasWords(t *testing.T) {
	for _, c := range []struct {
		dir, of string
		least   int
		words   func(code string) bool
	}{
		{"../api", "Verdict", 19, func(code string) bool {
			w := verdictWords[api.Verdict(code)]
			return w.head != "" && w.say != ""
		}},
		{"../api", "Reason", 10, func(code string) bool { return reasonWords[api.Reason(code)] != "" }},
		{"../api", "Proof", 4, func(code string) bool { _, ok := proofWords[api.Proof(code)]; return ok }},
		{"../../nat/portmap", "Outcome", 5, func(code string) bool { return outcomeWords[code] != "" }},
		{"../../nat/portmap", "Method", 4, func(code string) bool { return methodWord(code) != code }},
		{"../../nat/stun", "Dependence", 5, func(code string) bool {
			return code == "unknown" || mappingWords[code] != "" && filteringWords[code] != ""
		}},
	} {
		codes := constants(t, c.dir, c.of)
		if len(codes) < c.least {
			t.Errorf("%s: only %d codes found: %q", c.of, len(codes), codes)
		}
		for _, code := range codes {
			if !c.words(code) {
				t.Errorf("%s %q has no words", c.of, code)
			}
		}
	}
}

func TestSentencesAreWhole(t *testing.T) {
	values := netcheckValues(api.Netcheck{}, "")
	check := func(code, text string) {
		switch {
		case text == "":
		case strings.ContainsAny(text, "{}!*"):
			t.Errorf("%s: %q leaves a brace or shouts", code, text)
		case !strings.HasSuffix(text, ".") && !strings.HasSuffix(text, "…"):
			t.Errorf("%s: %q does not end", code, text)
		}
	}
	for code, w := range verdictWords {
		for _, text := range []string{w.head, w.say, w.todo} {
			check(string(code), sentence(text, values))
		}
		check(string(code), doubtWords(code))
	}
	for code := range reasonWords {
		check(string(code), whyNotDirect(code, "bob"))
	}
}

func TestWhatALaterVersionSays(t *testing.T) {
	if got := verdictWord("brand_new"); got != verdictWords[api.Checking] {
		t.Errorf("%+v", got)
	}
	if got := whyNotDirect("brand_new\x1b[2J", "bob"); got != "There is no direct way at the moment (brand_new[2J)." {
		t.Error(got)
	}
	if got := whyNotDirect("", "bob"); got != "" {
		t.Error(got)
	}
}

func TestNamesAreHarmless(t *testing.T) {
	for name, want := range map[string]string{
		"FRITZ!Box 7590":                  "FRITZ!Box 7590",
		"\x1b]0;own\x07ed\u202e\n":        "]0;owned",
		" Größe ":                         "Größe",
		strings.Repeat("ä", maxName-1):    strings.Repeat("ä", maxName-1),
		strings.Repeat("ä", maxName):      strings.Repeat("ä", maxName),
		strings.Repeat("ä", maxName+1):    strings.Repeat("ä", maxName-1) + "…",
		strings.Repeat("\x00x", maxName):  strings.Repeat("x", maxName),
		"\xff\xfe" + "odd":                "\ufffd\ufffdodd",
		strings.Repeat("\u200b", maxName): "",
	} {
		if got := printable(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

func TestWrap(t *testing.T) {
	for _, c := range []struct {
		text string
		want string
	}{
		{"", ""},
		{"  ", ""},
		{"one two", "one two"},
		{"one two three", "one two|three"},
		{"eleven_long x", "eleven_long|x"},
		{"größe über", "größe über"},
		{"größen über", "größen|über"},
	} {
		if got := strings.Join(wrap(c.text, 10), "|"); got != c.want {
			t.Errorf("%q: %q, want %q", c.text, got, c.want)
		}
	}
}
