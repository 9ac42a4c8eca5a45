package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"porchlight/nat/natlab"
)

const (
	// settleTime is how long after the last ping a village is idle: sessions
	// that nobody uses are closed after two minutes.
	settleTime = 150 * time.Second
	// headerBytes are IP and UDP headers, which tcpdump's lengths leave out.
	headerBytes = 28
	// maxLine bounds one line of tcpdump's.
	maxLine = 4096
)

// flow is what passed one host's interface: packets both ways, and their bytes
// with IP headers.
type flow struct{ packets, bytes int64 }

func (f *flow) add(n int64) { f.packets++; f.bytes += n }

// quiet is what an idle device sends and receives, by purpose.
type quiet struct {
	name              string
	main, lan, others flow
}

// idleReport prints what twelve devices with eleven contacts each send and receive
// while nobody does anything, as captured by tcpdump on each of them.
func idleReport(ctx context.Context, out io.Writer, dir, program string, watched time.Duration) (err error) {
	c, err := newCrowd(ctx, natlab.Options{Dir: dir}, program)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if _, err := tally(meetAll(ctx, c.dwellers)); err != nil {
		return err
	}
	pause(ctx, settleTime)
	quiets, err := c.listen(ctx, watched)
	if err != nil {
		return err
	}
	contacts := float64(len(c.dwellers) - 1)
	hours, minutes := watched.Hours(), watched.Minutes()
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "idle for %v, packets and kB an hour\tsessions, STUN, notes\t\tbeacons\t\tDHT, router\t\tpackets a minute and contact\n", watched)
	for _, q := range quiets {
		all := q.main.packets + q.lan.packets + q.others.packets
		fmt.Fprintf(t, "%s\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.2f\n", q.name,
			float64(q.main.packets)/hours, float64(q.main.bytes)/1e3/hours,
			float64(q.lan.packets)/hours, float64(q.lan.bytes)/1e3/hours,
			float64(q.others.packets)/hours, float64(q.others.bytes)/1e3/hours,
			float64(all)/minutes/contacts)
	}
	return t.Flush()
}

// listen captures on every host for a while.
func (c *crowd) listen(ctx context.Context, watched time.Duration) ([]quiet, error) {
	quiets, errs := make([]quiet, len(c.dwellers)), make([]error, len(c.dwellers))
	var all sync.WaitGroup
	for i, d := range c.dwellers {
		all.Go(func() {
			file := filepath.Join(c.dir, d.name+".idle.pcap")
			quiets[i], errs[i] = capture(ctx, d, file, watched)
		})
	}
	all.Wait()
	return quiets, errors.Join(errs...)
}

func capture(ctx context.Context, d *dweller, file string, watched time.Duration) (quiet, error) {
	status, err := d.status(ctx)
	if err != nil {
		return quiet{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, watched)
	defer cancel()
	dump := d.host.Command(ctx, "tcpdump", "-i", "any", "-n", "-q", "-U", "-s", "128", "-w", file)
	var stderr bytes.Buffer
	dump.Stderr = &stderr
	if err := dump.Run(); err != nil && ctx.Err() == nil {
		return quiet{}, fmt.Errorf("capture on %s: %w: %s", d.name, err, stderr.Bytes())
	}
	text, err := exec.CommandContext(context.WithoutCancel(ctx), "tcpdump", "-r", file, "-n", "-q").Output()
	if err != nil {
		return quiet{}, fmt.Errorf("read the capture of %s: %w", d.name, err)
	}
	_, port, _ := strings.Cut(status.Listen[strings.LastIndex(status.Listen, ":"):], ":")
	return sortOut(d.name, text, port), nil
}

// sortOut counts the lines that tcpdump prints for packets, such as
// "12:00:00.0 eth0 Out IP 192.168.1.3.4001 > 44.128.1.1.4001: UDP, length 40".
func sortOut(name string, text []byte, port string) quiet {
	q := quiet{name: name}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		line := lines.Text()
		at := strings.LastIndex(line, "length ")
		if at < 0 || !strings.Contains(line, " > ") {
			continue
		}
		n, _ := strconv.ParseInt(strings.TrimSpace(line[at+len("length "):]), 10, 64)
		head, _, _ := strings.Cut(line, ": ")
		switch {
		case strings.Contains(head, ".255."), strings.Contains(head, "255.255.255"), strings.Contains(head, "ff12::"):
			q.lan.add(n + headerBytes)
		case strings.Contains(head+" ", "."+port+" "), strings.HasSuffix(head, "."+port):
			q.main.add(n + headerBytes)
		default:
			q.others.add(n + headerBytes)
		}
	}
	return q
}
