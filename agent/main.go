package main

import (
	"os"

	"porchlight/agent/cli"
	"porchlight/compute/sandbox"
)

func main() {
	// A donated task runs in a child process of this same binary.
	if len(os.Args) > 1 && os.Args[1] == sandbox.ChildArgument {
		os.Exit(sandbox.ChildMain())
	}
	os.Exit(cli.Main(os.Args[1:], os.Stdout, os.Stderr))
}
