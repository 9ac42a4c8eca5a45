package bulkbench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

const (
	// bulkBytes is one transfer, rounds how often each way takes its turn.
	bulkBytes = 256 << 20
	rounds    = 5
	// roleVariable tells a process that it is one end of a transfer.
	roleVariable = "BULKBENCH_ROLE"
)

var (
	block    = flag.Int64("block", 64<<10, "bytes written to the stream at once; net/http's server writes 32 KiB of a file")
	profiles = flag.String("profiles", "", "folder for CPU profiles of senders and receivers")
	only     = flag.String("ways", "", "comma-separated ways to run, beside raw UDP; all by default")
)

func TestMain(m *testing.M) {
	text, isPeer := os.LookupEnv(roleVariable)
	if !isPeer {
		os.Exit(m.Run())
	}
	os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	var r role
	err := json.Unmarshal([]byte(text), &r)
	if err == nil {
		err = act(r)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func TestEveryWayCarries(t *testing.T) {
	l := newLab(t)
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			if f := w.run(t, l, 4<<20, 0); f.rate <= 0 || f.sender <= 0 || f.receiver <= 0 {
				t.Errorf("%+v", f)
			}
		})
	}
}

// figures are those of one transfer.
type figures struct {
	rate             float64 // bytes that arrived, per second
	sender, receiver float64 // processor seconds for 10⁹ bytes that arrived
}

// way is one way to carry bytes through both NATs.
type way struct {
	name string
	run  func(tb testing.TB, l *lab, bytes int64, round int) figures
	all  []figures
}

// ways are all of them, raw UDP first.
var ways = []way{
	{name: "udp", run: iperfUDP},
	{name: "tcp", run: iperfTCP},
	{name: "plain", run: quicOver("plain")},
	{name: "socket", run: quicOver("socket")},
	{name: "side", run: quicOver("side")},
	{name: "large", run: quicOver("large")},
	{name: "single", run: quicOver("single")},
}

// BenchmarkBulk carries 256 MiB by each way in turn, round after round, so that
// what else the machine does meets all alike, and prints for each way
//
//	NAME-MB/s        10⁶ bytes a second
//	NAME-snd-s/GB    processor seconds of the sending process for 10⁹ bytes
//	NAME-rcv-s/GB    the same of the receiving one
//	NAME-x-rate      speed, raw UDP's being 1
//	NAME-x-snd       processor time of the sender, raw UDP's sender's being 1
//	NAME-x-rcv       processor time of the receiver, raw UDP's sender's being 1
//
// All are medians, of the ratios within one round for the last three. The ways:
// udp (iperf3 -u -b 0 -l 1400) and tcp (iperf3), plain (quic-go over a
// *net.UDPConn with packet sizes it finds itself), socket (nat.Socket, as the
// agent configures it), side (the same with the sender behind a nat.Side), large
// (socket with the largest packets quic-go knows, which not every path takes),
// single (socket with GOMAXPROCS=1 at both ends: what it costs that goroutines
// hand packets on from processor to processor).
func BenchmarkBulk(b *testing.B) {
	l := newLab(b)
	ways := slices.Clone(ways)
	if *only != "" {
		wanted := strings.Split(*only, ",")
		ways = slices.DeleteFunc(ways, func(w way) bool { return w.name != "udp" && !slices.Contains(wanted, w.name) })
	}
	for b.Loop() {
		for round := range rounds {
			for i := range ways {
				w := &ways[(i+round)%len(ways)]
				w.all = append(w.all, w.run(b, l, bulkBytes, round))
			}
		}
	}
	raw := ways[0].all
	for _, w := range ways {
		b.ReportMetric(w.median(func(i int) float64 { return w.all[i].rate / 1e6 }), w.name+"-MB/s")
		b.ReportMetric(w.median(func(i int) float64 { return w.all[i].sender }), w.name+"-snd-s/GB")
		b.ReportMetric(w.median(func(i int) float64 { return w.all[i].receiver }), w.name+"-rcv-s/GB")
		b.ReportMetric(w.median(func(i int) float64 { return w.all[i].rate / raw[i].rate }), w.name+"-x-rate")
		b.ReportMetric(w.median(func(i int) float64 { return w.all[i].sender / raw[i].sender }), w.name+"-x-snd")
		b.ReportMetric(w.median(func(i int) float64 { return w.all[i].receiver / raw[i].sender }), w.name+"-x-rcv")
	}
}

func (w *way) median(of func(i int) float64) float64 {
	var all []float64
	for i := range w.all {
		all = append(all, of(i))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// quicOver starts both ends as processes.
func quicOver(over string) func(testing.TB, *lab, int64, int) figures {
	return func(tb testing.TB, l *lab, bytes int64, round int) figures {
		tb.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), transferTime)
		defer cancel()
		part := role{Over: over, Bytes: bytes, Block: *block, Profile: profile(over, "receiver", round)}
		receiver := startPeer(tb, l.peer(ctx, "homeb", part))
		part.Sender, part.Profile = true, profile(over, "sender", round)
		sender := startPeer(tb, l.peer(ctx, "homea", part))
		from, to := sender.wait(tb), receiver.wait(tb)
		tb.Logf("%s: %.2f s, sender %.2f s CPU (%.2f user), receiver %.2f s (%.2f user), "+
			"%d datagrams out, %d packets in, %d back",
			over, from.Seconds, from.CPU, from.User, to.CPU, to.User,
			from.Stats.Writes, to.Stats.Packets, from.Stats.Packets)
		gb := float64(bytes) / 1e9
		return figures{rate: float64(bytes) / from.Seconds, sender: from.CPU / gb, receiver: to.CPU / gb}
	}
}

func profile(over, end string, round int) string {
	if *profiles == "" {
		return ""
	}
	return filepath.Join(*profiles, fmt.Sprintf("%s-%s-%d.pprof", over, end, round))
}

// peer is this program again, as one end of a transfer.
func (l *lab) peer(ctx context.Context, box string, r role) *exec.Cmd {
	text, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	cmd := l.command(ctx, box, os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"="+string(text))
	if r.Over == "single" {
		cmd.Env = append(cmd.Env, "GOMAXPROCS=1")
	}
	return cmd
}

// process is one end under way.
type process struct {
	cmd    *exec.Cmd
	out    *bufio.Reader
	errors bytes.Buffer
}

// startPeer returns when the hole in the own router is open.
func startPeer(tb testing.TB, cmd *exec.Cmd) *process {
	tb.Helper()
	p := &process{cmd: cmd}
	cmd.Stderr = &p.errors
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	if line, err := p.out.ReadString('\n'); err != nil || line != ready+"\n" {
		cmd.Wait()
		tb.Fatalf("start %v: %q, %v: %s", cmd.Args, line, err, p.errors.String())
	}
	return p
}

func (p *process) wait(tb testing.TB) result {
	tb.Helper()
	text, err := io.ReadAll(p.out)
	err = errors.Join(err, p.cmd.Wait())
	var r result
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		tb.Fatalf("%v: %v: %s", p.cmd.Args, err, p.errors.String())
	}
	return r
}

func iperfUDP(tb testing.TB, l *lab, bytes int64, _ int) figures {
	return iperf(tb, l, bytes, "-u", "-b", "0", "-l", "1400")
}

func iperfTCP(tb testing.TB, l *lab, bytes int64, _ int) figures { return iperf(tb, l, bytes) }

// iperfReport is what of iperf3's JSON is used.
type iperfReport struct {
	End struct {
		Sum struct {
			Bytes       float64 `json:"bytes"`
			Seconds     float64 `json:"seconds"`
			LostPercent float64 `json:"lost_percent"`
		} `json:"sum"`
		Received struct {
			Bytes   float64 `json:"bytes"`
			Seconds float64 `json:"seconds"`
		} `json:"sum_received"`
	} `json:"end"`
}

// iperf runs iperf3 through the forwarded port; the processor times are those
// of the whole processes.
func iperf(tb testing.TB, l *lab, bytes int64, args ...string) figures {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), transferTime)
	defer cancel()
	server := l.command(ctx, "homeb", "iperf3", "-s", "-1", "-p", iperfPort, "--forceflush")
	out, err := server.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := server.Start(); err != nil {
		tb.Fatal(err)
	}
	lines := bufio.NewReader(out)
	for listening := false; !listening; {
		line, err := lines.ReadString('\n')
		if err != nil {
			tb.Fatalf("iperf3 server: %v", err)
		}
		listening = strings.Contains(line, "listening")
	}
	client := l.command(ctx, "homea", "iperf3", append([]string{
		"-J", "-c", receiverWAN, "-p", iperfPort, "-n", strconv.FormatInt(bytes, 10)}, args...)...)
	text, err := client.Output()
	io.Copy(io.Discard, lines)
	err = errors.Join(err, server.Wait())
	var r iperfReport
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		tb.Fatalf("iperf3 %v: %v: %s", args, err, text)
	}
	arrived, seconds := r.End.Received.Bytes, r.End.Received.Seconds
	if len(args) > 0 {
		arrived, seconds = r.End.Sum.Bytes*(1-r.End.Sum.LostPercent/100), r.End.Sum.Seconds
	}
	from, to := cpuOf(client), cpuOf(server)
	tb.Logf("iperf3 %v: %.2f s, sender %.2f s CPU, receiver %.2f s, %.2f %% lost", args, seconds, from, to, r.End.Sum.LostPercent)
	return figures{rate: arrived / seconds, sender: from / (arrived / 1e9), receiver: to / (arrived / 1e9)}
}

func cpuOf(cmd *exec.Cmd) float64 {
	t := timesOf(cmd.ProcessState.SysUsage().(*syscall.Rusage))
	return (t.user + t.system).Seconds()
}
