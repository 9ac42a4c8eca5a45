package cli_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// field NAME FIELD sets a variable to a field of the last line of output,
// which is JSON.
func field(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: field NAME FIELD")
	}
	lines := strings.Split(strings.TrimSpace(ts.ReadFile("stdout")), "\n")
	var v any
	ts.Check(json.Unmarshal([]byte(lines[len(lines)-1]), &v))
	v, ok := lookUp(v, strings.Split(args[1], "."))
	if !ok {
		ts.Fatalf("%s is missing", args[1])
	}
	ts.Setenv(args[0], fmt.Sprint(v))
}

// flip NAME TEXT sets a variable to a code or an address with its first letter
// mistyped.
func flip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 || args[1] == "" {
		ts.Fatalf("usage: flip NAME TEXT")
	}
	first := map[bool]string{true: "b", false: "a"}[args[1][0] == 'a']
	ts.Setenv(args[0], first+args[1][1:])
}

// mode OCTAL FILE checks who may read and write a file.
func mode(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.ParseUint(args[0], 8, 32)
	ts.Check(err)
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := info.Mode(); uint64(got) != want {
		ts.Fatalf("mode of %s is %o, want %o", args[1], got, want)
	}
}

// echo NETWORK NAME starts a server on loopback that sends back what it gets,
// and sets a variable to its port.
func startEcho(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: echo NETWORK NAME")
	}
	var at net.Addr
	switch args[0] {
	case "tcp":
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		ts.Defer(serveEcho(l))
		at = l.Addr()
	case "udp":
		conn, err := net.ListenPacket("udp", "127.0.0.1:0")
		ts.Check(err)
		ts.Defer(echoPackets(conn))
		at = conn.LocalAddr()
	}
	_, port, err := net.SplitHostPort(at.String())
	ts.Check(err)
	ts.Setenv(args[1], port)
}

// serveEcho returns what ends it.
func serveEcho(l net.Listener) (end func()) {
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(patience))
				io.Copy(conn, conn)
			})
		}
	})
	return func() { l.Close(); running.Wait() }
}

func echoPackets(conn net.PacketConn) (end func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			conn.WriteTo(b[:n], from)
		}
	}()
	return func() { conn.Close(); <-done }
}

// forwards are the commands that forward started, by script and variable.
var forwards sync.Map

type forwardKey struct {
	script *testscript.TestScript
	name   string
}

// forward NAME ARGS… starts porchlight forward and sets a variable to where it
// listens.
func startForward(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: forward NAME ARGS…")
	}
	cmd := exec.Command("porchlight", append([]string{"forward"}, args[1:]...)...)
	cmd.Dir = ts.MkAbs(".")
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() { cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		cmd.Wait()
		ts.Fatalf("forward says nothing: %v\n%s", err, complaints.String())
	}
	ts.Logf("%s", line)
	at, rest, _ := strings.Cut(line, " ")
	if !strings.Contains(rest, "end with Ctrl-C") {
		ts.Fatalf("forward does not say how it ends: %q", line)
	}
	ts.Setenv(args[0], at)
	forwards.Store(forwardKey{ts, args[0]}, cmd)
}

// hangup NAME [CODE] ends a forward as Ctrl-C does and checks its exit code;
// with a code the forward has to end by itself.
func hangUp(ts *testscript.TestScript, neg bool, args []string) {
	v, ok := forwards.Load(forwardKey{ts, args[0]})
	if neg || !ok {
		ts.Fatalf("no forward %s", args[0])
	}
	cmd, want := v.(*exec.Cmd), 0
	if len(args) > 1 {
		var err error
		want, err = strconv.Atoi(args[1])
		ts.Check(err)
	} else {
		ts.Check(cmd.Process.Signal(os.Interrupt))
	}
	if got := code(cmd.Wait()); got != want {
		ts.Fatalf("forward ended with %d, want %d\n%s", got, want, cmd.Stderr)
	}
	ts.Logf("%s", cmd.Stderr)
}

// talk NETWORK HOST:PORT TEXT checks that a text comes back; "! talk" that it
// does not.
func talk(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: talk NETWORK HOST:PORT TEXT")
	}
	got, err := conversation(args[0], args[1], args[2])
	if same := err == nil && got == args[2]; same == neg {
		ts.Fatalf("%q came back, %v", got, err)
	}
}

func conversation(network, address, text string) (string, error) {
	conn, err := net.Dial(network, address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, text); err != nil {
		return "", err
	}
	b := make([]byte, len(text))
	n, err := io.ReadFull(conn, b)
	return string(b[:n]), err
}
