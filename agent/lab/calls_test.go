package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"porchlight/agent/api"
	"porchlight/nat/natlab"
)

// need fails the test if a program of a Debian package is missing.
func need(t *testing.T, program, debian string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + program)
	}
	if err != nil {
		t.Fatalf("%s is missing: apt-get install %s", program, debian)
	}
	return path
}

// expose lets somebody connect to what is served in a's home.
func (s *scene) expose(a *agent, service string, to *agent, extra ...string) {
	s.t.Helper()
	check(s.t, a.run(s.ctx, nil, append([]string{"expose", service, "--to", to.name}, extra...)...))
}

// forward has a port at a lead to a service of another until the test ends, and
// returns it.
func (s *scene) forward(a *agent, service string, extra ...string) netip.AddrPort {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.ctx)
	cmd := a.command(ctx, append([]string{"forward", service}, extra...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	check(s.t, err)
	check(s.t, cmd.Start())
	s.t.Cleanup(func() {
		cancel()
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		cancel()
		cmd.Wait()
		s.t.Fatalf("porchlight forward %s: %v: %s", service, err, stderr.String())
	}
	var answer struct{ Listening netip.AddrPort }
	check(s.t, json.Unmarshal(line, &answer))
	return answer.Listening
}

// program is something of others that runs in a home.
type program struct {
	*exec.Cmd
	name string
	out  *strings.Builder
	done chan error
}

// begin runs a program in a home until it ends or the test does.
func (s *scene) begin(h *natlab.Host, name string, args ...string) *program {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.ctx)
	p := &program{Cmd: h.Command(ctx, name, args...), name: filepath.Base(name), out: &strings.Builder{}, done: make(chan error, 1)}
	p.Dir, p.Stdout, p.Stderr = s.dir, p.out, p.out
	check(s.t, p.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.done <- p.Wait()
	}()
	s.t.Cleanup(func() {
		cancel()
		<-ended
		if s.t.Failed() {
			s.t.Logf("%s said:\n%s", p.name, p.out)
		}
	})
	return p
}

// listening reports whether somebody in the program's network namespace has a
// port open (proc_pid_net(5)).
func (p *program) listening(network string, port int) bool {
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", p.Process.Pid, network))
	return err == nil && strings.Contains(string(table), fmt.Sprintf(":%04X 00000000:0000 ", port))
}

// ended waits for a program's end.
func (s *scene) ended(p *program, limit time.Duration) {
	s.t.Helper()
	select {
	case err := <-p.done:
		if err != nil {
			s.t.Errorf("%s: %v", p.name, err)
		}
	case <-time.After(limit):
		s.t.Errorf("%s did not end within %v", p.name, limit)
	}
}

// The ports of the two phones. Each home has the other's under the same
// numbers, so that what the phones write into SDP is true in both.
const (
	callerSIP, callerRTP = 5070, 7000
	calleeSIP, calleeRTP = 5060, 6000
)

const (
	// spoken is how many packets each phone sends, one each 20 ms: 6 s.
	spoken = 300
	// voiceLoss is how many of them may be lost.
	voiceLoss = spoken / 100
	// mouthToEar is what ITU-T G.114 allows one way without harm to a
	// conversation.
	mouthToEar = 150 * time.Millisecond
)

// TestACallBetweenHomes has a phone call another: SIP and, both ways, RTP go
// through forwarded ports. The phones are sipp's.
func TestACallBetweenHomes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name           string
		caller, callee natlab.Kind
		path           string
	}{
		{"direct", natlab.Symmetric, natlab.PortRestricted, direct},
		{"relayed by strangers", natlab.UDPBlocked, natlab.Symmetric, relayed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, natlab.Options{}, 2)
			caller, callerHost := s.at("caller", tc.caller)
			callee, calleeHost := s.at("callee", tc.callee)
			s.friends(caller, callee)
			if tc.path == direct {
				s.directly(caller, callee)
			}
			s.expose(callee, "5060", caller, "--udp")
			s.expose(callee, "6000", caller, "--udp")
			s.expose(caller, "7000", callee, "--udp")
			s.forward(caller, "callee:5060", "--udp")
			s.forward(caller, "callee:6000", "--udp")
			s.forward(callee, "caller:7000", "--udp")
			here, there := s.capture(callerHost), s.capture(calleeHost)
			s.call(callerHost, calleeHost)
			sent, got := here.stop(), there.stop()

			var p api.Ping
			check(t, caller.run(s.ctx, &p, "ping", "callee"))
			if p.Path != tc.path {
				t.Errorf("the path is %s, want %s", p.Path, tc.path)
			}
			t.Logf("%s × %s: %s path, round trip %.0f ms (the lab's own: %v each way)", tc.caller, tc.callee, p.Path, p.RTTMS, natlab.DefaultLatency)
			setUp(t, sent)
			voice(t, "to the callee", rtp(sent, calleeRTP), rtp(got, calleeRTP))
			voice(t, "to the caller", rtp(got, callerRTP), rtp(sent, callerRTP))
		})
	}
}

// call lets the phones do their work.
func (s *scene) call(caller, callee *natlab.Host) {
	s.t.Helper()
	sipp := need(s.t, "sipp", "sip-tester")
	scenes, err := filepath.Abs("testdata")
	check(s.t, err)
	talk := make([]byte, spoken*160) // G.711: 160 bytes are 20 ms
	rand.NewChaCha8([32]byte{8}).Read(talk)
	check(s.t, os.WriteFile(filepath.Join(s.dir, "talk.ul"), talk, 0o644))
	phone := func(scenario string, sip, rtp int) []string {
		return []string{"-sf", filepath.Join(scenes, scenario), "-i", "127.0.0.1", "-p", fmt.Sprint(sip),
			"-mi", "127.0.0.1", "-mp", fmt.Sprint(rtp), "-m", "1", "-nostdin", "-timeout", "25s", "-timeout_error"}
	}
	called := s.begin(callee, sipp, phone("callee.xml", calleeSIP, calleeRTP)...)
	await(s.t, s.ctx, "the phone is plugged in", patience, func() bool { return called.listening("udp", calleeSIP) })
	calling := s.begin(caller, sipp, append(phone("caller.xml", callerSIP, callerRTP), fmt.Sprintf("127.0.0.1:%d", calleeSIP))...)
	s.ended(calling, patience)
	s.ended(called, patience)
}

// datagram is one UDP packet seen on a host's loopback interface.
type datagram struct {
	at       time.Time
	from, to int // ports
	payload  []byte
}

// capturing is a tcpdump at work.
type capturing struct {
	s    *scene
	dump *program
	file string
}

// capture records the UDP packets on a host's loopback interface. All hosts
// share this machine's clock, so times compare.
func (s *scene) capture(h *natlab.Host) capturing {
	s.t.Helper()
	file := filepath.Join(s.dir, h.Name()+".pcap")
	dump := s.begin(h, need(s.t, "tcpdump", "tcpdump"), "-i", "lo", "-n", "-U", "--immediate-mode", "-Z", "root", "-w", file, "udp")
	await(s.t, s.ctx, "tcpdump records", patience, func() bool {
		info, err := os.Stat(file)
		return err == nil && info.Size() > 0
	})
	return capturing{s, dump, file}
}

// stop ends the capture and reads it.
func (c capturing) stop() []datagram {
	c.s.t.Helper()
	c.dump.Process.Signal(syscall.SIGTERM)
	c.s.ended(c.dump, patience)
	b, err := os.ReadFile(c.file)
	check(c.s.t, err)
	packets, err := readCapture(b)
	check(c.s.t, err)
	return packets
}

// readCapture reads a capture as tcpdump writes it on this machine
// (pcap-savefile(5)): a header of 24 bytes, then packets behind 16 bytes each.
func readCapture(b []byte) (packets []datagram, err error) {
	const file, record, headers = 24, 16, 14 + 20 + 8 // Ethernet, IPv4, UDP
	order := binary.NativeEndian
	if len(b) < file || order.Uint32(b) != 0xa1b2c3d4 {
		return nil, errors.New("not a capture of this machine, in microseconds")
	}
	for b = b[file:]; len(b) >= record; {
		n := int(order.Uint32(b[8:]))
		if len(b) < record+n || n < headers {
			return packets, errors.New("a capture cut short")
		}
		ip := b[record+14 : record+n]
		udp := ip[20:]
		packets = append(packets, datagram{
			at:      time.Unix(int64(order.Uint32(b)), int64(order.Uint32(b[4:]))*1000),
			from:    int(binary.BigEndian.Uint16(udp)),
			to:      int(binary.BigEndian.Uint16(udp[2:])),
			payload: udp[8:],
		})
		b = b[record+n:]
	}
	return packets, nil
}

// setUp tells how long it took from the caller's INVITE until the answer.
func setUp(t *testing.T, packets []datagram) {
	t.Helper()
	starts := func(from int, line string) func(datagram) bool {
		return func(d datagram) bool {
			return (d.from == from || d.to == from) && strings.HasPrefix(string(d.payload), line)
		}
	}
	asked := slices.IndexFunc(packets, starts(calleeSIP, "INVITE "))
	answered := slices.IndexFunc(packets, starts(callerSIP, "SIP/2.0 200"))
	ended := slices.IndexFunc(packets, starts(calleeSIP, "BYE "))
	if asked < 0 || answered < 0 || ended < 0 {
		t.Fatalf("INVITE %v, 200 %v, BYE %v", asked >= 0, answered >= 0, ended >= 0)
	}
	t.Logf("set up in %v, hung up after %.1f s", packets[answered].at.Sub(packets[asked].at).Round(time.Millisecond),
		packets[ended].at.Sub(packets[answered].at).Seconds())
}

// sound is one RTP packet (RFC 3550 §5.1).
type sound struct {
	at     time.Time
	number uint16
	clock  uint32 // 8,000 a second
}

// rtp returns the speech among packets to a port.
func rtp(packets []datagram, port int) (sounds []sound) {
	const header, speech, pcmu = 12, 160, 0
	for _, d := range packets {
		if d.to == port && len(d.payload) == header+speech && d.payload[0] == 0x80 && d.payload[1]&0x7f == pcmu {
			sounds = append(sounds, sound{d.at, binary.BigEndian.Uint16(d.payload[2:]), binary.BigEndian.Uint32(d.payload[4:])})
		}
	}
	return sounds
}

// voice compares what one phone said with what the other heard.
func voice(t *testing.T, way string, said, heard []sound) {
	t.Helper()
	left := map[uint16]time.Time{}
	for _, p := range said {
		left[p.number] = p.at
	}
	var delays []time.Duration
	var jitter float64 // RFC 3550 §6.4.1, in ms
	for i, p := range heard {
		at, ok := left[p.number]
		if !ok {
			t.Errorf("%s: packet %d came that was not sent, or came twice", way, p.number)
			continue
		}
		delete(left, p.number)
		delays = append(delays, p.at.Sub(at))
		if i > 0 {
			before := heard[i-1]
			d := float64(p.at.Sub(before.at).Microseconds())/1000 - float64(int32(p.clock-before.clock))/8
			jitter += (max(d, -d) - jitter) / 16
		}
	}
	if len(said) < spoken-1 || len(delays) == 0 {
		t.Fatalf("%s: %d packets said, %d heard", way, len(said), len(heard))
	}
	slices.Sort(delays)
	median, late := delays[len(delays)/2], delays[len(delays)*95/100]
	t.Logf("%s: %d said, %d lost; one way %.1f ms (%.1f more than the wire), 95 %% %.1f ms, most %.1f ms; jitter %.1f ms", way, len(said), len(left),
		ms(median), ms(median-natlab.DefaultLatency), ms(late), ms(delays[len(delays)-1]), jitter)
	if len(left) > voiceLoss {
		t.Errorf("%s: %d of %d packets are lost, %d are allowed", way, len(left), len(said), voiceLoss)
	}
	if late > mouthToEar {
		t.Errorf("%s: 95 %% came within %v, want %v", way, late, mouthToEar)
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

const (
	// packetCount go each way over the relayed path, packetEvery apart.
	packetCount = 1000
	packetEvery = 5 * time.Millisecond
	// largePacket is the size of one of them, larger than any network takes.
	largePacket = 8000
)

// packetOf is the packet of a number: sizes from 20 to 1400, one of
// largePacket, filled with what only that packet has.
func packetOf(from byte, number int) []byte {
	size := 20 + number*37%1381
	if number == packetCount/2 {
		size = largePacket
	}
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{from, byte(number), byte(number >> 8)}).Read(b)
	binary.BigEndian.PutUint32(b, uint32(number))
	return b
}

// TestUDPForwardOnRelayedPath sends packets of all sizes both ways where there
// is no direct path, and no UDP.
func TestUDPForwardOnRelayedPath(t *testing.T) {
	t.Parallel()
	s := newScene(t, natlab.Options{}, 1)
	attic, atticHost := s.at("attic", natlab.UDPBlocked)
	cabin, cabinHost := s.at("cabin", natlab.Symmetric)
	s.friends(attic, cabin)
	s.relayWell(attic, cabin)
	server, err := cabinHost.ListenPacket(s.ctx, "udp", "127.0.0.1:9000")
	check(t, err)
	t.Cleanup(func() { server.Close() })
	s.expose(cabin, "9000", attic, "--udp")
	at := s.forward(attic, "cabin:9000", "--udp")
	client, err := atticHost.Dial(s.ctx, "udp", at.String())
	check(t, err)
	t.Cleanup(func() { client.Close() })

	const there, back = 't', 'b'
	heard := map[byte]*inbox{there: newInbox(t, there), back: newInbox(t, back)}
	var readers, writers sync.WaitGroup
	readers.Go(func() {
		buffer := make([]byte, 1<<16)
		for first := true; ; first = false {
			n, from, err := server.ReadFrom(buffer)
			if err != nil {
				return
			}
			heard[there].take(buffer[:n])
			if first {
				writers.Go(func() { pace(s.ctx, back, func(b []byte) { server.WriteTo(b, from) }) })
			}
		}
	})
	readers.Go(func() {
		buffer := make([]byte, 1<<16)
		for {
			n, err := client.Read(buffer)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			heard[back].take(buffer[:n])
		}
	})
	began := time.Now()
	writers.Go(func() { pace(s.ctx, there, func(b []byte) { client.Write(b) }) })
	await(t, s.ctx, "packets come back", 10*time.Second, func() bool { return heard[back].count() > 0 })
	writers.Wait()
	t.Logf("sent in %.1f s", time.Since(began).Seconds())
	// What is still under way after a second does not come.
	pause(s.ctx, time.Second)
	client.Close()
	server.Close()
	readers.Wait()
	heard[there].done("there")
	heard[back].done("back")
	if c := contact(s.ctx, attic, cabin); c.Path != relayed {
		t.Errorf("the path is %s", c.Path)
	} else {
		t.Logf("path %s (%s), round trip %.0f ms", c.Path, c.Reason, c.RTTMS)
	}
}

// pace sends all packets of one side.
func pace(ctx context.Context, from byte, send func([]byte)) {
	tick := time.NewTicker(packetEvery)
	defer tick.Stop()
	for number := range packetCount {
		send(packetOf(from, number))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// inbox is what has come from one side.
type inbox struct {
	t    *testing.T
	from byte

	mu    sync.Mutex
	came  [packetCount]int
	total int
	wrong int
}

func newInbox(t *testing.T, from byte) *inbox { return &inbox{t: t, from: from} }

func (i *inbox) take(b []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.total++
	number := packetCount
	if len(b) >= 4 {
		number = int(binary.BigEndian.Uint32(b))
	}
	if number >= packetCount || !slices.Equal(b, packetOf(i.from, number)) {
		i.wrong++
		return
	}
	i.came[number]++
}

func (i *inbox) count() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.total
}

// done tells and checks what came in the end.
func (i *inbox) done(way string) {
	i.t.Helper()
	lost, twice := 0, 0
	for _, n := range i.came {
		if n == 0 {
			lost++
		} else if n > 1 {
			twice++
		}
	}
	i.t.Logf("%s: %d sent, %d lost, %d twice, %d wrong, the one of %d bytes came %d times", way, packetCount, lost, twice, i.wrong, largePacket, i.came[packetCount/2])
	if lost > packetCount/100 || twice > 0 || i.wrong > 0 || i.came[packetCount/2] != 1 {
		i.t.Errorf("%s: at most 1 %% may be lost, none come twice or changed, and the large one must come", way)
	}
}
