package main

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/bits"
	"os"
	"strconv"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "hashfind:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("usage: hashfind TEXT ZERO-BITS TRIES")
	}
	zeros, err := strconv.Atoi(args[1])
	if err != nil {
		return fmt.Errorf("zero bits: %w", err)
	}
	tries, err := strconv.ParseUint(args[2], 10, 64)
	if err != nil {
		return fmt.Errorf("tries: %w", err)
	}
	for n := range tries {
		if sum := hash(args[0], n); bits.LeadingZeros32(binary.BigEndian.Uint32(sum[:])) >= zeros {
			_, err := fmt.Printf("%d %x\n", n, sum)
			return err
		}
	}
	return fmt.Errorf("nothing found in %d tries", tries)
}

func hash(text string, n uint64) [sha256.Size]byte {
	return sha256.Sum256(strconv.AppendUint([]byte(text), n, 10))
}
