// Package mail carries short texts between people's devices, sealed from end
// to end, and holds them for those that are off-line.
//
// Promise: a text that Send accepted is shown exactly once, and after all that
// were sent before it from the same device, on every device of the contact that
// comes within Lifetime; what was acknowledged survives a power cut, at the
// sender, at helpers and at the recipient. Helpers can neither read nor forge
// nor repeat: they see two keys, one of three sizes, and an hour of expiry.
// Nothing is written to disk while nothing happens.
//
//	Send ─► messages.log ─► courier ─┬─ PUT /v1/deliver ──────────────────► recipient ─► messages.log ─► List
//	          (outbox)               └─ POST /v1/deposit ─► helper            ▲    │ reply: last, id
//	                                                       held.log ─ PUT ────┘    │ reply: sealed receipt
//	             ◄───────────────────────────────────────── PUT (receipt) ◄────────┘
//
// # Streams
//
// From each device to each other one runs a stream: a random number, and
// messages numbered from 1. A message goes to every device of the contact and,
// as a copy, to the owner's other devices; its random id is the same in all of
// them. The recipient takes the next number and no other, and stores the
// message and its number by one record, synced before it answers. Each message
// says below which number the sender has nothing left (floor), so that a
// recipient passes over what expired, and one that lost its state joins in.
//
// A confirmation names the last number taken and the id of that message. If the
// sender has no such message by that number, it was put back to an earlier state
// (or its log was damaged): it numbers what waits anew in a new stream, and the
// recipient tells by the ids what it has.
//
// A recipient answers a helper with a receipt sealed to the sender, which the
// helper carries back: sender and recipient need never be on-line together.
//
// # HTTP
//
//	PUT  /v1/deliver                     a sealed message; who brings it does not matter
//	POST /v1/deposit?to=&ttl=&ref=       hold it for a device: seconds, 16 hexadecimal digits
//	GET  /v1/ack?stream=                 how far the caller's stream (hexadecimal) has come
//
// Answers are JSON. 200 {"last","id"} to the sender, {"receipt"} to a helper;
// 409 {"want"} if one before has not come; else {"code"}: 400 malformed,
// 401 nobody, 403 not_allowed, 404 absent (also to strangers), 413 too_large,
// 429 too_many, 503 disk, 507 full. A body is at most sealed.MaxMessage bytes.
// The inside of a message is described at type body, the logs at journal and
// in record.go.
//
// # Caveats
//
// Texts lie readable on the disks of those who write and get them; there is no
// forward secrecy towards a thief of the recipient's key (package sealed).
// Messages of two devices of one person are shown as they come, without an
// order between them. A device that joins a person later has no history, and
// one that lost its state could be shown old messages once more by a helper
// that kept them. A device without a clock counts a message's age from its own
// last start; one whose clock is set far ahead lets what waits expire. History is bounded (500 messages a contact, 2 MiB in all; the
// oldest go); beyond it, or beyond 8 streams of one sender, a message resent
// after damage is not recognised. An own device that stays away keeps the last
// 64 copies at the sender; older ones it never gets.
package mail
