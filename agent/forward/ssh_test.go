package forward_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"porchlight/agent/forward"
)

// pipeEnv makes the test's own program a ProxyCommand: it asks for tcp 22 over
// the socket named there, as the command "pipe" does over the daemon's.
const pipeEnv = "FORWARD_TEST_PIPE"

func pipe(socket string) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	if err := forward.Ask(conn, "tcp", "22"); err != nil {
		return err
	}
	go func() {
		io.Copy(conn, os.Stdin)
		conn.(*net.UnixConn).CloseWrite()
	}()
	_, err = io.Copy(os.Stdout, conn)
	return err
}

// sshHome is a folder with keys, a server that knows them, and a client's
// options.
type sshHome struct {
	dir  string
	user string
	port string
}

func newSSHHome(t *testing.T) *sshHome {
	t.Helper()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	h := &sshHome{dir: t.TempDir(), user: me.Username, port: freePort(t)}
	for _, key := range []string{"host", "id"} {
		run(t, exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", h.path(key)))
	}
	public, err := os.ReadFile(h.path("host.pub"))
	if err != nil {
		t.Fatal(err)
	}
	h.write(t, "known_hosts", "home "+string(public))
	h.write(t, "sshd_config", fmt.Sprintf(`ListenAddress 127.0.0.1:%s
HostKey %s
AuthorizedKeysFile %s
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
`, h.port, h.path("host"), h.path("id.pub")))
	h.serve(t)
	return h
}

func (h *sshHome) path(name string) string { return filepath.Join(h.dir, name) }

func (h *sshHome) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(h.path(name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// serve runs sshd until the test ends. As root it wants an empty folder at a
// place of its own, which it gets in a mount namespace that nobody else sees.
func (h *sshHome) serve(t *testing.T) {
	t.Helper()
	sshd := []string{"/usr/sbin/sshd", "-D", "-e", "-f", h.path("sshd_config")}
	if os.Getuid() == 0 {
		sshd = append([]string{"unshare", "--mount", "sh", "-c",
			`mount -t tmpfs tmpfs /run && mkdir /run/sshd && exec "$@"`, "sh"}, sshd...)
	}
	cmd := exec.Command(sshd[0], sshd[1:]...)
	var log bytes.Buffer
	cmd.Stderr = &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		if t.Failed() {
			t.Logf("sshd said:\n%s", log.String())
		}
	})
	eventually(t, "sshd listens", func() bool {
		conn, err := net.Dial("tcp", "127.0.0.1:"+h.port)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// options are those that make ssh and scp use nothing but the folder.
func (h *sshHome) options(more ...string) []string {
	return append([]string{
		"-F", "/dev/null", "-i", h.path("id"), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
		"-o", "HostKeyAlias=home", "-o", "UserKnownHostsFile=" + h.path("known_hosts"),
		"-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=20",
	}, more...)
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return portOf(l.Addr())
}

// run runs a program and returns what it printed.
func run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer late.Stop()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%s: %v\n%s", filepath.Base(cmd.Path), err, problems.String())
	}
	return out.String()
}

// TestSSH: a command, and 5 MB there and back, by a forwarded port and as
// ProxyCommand, between Debian's own ssh and sshd.
func TestSSH(t *testing.T) {
	w := newWorld(t)
	h := newSSHHome(t)
	w.expose("tcp", "22", addr("127.0.0.1:"+h.port))
	at := w.forward("tcp", "22")
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ways := []struct {
		name    string
		options []string
	}{
		{"forwarded port", []string{"-o", "Port=" + strconv.Itoa(int(at.Port()))}},
		{"ProxyCommand", []string{"-o", fmt.Sprintf("ProxyCommand=env %s=%s %s", pipeEnv, w.control(), program)}},
	}
	content := make([]byte, 5_000_000)
	rand.NewChaCha8([32]byte{7}).Read(content)
	h.write(t, "file", string(content))
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			host := h.user + "@127.0.0.1"
			ssh := exec.Command("ssh", h.options(append(way.options, host, "read word; echo got $word; exit 0")...)...)
			ssh.Stdin = strings.NewReader("hello\n")
			if out := run(t, ssh); out != "got hello\n" {
				t.Errorf("ssh printed %q", out)
			}
			fails := exec.Command("ssh", h.options(append(way.options, host, "exit 7")...)...)
			var exit *exec.ExitError
			if err := fails.Run(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
				t.Errorf("a command that exits with 7: %v", err)
			}
			run(t, exec.Command("scp", h.options(append(way.options, "-q", h.path("file"), host+":"+h.path("there"))...)...))
			run(t, exec.Command("scp", h.options(append(way.options, "-q", host+":"+h.path("there"), h.path("back"))...)...))
			b, err := os.ReadFile(h.path("back"))
			if err != nil || sha256.Sum256(b) != sha256.Sum256(content) {
				t.Errorf("%d bytes came back, not the same, %v", len(b), err)
			}
		})
	}
	eventually(t, "all connections have ended", func() bool { n, _ := w.server.Open(); return n == 0 })
}

// control is a socket like the daemon's: each connection is a stream to the
// service.
func (w *world) control() string {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), "c")
	listener, err := net.Listen("unix", path)
	if err != nil {
		w.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			stream, err := w.out.Dial(w.t.Context(), w.home.Address(), forward.Service)
			if err != nil {
				conn.Close()
				continue
			}
			forward.Carry(w.t.Context(), conn.(*net.UnixConn), stream)
		}
	}()
	w.t.Cleanup(func() {
		listener.Close()
		<-done
	})
	return path
}

// addr is an address that is text already.
type addr string

func (addr) Network() string  { return "tcp" }
func (a addr) String() string { return string(a) }
