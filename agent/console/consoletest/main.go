package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/console"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "loopback `address` to listen on")
	store := flag.String("store", "", "`file` of the password record")
	window := flag.Duration("window", 15*time.Minute, "how long the first password may be set")
	flag.Parse()
	if err := serve(*listen, fileStore(*store), *window, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "consoletest:", err)
		os.Exit(1)
	}
}

func serve(listen string, store fileStore, window time.Duration, commands io.Reader, out io.Writer) error {
	s := newScene()
	c, err := console.New(console.Config{
		Status: s.snapshot, API: s.routes(), Store: store, SetupWindow: window,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	defer c.Close()
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: c.Handler(), ReadHeaderTimeout: 5 * time.Second}
	defer server.Close()
	go func() { _ = server.Serve(ln) }()
	fmt.Fprintf(out, "http://%s/\n", ln.Addr())
	lines := bufio.NewScanner(commands)
	for lines.Scan() {
		if err := s.obey(strings.Fields(lines.Text())); err != nil {
			return err
		}
		fmt.Fprintln(out, "done")
	}
	return lines.Err()
}

// fileStore keeps the record in a file; "" keeps nothing.
type fileStore string

func (f fileStore) Load() ([]byte, error) {
	if f == "" {
		return nil, nil
	}
	return os.ReadFile(string(f))
}

func (f fileStore) Save(b []byte) error {
	if f == "" {
		return nil
	}
	return os.WriteFile(string(f), b, 0o600)
}

// scene is the made-up device.
type scene struct {
	mu     sync.Mutex
	st     api.Status
	router api.Router

	devices api.Devices
	said    map[string][]api.Message // by address
	lastID  int
}

const own = "q7mz4tj2kaewx5hnvr3ob6dsy4pcgulf2ie5ywqa3hktn7vxob6mzrcd"

func newScene() *scene {
	s := &scene{}
	s.st = api.Status{
		Address: own, Name: "Attic Pi", Version: "0.1.0",
		Reachability: api.Checking,
		NAT:          api.NAT{Mapping: "endpoint-independent", Filtering: "address-and-port-dependent"},
		Listen:       "192.168.1.23:41641", Public: "44.128.0.7:41641",
		Link:     "porchlight:" + own + "?at=44.128.0.7:41641&via=m2hxq3zr5tynwkd4j7bofc6ue2lsgpia5vxh3oq7zrtn4wkyd6cbt5wa@44.128.0.2:4001",
		RSSBytes: 18 << 20, UptimeMS: 3 * 86400e3,
		Traffic: api.Traffic{SentBytes: 41e9, ReceivedBytes: 12e9, RelayedBytes: 38e8},
		Work:    api.Work{Enabled: true, Running: 2, Done: 14, CPUMS: 15120e3},
		Helpers: []api.Helper{
			{Address: address('g'), Name: "Grandma’s router", Online: true, RTTMS: 41, Transport: "udp"},
			{Address: address('x'), Online: true, RTTMS: 63, Transport: "udp"},
		},
		Shares: []api.Share{
			{Name: "Films", Dir: "/srv/films", Read: []string{"friends", "me"}},
			{Name: "In-tray", Dir: "/srv/in", Read: []string{"me"}, Write: []string{"Alice"}},
		},
	}
	s.router = api.Router{Address: "192.168.1.1", Settled: true}
	s.people("some")
	s.own(true)
	s.transfers()
	return s
}

// address makes an address that looks like one.
func address(c byte) string { return string(c) + strings.Repeat("k4tz7qa", 8)[1:] }

func (s *scene) snapshot() api.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.st
	st.CheckedUnixMS = time.Now().Add(-4 * time.Minute).Truncate(time.Hour).UnixMilli()
	if st.Reachability == api.Checking {
		st.CheckedUnixMS = 0
	}
	st.Contacts = append([]api.Contact(nil), s.st.Contacts...)
	st.Requests = append([]api.Request{}, s.st.Requests...)
	st.Transfers = append([]api.Transfer(nil), s.st.Transfers...)
	return st
}

func (s *scene) obey(words []string) error {
	if len(words) == 0 {
		return errors.New("empty command")
	}
	words = append(words, "", "")
	s.mu.Lock()
	defer s.mu.Unlock()
	switch words[0] {
	case "verdict":
		s.st.Reachability = api.Verdict(words[1])
		s.st.NAT.Mapping = "endpoint-independent"
		if s.st.Reachability == api.NATHard {
			s.st.NAT.Mapping = "address-and-port-dependent"
		}
	case "doubt":
		s.st.Doubt = words[1] == "on"
	case "router":
		s.router.Address, s.router.Name = words[1], strings.TrimSpace(strings.Join(words[2:], " "))
	case "rtt":
		ms, err := strconv.ParseFloat(words[1], 64)
		if err != nil {
			return fmt.Errorf("rtt: %w", err)
		}
		s.st.Contacts[0].RTTMS = ms
	case "people":
		s.people(words[1])
	case "idle":
		s.st.Transfers, s.st.Work.Running = nil, 0
	case "busy":
		s.transfers()
	case "step":
		s.step()
	default:
		return s.obeyPeople(words)
	}
	return nil
}

func (s *scene) people(kind string) {
	switch kind {
	case "none":
		s.st.Contacts, s.said = nil, map[string][]api.Message{}
	case "hostile":
		s.st.Contacts = []api.Contact{{
			Name:    "\u202e<img src=x onerror=alert(1)>" + strings.Repeat("W", 80),
			Address: address('h'), Online: true, Path: "relay", Reason: "from_the_future", RTTMS: 0.2,
		}}
	default:
		s.st.Contacts = somePeople()
		s.talk()
	}
}

func (s *scene) transfers() {
	s.st.Work.Running = 2
	s.st.Transfers = []api.Transfer{
		{ID: "1", Name: "harvest-day.mp4", Direction: "out", Peer: "Alice", Bytes: 12e8, TotalBytes: 28e8, BytesPerSecond: 31e5},
		{ID: "2", Name: "field-recordings.zip", Direction: "in", Peer: "Grandma’s router", Bytes: 62e7, TotalBytes: 1e9, BytesPerSecond: 19e5},
	}
}

func (s *scene) step() {
	for i := range s.st.Transfers {
		t := &s.st.Transfers[i]
		t.Bytes = min(t.TotalBytes, t.Bytes+t.TotalBytes/10)
	}
}
