package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"porchlight/nat/natlab"
)

const (
	coturnPort = 3478
	// coturnLimit is how long coturn may take until it answers.
	coturnLimit = 15 * time.Second

	turnUser, turnPassword, turnRealm = "home", "lantern", "lab.invalid"
)

// coturnConfig is turnserver.conf: one user, no TLS, and no files but in one
// folder.
const coturnConfig = `listening-ip=%[1]s
relay-ip=%[1]s
listening-port=%[2]d
lt-cred-mech
user=%[3]s:%[4]s
realm=%[5]s
no-tls
no-dtls
no-cli
relay-threads=1
userdb=%[6]s/db
pidfile=%[6]s/pid
log-file=%[6]s/log
simple-log
no-stdout-log
`

// coturn is a running STUN and TURN server.
type coturn struct {
	at     netip.AddrPort
	dir    string
	cmd    *exec.Cmd
	cancel context.CancelFunc
	said   tail
}

// startCoturn runs Debian's coturn on host and waits until it accepts connections.
func startCoturn(ctx context.Context, host *natlab.Host) (*coturn, error) {
	program, err := exec.LookPath("turnserver")
	if err != nil {
		return nil, fmt.Errorf("start coturn: %w: apt install coturn", err)
	}
	c := &coturn{at: netip.AddrPortFrom(host.Public(), coturnPort)}
	if c.dir, err = os.MkdirTemp("", "porchlight-coturn"); err != nil {
		return nil, err
	}
	file := filepath.Join(c.dir, "turnserver.conf")
	text := fmt.Sprintf(coturnConfig, host.Public(), coturnPort, turnUser, turnPassword, turnRealm, c.dir)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		os.RemoveAll(c.dir)
		return nil, err
	}
	ctx, c.cancel = context.WithCancel(ctx)
	c.cmd = host.Command(ctx, program, "-c", file)
	c.cmd.Dir = c.dir
	c.cmd.Stdout, c.cmd.Stderr = &c.said, &c.said
	if err := c.cmd.Start(); err != nil {
		c.cancel()
		os.RemoveAll(c.dir)
		return nil, fmt.Errorf("start coturn: %w", err)
	}
	if err := c.await(ctx, host); err != nil {
		c.stop()
		return nil, fmt.Errorf("coturn does not answer: %w: %s", err, c.said.String())
	}
	return c, nil
}

// await polls until coturn accepts a connection.
func (c *coturn) await(ctx context.Context, host *natlab.Host) error {
	ctx, cancel := context.WithTimeout(ctx, coturnLimit)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		conn, err := host.Dial(ctx, "tcp4", c.at.String())
		if err == nil {
			return conn.Close()
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return err
		}
	}
}

// servers are the URIs under which an agent knows it.
func (c *coturn) servers() []string {
	return []string{
		"stun:" + c.at.String(),
		"turn:" + c.at.String() + "?transport=udp",
		"turn:" + c.at.String() + "?transport=tcp",
	}
}

// stop kills coturn, which keeps nothing worth saving, and removes its folder.
func (c *coturn) stop() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
	c.cancel()
	os.RemoveAll(c.dir)
}
