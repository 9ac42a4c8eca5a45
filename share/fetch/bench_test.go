package fetch

import (
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkGetAgainstPlainDownload prints how long a verified Get takes in
// relation to the same bytes copied from the connection into a file, and to
// that plus hashing them once at each end, which on loopback is most of it.
func BenchmarkGetAgainstPlainDownload(b *testing.B) {
	b.Setenv("TMPDIR", "/dev/shm")
	p := newPeer(b, nil)
	const size = 256 << 20
	content := pattern(size, 1)
	p.file("f", content)
	b.SetBytes(size)
	var ours, plain, hash time.Duration
	for b.Loop() {
		start := time.Now()
		if _, err := p.client.Get(b.Context(), "s/f", p.dst, Options{Overwrite: true}); err != nil {
			b.Fatal(err)
		}
		ours += time.Since(start)
		start = time.Now()
		p.plainDownload(filepath.Join(filepath.Dir(p.dst), "plain"))
		plain += time.Since(start)
		start = time.Now()
		root(content)
		hash += time.Since(start)
	}
	b.ReportMetric(ours.Seconds()/plain.Seconds(), "get/plain")
	b.ReportMetric(ours.Seconds()/(plain+2*hash).Seconds(), "get/(plain+2·hash)")
}

func (p *peer) plainDownload(name string) {
	p.Helper()
	resp, err := p.client.HTTP.Get(p.srv.URL + "/s/f")
	if err != nil {
		p.Fatal(err)
	}
	defer resp.Body.Close()
	f, err := os.Create(name)
	if err != nil {
		p.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, resp.Body); err != nil {
		p.Fatal(err)
	}
}
