// Package version is which Porchlight this is.
//
// Promise: String is never empty.
//
// Caveats: releases set it when linking, -X porchlight/agent/version.version=1.2.3.
package version

// version is set by the linker.
var version = "0.1.0-dev"

// String returns the version.
func String() string { return version }
