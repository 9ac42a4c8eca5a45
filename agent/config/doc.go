// Package config is what the owner can set: one struct, filled from defaults,
// then the config file, then the command line, and checked once.
//
// Promise: the defaults work; an unknown or wrong entry is refused with its
// name and what would be right.
//
//	defaults ─► FILE (JSON, names as in the struct's tags) ─► flags ─► Check
//
// Secrets are neither in the config file nor on the command line, which others
// can see: they have files of their own, which these name.
//
// Caveats: the files are read at the start only.
package config
