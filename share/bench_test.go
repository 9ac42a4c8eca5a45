package share

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serveEnv makes this test binary a server for the benchmark: "KIND DIR".
const serveEnv = "PORCHLIGHT_SHARE_SERVE"

func TestMain(m *testing.M) {
	if v := os.Getenv(serveEnv); v != "" {
		serveMain(strings.SplitN(v, " ", 2))
		return
	}
	os.Exit(m.Run())
}

func serveMain(args []string) {
	var h http.Handler
	switch args[0] {
	case "net/http":
		h = http.StripPrefix("/s", http.FileServer(http.Dir(args[1])))
	case "share":
		shares, err := Open(&memStore{list: []Share{{Name: "s", Dir: args[1], Read: []string{""}}}}, nil)
		if err != nil {
			panic(err)
		}
		h = NewHandler(Config{Shares: shares, Grants: byHeader{}})
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	panic(http.Serve(l, h))
}

// readFromRecorder notes what reaches a connection by ReadFrom.
type readFromRecorder struct {
	*httptest.ResponseRecorder
	file bool
}

func (w *readFromRecorder) ReadFrom(r io.Reader) (int64, error) {
	if lr, ok := r.(*io.LimitedReader); ok {
		_, w.file = lr.R.(*os.File)
	}
	return io.Copy(w.ResponseRecorder, r)
}

func TestSendfileIsReached(t *testing.T) {
	s := newSite(t)
	s.file("f", make([]byte, 100000))
	for _, rang := range []string{"", "bytes=5-50000"} {
		w, r := &readFromRecorder{ResponseRecorder: httptest.NewRecorder()}, httptest.NewRequest("GET", "/s/f", nil)
		r.Header.Set("Who", "ro")
		r.Header.Set("Range", rang)
		s.handler.ServeHTTP(w, r)
		if !w.file {
			t.Errorf("range %q: the connection does not see the *os.File", rang)
		}
	}
}

// cpuSeconds serves dir/f n times from a process of its own, and returns the
// processor time that took.
func cpuSeconds(b *testing.B, kind, dir string, n int) float64 {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), serveEnv+"="+kind+" "+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	var addr string
	fmt.Fscanln(out, &addr)
	for range n {
		resp, err := http.Get("http://" + addr + "/s/f")
		if err != nil || resp.StatusCode != 200 {
			b.Fatal(resp, err)
		}
		if got, err := io.Copy(io.Discard, resp.Body); err != nil || got == 0 {
			b.Fatal(got, err)
		}
		resp.Body.Close()
	}
	cmd.Process.Kill()
	cmd.Wait()
	return (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
}

// BenchmarkServeAgainstNetHTTP prints the server's processor time for 1 GiB
// over loopback and its ratio to a bare http.FileServer.
func BenchmarkServeAgainstNetHTTP(b *testing.B) {
	dir, err := os.MkdirTemp("/dev/shm", "share")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "f"), make([]byte, 256<<20), 0o644); err != nil {
		b.Fatal(err)
	}
	var ours, bare float64
	for b.Loop() {
		ours += cpuSeconds(b, "share", dir, 4)
		bare += cpuSeconds(b, "net/http", dir, 4)
	}
	b.ReportMetric(ours/float64(b.N), "cpu-s/GiB")
	b.ReportMetric(bare/float64(b.N), "net/http-cpu-s/GiB")
	b.ReportMetric(ours/bare, "ratio")
}
