package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// maxLine is the longest line that is searched, in bytes.
const maxLine = 1 << 20

func main() {
	if err := search(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "search:", err)
		os.Exit(1)
	}
}

func search(words []string) error {
	if len(words) == 0 {
		return fmt.Errorf("no words given; usage: search WORD [WORD]")
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		if containsAll(lines.Text(), words) {
			fmt.Fprintf(out, "%d:%s\n", n, lines.Text())
		}
	}
	return lines.Err()
}

func containsAll(line string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(line, w) {
			return false
		}
	}
	return true
}
