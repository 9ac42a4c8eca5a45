// Package status puts together what the device knows about itself at one
// moment, for the command line and the console.
//
// Promise: a snapshot is cheap enough to take each second and never blocks on
// the network.
//
//	reach.State, overlay.Session, join.Info, share.Transfers, … ─► Report() ─► api.Status
//
// Caveats: byte counts of a contact begin again with each start of the daemon;
// those of ended sessions are kept in memory only, as the last report before
// their end saw them.
package status
