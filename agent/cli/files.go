package cli

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"porchlight/agent/api"
	"porchlight/agent/app"
	"porchlight/share/fetch"
	"porchlight/share/wire"
)

// remote splits PEER:/SHARE/PATH. A link holds colons itself, so the place is
// what follows the last ":/".
func remote(text string) (peer, place string) {
	if i := strings.LastIndex(text, ":/"); i >= 0 {
		return text[:i], strings.TrimPrefix(text[i+1:], "/")
	}
	return text, ""
}

// stall is how long a fetch waits for a silent device before it asks again: a
// device that restarted late says so only to a packet of some size.
const stall = 10 * time.Second

// files returns a client for a peer's shared folders.
func (c *call) files(peer string) (*fetch.Client, error) {
	address, err := c.client.resolve(c.ctx, peer)
	if err != nil {
		return nil, err
	}
	return &fetch.Client{HTTP: c.client.peerClient(app.ShareService), Base: "http://" + address.String(), Stall: stall}, nil
}

func list(c *call) error {
	if err := c.parse(1, 1); err != nil {
		return err
	}
	peer, place := remote(c.args[0])
	files, err := c.files(peer)
	if err != nil {
		return err
	}
	entries := []wire.Entry{}
	if err := files.Each(c.ctx, place, func(e wire.Entry) error {
		entries = append(entries, e)
		return nil
	}); err != nil {
		return err
	}
	return c.print(entries, func(w io.Writer) { entryTable(w, entries, place == "") })
}

func entryTable(w io.Writer, entries []wire.Entry, top bool) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, e := range entries {
		switch {
		case top && e.Write:
			fmt.Fprintf(t, "share\tread, write\t  %s\n", e.Name)
		case top:
			fmt.Fprintf(t, "share\tread\t  %s\n", e.Name)
		case e.Dir:
			fmt.Fprintf(t, "-\t\t  %s/\n", e.Name)
		default:
			fmt.Fprintf(t, "%s\t%s\t  %s\n", size(e.Size), time.UnixMilli(e.MtimeMS).Format("2006-01-02 15:04"), e.Name)
		}
	}
	t.Flush()
}

// got is the machine form of a finished transfer.
type got struct {
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
	SHA256  string  `json:"sha256,omitempty"`
	Root    string  `json:"root"`
	Sources int     `json:"sources"`
	Path    string  `json:"path"`
	// FirstByteMS is from the call to the first byte of content.
	FirstByteMS float64 `json:"first_byte_ms"`
	// FetchedBytes crossed the network; less than Bytes after a resume.
	FetchedBytes int64  `json:"fetched_bytes"`
	Resumed      bool   `json:"resumed"`
	File         string `json:"file"`
}

func get(c *call) error {
	output := c.flags.String("o", "", "file to write; default: its own name, here")
	overwrite := c.flags.Bool("overwrite", false, "replace an existing file")
	limit := c.flags.Duration("give-up-after", fetch.DefaultGiveUp, "how long to wait for a device that is away")
	if err := c.parse(1, 1); err != nil {
		return err
	}
	peer, place := remote(c.args[0])
	if place == "" {
		return usage("say which file: PEER:/SHARE/PATH")
	}
	if *output == "" {
		*output = path.Base(place)
	} else if info, err := os.Stat(*output); err == nil && info.IsDir() {
		*output = filepath.Join(*output, path.Base(place))
	}
	files, err := c.files(peer)
	if err != nil {
		return err
	}
	meter := c.newMeter(path.Base(place))
	result, err := files.Get(c.ctx, place, *output, fetch.Options{
		Overwrite:   *overwrite,
		SHA256:      true,
		GiveUpAfter: *limit,
		Progress:    meter.show,
	})
	meter.end()
	if err != nil {
		return err
	}
	return c.printGot(peer, *output, result)
}

func put(c *call) error {
	overwrite := c.flags.Bool("overwrite", false, "replace an existing file")
	if err := c.parse(2, 2); err != nil {
		return err
	}
	peer, place := remote(c.args[1])
	if place == "" {
		return usage("say where to: PEER:/SHARE/")
	}
	if strings.HasSuffix(place, "/") || !strings.Contains(place, "/") {
		place = strings.TrimSuffix(place, "/") + "/" + filepath.Base(c.args[0])
	}
	files, err := c.files(peer)
	if err != nil {
		return err
	}
	meter := c.newMeter(filepath.Base(c.args[0]))
	result, err := files.Put(c.ctx, c.args[0], place, fetch.PutOptions{Overwrite: *overwrite, Progress: meter.show})
	meter.end()
	if err != nil {
		return err
	}
	return c.printGot(peer, c.args[0], result)
}

func (c *call) printGot(peer, file string, r fetch.Result) error {
	var info api.Path
	if err := c.client.do(c.ctx, http.MethodGet, "path?peer="+url.QueryEscape(peer), nil, &info); err != nil {
		return err
	}
	g := got{
		Bytes:        r.Bytes,
		Seconds:      r.Seconds,
		SHA256:       r.SHA256,
		Root:         r.Root,
		Sources:      1,
		Path:         info.Path,
		FirstByteMS:  r.FirstByte * 1000,
		FetchedBytes: r.Fetched,
		Resumed:      r.Resumed,
		File:         file,
	}
	return c.print(g, func(w io.Writer) {
		rate := 0.0
		if r.Seconds > 0 {
			rate = float64(r.Fetched) / 1e6 / r.Seconds
		}
		fmt.Fprintf(w, "%s: %s in %.1f s (%.1f MB/s), %s path\n", file, size(r.Bytes), r.Seconds, rate, info.Path)
		if r.SHA256 != "" {
			fmt.Fprintf(w, "sha256 %s\n", r.SHA256)
		}
	})
}

// meter shows progress on a terminal, and nothing elsewhere.
type meter struct {
	w     io.Writer
	name  string
	shown bool
	since time.Time
}

func (c *call) newMeter(name string) *meter {
	m := &meter{name: name, since: time.Now()}
	if f, ok := c.err.(*os.File); ok && term.IsTerminal(int(f.Fd())) && !c.json {
		m.w = f
	}
	return m
}

func (m *meter) show(p fetch.Progress) {
	if m.w == nil {
		return
	}
	m.shown = true
	percent := 0.0
	if p.Size > 0 {
		percent = 100 * float64(p.Done) / float64(p.Size)
	}
	rate := float64(p.Moved) / 1e6 / max(time.Since(m.since).Seconds(), 0.1)
	note := string(p.State)
	if p.Err != nil {
		note += ": " + p.Err.Error()
	}
	fmt.Fprintf(m.w, "\r\x1b[K%s  %3.0f %%  %s of %s  %.1f MB/s  %s", m.name, percent, size(p.Done), size(p.Size), rate, note)
}

func (m *meter) end() {
	if m.shown {
		fmt.Fprint(m.w, "\r\x1b[K")
	}
}
