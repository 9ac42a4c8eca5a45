// Package resolve chooses the device that is called when a person is meant.
//
// Promise: an address that names a device is that device; one that names a
// person leads to the best of their devices: one that there is a session with,
// directly before relayed and near before far, otherwise the first that
// answers, those first that are said to be on-line.
//
//	Link (person) ─► devices: known list ─► else the link's own dev= ─► else the directory
//	                    └─► session? ─► the best of them
//	                    └─► call, one after another with a head start ─► the first to answer
//
// Caveats: a device that the link names but no list does is called, too; it is
// the person's only if its certificate says so, which Owner reports. Attempts
// that came too late go on in the overlay and leave sessions that rest soon.
package resolve
