// Command consoletest serves the console with made-up data, for the browser
// test in agent/console/web/e2e and for looking at the page while working on
// it. It is no part of the agent.
//
// Promise: it listens on loopback only, prints the page's address on its
// first line, obeys one command a line on standard input and ends when that
// closes, so that it never outlives the test that started it.
//
//	stdin ─▶ scene ─▶ api.Status, api.Netcheck ─▶ console ─▶ browser
//
// Changes that the page makes hold until the program ends.
//
// Commands: "verdict CODE", "doubt on|off", "router [ADDRESS [NAME]]", "rtt MS",
// "people some|none|hostile", "idle", "busy", "step" (transfers move on by a
// tenth), "ask some|hostile" (a request comes), "owner here|elsewhere|none",
// "join" (a device accepts the invitation), "presence NAME on|off", "arrive
// NAME" (another contact), "write NAME TEXT" (a message comes), "state NAME
// STATE" (of the last message sent).
//
// # Caveats
//
// The password record lies in the file named by -store, unencrypted and
// without fsync: enough for a test, and for nothing else.
package main
