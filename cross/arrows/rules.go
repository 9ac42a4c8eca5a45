package arrows

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Violation is one broken rule.
type Violation struct {
	// Where is a path below the checked folder, with a line where one fits.
	Where string
	// What is wrong, Why the rule exists, and what to Do.
	What, Why, Do string
}

// String explains the violation in full.
func (v Violation) String() string {
	return fmt.Sprintf("%s: %s\n\twhy:  %s\n\tdo:   %s", v.Where, v.What, v.Why, v.Do)
}

// arrow says what the packages below one top-level folder may import of this
// module, beside their own folder.
type arrow struct {
	may []string
	why string
	do  string
}

const (
	domainWhy = "nat, share and compute are read, tested and replaced alone; agent wires them together"
	domainDo  = "take what is needed as a parameter or a small interface declared here, and pass it in from agent"
	toolWhy   = "building and installing must work without compiling the runtime, and the runtime must not carry build tools"
	toolDo    = "pass the value on the command line or in a file, or move the code to the runtime"
)

// arrows is the map of the code: the keys are the only top-level folders.
var arrows = map[string]arrow{
	"agent":    {may: []string{"nat", "share", "compute"}, why: toolWhy, do: toolDo},
	"nat":      {why: domainWhy, do: domainDo},
	"share":    {why: domainWhy, do: domainDo},
	"compute":  {why: domainWhy, do: domainDo},
	"firmware": {may: []string{"cross"}, why: toolWhy, do: toolDo},
	"cross":    {why: toolWhy, do: toolDo},
}

// laboratory may use what builds and emulates: it is a program for the build
// machine that is not part of the agent.
const laboratory = "agent/lab"

// generated are folders that tools fill; nothing in them is ours to check.
var generated = []string{"node_modules", "dist", "bin", "lab-out"}

// nothingNames are folder and package names that say nothing about what the
// package gives.
var nothingNames = regexp.MustCompile(`^(common|misc|helpers?|shared|.*utils?|.*helpers?)$`)

// machinePaths match folders that exist on somebody's machine only.
var machinePaths = regexp.MustCompile(`(?:^|[^\w./\-$}])(/(?:work|Users|tmp/plan|root/go|root/\.\w+|home/(?:runner|ubuntu))/[\w.\-/]*)`)

// checkFolder judges a top-level folder's name.
func checkFolder(name string) []Violation {
	if _, known := arrows[name]; known || strings.HasPrefix(name, ".") || slices.Contains(generated, name) {
		return nil
	}
	return []Violation{{
		Where: name + "/",
		What:  "a top-level folder that is not on the map",
		Why:   "six folders, one sentence each, keep the map readable: agent, nat, share, compute, firmware, cross",
		Do:    "move it below the folder whose sentence it completes",
	}}
}

// checkImport judges one import of module-relative or foreign path by a file
// (module-relative, slash-separated).
func checkImport(module, file, imported string) []Violation {
	if imported == "go.uber.org/fx" || strings.HasPrefix(imported, "go.uber.org/fx/") {
		return checkFx(file, imported)
	}
	inside, ours := strings.CutPrefix(imported, module+"/")
	if !ours {
		return nil
	}
	from, to := topFolder(file), topFolder(inside)
	rule, known := arrows[from]
	if from == to || !known || slices.Contains(rule.may, to) {
		return nil
	}
	if from == "agent" && to == "cross" && (strings.HasSuffix(file, "_test.go") || below(laboratory, file)) {
		return nil
	}
	if to == "agent" && rule.do == domainDo {
		return []Violation{{file, fmt.Sprintf("%s imports %s", from, inside), domainWhy, domainDo}}
	}
	return []Violation{{file, fmt.Sprintf("%s imports %s", from, inside), rule.why, rule.do}}
}

func checkFx(file, imported string) []Violation {
	if topFolder(file) == "agent" || path.Base(file) == "module.go" {
		return nil
	}
	return []Violation{{
		Where: file,
		What:  "imports " + imported,
		Why:   "domain packages are plain constructors, usable in a test or another program without a framework",
		Do:    "return a concrete type from a New function and wire it in agent (or in a module.go at this package's edge)",
	}}
}

// checkName judges the names of a folder and of the package in it.
func checkName(folder, pkg string) []Violation {
	var found []Violation
	for _, name := range slices.Compact([]string{path.Base(folder), strings.TrimSuffix(pkg, "_test")}) {
		if nothingNames.MatchString(name) {
			found = append(found, Violation{
				Where: folder + "/",
				What:  fmt.Sprintf("the name %q says nothing about what the package gives", name),
				Why:   "such packages collect what has no place and are imported by everything",
				Do:    "name it by what it gives, or move each function to the package that uses it",
			})
		}
	}
	return found
}

// checkText looks for machine paths in one line.
func checkText(where, line string) []Violation {
	match := machinePaths.FindStringSubmatch(line)
	if match == nil {
		return nil
	}
	return []Violation{{
		Where: where,
		What:  "names the path " + match[1] + " of one machine",
		Why:   "the repository is read and built elsewhere, where that path does not exist",
		Do:    "write the path relative to the repository, or use a temporary folder",
	}}
}

func topFolder(name string) string {
	top, _, _ := strings.Cut(name, "/")
	return top
}

func below(folder, name string) bool {
	return name == folder || strings.HasPrefix(name, folder+"/")
}
