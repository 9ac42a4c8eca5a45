package cli

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"porchlight/agent/api"
	"porchlight/agent/app"
	"porchlight/agent/config"
	"porchlight/agent/reach"
)

// runAgent is the daemon itself.
func runAgent(c *call) error {
	cfg := config.Default()
	file := c.flags.String("config", "", "JSON file with the same options; those given here come first")
	listen := c.flags.String("listen", "", "UDP and TCP address; default: any, at a port that is chosen once and kept")
	console := c.flags.String("console", "", "address of the console, or off; default: 127.0.0.1:8460")
	var bootstrap []string
	c.flags.Func("bootstrap", "link of a device that introduces this one (repeatable)", func(s string) error {
		bootstrap = append(bootstrap, s)
		return nil
	})
	reachability := c.flags.String("reachability", "", "auto, public (others get in) or private (helps nobody else); default: auto")
	level := c.flags.String("log-level", "", "debug, info, warn or error; default: info")
	name := c.flags.String("name", "", "what to call this device; default: the host's name")
	work := c.flags.String("work", "", "folder for tasks of others; default: work in the state folder")
	relay := c.flags.String("relay", "", "TURN server to keep a place at, such as turn:HOST:PORT?transport=tcp")
	relayUser := c.flags.String("relay-user", "", "user name at that server")
	relayPassword := c.flags.String("relay-password-file", "", "file with the password for it")
	var stun []string
	c.flags.Func("stun", "STUN server beside the rendezvous, stun:HOST:PORT (repeatable)", func(s string) error {
		stun = append(stun, s)
		return nil
	})
	dht := c.flags.String("dht", "", "on or off: find devices, and be found, by the BitTorrent DHT; default: on")
	var nodes []string
	c.flags.Func("dht-node", "IP:PORT of a node of the DHT to begin with, or none (repeatable)", func(s string) error {
		nodes = append(nodes, s)
		return nil
	})
	lan := c.flags.String("lan", "", "on or off: find devices in the same network; default: on")
	gateway := c.flags.String("gateway", "", "address at which browsers here see what contacts serve, or off; default: 127.0.0.1:8461")
	requests := c.flags.String("requests", "", "on or off: strangers may ask to become contacts; default: on")
	loopback := c.flags.Bool("loopback", false, "meet agents on this same machine, for trying out")
	if err := c.parse(0, 0); err != nil {
		return err
	}
	if *file != "" {
		if err := cfg.Read(*file); err != nil {
			return usageError{err.Error()}
		}
	}
	c.override(&cfg.State, "state", c.state)
	c.override(&cfg.Listen, "listen", *listen)
	c.override(&cfg.Console, "console", *console)
	c.override((*string)(&cfg.Reachability), "reachability", string(reach.Policy(*reachability)))
	c.override(&cfg.LogLevel, "log-level", *level)
	c.override(&cfg.Work, "work", *work)
	c.override(&cfg.Name, "name", *name)
	c.override(&cfg.Relay, "relay", *relay)
	c.override(&cfg.RelayUser, "relay-user", *relayUser)
	c.override(&cfg.RelayPasswordFile, "relay-password-file", *relayPassword)
	c.override(&cfg.DHT, "dht", *dht)
	c.override(&cfg.LAN, "lan", *lan)
	c.override(&cfg.Gateway, "gateway", *gateway)
	c.override(&cfg.Requests, "requests", *requests)
	cfg.DHTNodes = append(cfg.DHTNodes, nodes...)
	cfg.Bootstrap = append(cfg.Bootstrap, bootstrap...)
	cfg.STUN = append(cfg.STUN, stun...)
	cfg.Loopback = cfg.Loopback || *loopback
	if err := cfg.Check(); err != nil {
		return usageError{err.Error()}
	}
	return app.Run(c.ctx, cfg)
}

// override sets a value that was given on the command line.
func (c *call) override(to *string, name, value string) {
	if c.given(name) {
		*to = value
	}
}

func listContacts(c *call) error {
	if err := c.parse(0, 0); err != nil {
		return err
	}
	var list []api.Contact
	if err := c.client.do(c.ctx, http.MethodGet, "contacts", nil, &list); err != nil {
		return err
	}
	return c.print(list, func(w io.Writer) { contactTable(w, list) })
}

func addContact(c *call) error {
	role := c.flags.String("role", "friend", "me, friend or none")
	note := c.flags.String("note", "", "a word to them, so that they know who asks")
	if err := c.parse(2, 2); err != nil {
		return err
	}
	in := map[string]string{"link": c.args[0], "name": c.args[1], "role": *role, "note": *note}
	if err := c.client.do(c.ctx, http.MethodPost, "contacts", in, nil); err != nil {
		return err
	}
	return c.print(in, func(w io.Writer) { fmt.Fprintf(w, "%s is a contact now; they are asked to add you too\n", c.args[1]) })
}

func removeContact(c *call) error {
	if err := c.parse(1, 1); err != nil {
		return err
	}
	if err := c.client.do(c.ctx, http.MethodDelete, "contacts/"+url.PathEscape(c.args[0]), nil, nil); err != nil {
		return err
	}
	return c.print(map[string]string{"removed": c.args[0]}, func(w io.Writer) { fmt.Fprintf(w, "%s is forgotten\n", c.args[0]) })
}

func blockContact(c *call) error   { return setBlocked(c, true) }
func unblockContact(c *call) error { return setBlocked(c, false) }

func setBlocked(c *call, blocked bool) error {
	if err := c.parse(1, 1); err != nil {
		return err
	}
	path := "contacts/" + url.PathEscape(c.args[0]) + "/blocked"
	if err := c.client.do(c.ctx, http.MethodPut, path, blocked, nil); err != nil {
		return err
	}
	word := map[bool]string{true: "blocked", false: "let in again"}[blocked]
	return c.print(map[string]any{"name": c.args[0], "blocked": blocked}, func(w io.Writer) { fmt.Fprintf(w, "%s is %s\n", c.args[0], word) })
}

func listShares(c *call) error {
	if err := c.parse(0, 0); err != nil {
		return err
	}
	var list []api.Share
	if err := c.client.do(c.ctx, http.MethodGet, "shares", nil, &list); err != nil {
		return err
	}
	return c.print(list, func(w io.Writer) {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "SHARE\tFOLDER\tREAD\tWRITE")
		for _, s := range list {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", s.Name, s.Dir, nobody(s.Read), nobody(s.Write))
		}
		t.Flush()
	})
}

func nobody(who []string) string {
	if len(who) == 0 {
		return "nobody"
	}
	return strings.Join(who, ",")
}

func addShare(c *call) error {
	name := c.flags.String("name", "", "name of the share; default: the folder's")
	read := c.flags.String("read", "friends", "who may read")
	write := c.flags.String("write", "", "who may write")
	if err := c.parse(1, 1); err != nil {
		return err
	}
	dir, err := filepath.Abs(c.args[0])
	if err != nil {
		return err
	}
	if *name == "" {
		*name = filepath.Base(dir)
	}
	in := api.Share{Name: *name, Dir: dir, Read: words(*read), Write: words(*write)}
	var share api.Share
	if err := c.client.do(c.ctx, http.MethodPost, "shares", in, &share); err != nil {
		return err
	}
	return c.print(share, func(w io.Writer) {
		fmt.Fprintf(w, "%s is served as %s; %s may read, %s may write\n", share.Dir, share.Name, nobody(share.Read), nobody(share.Write))
	})
}

// words splits a list of who may; nobody means none.
func words(list string) []string {
	out := []string{}
	for _, w := range strings.Split(list, ",") {
		if w = strings.TrimSpace(w); w != "" && w != "nobody" {
			out = append(out, w)
		}
	}
	return out
}

func removeShare(c *call) error {
	if err := c.parse(1, 1); err != nil {
		return err
	}
	if err := c.client.do(c.ctx, http.MethodDelete, "shares/"+url.PathEscape(c.args[0]), nil, nil); err != nil {
		return err
	}
	return c.print(map[string]string{"removed": c.args[0]}, func(w io.Writer) { fmt.Fprintf(w, "%s is no longer served; its files stay\n", c.args[0]) })
}

func showDonate(c *call) error {
	if err := c.parse(0, 0); err != nil {
		return err
	}
	var d api.Donate
	if err := c.client.do(c.ctx, http.MethodGet, "donate", nil, &d); err != nil {
		return err
	}
	return c.printDonate(d)
}

func donateOn(c *call) error {
	to := c.flags.String("to", "friends", "for whom")
	if err := c.parse(0, 0); err != nil {
		return err
	}
	return c.setDonate(api.Donate{Enabled: true, To: words(*to)})
}

func donateOff(c *call) error {
	if err := c.parse(0, 0); err != nil {
		return err
	}
	return c.setDonate(api.Donate{To: []string{}})
}

func (c *call) setDonate(in api.Donate) error {
	var d api.Donate
	if err := c.client.do(c.ctx, http.MethodPut, "donate", in, &d); err != nil {
		return err
	}
	return c.printDonate(d)
}

func (c *call) printDonate(d api.Donate) error {
	return c.print(d, func(w io.Writer) {
		if d.Enabled {
			fmt.Fprintf(w, "processor time is lent to %s\n", nobody(d.To))
		} else {
			fmt.Fprintln(w, "no processor time is lent; switch it on with: porchlight donate on")
		}
	})
}
