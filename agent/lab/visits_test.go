package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"porchlight/agent/api"
	"porchlight/nat/natlab"
)

const (
	sshPort = 2222
	// carried is the size of the file that goes there and back.
	carried = 20 << 20
	// notAllowed is the exit code of what this device may not do.
	notAllowed = 4
)

// sshHome is a folder with keys and what ssh and sshd need to use nothing else.
type sshHome struct {
	s   *scene
	dir string
}

// sshd runs a real server in a home until the test ends. As root it wants an
// empty folder at a place of its own, which it gets in a mount namespace that
// nobody else sees.
func (s *scene) sshd(h *natlab.Host) sshHome {
	s.t.Helper()
	home := sshHome{s, filepath.Join(s.dir, "ssh")}
	check(s.t, os.Mkdir(home.dir, 0o700))
	keygen := need(s.t, "ssh-keygen", "openssh-client")
	for _, key := range []string{"host", "id"} {
		if text, err := exec.CommandContext(s.ctx, keygen, "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", home.path(key)).CombinedOutput(); err != nil {
			s.t.Fatalf("ssh-keygen: %v: %s", err, text)
		}
	}
	public, err := os.ReadFile(home.path("host.pub"))
	check(s.t, err)
	check(s.t, os.WriteFile(home.path("known_hosts"), []byte("home "+string(public)), 0o600))
	check(s.t, os.WriteFile(home.path("sshd_config"), fmt.Appendf(nil, `ListenAddress 127.0.0.1:%d
HostKey %s
AuthorizedKeysFile %s
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
`, sshPort, home.path("host"), home.path("id.pub")), 0o600))
	server := s.begin(h, "unshare", "--mount", "sh", "-c", `mount -t tmpfs tmpfs /run && mkdir /run/sshd && exec "$@"`, "sh",
		need(s.t, "sshd", "openssh-server"), "-D", "-e", "-f", home.path("sshd_config"))
	await(s.t, s.ctx, "sshd listens", patience, func() bool { return server.listening("tcp", sshPort) })
	return home
}

func (h sshHome) path(name string) string { return filepath.Join(h.dir, name) }

// run runs ssh or scp in a home and returns what it printed.
func (h sshHome) run(at *natlab.Host, program string, args ...string) (string, error) {
	h.s.t.Helper()
	args = append([]string{
		"-F", "none", "-i", h.path("id"), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
		"-o", "HostKeyAlias=home", "-o", "UserKnownHostsFile=" + h.path("known_hosts"),
		"-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=20",
	}, args...)
	cmd := at.Command(h.s.ctx, need(h.s.t, program, "openssh-client"), args...)
	var problems strings.Builder
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", program, err, problems.String())
	}
	return string(out), err
}

// TestSSHBetweenHomes has Debian's ssh and scp reach Debian's sshd in another
// home, as ProxyCommand and by a forwarded port.
func TestSSHBetweenHomes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		path           string
		caller, server natlab.Kind
		rendezvous     int
		size           int64
	}{
		{direct, natlab.PortRestricted, natlab.Symmetric, 2, carried},
		{relayed, natlab.UDPBlocked, natlab.Symmetric, 1, 1 << 20},
	} {
		t.Run(tc.path, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, natlab.Options{}, tc.rendezvous)
			attic, atticHost := s.at("attic", tc.caller)
			cabin, cabinHost := s.at("cabin", tc.server)
			s.friends(attic, cabin)
			if tc.path == direct {
				s.directly(attic, cabin)
			} else {
				s.relayWell(attic, cabin)
			}
			ssh := s.sshd(cabinHost)
			s.notServed(attic, cabin)

			s.expose(cabin, fmt.Sprint(sshPort), attic)
			at := s.forward(attic, fmt.Sprintf("cabin:%d", sshPort), "8022")
			if at != netip.MustParseAddrPort("127.0.0.1:8022") {
				t.Errorf("listens at %s", at)
			}
			ssh.session(atticHost, "ProxyCommand", tc.size, "root@cabin", "-o", fmt.Sprintf("Port=%d", sshPort),
				"-o", fmt.Sprintf("ProxyCommand=%s pipe --state %s %%h:%%p", s.program, attic.state))
			if tc.path == direct {
				ssh.session(atticHost, "forwarded port", tc.size, "root@127.0.0.1", "-o", "Port=8022")
			}
			c := contact(s.ctx, attic, cabin)
			t.Logf("%s × %s: path %s, round trip %.0f ms", tc.caller, tc.server, c.Path, c.RTTMS)
			if c.Path != tc.path {
				t.Errorf("the path is %s, want %s", c.Path, tc.path)
			}
			check(t, cabin.run(s.ctx, nil, "unexpose", fmt.Sprint(sshPort)))
			s.notServed(attic, cabin)
		})
	}
}

// notServed checks that a caller who was granted nothing gets nothing, and is
// told what to do.
func (s *scene) notServed(from, to *agent) {
	s.t.Helper()
	var exposed []api.Service
	check(s.t, to.run(s.ctx, &exposed, "exposed"))
	if len(exposed) > 0 {
		s.t.Errorf("%s exposes %v without being told to", to.name, exposed)
	}
	// What is there for others looks as what is not there.
	check(s.t, to.run(s.ctx, nil, "expose", fmt.Sprint(sshPort), "--to", "me"))
	target := fmt.Sprintf("%s:%d", to.name, sshPort)
	ctx, cancel := context.WithTimeout(s.ctx, 20*time.Second)
	defer cancel()
	for _, args := range [][]string{{"pipe", target}, {"forward", target, "8023"}, {"forward", to.name + ":23", "8023"}} {
		_, port, _ := strings.Cut(args[1], ":")
		want := fmt.Sprintf("tcp %s is not offered to this device; on the other one: porchlight expose %[1]s --to NAME", port)
		err := from.run(ctx, nil, args...)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != notAllowed || !strings.Contains(err.Error(), want) {
			s.t.Errorf("%s, which was granted nothing: %v, want exit code %d and %q", strings.Join(args, " "), err, notAllowed, want)
		}
	}
	check(s.t, to.run(s.ctx, nil, "unexpose", fmt.Sprint(sshPort)))
}

// session runs a command, and sends a file there and back.
func (h sshHome) session(at *natlab.Host, way string, size int64, target string, options ...string) {
	t := h.s.t
	t.Helper()
	began := time.Now()
	out, err := h.run(at, "ssh", append(options, target, "echo it is $(echo here | tr a-z A-Z)")...)
	check(t, err)
	if out != "it is HERE\n" {
		t.Errorf("%s: ssh printed %q", way, out)
	}
	first := time.Since(began)
	_, err = h.run(at, "ssh", append(options, target, "exit 7")...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("%s: a command that exits with 7: %v", way, err)
	}
	sent, there, back := h.path("sent"), h.path("there"), h.path("back")
	writeRandom(t, sent, size)
	began = time.Now()
	_, err = h.run(at, "scp", append(options, "-q", sent, target+":"+there)...)
	check(t, err)
	up := time.Since(began)
	began = time.Now()
	_, err = h.run(at, "scp", append(options, "-q", target+":"+there, back)...)
	check(t, err)
	down := time.Since(began)
	t.Logf("%s: a command took %.2f s, %d bytes there %.1f s (%.1f MB/s), back %.1f s (%.1f MB/s)", way, first.Seconds(), size,
		up.Seconds(), float64(size)/1e6/up.Seconds(), down.Seconds(), float64(size)/1e6/down.Seconds())
	want, err := hashOf(sent)
	check(t, err)
	for _, name := range []string{there, back} {
		if got, err := hashOf(name); err != nil || got != want {
			t.Errorf("%s: %s has sha256 %s, want %s (%v)", way, filepath.Base(name), got, want, err)
		}
		check(t, os.Remove(name))
	}
}

func writeRandom(t *testing.T, name string, size int64) {
	t.Helper()
	f, err := os.Create(name)
	check(t, err)
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{9}), size)
	check(t, errors.Join(err, f.Close()))
}

// browserLimit is how long the browser may take for a page.
const browserLimit = 30 * time.Second

// page opens an address in a real browser in a home, waits until the page and
// its scripts have loaded, and returns its text as HTML.
func (s *scene) page(h *natlab.Host, url string) string {
	s.t.Helper()
	chromium := need(s.t, "chromium", "chromium")
	profile, err := os.MkdirTemp(s.dir, "browser")
	check(s.t, err)
	ctx, cancel := context.WithTimeout(s.ctx, browserLimit)
	defer cancel()
	cmd := h.Command(ctx, chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
		"--user-data-dir="+profile, "--dump-dom", url)
	cmd.Env = append(os.Environ(), "HOME="+profile)
	// It starts others, which go with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var problems strings.Builder
	cmd.Stderr = &problems
	began := time.Now()
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("the browser at %s: %v: %s", url, err, problems.String())
	}
	s.t.Logf("%s: %d bytes in %.1f s", url, len(out), time.Since(began).Seconds())
	return string(out)
}

// site writes files into a folder, which an agent serves.
func (s *scene) site(a *agent, share, readers string, files map[string]string) {
	s.t.Helper()
	dir := filepath.Join(s.dir, "site-"+a.name+"-"+share)
	for name, text := range files {
		check(s.t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		check(s.t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	check(s.t, a.run(s.ctx, nil, "shares", "add", dir, "--name", share, "--read", readers))
}

// nosy is a page that reads what it is shown by its own contact, and tries to
// read what another contact serves and who the contacts are. It waits for each
// answer, so that all are there when the page has loaded.
const nosy = `<!doctype html><meta charset="utf-8"><title>cabin</title><body><p>the cabin's own words</p><ul id="got"></ul>
<script>
const port = location.port
for (const [name, url] of Object.entries({
  own: 'own.txt',
  name: 'http://barn.localhost:' + port + '/site/diary.txt',
  path: 'http://localhost:' + port + '/~barn/site/diary.txt',
  list: 'http://localhost:' + port + '/',
  number: 'http://127.0.0.1:' + port + '/',
})) {
  let text = 'nothing'
  try { const x = new XMLHttpRequest(); x.open('GET', url, false); x.send(); text = x.responseText } catch {}
  const li = document.createElement('li')
  li.textContent = name + ' got ' + text.trim()
  document.getElementById('got').append(li)
}
</script>`

const diary = "what the barn wrote into its diary"

// TestBrowserSeesAContact opens what contacts serve in a real browser.
func TestBrowserSeesAContact(t *testing.T) {
	t.Parallel()
	s := newScene(t, natlab.Options{}, 2)
	attic, host := s.at("attic", natlab.PortRestricted, "--gateway", "127.0.0.1:8461")
	cabin, _ := s.at("cabin", natlab.Symmetric)
	barn, _ := s.at("barn", natlab.PortRestricted)
	s.friends(attic, cabin)
	s.friends(attic, barn)
	s.site(cabin, "site", "attic", map[string]string{"index.html": nosy, "own.txt": "what is its own"})
	s.site(cabin, "songs", "friends", map[string]string{"seven winters.txt": "la la"})
	s.site(cabin, "secret", "me", map[string]string{"index.html": "the cabin's secret"})
	s.site(barn, "site", "attic", map[string]string{"diary.txt": diary})

	for _, tc := range []struct {
		url          string
		seen, unseen []string
	}{
		{"http://localhost:8461/", []string{"cabin.localhost:8461", "barn.localhost:8461"}, nil},
		{"http://cabin.localhost:8461/", []string{"site", "songs"}, []string{"secret"}},
		{"http://localhost:8461/~cabin/", []string{"site", "songs"}, []string{"secret"}},
		{"http://cabin.localhost:8461/songs/", []string{"seven winters.txt"}, nil},
		{"http://cabin.localhost:8461/secret/", []string{"cabin"}, []string{"the cabin's secret"}},
		{"http://localhost:8461/~cabin/secret/", []string{"cabin"}, []string{"the cabin's secret"}},
		// What a page must not read can be read by who may.
		{"http://barn.localhost:8461/site/diary.txt", []string{diary}, nil},
		{"http://localhost:8461/~barn/site/diary.txt", []string{diary}, nil},
		{"http://cabin.localhost:8461/site/", []string{
			"the cabin's own words", "own got what is its own", "name got nothing", "path got nothing", "list got nothing", "number got nothing",
		}, []string{diary, "barn.localhost:8461"}},
		// Here a page is foreign even to its own files.
		{"http://localhost:8461/~cabin/site/", []string{
			"the cabin's own words", "own got nothing", "name got nothing", "path got nothing", "list got nothing", "number got nothing",
		}, []string{diary}},
	} {
		got := s.page(host, tc.url)
		for _, want := range tc.seen {
			if !strings.Contains(got, want) {
				t.Errorf("%s does not show %q:\n%s", tc.url, want, got)
			}
		}
		for _, bad := range tc.unseen {
			if strings.Contains(got, bad) {
				t.Errorf("%s shows %q:\n%s", tc.url, bad, got)
			}
		}
	}
}
