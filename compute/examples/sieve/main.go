package main

import (
	"fmt"
	"os"
	"strconv"
)

// maxTo keeps the table of a sieve within a small device's memory.
const maxTo = 1 << 26

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "sieve:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("usage: sieve FROM TO")
	}
	from, err := strconv.ParseUint(args[0], 10, 32)
	if err != nil {
		return fmt.Errorf("from: %w", err)
	}
	to, err := strconv.ParseUint(args[1], 10, 32)
	if err != nil || to > maxTo {
		return fmt.Errorf("to: %s is no number up to %d", args[1], maxTo)
	}
	count, last := sieve(uint32(from), uint32(to))
	_, err = fmt.Println(count, last)
	return err
}

// sieve is that of Eratosthenes over odd numbers, one bit each.
func sieve(from, to uint32) (count int, last uint32) {
	composite := make([]uint64, to/128+1)
	for n := uint32(3); uint64(n)*uint64(n) <= uint64(to); n += 2 {
		if composite[n/128]>>(n/2%64)&1 != 0 {
			continue
		}
		for m := uint64(n) * uint64(n); m <= uint64(to); m += 2 * uint64(n) {
			composite[m/128] |= 1 << (m / 2 % 64)
		}
	}
	if from <= 2 && to >= 2 {
		count, last = 1, 2
	}
	for n := uint32(3); n <= to; n += 2 {
		if n >= from && composite[n/128]>>(n/2%64)&1 == 0 {
			count, last = count+1, n
		}
	}
	return count, last
}
