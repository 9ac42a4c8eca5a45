package dht

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// libtorrent is a node of libtorrent in a process of its own: a second
// implementation of everything here, in another language.
type libtorrent struct {
	t     *testing.T
	addr  netip.AddrPort
	write func(any) error
	lines *bufio.Scanner
}

// python is the interpreter that Debian's packages belong to; another one in
// the path would not have them.
const python = "/usr/bin/python3"

func startLibtorrent(t *testing.T) *libtorrent {
	t.Helper()
	if out, err := exec.Command(python, "-c", "import libtorrent").CombinedOutput(); err != nil {
		t.Fatalf("%v %s; install python3-libtorrent: make setup", err, out)
	}
	cmd := exec.Command(python, "testdata/libtorrent_node.py")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		timer := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		if err := cmd.Wait(); err != nil || complaints.Len() > 0 {
			t.Logf("libtorrent: %v %s", err, complaints.Bytes())
		}
	})
	l := &libtorrent{t: t, write: json.NewEncoder(in).Encode, lines: bufio.NewScanner(out)}
	hello := l.read()
	l.addr = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(hello["port"].(float64)))
	t.Logf("libtorrent %v at %v", hello["version"], l.addr)
	return l
}

func (l *libtorrent) read() map[string]any {
	l.t.Helper()
	if !l.lines.Scan() {
		l.t.Fatal("libtorrent ended: ", l.lines.Err())
	}
	var a map[string]any
	if err := json.Unmarshal(l.lines.Bytes(), &a); err != nil {
		l.t.Fatal(err)
	}
	return a
}

// do gives an order and returns the answer.
func (l *libtorrent) do(what string, args map[string]any) map[string]any {
	l.t.Helper()
	args["do"] = what
	if err := l.write(args); err != nil {
		l.t.Fatal(err)
	}
	a := l.read()
	if a["error"] != nil {
		l.t.Fatalf("libtorrent: %s: %v", what, a["error"])
	}
	return a
}

// secret returns the key in the form of libtorrent: the hash of the seed, with
// the bits set as RFC 8032 wants.
func (p person) secret() string {
	h := sha512.Sum512(p.key.Seed())
	h[0] &= 248
	h[31] = h[31]&63 | 64
	return hex.EncodeToString(h[:])
}

func TestLibtorrentStoresWhatIsOurs(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	theirs := startLibtorrent(t)
	reader := startNode(t, "127.0.0.1:0", true, theirs.addr)
	p := newPerson(1)
	for _, c := range []struct {
		seq   int64
		value string
	}{{5, "five"}, {6, strings.Repeat("v", 996)}} {
		if stored, err := reader.Put(ctx, p.item(c.seq, c.value)); stored != 1 || err != nil {
			t.Fatal(stored, err)
		}
		got, err := reader.Get(ctx, p.public(), p.salt, c.seq, nil)
		if err != nil || got.Seq != c.seq || string(got.Value) != c.value {
			t.Fatalf("seq %d: %d %q, %v", c.seq, got.Seq, got.Value, err)
		}
	}
	if stored, err := reader.Put(ctx, p.item(4, "old")); stored != 0 || !isConflict(err, 6, 302) {
		t.Error("an older item:", stored, err)
	}
	if stored, err := reader.PutCas(ctx, p.item(7, "seven"), 5); stored != 0 || !isConflict(err, 6, 301) {
		t.Error("cas of an older item:", stored, err)
	}
	if stored, err := reader.PutCas(ctx, p.item(7, "seven"), 6); stored != 1 || err != nil {
		t.Error("cas that matches:", stored, err)
	}
	if n, err := reader.PutImmutable(ctx, []byte("stone")); n != 1 || err != nil {
		t.Error(n, err)
	}
	if v, err := reader.GetImmutable(ctx, ImmutableTarget([]byte("stone"))); string(v) != "stone" || err != nil {
		t.Error(v, err)
	}
	if n, err := reader.Announce(ctx, ID{7}, 7777); n != 1 || err != nil {
		t.Error(n, err)
	}
	all, err := reader.Peers(ctx, ID{7})
	if err != nil || len(all) != 1 || all[0].Port() != 7777 {
		t.Error(all, err)
	}
}

func TestLibtorrentIsServedByUs(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	ours := startNode(t, "127.0.0.1:0", false)
	second := startNode(t, "127.0.0.1:0", false, at(ours))
	eventually(t, "our nodes know each other", func() bool { return len(ours.Nodes()) == 1 && len(second.Nodes()) == 1 })
	theirs := startLibtorrent(t)
	theirs.do("add", map[string]any{"host": "127.0.0.1", "port": at(ours).Port(), "nodes": 2})

	p, key := newPerson(2), newPerson(2).public()
	salt := hex.EncodeToString(p.salt)
	a := theirs.do("put_mutable", map[string]any{"secret": p.secret(), "key": hex.EncodeToString(key[:]),
		"value": hex.EncodeToString([]byte("theirs")), "salt": salt})
	if a["stored"] != 2.0 {
		t.Error("our nodes stored", a)
	}
	got, err := second.Get(ctx, key, p.salt, 1, nil)
	if err != nil || string(got.Value) != "theirs" || got.Seq != 1 {
		t.Errorf("seq %d %q, %v", got.Seq, got.Value, err)
	}

	if stored, err := second.Put(ctx, p.item(50, "ours")); stored < 2 || err != nil {
		t.Fatal(stored, err)
	}
	a = theirs.do("get_mutable", map[string]any{"key": hex.EncodeToString(key[:]), "salt": salt})
	if a["value"] != hex.EncodeToString([]byte("ours")) || a["seq"] != 50.0 {
		t.Error("libtorrent reads", a)
	}

	a = theirs.do("put_immutable", map[string]any{"value": hex.EncodeToString([]byte("their stone"))})
	target := ImmutableTarget([]byte("their stone"))
	if a["stored"] != 2.0 || a["target"] != target.String() {
		t.Error("our nodes stored", a)
	}
	if v, err := second.GetImmutable(ctx, target); string(v) != "their stone" || err != nil {
		t.Error(v, err)
	}
	if _, err := ours.PutImmutable(ctx, []byte("our stone")); err != nil {
		t.Error(err)
	}
	target = ImmutableTarget([]byte("our stone"))
	a = theirs.do("get_immutable", map[string]any{"target": target.String()})
	if a["value"] != hex.EncodeToString([]byte("our stone")) {
		t.Error("libtorrent reads", a)
	}

	if n, err := second.Announce(ctx, ID{8}, 8888); n < 1 || err != nil {
		t.Error(n, err)
	}
	a = theirs.do("peers", map[string]any{"hash": ID{8}.String()})
	if !strings.Contains(fmt.Sprint(a["peers"]), ":8888") {
		t.Error("libtorrent finds the peers", a)
	}
	theirs.do("announce", map[string]any{"hash": ID{9}.String(), "folder": t.TempDir()})
	eventually(t, "their announce reaches us", func() bool {
		all, err := second.Peers(ctx, ID{9})
		return err == nil && len(all) == 1 && all[0].Port() == theirs.addr.Port()
	})
}
