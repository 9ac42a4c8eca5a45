// Package api is the vocabulary of the control interface: the JSON that the
// daemon, the command line and the console exchange.
//
// Promise: field names carry their units, fields are added but never renamed,
// and one set of codes (see codes.go) names verdicts and reasons for log, API,
// command line and console alike; the words for people live with whoever
// shows them.
//
// Data flow: agent state → Status → unix socket (porchlight status --json)
// and server-sent events (console).
//
// Caveats: this package holds data only; it imports nothing but the standard
// library and does no I/O.
package api
