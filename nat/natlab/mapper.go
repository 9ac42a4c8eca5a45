package natlab

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// gateway is how a router lets devices ask for ports.
type gateway uint8

const (
	noGateway gateway = iota
	upnpIGD           // UPnP IGD (SSDP and SOAP)
	natPMP            // NAT-PMP (RFC 6886) and PCP (RFC 6887)
)

const (
	// mapperTool is the program behind UPnP, NAT-PMP and PCP.
	mapperTool = "miniupnpd"

	// firstSOAPPort is where a router's first miniupnpd takes SOAP requests; after
	// each reboot it is the next one.
	firstSOAPPort = 5431

	// mapperPatience bounds the wait for miniupnpd's first answer, which comes
	// after some 20 ms.
	mapperPatience = 10 * time.Second

	// mapperRetry is how long one question to it waits for its answer.
	mapperRetry = 100 * time.Millisecond
)

// mapper is a router's miniupnpd.
type mapper struct {
	home    *home
	program string
	dir     string // configuration, leases, log

	mu    sync.Mutex
	boots int
	cmd   *exec.Cmd
	done  chan error // what Wait returned
}

// newMapper prepares miniupnpd for a router; Close will stop it.
func (l *Lab) newMapper(m *home) (*mapper, error) {
	program, err := exec.LookPath(mapperTool)
	if err != nil {
		return nil, fmt.Errorf("%w: apt install miniupnpd-nftables", err)
	}
	base, err := l.scratch()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(base, m.name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of miniupnpd: %w", err)
	}
	if m.carrier != "" {
		if program, err = truthful(program, dir); err != nil {
			return nil, err
		}
	}
	u := &mapper{home: m, program: program, dir: dir}
	l.mu.Lock()
	l.mappers = append(l.mappers, u)
	l.mu.Unlock()
	return u, nil
}

// config is miniupnpd's configuration file.
func (u *mapper) config() string {
	igd, pmp := "no", "no"
	if u.home.plan.gateway == upnpIGD {
		igd = "yes"
	} else {
		pmp = "yes"
	}
	return fmt.Sprintf(`ext_ifname=wan
listening_ip=lan
ipv6_disable=yes
enable_upnp=%s
enable_natpmp=%s
http_port=%d
uuid=70726368-6c69-6768-74%02x-%012x
secure_mode=yes
min_lifetime=10
max_lifetime=86400
upnp_table_name=miniupnpd
upnp_nat_table_name=miniupnpd
upnp_forward_chain=mappings_forward
upnp_nat_chain=mappings_in
upnp_nat_postrouting_chain=mappings_out
allow 1024-65535 192.168.1.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
`, igd, pmp, firstSOAPPort+u.boots, u.home.party, u.boots)
}

// start runs miniupnpd in the router and waits until it answers a device.
func (u *mapper) start(ctx context.Context) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := os.WriteFile(filepath.Join(u.dir, "miniupnpd.conf"), []byte(u.config()), 0o600); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(u.dir, "miniupnpd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	// -d keeps it in the foreground. No context: stop ends it, asking first.
	u.cmd = inside(context.Background(), u.home.router, u.program, "-d",
		"-f", filepath.Join(u.dir, "miniupnpd.conf"), "-P", filepath.Join(u.dir, "pid"))
	u.cmd.Stdout, u.cmd.Stderr = log, log
	if err := u.cmd.Start(); err != nil {
		u.cmd = nil
		return fmt.Errorf("start miniupnpd: %w", err)
	}
	u.boots++
	u.done = make(chan error, 1)
	go func(cmd *exec.Cmd, done chan error) { done <- cmd.Wait() }(u.cmd, u.done)
	return u.await(ctx)
}

// await waits until miniupnpd answers the home's first device.
func (u *mapper) await(ctx context.Context) error {
	err := u.home.devices[0].awaitGateway(ctx, u.home.plan.gateway, u.ended)
	if err != nil {
		return fmt.Errorf("miniupnpd: %w: its log ends %s", err, u.tail())
	}
	return nil
}

// ended returns an error if miniupnpd is no longer there.
func (u *mapper) ended() error {
	select {
	case err := <-u.done:
		u.done <- err
		return fmt.Errorf("ended at once (%v)", u.cmd.ProcessState)
	default:
		return nil
	}
}

// awaitGateway asks the router until it answers, or gives up says why it cannot.
func (h *Host) awaitGateway(ctx context.Context, g gateway, giveUp func() error) error {
	pause := time.NewTicker(mapperRetry / 5)
	defer pause.Stop()
	for deadline := time.Now().Add(mapperPatience); ; <-pause.C {
		err := h.asksGateway(g)
		if err == nil {
			return nil
		}
		if err := errors.Join(ctx.Err(), giveUp()); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no answer from the router: %w", err)
		}
	}
}

// tail is the end of miniupnpd's log.
func (u *mapper) tail() string {
	const most = 8192
	b, err := os.ReadFile(filepath.Join(u.dir, "miniupnpd.log"))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-most):])
}

// signal sends the running miniupnpd a signal.
func (u *mapper) signal(s syscall.Signal) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.cmd != nil {
		u.cmd.Process.Signal(s)
	}
}

// stop ends miniupnpd and waits for its end. The mappings stay in the rules.
func (u *mapper) stop() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.cmd == nil {
		return
	}
	u.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(killGrace)
	defer timer.Stop()
	select {
	case <-u.done:
	case <-timer.C:
		u.cmd.Process.Kill()
		<-u.done
	}
	u.cmd = nil
}

// asksGateway sends one question to the router and waits for the answer.
func (h *Host) asksGateway(g gateway) error {
	question, to, begins := []byte{0, 0}, netip.MustParseAddrPort(lanRouter+":5351"), []byte{0, 128, 0, 0}
	if g == upnpIGD {
		question = []byte("M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\n" +
			"MX: 1\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n")
		to, begins = netip.MustParseAddrPort("239.255.255.250:1900"), []byte("HTTP/1.1 200 OK")
	}
	pc, err := h.ListenPacket(context.Background(), "udp4", netip.AddrPortFrom(h.Addr(), 0).String())
	if err != nil {
		return err
	}
	defer pc.Close()
	if err := pc.SetDeadline(time.Now().Add(mapperRetry)); err != nil {
		return err
	}
	if _, err := pc.WriteTo(question, net.UDPAddrFromAddrPort(to)); err != nil {
		return err
	}
	b := make([]byte, 2048)
	n, _, err := pc.ReadFrom(b)
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(b[:n], begins) {
		return fmt.Errorf("router answered %q", b[:n])
	}
	return nil
}

// reservedCGN is the entry for 100.64.0.0/10 (RFC 6598) in miniupnpd's table of
// reserved addresses, in the byte order of the machine: the address, and how many
// bits of an address don't count.
func reservedCGN() []byte {
	return binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(nil, 0x64400000), 32-10)
}

// truthful makes a copy of miniupnpd that takes 100.64.0.0/10 for a usable outer
// address and tells it to whoever asks, as many routers do. Version 2.3.1 as it comes
// refuses to work there and has no option for it. The entry for carriers' networks
// in its table of reserved ones becomes a second one for 0.0.0.0/8.
func truthful(program, dir string) (string, error) {
	b, err := os.ReadFile(program)
	if err != nil {
		return "", err
	}
	if bytes.Count(b, reservedCGN()) != 1 {
		return "", errors.New("this build of miniupnpd has no known table of reserved addresses: use Debian's 2.3.1")
	}
	harmless := binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(nil, 0), 32-8)
	path := filepath.Join(dir, mapperTool)
	return path, os.WriteFile(path, bytes.Replace(b, reservedCGN(), harmless, 1), 0o700)
}
