// Package directory puts this device's record into a table that strangers keep,
// and finds those of others by nothing but their address.
//
// Promise: the first record is put at once, a change 5 s after it was seen (the
// next ones after 10, 20, 40 s and so on while it goes on), and everything again
// every 40 to 60 minutes; what is put wins against all that
// this device ever put, also after a crash, a restore from a backup or with a
// clock in 1970; nothing that a table returns is believed unless the address's
// own key made it for this period; in the steady state nothing is written.
//
//	Self ──► devicePublisher ─┬─ seq: sequence (a range reserved on flash)
//	                          └─ record.Seal ─► Table.Put, present period; in its last 90 min the next too
//	Owned ─► ownerPublisher ─── Presigned.Item ─► Table.Put
//
//	Lookup ─► cache (30 s; in vain 10 s) ─► one search per address ─► Table.Get: present period
//	              ▲                                      │ nothing: the periods before and after, together
//	Learn ────────┴───────────── higher seq ◄────────────┘ record.Open
//	Cached, Hints: the last good record, however old; up to 64 of them survive a restart
//
// The clock. Items are found by the period, so the time matters here, to a day
// in either direction. While it is not known nothing is put for the first
// minute, since other devices tell the time; after that the record is put for
// the time there is, and again as soon as the time is known. The owner's list is
// not put without a clock: no signature fits.
//
// The seq. Ranges of 4096 are reserved with one write; a range begins at the
// clock's seconds or above the last range, whichever is higher, and within it
// the seq rises by one with each change. (With every seq taken from the clock,
// a range would be used up by waiting.) The same record keeps its seq when it is
// put again. After the first put of a period, and whenever nobody stores what
// was put, the table is asked what it holds; this device's own item with a higher
// seq, as after a restore, makes the next one go above it.
//
// What is kept of others. Records of devices that were looked up are written
// when the directory closes, and else at most every six hours (ten minutes after
// the start at first), only if an address, a rendezvous or an owner changed in
// one of them, or the list of an owner did: a new seq alone is not worth a write. At
// most 64 of at most 870 bytes: 75 KB in the worst case, 3 KB with ten contacts.
//
// Caveats: a table that says it stored something is believed until the next
// put. Nodes that keep the present period's keys of an address can hide its
// item; the seqs that a reader remembers keep them from showing an older one,
// but a reader who never saw a newer one takes it. A device whose state and clock
// are both lost may be refused by those who remember its higher seq until its
// clock is right; Forget helps on their side.
package directory
