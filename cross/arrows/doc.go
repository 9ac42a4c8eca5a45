// Package arrows states the architecture of the whole module as a test.
//
// Promise: [Check] reads a source tree and names every place that breaks a
// rule of the map below, each with the reason for the rule and what to do
// about it. The package's test runs it over this module, so that the map in
// ARCHITECTURE.md stays true.
//
//	agent ──┬──> nat        nat, share and compute know nothing of each
//	        ├──> share      other and nothing of agent: each can be read,
//	        └──> compute    tested and replaced alone
//
//	firmware, cross         import nothing of the runtime; firmware may read
//	                        the table of targets in cross
//
// The other rules: go.uber.org/fx only in agent, or in a module.go at a
// package's edge; no top-level folders but these six; every package has a
// doc.go with its package comment; no func init; no folders named after
// nothing in particular (util, common, helpers); no paths of one particular
// machine in any text.
//
// Data flow:
//
//	folder ── walk ──┬── *.go ── parser: imports, comments, functions ──┐
//	                 └── text ── machine paths ─────────────────────────┴── []Violation
//
// # Caveats
//
// Files are parsed, not built: build constraints are ignored, so a rule holds
// on every system at once, WebAssembly examples included. Only direct imports
// are looked at; since every folder's own imports are, a forbidden package
// cannot be reached by a detour. Files in testdata are checked for machine
// paths only, and generated folders (bin, lab-out, node_modules, dist) not at
// all.
package arrows
