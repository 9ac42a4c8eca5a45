// Package hostile makes WebAssembly modules that attack whoever runs or
// compiles them, and a few that behave. Tests of the pre-parser, the sandbox
// and the donor share it.
//
// Promise: each module is valid by the WebAssembly Core Specification 2.0
// unless its comment says otherwise, so that only limits can refuse it, and
// each is generated in code, so that nothing binary lies in the repository.
//
//	Corpus ─► Module{Name, Bytes, Runs} ─► precheck, sandbox, handler tests
//
// # Caveats
//
// Not linked into the agent: only tests import it.
package hostile
