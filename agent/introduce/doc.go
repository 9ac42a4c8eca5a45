// Package introduce lets two devices that cannot call each other exchange one
// message and one answer, carried by a third that both keep a session to: an
// offer, which begins a session, or a note, which needs none.
//
// Promise: the rendezvous sees two addresses and a size; it can neither read
// nor forge nor replay what it carries (package sealed); it dials nobody to
// carry it, it only uses sessions that exist.
//
//	A                         rendezvous                         B
//	│                              │◄── PUT /v1/register {epoch} ─│  (kept while the session lives)
//	│── GET /v1/epoch?of=B ───────►│                              │
//	│── POST /v1/offer?to=B ──────►│── POST /v1/offer?to=B ──────►│  Answerer
//	│◄──────────── sealed answer ──│◄──────────── sealed answer ──│
//	│── POST /v1/note?to=B&watch ─►│── POST /v1/note?to=B ───────►│  Told
//	│◄──────────── sealed answer ──│◄──────────── sealed answer ──│
//	│                              │◄── DELETE /v1/register ──────│  (or B's session ends)
//	│◄── POST /v1/left?of=B ───────│
//
// With an existing session, A sends the same requests to B itself.
//
// A note is 32 bytes, epoch and session of package sealed, and then at most
// MaxNote bytes that mean nothing here. Whoever sends one to a device that
// knows it may ask the rendezvous to watch, by watch=1 and at most two times
// back=ADDRESS@IP:PORT in the query: when the registration of the
// device ends, because it says so, because its session is gone or because
// three renewals are missing, the rendezvous tells the watcher, over a session
// that exists or by way of a rendezvous of the watcher's own that it named.
// That is a hint; the watcher finds out by a note of its own.
//
// Whatever is wrong with a note, and also when it is not wanted, the answer is
// that of a rendezvous where the device is not registered: who is hidden from
// looks like who is absent.
//
// Caveats: any device answers for itself; it introduces others only while it
// is willing, that is, reachable from outside. A rendezvous limits the messages
// of each caller, a device those of each sender. An epoch that changed since
// the device registered costs the next caller two more requests. Anybody can
// ask a rendezvous for the epoch of a device, and learns so that it is
// registered there; an answer that a device feigns takes a round trip longer
// than that of its rendezvous. A rendezvous and those named for the way back
// learn who watches whom. Registrations and watches are in memory only: a
// rendezvous that restarts tells nobody anything.
package introduce
