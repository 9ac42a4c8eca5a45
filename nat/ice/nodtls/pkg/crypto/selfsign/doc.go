// Package selfsign is named by tests of pion/ice/v2 and is empty.
//
// Promise: go mod tidy finds it.
//
// Caveats: it exists for that alone.
package selfsign
