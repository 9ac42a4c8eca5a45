// Command lab shows and tests the whole agent between real NATs: it puts the
// built program on the hosts of a NAT laboratory and lets them meet.
//
//	lab demo      two homes find each other, fetch a file, run a task; the console stays open
//	lab matrix    every kind of NAT against every other: direct, relayed or failed, and how soon
//	lab recovery  what happens to a home while a file is under way, and how soon it goes on
//
// Promise: nothing is a mock; whatever was started and made is taken down
// again at the end, also after Ctrl-C. The package's tests kill, part and
// starve the same agents; what fails leaves logs, capture and diagram in
// lab-out.
//
//	natlab.Lab ─► hosts ─► world: one process of bin/porchlight on each ─► commands over its state folder
//
// Caveats: namespaces need root. Without it, demo meets on loopback, where
// there is no NAT to cross, and says so.
package main
