package arrows

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// maxTextSize bounds the files that are searched for machine paths; larger
// ones are data.
const maxTextSize = 1 << 20

// folder is what the walk learns about one folder with Go files.
type folder struct {
	path, pkg string
	// code is set when it has files beside tests.
	code bool
	// doc is the package comment in doc.go; hasDoc tells whether the file exists.
	doc    string
	hasDoc bool
}

// checker collects violations over one tree.
type checker struct {
	tree    fs.FS
	module  string
	folders map[string]*folder
	found   []Violation
}

// Check reads the source tree of the named module and returns every broken
// rule, sorted by place. An error means that the tree could not be read or
// parsed.
func Check(tree fs.FS, module string) ([]Violation, error) {
	c := checker{tree: tree, module: module, folders: make(map[string]*folder)}
	if err := fs.WalkDir(tree, ".", c.visit); err != nil {
		return nil, fmt.Errorf("read source tree: %w", err)
	}
	for _, f := range c.folders {
		c.found = append(c.found, checkName(f.path, f.pkg)...)
		c.found = append(c.found, checkDoc(*f)...)
	}
	slices.SortFunc(c.found, func(a, b Violation) int {
		return strings.Compare(a.Where+a.What, b.Where+b.What)
	})
	return c.found, nil
}

func (c *checker) visit(name string, entry fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	base := path.Base(name)
	if entry.IsDir() {
		if name != "." && base == ".git" || slices.Contains(generated, base) {
			return fs.SkipDir
		}
		if name != "." && !strings.Contains(name, "/") {
			c.found = append(c.found, checkFolder(name)...)
		}
		return nil
	}
	if !entry.Type().IsRegular() {
		return nil
	}
	if err := c.text(name, entry); err != nil {
		return err
	}
	if path.Ext(base) == ".go" && !inTestdata(name) {
		return c.source(name)
	}
	return nil
}

// text searches one file for machine paths, unless it is binary or large.
func (c *checker) text(name string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil || info.Size() > maxTextSize {
		return err
	}
	content, err := fs.ReadFile(c.tree, name)
	if err != nil || bytes.IndexByte(content, 0) >= 0 {
		return err
	}
	number := 0
	for line := range bytes.Lines(content) {
		number++
		c.found = append(c.found, checkText(fmt.Sprintf("%s:%d", name, number), string(line))...)
	}
	return nil
}

// source parses one Go file and applies the rules about code.
func (c *checker) source(name string) error {
	content, err := fs.ReadFile(c.tree, name)
	if err != nil {
		return err
	}
	positions := token.NewFileSet()
	file, err := parser.ParseFile(positions, name, content, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return fmt.Errorf("%s: import %s: %w", name, spec.Path.Value, err)
		}
		c.found = append(c.found, checkImport(c.module, name, imported)...)
	}
	c.found = append(c.found, checkInit(positions, file)...)
	c.note(name, file)
	return nil
}

// note remembers what the file says about its folder.
func (c *checker) note(name string, file *ast.File) {
	where := path.Dir(name)
	f := c.folders[where]
	if f == nil {
		f = &folder{path: where}
		c.folders[where] = f
	}
	test := strings.HasSuffix(name, "_test.go")
	if f.pkg == "" || !test {
		f.pkg = file.Name.Name
	}
	f.code = f.code || !test
	if path.Base(name) == "doc.go" {
		f.hasDoc = true
		f.doc = file.Doc.Text()
	}
}

func checkInit(positions *token.FileSet, file *ast.File) []Violation {
	var found []Violation
	for _, declared := range file.Decls {
		function, ok := declared.(*ast.FuncDecl)
		if !ok || function.Recv != nil || function.Name.Name != "init" {
			continue
		}
		at := positions.Position(function.Pos())
		found = append(found, Violation{
			Where: fmt.Sprintf("%s:%d", at.Filename, at.Line),
			What:  "func init",
			Why:   "it runs in every program and test that imports the package, in an order nobody chose",
			Do:    "initialise in the declaration, in a New function, or with sync.OnceValue",
		})
	}
	return found
}

// checkDoc asks for a package comment in doc.go. A library's begins with
// "Package <name>", as go doc expects; a command's may begin with its name.
func checkDoc(f folder) []Violation {
	complain := func(what, do string) []Violation {
		return []Violation{{
			Where: f.path + "/",
			What:  what,
			Why:   "a stranger learns from doc.go what the package promises, after which source, and what it does not do",
			Do:    do,
		}}
	}
	const write = "write a doc.go: promise, source or specification followed, a small picture of the data flow, caveats"
	begin := "Package " + strings.TrimSuffix(f.pkg, "_test") + " "
	switch {
	case !f.hasDoc:
		return complain("the package has no doc.go", write)
	case strings.TrimSpace(f.doc) == "":
		return complain("doc.go has no package comment", write)
	case f.pkg != "main" && !strings.HasPrefix(f.doc, begin):
		return complain(fmt.Sprintf("the package comment does not begin with %q", begin), "begin it so: go doc and readers look for it")
	case strings.Count(strings.TrimSpace(f.doc), "\n") == 0 && len(f.doc) < 80:
		return complain("the package comment is a single short line", write)
	}
	return nil
}

// inTestdata reports whether the go command ignores the file because of its
// folder.
func inTestdata(name string) bool {
	for part := range strings.SplitSeq(path.Dir(name), "/") {
		if part == "testdata" || len(part) > 1 && (part[0] == '_' || part[0] == '.') {
			return true
		}
	}
	return false
}
