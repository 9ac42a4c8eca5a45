package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/owner"
)

func listRequests(c *call) error {
	if err := c.parse(0, 0); err != nil {
		return err
	}
	list := []api.Request{}
	if err := c.client.do(c.ctx, http.MethodGet, "requests", nil, &list); err != nil {
		return err
	}
	return c.print(list, func(w io.Writer) {
		if len(list) == 0 {
			fmt.Fprintln(w, "nobody asks to become a contact")
			return
		}
		for _, q := range list {
			fmt.Fprintf(w, "%s  %s\n", printable(q.Name), q.Address)
			if q.Note != "" {
				fmt.Fprintf(w, "  %s\n", harmless(q.Note))
			}
		}
		fmt.Fprintln(w, "\nanswer with: porchlight contacts accept ADDRESS [NAME], or: porchlight contacts refuse ADDRESS")
	})
}

func acceptRequest(c *call) error {
	role := c.flags.String("role", "friend", "me, friend or none")
	if err := c.parse(1, 2); err != nil {
		return err
	}
	in := map[string]string{"name": "", "role": *role}
	if len(c.args) > 1 {
		in["name"] = c.args[1]
	}
	var contact struct {
		Name string `json:"name"`
	}
	if err := c.client.do(c.ctx, http.MethodPost, "requests/"+url.PathEscape(c.args[0])+"/accept", in, &contact); err != nil {
		return err
	}
	return c.print(contact, func(w io.Writer) { fmt.Fprintf(w, "%s is a contact now\n", printable(contact.Name)) })
}

func refuseRequest(c *call) error {
	if err := c.parse(1, 1); err != nil {
		return err
	}
	if err := c.client.do(c.ctx, http.MethodDelete, "requests/"+url.PathEscape(c.args[0]), nil, nil); err != nil {
		return err
	}
	return c.print(map[string]string{"refused": c.args[0]}, func(w io.Writer) { fmt.Fprintln(w, "refused; they are not told") })
}

func hideFrom(c *call) error { return setHidden(c, true) }
func showTo(c *call) error   { return setHidden(c, false) }

func setHidden(c *call, hidden bool) error {
	if err := c.parse(1, 1); err != nil {
		return err
	}
	path := "contacts/" + url.PathEscape(c.args[0]) + "/hidden"
	if err := c.client.do(c.ctx, http.MethodPut, path, hidden, nil); err != nil {
		return err
	}
	word := map[bool]string{true: "no longer sees", false: "sees again"}[hidden]
	return c.print(map[string]any{"name": c.args[0], "hidden": hidden}, func(w io.Writer) {
		fmt.Fprintf(w, "%s %s when this device is on-line\n", c.args[0], word)
	})
}

func listDevices(c *call) error {
	if err := c.parse(0, 0); err != nil {
		return err
	}
	var d api.Devices
	if err := c.client.do(c.ctx, http.MethodGet, "devices", nil, &d); err != nil {
		return err
	}
	return c.print(d, func(w io.Writer) { devicesText(w, d) })
}

func devicesText(w io.Writer, d api.Devices) {
	if d.Owner == "" {
		fmt.Fprintln(w, "this device belongs to nobody yet; make it yours with: porchlight devices invite")
		fmt.Fprintln(w, "or, if another device is yours already, make a code there and type it here: porchlight devices join CODE")
		return
	}
	fmt.Fprintf(w, "owner  %s\n", d.Owner)
	if d.HoldsKey {
		fmt.Fprintln(w, "       the owner's key is here; keep a copy of it: porchlight backup words")
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "DEVICE\tADDRESS\tSTATE")
	for _, m := range d.Devices {
		state := presenceWords(m.Online, m.LastSeenUnixMS)
		if m.This {
			state = "this one"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", printable(m.Name), m.Address, state)
	}
	t.Flush()
}

// presenceWords says whether somebody is there, or when that was last so.
func presenceWords(online bool, lastSeen int64) string {
	if online || lastSeen == 0 {
		return onOff(online)
	}
	return "last seen " + time.UnixMilli(lastSeen).Format("2006-01-02 15:04")
}

func inviteDevice(c *call) error {
	withQR := c.flags.Bool("qr", false, "draw the code for a camera")
	if err := c.parse(0, 0); err != nil {
		return err
	}
	var i api.Invitation
	if err := c.client.do(c.ctx, http.MethodPost, "devices/invite", nil, &i); err != nil {
		return err
	}
	if *withQR && !c.json {
		if err := drawQR(c.out, i.Link); err != nil {
			return err
		}
	}
	return c.print(i, func(w io.Writer) {
		fmt.Fprintf(w, "On the new device, within %s:\n\n  porchlight devices join %s\n", plural(int(i.ExpiresS+59)/60, "minute"), i.Code)
		fmt.Fprintf(w, "\nIf that finds nobody, by link:\n\n  porchlight devices join '%s'\n", i.Link)
	})
}

func joinOwner(c *call) error {
	if err := c.parse(1, 1); err != nil {
		return err
	}
	var d api.Devices
	if err := c.client.do(c.ctx, http.MethodPost, "devices/join", map[string]string{"code": c.args[0]}, &d); err != nil {
		return err
	}
	return c.print(d, func(w io.Writer) {
		fmt.Fprintln(w, "this device is one of yours now")
		devicesText(w, d)
	})
}

func revokeDevice(c *call) error {
	if err := c.parse(1, 1); err != nil {
		return err
	}
	if err := c.client.do(c.ctx, http.MethodDelete, "devices/"+url.PathEscape(c.args[0]), nil, nil); err != nil {
		return err
	}
	return c.print(map[string]string{"revoked": c.args[0]}, func(w io.Writer) {
		fmt.Fprintf(w, "%s is no longer yours; your devices and contacts are told\n", c.args[0])
	})
}

// leaveOwner asks twice before the owner's key is lost.
func leaveOwner(c *call) error {
	forget := c.flags.Bool("forget-key", false, "also where the owner's key lies on this device and is lost by that")
	if err := c.parse(0, 0); err != nil {
		return err
	}
	var d api.Devices
	if err := c.client.do(c.ctx, http.MethodGet, "devices", nil, &d); err != nil {
		return err
	}
	if d.HoldsKey && !*forget {
		return usage("the owner's key lies on this device and would be lost; keep a copy first: porchlight backup words, then leave with --forget-key")
	}
	if err := c.client.do(c.ctx, http.MethodPost, "devices/leave", nil, nil); err != nil {
		return err
	}
	return c.print(map[string]bool{"left": true}, func(w io.Writer) { fmt.Fprintln(w, "this device belongs to nobody now") })
}

// backupWords prints the owner's key as words, or keeps them in a file.
func backupWords(c *call) error {
	file := c.flags.String("o", "", "write them to a new file instead")
	if err := c.parse(0, 0); err != nil {
		return err
	}
	var answer struct {
		Words []string `json:"words"`
	}
	if err := c.client.do(c.ctx, http.MethodGet, "owner/words", nil, &answer); err != nil {
		return err
	}
	if *file != "" {
		return c.saveWords(*file, answer.Words)
	}
	return c.print(answer, func(w io.Writer) {
		fmt.Fprintln(w, "Whoever has these words is you. Write them down and keep them off-line:")
		for i, word := range answer.Words {
			if i%6 == 0 {
				fmt.Fprint(w, "\n ")
			}
			fmt.Fprintf(w, " %2d %-9s", i+1, word)
		}
		fmt.Fprintln(w, "\n\nAfter a loss, on any device: porchlight backup restore WORDS…")
	})
}

func (c *call) saveWords(path string, words []string) error {
	if err := writeNew(path, strings.Join(words, " ")+"\n"); err != nil {
		return err
	}
	return c.print(map[string]string{"file": path}, func(w io.Writer) { fmt.Fprintf(w, "the owner's key is in %s; whoever reads it is you\n", path) })
}

// writeNew keeps the owner's key in a file that was not there before.
func writeNew(path, text string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		err = fmt.Errorf("%w; choose another name", err)
	}
	if err != nil {
		return fmt.Errorf("keep the owner's key: %w", err)
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("keep the owner's key: %w", err)
	}
	return nil
}

// maxWords is the size of the largest file of words that is read, in bytes.
const maxWords = 4096

// backupRestore takes the words as arguments, from a file or from standard input.
func backupRestore(c *call) error {
	file := c.flags.String("file", "", "file with the words, or one of backup save; - for standard input")
	secret := c.flags.String("passphrase-file", "", "file with the passphrase of a sealed one, on its first line")
	if err := c.parse(0, 24); err != nil {
		return err
	}
	in := map[string]string{"words": strings.Join(c.args, " ")}
	if *file != "" {
		b, err := readWords(*file)
		if err != nil {
			return err
		}
		in["words"] = string(b)
	}
	if strings.HasPrefix(in["words"], owner.BackupHeader) {
		in = map[string]string{"file": in["words"]}
		var err error
		if in["passphrase"], err = readPassphrase(*secret); err != nil {
			return err
		}
	} else if in["words"] == "" {
		return usage("type the 24 words, or name a file with them: --file FILE")
	}
	var d api.Devices
	if err := c.client.do(c.ctx, http.MethodPost, "owner/restore", in, &d); err != nil {
		return err
	}
	return c.print(d, func(w io.Writer) { devicesText(w, d) })
}

// backupSave keeps the owner's key in a file that only a passphrase opens.
func backupSave(c *call) error {
	secret := c.flags.String("passphrase-file", "", "file with the passphrase, on its first line; - for standard input")
	if err := c.parse(1, 1); err != nil {
		return err
	}
	passphrase, err := readPassphrase(*secret)
	if err != nil {
		return err
	}
	if passphrase == "" {
		return usage("name a file with the passphrase: --passphrase-file FILE; without one, use: porchlight backup words -o FILE")
	}
	var answer struct {
		File string `json:"file"`
	}
	if err := c.client.do(c.ctx, http.MethodPost, "owner/backup", map[string]string{"passphrase": passphrase}, &answer); err != nil {
		return err
	}
	if err := writeNew(c.args[0], answer.File); err != nil {
		return err
	}
	return c.print(map[string]string{"file": c.args[0]}, func(w io.Writer) {
		fmt.Fprintf(w, "the owner's key is in %s; whoever has the file and the passphrase is you\n", c.args[0])
	})
}

// readPassphrase reads the first line of a file; "" names none.
func readPassphrase(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	b, err := readWords(path)
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimRight(line, "\r"), err
}

func readWords(path string) ([]byte, error) {
	f := os.Stdin
	if path != "-" {
		var err error
		if f, err = os.Open(path); err != nil {
			return nil, fmt.Errorf("read the words: %w", err)
		}
		defer f.Close()
	}
	b, err := io.ReadAll(io.LimitReader(f, maxWords+1))
	if err == nil && len(b) > maxWords {
		err = fmt.Errorf("%s has more than %d bytes: these are no 24 words", path, maxWords)
	}
	return b, err
}

func sendMessage(c *call) error {
	if err := c.parse(2, -1); err != nil {
		return err
	}
	in := map[string]string{"peer": c.args[0], "text": strings.Join(c.args[1:], " ")}
	var m api.Message
	if err := c.client.do(c.ctx, http.MethodPost, "messages", in, &m); err != nil {
		return err
	}
	return c.print(m, func(w io.Writer) {
		switch m.State {
		case "delivered":
			fmt.Fprintln(w, "delivered")
		case "stored":
			fmt.Fprintln(w, "kept by a helper until they come on-line")
		default:
			fmt.Fprintln(w, "on its way; what became of it: porchlight messages", c.args[0])
		}
	})
}

func listMessages(c *call) error {
	limit := c.flags.Int("limit", 50, "how many, at most 500")
	if err := c.parse(0, 1); err != nil {
		return err
	}
	q := url.Values{"limit": {fmt.Sprint(*limit)}}
	if len(c.args) == 1 {
		q.Set("peer", c.args[0])
	}
	list := []api.Message{}
	if err := c.client.do(c.ctx, http.MethodGet, "messages?"+q.Encode(), nil, &list); err != nil {
		return err
	}
	if len(c.args) == 1 {
		if err := c.client.do(c.ctx, http.MethodPut, "messages/read", map[string]string{"peer": c.args[0]}, nil); err != nil {
			return err
		}
	}
	return c.print(list, func(w io.Writer) { messagesText(w, list) })
}

// stateWords says what became of a message that was sent.
func stateWords(state string) string {
	switch state {
	case "waiting":
		return "on its way"
	case "stored":
		return "kept by a helper"
	case "expired":
		return "expired, never delivered"
	}
	return printable(state)
}

func messagesText(w io.Writer, list []api.Message) {
	if len(list) == 0 {
		fmt.Fprintln(w, "no messages")
	}
	for _, m := range list {
		when := time.UnixMilli(m.UnixMS).Format("2006-01-02 15:04")
		who, state := printable(m.Peer), ""
		if m.Out {
			who, state = "me → "+who, " ("+stateWords(m.State)+")"
		}
		fmt.Fprintf(w, "%s  %s%s\n", when, who, state)
		for _, line := range strings.Split(m.Text, "\n") {
			fmt.Fprintf(w, "  %s\n", harmless(line))
		}
	}
}
