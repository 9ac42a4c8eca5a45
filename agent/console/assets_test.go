package console

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// TestDistIsUpToDate computes what web/build/sources.mjs computes.
func TestDistIsUpToDate(t *testing.T) {
	names := []string{".npmrc", "index.html", "package-lock.json", "package.json", "tsconfig.json", "vite.config.ts"}
	for _, folder := range []string{"build", "src"} {
		err := filepath.WalkDir(filepath.Join("web", folder), func(name string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				names = append(names, strings.TrimPrefix(filepath.ToSlash(name), "web/"))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(names)
	sum := sha256.New()
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join("web", name))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(sum, "%s\n%d\n", name, len(data))
		sum.Write(data)
	}
	c := newTest(t, nil)
	if got := hex.EncodeToString(sum.Sum(nil)); got != c.assets.build {
		t.Error("agent/console/dist is older than agent/console/web: " +
			"run npm ci and npm run build in agent/console/web and commit agent/console/dist")
	}
}

func TestPageIsServedAsItWasPacked(t *testing.T) {
	c := newTest(t, nil)
	paths := []string{"/"}
	for name := range c.assets.files {
		paths = append(paths, "/assets/"+name)
	}
	for _, path := range paths {
		t.Run(path, func(t *testing.T) {
			packed := get(c, path, "gzip, deflate", "")
			plain := get(c, path, "identity", "")
			if packed.Header.Get("Content-Encoding") != "gzip" || plain.Header.Get("Content-Encoding") != "" {
				t.Fatalf("encodings %q and %q", packed.Header.Get("Content-Encoding"), plain.Header.Get("Content-Encoding"))
			}
			unpacked, err := gzip.NewReader(packed.Body)
			if err != nil {
				t.Fatal(err)
			}
			a, _ := io.ReadAll(unpacked)
			b, _ := io.ReadAll(plain.Body)
			if len(a) == 0 || !bytes.Equal(a, b) {
				t.Error("packed and plain differ")
			}
			if again := get(c, path, "gzip", packed.Header.Get("ETag")); again.StatusCode != http.StatusNotModified {
				t.Errorf("asked again: %s", again.Status)
			}
			want := "public, max-age=31536000, immutable"
			if path == "/" {
				want = "no-cache"
			}
			if got := packed.Header.Get("Cache-Control"); got != want {
				t.Errorf("Cache-Control %q", got)
			}
			if packed.Header.Get("Vary") != "Accept-Encoding" || packed.Header.Get("Content-Type") == "" {
				t.Errorf("headers %v", packed.Header)
			}
		})
	}
}

func get(c *Console, path, encodings, tag string) *http.Response {
	r := ask("GET", path, "")
	r.Header.Set("Accept-Encoding", encodings)
	if tag != "" {
		r.Header.Set("If-None-Match", tag)
	}
	return do(c, r)
}

func TestPageNeedsNothingInline(t *testing.T) {
	body, _ := io.ReadAll(get(newTest(t, nil), "/", "identity", "").Body)
	for _, bad := range []string{"style=", "<style", "onclick", "onload", "http://", "https://", "//cdn"} {
		if bytes.Contains(body, []byte(bad)) {
			t.Errorf("the page has %q", bad)
		}
	}
	if !bytes.Contains(body, []byte("<noscript>")) {
		t.Error("nothing is said to those without scripts")
	}
}

func TestMissingAssetIsNotFound(t *testing.T) {
	for _, path := range []string{"/assets/x.js", "/assets/..%2fconsole.go", "/favicon.ico", "/dist/index.html"} {
		if res := get(newTest(t, nil), path, "gzip", ""); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, res.Status)
		}
	}
}

func TestAcceptEncoding(t *testing.T) {
	for header, want := range map[string]bool{
		"gzip": true, "gzip, br": true, "br;q=1, gzip;q=0.5": true, "*": true, "deflate , gzip": true,
		"": false, "br": false, "gzip;q=0": false, "gzip; q=0.0": false, "xgzip": false, "gzip;q=x": false,
	} {
		if got := acceptsGzip(header); got != want {
			t.Errorf("%q: %v", header, got)
		}
	}
}

func TestStrangeFilesInDistAreErrors(t *testing.T) {
	sum := &fstest.MapFile{Data: []byte("x\n")}
	index := &fstest.MapFile{Data: []byte("x")}
	for name, files := range map[string]fstest.MapFS{
		"no digest":    {"dist/index.html.gz": index},
		"no index":     {sourcesFile: sum},
		"not packed":   {sourcesFile: sum, "dist/index.html.gz": index, "dist/a.js": index},
		"unknown kind": {sourcesFile: sum, "dist/index.html.gz": index, "dist/a.exe.gz": index},
	} {
		if _, err := loadAssets(files); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
