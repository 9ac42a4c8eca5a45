// Package contacts is whom the owner knows: addresses with local names, roles
// and hints, and what each of them may do.
//
// Promise: a name belongs to one contact; a block holds whatever else is said;
// who is granted nothing gets what everybody gets and nothing more.
//
//	contacts.json ─► Book ─► Resolve("bob" | address | link) ─► identity.Link
//	                   └───► Allows(caller, ["friends", "bob"]) ─► true, false
//
// A contact is a device or a person. A person's devices are told by [Owners];
// each of them may what the person may, and the owner's own have the role me.
//
// A grant is a list of words: "everybody", "friends", "me", or contacts' names
// and addresses. The role me includes friend.
//
// Caveats: at most MaxContacts. Hints are those of the link the contact was
// added with, and where it was last met; the key decides.
package contacts
