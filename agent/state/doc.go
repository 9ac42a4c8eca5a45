// Package state is the folder that keeps what a device must not forget: its
// key, its contacts, its shares, its port and the console's password.
//
// Promise: a file is replaced whole or not at all, whenever the power goes;
// nothing is written when nothing changed; two agents never share one folder.
//
//	WriteFile ─► name.new (0600) ─► fsync ─► rename ─► fsync of the folder
//
// Caveats: files are small (MaxFile); bulk never lies here. The lock is an
// flock(2) and ends with the process.
package state
