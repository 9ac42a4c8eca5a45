// Command child starts itself once and prints what both of it see.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
)

func main() {
	fmt.Println(runtime.GOARCH, os.Args[1])
	if os.Args[1] == "child" {
		return
	}
	child := exec.Command("/proc/self/exe", "child")
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	if err := child.Run(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}
