// Package gateway shows, in any browser on this machine, what a contact serves:
//
//	http://bob.localhost:8461/      what bob serves to this device
//	http://ADDRESS.localhost:8461/  the same by address, 56 characters
//	http://localhost:8461/~bob/     the same where a browser does not take
//	                                *.localhost for this machine (RFC 6761 §6.3)
//	http://localhost:8461/          the contacts
//
// Promise: a folder with an index.html is a web site, ?list shows its files;
// ranges and conditional requests pass, files of any size stream through small
// memory; a contact's page can read nothing of another contact's, of the list
// of contacts, or of any other site on this machine; no other site can read or
// probe what contacts serve; and a contact learns of the browser nothing but
// what it asks for.
//
// # Data flow
//
//	browser ─► guard ─► which contact? ─► Resolve ─► proxy ─overlay, service "share"─► contact
//	             │            └─ /, unknown            │  ▲
//	             └─ refusals    └─► a page of ours     │  └── /x/ ► /x/index.html, else the listing
//	browser ◄─── headers let through, ours added ◄─────┘
//
// # Between contacts
//
// By name each contact is an origin of its own. In the /~name/ form all share
// one, so everything there is answered with the CSP directive sandbox, which
// gives each page an origin that equals no other. To the browser such a page is
// foreign even to its own files; therefore /~name/ leads to /~name.TOKEN/, and
// who knows the token is the contact's page. Absolute paths in pages and style
// sheets get that prefix on their way.
//
// Pages load from their own contact only (default-src 'self'): a page that
// comes from this machine's own address would otherwise pass for a local one
// before the home's router and other devices, and could tell third parties who
// reads it. Links lead anywhere.
//
// # Between sites
//
// Only this machine is answered, under a localhost name with our port: DNS
// rebinding arrives with another Host. What Sec-Fetch-Site calls another site
// is refused before anything is looked up, so that known, unknown and absent
// contacts look the same; opening a page by a link is allowed. PUT needs an
// Origin equal to the contact's own, which only pages by name have.
//
// # Headers
//
// Both ways lists say what passes; everything else does not: cookies,
// credentials, languages, user agents, Set-Cookie, Clear-Site-Data, Refresh,
// Strict-Transport-Security, Alt-Svc, CORS. Service workers are not installed: they
// would outlive the name they came under. Answers are always revalidated, for
// the same reason.
//
// # Caveats
//
//   - What a page keeps in the browser (localStorage, IndexedDB) belongs to the
//     name: a contact that is later given another's old name finds it.
//   - In the /~name/ form scripts cannot fetch, keep anything in the browser,
//     load modules or fonts, or use absolute paths that they put together; PUT
//     does not work. The form by name can all that.
//   - Tokens change with each start: an address with an old one leads to the
//     new one when it is opened, but files of a page left open stop coming.
//   - Absolute paths begin at the list of shares: a site in the share "site"
//     refers to its files relatively, or below /site/.
//   - Whoever may run programs on this machine can use the gateway, as the
//     owner of the device does.
package gateway
