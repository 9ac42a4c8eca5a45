// Package people is who of the contacts is on-line, and how people become
// contacts of each other.
//
// Promise: a contact that comes or goes in order is seen to within one exchange
// of notes; one that loses power within what its rendezvous needs to notice;
// whom we hide from, blocked or refused cannot tell our answers from absence;
// what is idle costs less than one packet a minute and contact.
//
//	first registration ─► Announce ─┐                       ┌─► note "here, on" ─► contact's device
//	other network ──────► Moved ────┼─► devices, each due ──┤   (Teller)
//	lease, back-off ────────────────┘   (8 at once, 20/s)   └─◄ its answer: its own "here"
//	introduce.Told ─────► Handle ───┐
//	a session begins ───► Saw ──────┼─► State, Person, Changed
//	introduce.Left ─────► Left ─────┘   (a hint: checked by a note)
//	Close ─► note "here, off" to all who are on-line
//
//	Ask ─► note "request" ─► pending there ─► Accept ─► note "accept" ─► mutual
//	                                       └► Refuse (nothing is sent)
//
// No session is kept to a contact. An exchange tells both sides, so a contact
// is on-line from then on for a lease of 30 min ± 25 %, after which one note
// checks. Whoever sends a note has the rendezvous that carries it watch the
// recipient (package introduce); a watch ends after two hours, so that at least
// one note in 90 min is our own. A contact that is off-line is tried after 1, 5
// and 30 min and then every hour, one that took leave only from 30 min on: it
// will tell us itself when it is back.
//
// A note over a session costs about 4 datagrams, one that needs a session to a
// rendezvous about 14. While nothing happens, a pair of contacts exchanges at
// most 60/22.5 = 2.7 notes an hour together, which is 37 datagrams, 0.6 a minute; an
// off-line contact costs one attempt an hour, 0.25 a minute and what it takes to
// look for its address.
//
// Notes are JSON objects of at most 1000 bytes, described at message. Each life
// of a device has a random boot and counts what it says, so that a note that
// was held up cannot undo a later one; only an answer, which is fresh, or a
// note of a boot never heard of begins another life.
//
// Caveats: who hides is not told of those it hides from by answers, only by
// their own notes, and takes them for gone after 80 min of silence. Hiding is
// about presence: who may open a session sees that the device answers it, and
// whose watch was placed before may be told within two hours that we left.
// While this device has no network, all contacts are off-line. A request that
// waits for an answer may be lost there, by too many others or a power cut
// within ten minutes; it is sent anew only by Ask. Times that people see are
// those of the wall clock, which may be wrong; nothing is decided by them.
package people
