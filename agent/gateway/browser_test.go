package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"porchlight/agent/identity"
)

// chromium starts a real browser, which ends with ctx at the latest.
func chromium(ctx context.Context, t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	if os.Getenv("PORCHLIGHT_EXEC_PREFIX") != "" {
		t.Skip("the browser is no emulated program")
	}
	program, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("no browser: apt-get install chromium")
	}
	profile, err := os.MkdirTemp("", "porchlight-browser-")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, program, append([]string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-popup-blocking", "--disable-component-update", "--disable-sync", "--user-data-dir=" + profile}, args...)...)
	// It starts others, which go with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(profile) })
	return cmd
}

// attack is bob's page: it uses its own files in every way, tries to get at
// everything else, and writes what it got.
const attack = `<!doctype html><html><head><meta charset="utf-8"><title>bob</title>
<link rel="stylesheet" href="style.css"><script src="own.js"></script></head>
<body><p id="p">hello</p><img id="own" src="own.svg"><img id="absolute" src="/site/own.svg"><a id="link" href="sub/">sub</a>
<script>
const got = {}, port = location.port
const others = {
  aliceByName: 'http://alice.localhost:' + port + '/site/',
  aliceByPath: 'http://localhost:' + port + '/~alice/site/',
  list: 'http://localhost:' + port + '/',
  listByNumber: 'http://127.0.0.1:' + port + '/',
  console: 'CONSOLE',
}
const wait = (ms) => new Promise((ok) => setTimeout(ok, ms))
async function fetched(url, init) {
  try { return 'read ' + (await (await fetch(url, init)).text()).length } catch { return 'no' }
}
function image(url) {
  return new Promise((ok) => { const i = new Image(); i.onload = () => ok('seen'); i.onerror = () => ok('no'); i.src = url })
}
async function framed(url) {
  const f = document.createElement('iframe'); f.src = url; document.body.append(f)
  await wait(700)
  let text = 'no'
  try { text = f.contentDocument ? 'read ' + f.contentDocument.body.innerText : 'no' } catch {}
  f.remove()
  return text === 'read ' ? 'no' : text
}
async function opened(url) {
  // An empty text is the window before it has gone anywhere.
  try { const w = open(url); await wait(700); return w.document.body.innerText || 'no' } catch { return 'no' }
}
async function run() {
  await Promise.all(Object.entries(others).map(async ([name, url]) => {
    got[name] = await Promise.all([fetched(url), fetched(url, {credentials: 'include'}), fetched(url, {method: 'PUT', body: 'x'}),
      image(url + 'own.svg'), framed(url), opened(url)])
  }))
  got.ownFrame = await framed('sub/')
  try { const x = new XMLHttpRequest(); x.open('GET', others.aliceByName, false); x.send(); got.xhr = 'read' } catch { got.xhr = 'no' }
  try { document.cookie = 'a=b; domain=localhost'; got.cookie = document.cookie || 'no' } catch { got.cookie = 'no' }
  try { await navigator.serviceWorker.register('own.js'); got.worker = 'installed' } catch { got.worker = 'no' }
  try { document.domain = 'localhost'; got.domain = 'joined' } catch { got.domain = 'no' }
  got.style = getComputedStyle(document.getElementById('p')).color
  got.script = String(window.ran)
  got.image = document.getElementById('own').naturalWidth
  got.absolute = document.getElementById('absolute').naturalWidth
  got.fetch = await fetched('style.css')
  new Image().src = 'got?' + encodeURIComponent(JSON.stringify(got))
}
run()
</script></body></html>`

const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="7" height="7"><rect width="7" height="7"/></svg>`

func TestPagesInARealBrowserReadOnlyTheirOwn(t *testing.T) {
	asked := make(chan string, 100)
	// Something else on this machine that trusts whoever can reach it.
	other := newWorld(t, nil)
	other.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case asked <- r.Method + " " + r.URL.Path:
		default:
		}
		w.Header().Set("Access-Control-Allow-Origin", "*")
	})
	files := shares(t, map[string]string{
		"site/index.html":     strings.ReplaceAll(attack, "CONSOLE", "http://localhost:"+other.port+"/"),
		"site/style.css":      "p{color:rgb(1, 2, 3)}",
		"site/own.js":         "window.ran = 'ran'",
		"site/sub/index.html": "<p>bob's own words",
		"site/own.svg":        svg,
	})
	reports := make(chan string, 1)
	w := newWorld(t, map[identity.Address]http.Handler{
		bob: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/site/got" {
				text, _ := url.QueryUnescape(r.URL.RawQuery)
				reports <- text
				return
			}
			files.ServeHTTP(w, r)
		}),
		alice: shares(t, map[string]string{"site/index.html": "<p>alice's own words", "site/own.svg": svg}),
	})
	for _, form := range []struct {
		name, url, fetch, frame string
	}{
		{"by name", "http://" + w.host("bob") + "/site/", "read 21", "read bob's own words"},
		{"by path", "http://" + w.host("") + "/~bob/site/", "no", "no"},
	} {
		t.Run(form.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			browser := chromium(ctx, t, form.url)
			text := ""
			select {
			case text = <-reports:
			case <-ctx.Done():
			}
			cancel()
			_ = browser.Wait() // it was killed
			got := map[string]any{}
			if err := json.Unmarshal([]byte(text), &got); err != nil {
				t.Fatalf("%v: the page has not said what it got: %q", err, text)
			}
			t.Log(got)
			for _, name := range []string{"aliceByName", "aliceByPath", "list", "listByNumber", "console"} {
				results, _ := got[name].([]any)
				if len(results) != 6 {
					t.Fatalf("%s: %v", name, got[name])
				}
				for i, way := range []string{"fetch", "fetch with credentials", "put", "image", "frame", "window"} {
					if results[i] != "no" {
						t.Errorf("%s by %s: %v", name, way, results[i])
					}
				}
			}
			for name, want := range map[string]any{"xhr": "no", "cookie": "no", "worker": "no", "domain": "no",
				"style": "rgb(1, 2, 3)", "script": "ran", "image": 7.0, "absolute": 7.0, "fetch": form.fetch, "ownFrame": form.frame} {
				if got[name] != want {
					t.Errorf("%s: %v, want %v", name, got[name], want)
				}
			}
		})
	}
	close(asked)
	for line := range asked {
		if line != "GET /" && line != "GET /favicon.ico" { // a window that was opened; nothing was read in it
			t.Errorf("a page has made the browser ask another server: %s", line)
		}
	}
}

func TestListInARealBrowser(t *testing.T) {
	w := sharing(t)
	file := t.TempDir() + "/page.png"
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := chromium(ctx, t, "--screenshot="+file, "--window-size=360,640", "http://"+w.host("")+"/").Wait(); err != nil {
		t.Error(err)
	}
	b, err := os.ReadFile(file)
	if err != nil || !strings.HasPrefix(string(b), "\x89PNG") || len(b) < 8000 {
		t.Errorf("a picture of %d bytes, %v", len(b), err)
	}
	if keep := os.Getenv("PORCHLIGHT_SCREENSHOTS"); keep != "" {
		_ = os.WriteFile(keep+"/gateway.png", b, 0o644)
	}
}
