// Command guest tells what a task can see and leaves files below /out.
package main

import (
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

func main() {
	stdin, err := io.ReadAll(os.Stdin)
	fmt.Printf("stdin %q %v\n", stdin, err)
	in, err := os.ReadFile("/in/notes.txt")
	fmt.Printf("in %q %v\n", in, err)
	fmt.Println("args", os.Args, "env", len(os.Environ()))
	fmt.Println("write to in:", os.WriteFile("/in/x", nil, 0o600) != nil)
	_, err = os.ReadFile("/etc/passwd")
	fmt.Println("read passwd:", err != nil)
	_, err = os.ReadFile("/out/../../etc/passwd")
	fmt.Println("climb:", err != nil)
	fmt.Println("symlink:", os.Symlink("/etc/passwd", "/out/link") != nil)
	_, err = net.Dial("tcp", "127.0.0.1:80")
	fmt.Println("dial:", err != nil)
	random := make([]byte, 8)
	rand.Read(random)
	fmt.Printf("random %x year %d\n", random, time.Now().UTC().Year())
	check(os.MkdirAll("/out/a/b", 0o700))
	check(os.WriteFile("/out/a/b/deep.txt", []byte("deep"), 0o600))
	check(os.WriteFile("/out/top.tmp", []byte("top"), 0o600))
	check(os.Rename("/out/top.tmp", "/out/top.txt"))
	list, err := os.ReadDir("/out")
	fmt.Println("out", list, err)
	time.Sleep(time.Hour)
	fmt.Fprintln(os.Stderr, "done")
	os.Exit(3)
}

func check(err error) {
	if err != nil {
		fmt.Println("error:", err)
	}
}
