// Package introduce lets two devices that cannot call each other exchange one
// offer and one answer, carried by a third that both keep a session to.
//
// Promise: the rendezvous sees two addresses and a size; it can neither read
// nor forge nor replay what it carries (package sealed); it never dials on
// anybody's behalf, it only uses sessions that exist.
//
//	A                         rendezvous                         B
//	│                              │◄── PUT /v1/register {epoch} ─│  (kept while the session lives)
//	│── GET /v1/epoch?of=B ───────►│                              │
//	│── POST /v1/offer?to=B ──────►│── POST /v1/offer?to=B ──────►│  Answerer
//	│◄──────────── sealed answer ──│◄──────────── sealed answer ──│
//
// With an existing session, A sends the same two requests to B itself.
//
// Caveats: any device answers for itself; it introduces others only while it
// is willing, that is, reachable from outside. A rendezvous limits the offers
// of each caller, a device those of each sender. An epoch that changed since
// the device registered costs the next caller two more requests.
package introduce
