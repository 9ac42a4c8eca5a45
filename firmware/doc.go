// Package firmware turns the agent's binary into something installed.
//
// Promise: what lies here is checked by the tools of the system it is for.
// At present that is the service for Debian and Raspberry Pi OS,
// systemd/porchlight.service: it runs the agent under a user of its own, with
// no powers of root and a read-only system, at an exposure of 2.0 or less by
// "systemd-analyze security".
//
// Source: systemd.exec(5), systemd.service(5), systemd-analyze(1).
//
// To install the agent by hand, as root:
//
//	install -m 755 bin/porchlight /usr/bin/porchlight
//	useradd --system --home-dir /var/lib/porchlight --shell /usr/sbin/nologin porchlight
//	install -m 644 firmware/systemd/porchlight.service /etc/systemd/system/
//	systemctl daemon-reload
//	systemctl enable --now porchlight
//	porchlight --state /var/lib/porchlight status
//
// Data flow:
//
//	bin/porchlight ──┐
//	                 ├── /usr/bin, /etc/systemd/system ── systemd ── agent
//	porchlight.service┘                                                │
//	                                            /var/lib/porchlight ◄──┘
//
// # Caveats
//
// Not here: packages (.deb, .ipk, .apk), OpenWrt's init script and settings,
// images and updates. Nothing here imports the runtime; the agent knows
// nothing of how it was installed. The unit is of Type=simple, so systemd
// takes the agent for started as soon as its process is.
package firmware
