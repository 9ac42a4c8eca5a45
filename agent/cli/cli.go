package cli

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"

	"porchlight/agent/config"
	"porchlight/agent/forward"
	"porchlight/compute"
	"porchlight/share/fetch"
)

// The exit codes.
const (
	exitOK         = 0
	exitFailed     = 1
	exitUsage      = 2
	exitNotRunning = 3
	exitNotAllowed = 4
	exitTimedOut   = 5
)

// command is one line of the table.
type command struct {
	name    string // "contacts add" has two words
	args    string
	summary string
	run     func(*call) error
}

// commands is every command there is, in the order of the help.
func commands() []command {
	return []command{
		{"run", "[--listen [HOST]:PORT] [--console HOST:PORT|off] [--bootstrap LINK]… [--reachability auto|public|private] [OPTION]…", "run the agent", runAgent},
		{"status", "", "who and how reachable this device is, and its contacts", showStatus},
		{"id", "", "print this device's address", showID},
		{"link", "[--qr] [--me]", "print the link to give to others: this device's, or with --me yours", showLink},
		{"netcheck", "", "what the network around this device is like", showNetcheck},
		{"ping", "PEER [--until-direct] [--timeout D]", "reach a device and say how", ping},
		{"lookup", "PEER [--fresh] [--no-session]", "find where a device is, and say who told", lookUp},
		{"contacts list", "", "list contacts", listContacts},
		{"contacts add", "LINK NAME [--role me|friend|none] [--note TEXT]", "add a contact, and ask to be one of theirs", addContact},
		{"contacts requests", "", "list who asks to become a contact", listRequests},
		{"contacts accept", "ADDRESS|NAME [NEW-NAME] [--role me|friend|none]", "say yes to who asks: they become a contact, and learn it", acceptRequest},
		{"contacts refuse", "ADDRESS|NAME", "turn a request down, and those that follow; they are not told", refuseRequest},
		{"contacts remove", "NAME", "forget a contact", removeContact},
		{"contacts block", "NAME|ADDRESS", "refuse a device", blockContact},
		{"contacts unblock", "NAME|ADDRESS", "let a device in again", unblockContact},
		{"contacts hide", "NAME", "show a contact this device as off-line; they may still connect", hideFrom},
		{"contacts show", "NAME", "end hiding: the contact sees again when this device is on-line", showTo},
		{"devices list", "", "list your devices: those that belong to the same owner", listDevices},
		{"devices invite", "[--qr]", "make a code that makes one other device yours, within ten minutes", inviteDevice},
		{"devices join", "CODE|LINK", "make this device belong to whoever made the code", joinOwner},
		{"devices revoke", "NAME|ADDRESS", "disown a device, such as a lost one; contacts trust it no more", revokeDevice},
		{"devices leave", "[--forget-key]", "let this device belong to nobody", leaveOwner},
		{"backup words", "[-o FILE]", "print the owner's key as 24 words to write down, or put them into a file", backupWords},
		{"backup save", "FILE --passphrase-file FILE", "put the owner's key into a file that a passphrase opens", backupSave},
		{"backup restore", "WORDS… | --file FILE [--passphrase-file FILE]", "be the owner again, on this device, by the 24 words or a saved file", backupRestore},
		{"message", "PEER TEXT…", "send a short text, also to somebody who is off-line", sendMessage},
		{"messages", "[PEER] [--limit N]", "show the latest messages; those with a named PEER count as read then", listMessages},
		{"shares list", "", "list the folders served", listShares},
		{"shares add", "DIR [--name N] [--read WHO,…] [--write WHO,…]", "serve a folder", addShare},
		{"shares remove", "NAME", "stop serving a folder (the files stay)", removeShare},
		{"ls", "PEER[:/SHARE/PATH]", "list a device's shares or files", list},
		{"get", "PEER:/SHARE/PATH [-o FILE] [--overwrite]", "fetch a file; again to go on after a break", get},
		{"put", "FILE PEER:/SHARE/[PATH]", "send a file to where writing is granted", put},
		{"forward", "PEER:PORT|NAME [[HOST:]PORT] [--udp]", "have a port here lead to one that a device exposes, until Ctrl-C", forwardPort},
		{"pipe", "PEER:PORT|NAME", "connect standard input and output to a port that a device exposes: ssh -o ProxyCommand='porchlight pipe %h:%p' PEER", pipe},
		{"expose", "PORT|NAME=HOST:PORT [--to WHO,…] [--udp]", "let contacts, or your own devices, connect to a port", expose},
		{"unexpose", "PORT|NAME [--udp]", "stop exposing a port", unexpose},
		{"exposed", "", "list what contacts may connect to", listServices},
		{"jobs submit", "PROGRAM.wasm --to PEER [--input GLOB]… [-o DIR] [--] [ARGS…]", "run a program on a device, one task for each input", submitJob},
		{"donate show", "", "what is lent, and to whom", showDonate},
		{"donate on", "[--to WHO,…]", "lend processor time", donateOn},
		{"donate off", "", "lend nothing", donateOff},
		{"version", "", "print the version", showVersion},
	}
}

// call is one run of a command.
type call struct {
	ctx    context.Context
	out    io.Writer
	err    io.Writer
	flags  *flag.FlagSet
	args   []string
	state  string
	json   bool
	client *client
}

// usageError is an error in how the command was typed.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

func usage(format string, args ...any) error { return usageError{fmt.Sprintf(format, args...)} }

// Main runs one command and returns the exit code.
func Main(args []string, out, errOut io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(args) == 0 || args[0] == "help" || args[0] == "--help" || args[0] == "-h" {
		help(out)
		return exitOK
	}
	cmd, rest, err := find(args)
	if err != nil {
		fmt.Fprintln(errOut, "porchlight:", err)
		return exitUsage
	}
	c := &call{ctx: ctx, out: out, err: errOut, args: rest}
	c.flags = flag.NewFlagSet(cmd.name, flag.ContinueOnError)
	c.flags.SetOutput(io.Discard)
	c.flags.StringVar(&c.state, "state", config.DefaultState(), "folder with this device's key and all it keeps")
	c.flags.BoolVar(&c.json, "json", false, "print JSON")
	return c.finish(cmd, cmd.run(c))
}

func (cmd command) usage() string {
	return strings.TrimRight("usage: porchlight "+cmd.name+" "+cmd.args, " ")
}

// finish prints an error and turns it into the exit code.
func (c *call) finish(cmd command, err error) int {
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(c.out, "%s\n\n%s\n\n", cmd.usage(), cmd.summary)
		c.options()
		return exitOK
	}
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(c.err, "porchlight:", err)
	var u usageError
	if errors.As(err, &u) {
		fmt.Fprintln(c.err, cmd.usage())
	}
	return exitCode(err)
}

// options prints what every flag of the command is for.
func (c *call) options() {
	t := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	c.flags.VisitAll(func(f *flag.Flag) {
		dashes, value := "--", ""
		if len(f.Name) == 1 {
			dashes = "-"
		}
		if f.DefValue != "" && f.DefValue != "false" && f.Name != "state" {
			value = "; default: " + f.DefValue
		}
		fmt.Fprintf(t, "  %s%s\t%s%s\n", dashes, f.Name, f.Usage, value)
	})
	t.Flush()
}

func exitCode(err error) int {
	var u usageError
	var p *problem
	var r *compute.Refusal
	switch {
	case errors.As(err, &u), errors.Is(err, forward.ErrName):
		return exitUsage
	case errors.Is(err, errNotRunning):
		return exitNotRunning
	case errors.Is(err, errNotAllowed), errors.Is(err, fetch.ErrNotAllowed), errors.Is(err, forward.ErrNotOffered):
		return exitNotAllowed
	case errors.As(err, &r) && (r.Code == compute.CodeNotAllowed || r.Code == compute.CodeDonationOff):
		return exitNotAllowed
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, fetch.ErrGaveUp):
		return exitTimedOut
	case errors.As(err, &p):
		return p.exitCode()
	}
	return exitFailed
}

func find(args []string) (command, []string, error) {
	for words := min(2, len(args)); words > 0; words-- {
		name := strings.Join(args[:words], " ")
		for _, cmd := range commands() {
			if cmd.name == name {
				return cmd, args[words:], nil
			}
		}
	}
	var near []string
	for _, cmd := range commands() {
		if strings.HasPrefix(cmd.name, args[0]+" ") {
			near = append(near, cmd.name)
		}
	}
	if len(near) > 0 {
		return command{}, nil, fmt.Errorf("say which: %s", strings.Join(near, ", "))
	}
	return command{}, nil, fmt.Errorf("unknown command %q; see: porchlight help", args[0])
}

// parse reads the flags, wherever they stand, and checks how many other
// arguments there are.
func (c *call) parse(least, most int) error {
	var words []string
	rest := c.args
	for {
		if err := c.flags.Parse(rest); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return err
			}
			return usage("%v", err)
		}
		used := rest[:len(rest)-c.flags.NArg()]
		rest = c.flags.Args()
		if len(rest) == 0 {
			break
		}
		if len(used) > 0 && used[len(used)-1] == "--" {
			words = append(words, rest...)
			break
		}
		words, rest = append(words, rest[0]), rest[1:]
	}
	if len(words) < least || most >= 0 && len(words) > most {
		return usage("%s", counted(len(words)))
	}
	c.args = words
	c.client = newClient(c.state)
	return nil
}

// counted says how many arguments there are that are no flags.
func counted(n int) string {
	if n == 0 {
		return "something is missing"
	}
	return plural(n, "argument") + " given"
}

// plural counts things of which several end in s.
func plural(n int, one string) string {
	if n != 1 {
		one += "s"
	}
	return fmt.Sprintf("%d %s", n, one)
}

// print writes v as one line of JSON, or as text.
func (c *call) print(v any, text func(io.Writer)) error {
	if c.json {
		return json.NewEncoder(c.out).Encode(v)
	}
	text(c.out)
	return nil
}

func help(w io.Writer) {
	fmt.Fprint(w, "porchlight makes home hardware reachable by its key, shares folders and lends spare time.\n\n")
	for _, cmd := range commands() {
		fmt.Fprintf(w, "  %-18s %s\n", cmd.name, cmd.summary)
	}
	fmt.Fprint(w, `
A PEER is a contact's name, an address or a link. WHO is everybody, friends, me,
or names, separated by commas. Every command knows --json and --state DIR;
"porchlight COMMAND --help" shows how it is used.
Exit codes: 0 ok, 1 failed, 2 usage, 3 agent not running, 4 not allowed, 5 timed out.
`)
}

// given reports whether a flag was on the command line.
func (c *call) given(name string) (given bool) {
	c.flags.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	return given
}
