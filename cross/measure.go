package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/ulikunitz/xz"
)

// sizes is what a program weighs.
type sizes struct {
	// raw and packed are bytes, before and after compression.
	raw, packed int64
	// estimate is set when packed is not what xz -9e would give, but more.
	estimate bool
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// measure weighs the program, compressed by xz -9e where that is installed.
func measure(ctx context.Context, program string) (sizes, error) {
	info, err := os.Stat(program)
	if err != nil {
		return sizes{}, fmt.Errorf("measure program: %w", err)
	}
	s := sizes{raw: info.Size()}
	if _, err := exec.LookPath("xz"); err != nil {
		s.estimate = true
		s.packed, err = packInGo(program)
		return s, err
	}
	var packed counter
	cmd := exec.CommandContext(ctx, "xz", "-9e", "--threads=1", "--stdout", program)
	cmd.Stdout, cmd.Stderr = &packed, os.Stderr
	if err := cmd.Run(); err != nil {
		return sizes{}, fmt.Errorf("compress %s: %w", program, err)
	}
	s.packed = int64(packed)
	return s, nil
}

// packInGo compresses with the dictionary of xz -9, but without its search
// for the best matches.
func packInGo(program string) (int64, error) {
	in, err := os.Open(program)
	if err != nil {
		return 0, fmt.Errorf("compress program: %w", err)
	}
	defer in.Close()
	var packed counter
	out, err := xz.WriterConfig{DictCap: 64 << 20}.NewWriter(&packed)
	if err != nil {
		return 0, fmt.Errorf("compress program: %w", err)
	}
	if _, err := io.Copy(out, in); err != nil {
		return 0, fmt.Errorf("compress %s: %w", program, err)
	}
	if err := out.Close(); err != nil {
		return 0, fmt.Errorf("compress %s: %w", program, err)
	}
	return int64(packed), nil
}
