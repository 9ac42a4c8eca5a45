// Command child is a task process alone, for tests whose own binary cannot be
// one: the race detector reserves more memory than tasks are allowed.
package main

import (
	"os"

	"porchlight/compute/sandbox"
)

func main() { os.Exit(sandbox.ChildMain()) }
