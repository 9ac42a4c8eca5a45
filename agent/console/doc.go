// Package console is the web page of one device and the HTTP interface behind
// it: a password at the first start, then one live page that says who this
// device is, whether people can reach it and why, and how packets travel to
// each contact.
//
// Promise: nobody sees or changes anything without the password, except to set
// it once, from the home network, within [Config.SetupWindow] of the start.
// Foreign web pages, foreign names for this host (DNS rebinding) and sources
// outside the home are refused before any handler runs, with the reason in
// words. Nothing is written but the password record; nothing is fetched from
// elsewhere.
//
//	request ─▶ guard ─▶ route table ─┬▶ assets   dist/, compressed at build time
//	           source   (routes.go)  ├▶ setup, session   password, limiter
//	           Host                  ├▶ status, events   Config.Status ─▶ feed
//	           Origin                └▶ Config.API       only with a session
//
// Specifications followed: RFC 9106 (Argon2id, sized for 580 MHz routers),
// RFC 6265bis (SameSite cookies), the Fetch Metadata and Server-Sent Events
// chapters of the web standards, RFC 9110 §15.5.20 (421 for a foreign Host).
//
// The page lives in web/ (Preact, TypeScript); its built form is committed in
// dist/ so that the Go tool alone builds the agent. A test compares the digest
// of the sources with the one the build left behind.
//
// # Caveats
//
// A browser sends a cookie to every port of a host. The cookie's name carries
// the port, so several devices on one host do not log each other out, but
// another service on the same host can read it. Over plain HTTP whoever can
// read the home network can read the cookie and the password too.
//
// Sources with global IPv6 addresses are refused even on the same link; such a
// client uses the device's IPv4, link-local or unique local address. Behind a
// reverse proxy all sources look alike; the log-in limiter then counts them
// together.
//
// Sessions live in memory and end with the process.
package console
