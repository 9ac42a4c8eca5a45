// Package contacts is whom the owner knows: addresses with local names, roles
// and hints, and what each of them may do.
//
// Promise: a name belongs to one contact; a block holds whatever else is said;
// who is granted nothing gets what everybody gets and nothing more.
//
//	contacts.json ─► Book ─► Resolve("bob" | address | link) ─► identity.Link
//	                   └───► Allows(caller, ["friends", "bob"]) ─► true, false
//
// A grant is a list of words: "everybody", "friends", "me", or contacts' names
// and addresses. The role me includes friend.
//
// Caveats: at most MaxContacts. Hints are those of the link the contact was
// added with, and where it was last met; the key decides.
package contacts
