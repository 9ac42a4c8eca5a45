package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"porchlight/agent/identity"
	"porchlight/agent/reach"
)

// maxFile is the size of the largest config file that is read, in bytes.
const maxFile = 64 << 10

// Config is what the owner can set.
type Config struct {
	// State is the state folder. Default: ~/.local/share/porchlight, or
	// /var/lib/porchlight for root.
	State string `json:"state"`
	// Listen is the UDP (and TCP) address, "[HOST]:PORT". Default: every
	// address, at a port that is chosen once and kept.
	Listen string `json:"listen"`
	// Console is the console's address, "HOST:PORT", or "off".
	// Default: 127.0.0.1:8460.
	Console string `json:"console"`
	// Bootstrap lists links of devices that introduce this one.
	Bootstrap []string `json:"bootstrap"`
	// Reachability is "auto", "public" (others get in: the port is forwarded
	// or open) or "private" (never introduce or relay for others).
	Reachability reach.Policy `json:"reachability"`
	// LogLevel is "debug", "info", "warn" or "error". Default: info.
	LogLevel string `json:"log_level"`
	// Work is the folder for tasks of others: their programs and inputs.
	// Default: work in the state folder. On a router it belongs on a disk.
	Work string `json:"work"`
	// Name is what the owner calls the device. Default: the host's name.
	Name string `json:"name"`
	// Loopback lets agents on one machine meet over loopback addresses, and
	// relay to them: for trying out, never on a real network.
	Loopback bool `json:"loopback"`
	// Relay is a TURN server that this device keeps a place at, such as
	// "turn:192.0.2.1:3478?transport=tcp" or "turns:relay.example:443"
	// (RFC 7065), beside those of its rendezvous. Default: none.
	Relay string `json:"relay"`
	// RelayUser and RelayPasswordFile are the credentials for it: a user name,
	// and a file with the password on its first and only line.
	RelayUser         string `json:"relay_user"`
	RelayPasswordFile string `json:"relay_password_file"`
	// STUN lists servers that tell this device how it is seen, such as
	// "stun:192.0.2.1:3478" (RFC 7064), beside its rendezvous; at most four.
	STUN []string `json:"stun"`
	// DHT says whether the device looks for others, and lets itself be found,
	// through the BitTorrent mainline DHT: "on" or "off". Default: on.
	DHT string `json:"dht"`
	// DHTNodes lists nodes of it to begin with, "IP:PORT". Default: the few
	// well-known ones of dht.go; ["none"] for none.
	DHTNodes []string `json:"dht_nodes"`
	// LAN says whether devices in the same network are found by beacons:
	// "on" or "off". Default: on.
	LAN string `json:"lan"`
	// Gateway is where browsers on this machine see what contacts serve,
	// "HOST:PORT", or "off". Default: 127.0.0.1:8461.
	Gateway string `json:"gateway"`
	// Requests says whether strangers who have the address may ask to become
	// contacts: "on" or "off". Default: on.
	Requests string `json:"requests"`
	// TaskCommand is what starts a task's process, a program and its
	// arguments; only a config file can say it. Default: this program. An
	// agent that runs under an emulator names that emulator here:
	// ["qemu-mipsel-static", "/opt/porchlight", "task-sandbox"].
	TaskCommand []string `json:"task_command"`
}

// Default returns the defaults.
func Default() Config {
	name, err := os.Hostname()
	if err != nil {
		name = "porchlight"
	}
	return Config{
		State:        DefaultState(),
		Listen:       "",
		Console:      "127.0.0.1:8460",
		Reachability: reach.Auto,
		LogLevel:     "info",
		DHT:          "on",
		LAN:          "on",
		Gateway:      "127.0.0.1:8461",
		Requests:     "on",
		Name:         name,
	}
}

// DefaultState returns the default state folder.
func DefaultState() string {
	if os.Geteuid() == 0 {
		return "/var/lib/porchlight"
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "porchlight-state"
	}
	return filepath.Join(home, ".local", "share", "porchlight")
}

// Read fills c from a config file.
func (c *Config) Read(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read the config file: %w", err)
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return fmt.Errorf("read the config file: %w", err)
	}
	if len(b) > maxFile {
		return fmt.Errorf("config file %s is larger than %d bytes", path, maxFile)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(c); err != nil {
		return fmt.Errorf("config file %s: %w", path, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("config file %s: more than one JSON object", path)
	}
	return nil
}

// Check reports everything that is wrong with c.
func (c Config) Check() error {
	var errs []error
	if c.State == "" {
		errs = append(errs, errors.New("state: name a folder"))
	}
	if c.Listen != "" {
		if _, err := c.ListenAddr(0); err != nil {
			errs = append(errs, err)
		}
	}
	if c.Console != "off" {
		if err := checkHostPort(c.Console); err != nil {
			errs = append(errs, fmt.Errorf("console: %w; use HOST:PORT or off", err))
		}
	}
	if c.Gateway != "off" {
		if err := checkHostPort(c.Gateway); err != nil {
			errs = append(errs, fmt.Errorf("gateway: %w; use HOST:PORT or off", err))
		}
	}
	for name, value := range map[string]string{"dht": c.DHT, "lan": c.LAN, "requests": c.Requests} {
		if value != "on" && value != "off" {
			errs = append(errs, fmt.Errorf("%s: %q is not on or off", name, value))
		}
	}
	if _, err := c.Nodes(); err != nil {
		errs = append(errs, err)
	}
	if _, err := c.Links(); err != nil {
		errs = append(errs, err)
	}
	switch c.Reachability {
	case reach.Auto, reach.Public, reach.Private:
	default:
		errs = append(errs, fmt.Errorf("reachability: %q is not auto, public or private", c.Reachability))
	}
	if _, err := c.Level(); err != nil {
		errs = append(errs, err)
	}
	if _, err := c.Stock(); err != nil {
		errs = append(errs, err)
	}
	if _, err := c.STUNServers(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func checkHostPort(s string) error {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return err
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%q is no port number", port)
	}
	return nil
}

// ListenAddr returns the address to listen on, with port where none is set.
func (c Config) ListenAddr(port uint16) (netip.AddrPort, error) {
	if c.Listen == "" {
		return netip.AddrPortFrom(netip.IPv6Unspecified(), port), nil
	}
	host, text, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("listen: %w; use [HOST]:PORT", err)
	}
	number, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("listen: %q is no port number", text)
	}
	if number != 0 {
		port = uint16(number)
	}
	if host == "" {
		return netip.AddrPortFrom(netip.IPv6Unspecified(), port), nil
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("listen: %w; the host is a literal IP address", err)
	}
	return netip.AddrPortFrom(addr, port), nil
}

// Links returns the bootstrap links.
func (c Config) Links() ([]identity.Link, error) {
	var links []identity.Link
	for _, text := range c.Bootstrap {
		link, err := identity.ParseLink(text)
		if err != nil {
			return nil, fmt.Errorf("bootstrap: %w", err)
		}
		if len(link.At) == 0 {
			return nil, fmt.Errorf("bootstrap: link of %s does not say at= which address it is reachable", link.Address.Short())
		}
		links = append(links, link)
	}
	return links, nil
}

// Level returns the log level.
func (c Config) Level() (slog.Level, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return l, fmt.Errorf("log level: %q is not debug, info, warn or error", c.LogLevel)
	}
	return l, nil
}
