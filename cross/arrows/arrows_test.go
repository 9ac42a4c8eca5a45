package arrows_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"porchlight/cross/arrows"
)

// TestTheModuleKeepsItsArchitecture is the test that the package is for.
func TestTheModuleKeepsItsArchitecture(t *testing.T) {
	violations, err := arrows.Check(os.DirFS(moduleRoot(t)), "porchlight")
	if err != nil {
		t.Fatal(err)
	}
	for _, violation := range violations {
		t.Errorf("%v", violation)
	}
	if len(violations) > 0 {
		t.Log("the map and its reasons are in cross/arrows/doc.go and ARCHITECTURE.md")
	}
}

func moduleRoot(t *testing.T) string {
	t.Helper()
	folder, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; folder = filepath.Dir(folder) {
		if _, err := os.Stat(filepath.Join(folder, "go.mod")); err == nil {
			return folder
		}
		if folder == filepath.Dir(folder) {
			t.Fatal("no go.mod above the test")
		}
	}
}

const doc = "// Package x gives what a test needs, in a comment long enough to say so;\n// see the rules.\npackage x\n"

// tree makes a source tree in which package x of each named folder is in
// order, with the given files over it.
func tree(files map[string]string) fstest.MapFS {
	made := fstest.MapFS{"go.mod": {Data: []byte("module m\n")}}
	for name, content := range files {
		made[name] = &fstest.MapFile{Data: []byte(content)}
		if strings.HasSuffix(name, ".go") && !strings.Contains(name, "testdata") {
			beside := filepath.Dir(name) + "/doc.go"
			if _, given := files[beside]; !given {
				made[beside] = &fstest.MapFile{Data: []byte(doc)}
			}
		}
	}
	return made
}

// machinePath is put together here so that this file does not break the rule.
const machinePath = "/" + "work/main/agent"

func TestABrokenRuleIsExplained(t *testing.T) {
	cases := []struct {
		name, file, content string
		// says must all be in the one violation.
		says []string
	}{
		{"a domain imports its neighbour", "nat/stun/a.go", "package x\n\nimport _ \"m/share\"\n",
			[]string{"nat/stun/a.go", "nat imports share", "agent wires them", "as a parameter"}},
		{"a domain imports agent", "compute/a.go", "package x\n\nimport _ \"m/agent/api\"\n",
			[]string{"compute imports agent/api"}},
		{"a test of a domain imports its neighbour", "share/a_test.go", "package x\n\nimport _ \"m/nat/natlab\"\n",
			[]string{"share imports nat/natlab"}},
		{"firmware imports the runtime", "firmware/a.go", "package x\n\nimport _ \"m/agent/api\"\n",
			[]string{"firmware imports agent/api", "without compiling the runtime"}},
		{"cross imports the runtime", "cross/a.go", "package x\n\nimport _ \"m/nat\"\n",
			[]string{"cross imports nat"}},
		{"agent carries build tools", "agent/a.go", "package x\n\nimport _ \"m/cross/target\"\n",
			[]string{"agent imports cross/target", "must not carry build tools"}},
		{"agent carries packers", "agent/a.go", "package x\n\nimport _ \"m/firmware\"\n",
			[]string{"agent imports firmware"}},
		{"a constraint hides nothing", "nat/a.go", "//go:build wasip1\n\npackage x\n\nimport _ \"m/share\"\n",
			[]string{"nat imports share"}},
		{"fx in a domain", "share/a.go", "package x\n\nimport _ \"go.uber.org/fx\"\n",
			[]string{"imports go.uber.org/fx", "plain constructors", "module.go"}},
		{"fx below in a domain", "nat/a.go", "package x\n\nimport _ \"go.uber.org/fx/fxevent\"\n",
			[]string{"imports go.uber.org/fx/fxevent"}},
		{"a seventh folder", "pkg/a.go", "package x\n",
			[]string{"pkg/: a top-level folder that is not on the map", "six folders"}},
		{"a folder without code", "docs/notes.md", "words\n",
			[]string{"docs/: a top-level folder"}},
		{"a folder named after nothing", "agent/netutil/a.go", "package x\n",
			[]string{`"netutil" says nothing`}},
		{"a package named after nothing", "agent/deep/doc.go", strings.ReplaceAll(doc, " x", " common"),
			[]string{`"common" says nothing`}},
		{"func init", "agent/a.go", "package x\n\nvar y int\n\nfunc init() { y = 1 }\n",
			[]string{"agent/a.go:5: func init", "sync.OnceValue"}},
		{"no comment in doc.go", "agent/doc.go", "package x\n",
			[]string{"doc.go has no package comment", "promise"}},
		{"a comment cut off by an empty line", "agent/doc.go", strings.ReplaceAll(doc, "\npackage", "\n\npackage"),
			[]string{"doc.go has no package comment"}},
		{"a comment about something else", "agent/doc.go", strings.ReplaceAll(doc, "Package x", "Package y"),
			[]string{`does not begin with "Package x "`}},
		{"a comment that says nothing", "agent/doc.go", "// Package x is x.\npackage x\n",
			[]string{"a single short line"}},
		{"a machine path in Go", "agent/a.go", "package x\n\nconst p = \"" + machinePath + "\"\n",
			[]string{"agent/a.go:3", machinePath, "built elsewhere"}},
		{"a machine path in text", "README.md", "# Build\n\ncd " + machinePath + "\n",
			[]string{"README.md:3"}},
		{"a machine path in test data", "nat/testdata/log.txt", machinePath + "\n",
			[]string{"nat/testdata/log.txt:1"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			violations, err := arrows.Check(tree(map[string]string{c.file: c.content}), "m")
			if err != nil {
				t.Fatal(err)
			}
			if len(violations) != 1 {
				t.Fatalf("%d violations, want one: %v", len(violations), violations)
			}
			text := violations[0].String()
			for _, says := range append(c.says, "why:", "do:") {
				if !strings.Contains(text, says) {
					t.Errorf("nothing about %q in: %s", says, text)
				}
			}
		})
	}
}

func TestAPackageWithoutDocIsFound(t *testing.T) {
	violations, err := arrows.Check(fstest.MapFS{
		"compute/examples/sum/main.go": {Data: []byte("//go:build wasip1\n\npackage main\n")},
	}, "m")
	if err != nil || len(violations) != 1 || !strings.Contains(violations[0].What, "no doc.go") {
		t.Errorf("violations %v, error %v", violations, err)
	}
}

func TestWhatIsAllowedPasses(t *testing.T) {
	allowed := map[string]string{
		"agent/a.go":                  "package x\n\nimport (\n\t_ \"go.uber.org/fx\"\n\t_ \"m/nat\"\n\t_ \"m/share/swarm\"\n)\n",
		"agent/emulated_test.go":      "package x_test\n\nimport _ \"m/cross/emulate\"\n",
		"agent/lab/a.go":              "package x\n\nimport _ \"m/cross/target\"\n",
		"nat/module.go":               "package x\n\nimport _ \"go.uber.org/fx\"\n",
		"nat/stun/a.go":               "package x\n\nimport _ \"m/nat/socket\"\n\ntype y struct{}\n\nfunc (y) init() {}\n",
		"firmware/a.go":               "package x\n\nimport _ \"m/cross/target\"\n",
		"compute/testdata/bad/bad.go": "package util\n\nfunc init() {}\n",
		"share/dist/app.js":           "load('" + machinePath + "')\n",
		".ci/run":                     "exec make test\n",
		"bin/cross/porchlight":        "\x00" + machinePath,
		"README.md":                   "see https://example.org" + machinePath + " and $HOME" + machinePath + "\n",
		"compute/bomb.wasm":           "\x00asm " + machinePath,
	}
	violations, err := arrows.Check(tree(allowed), "m")
	if err != nil || len(violations) > 0 {
		t.Errorf("violations %v, error %v", violations, err)
	}
}

func TestSourceThatDoesNotParseIsAnError(t *testing.T) {
	if _, err := arrows.Check(tree(map[string]string{"nat/a.go": "package"}), "m"); err == nil {
		t.Error("broken source passed")
	}
}
