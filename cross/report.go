package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"porchlight/cross/elfcheck"
	"porchlight/cross/target"
)

// result is one built program.
type result struct {
	target   target.Target
	size     sizes
	problems []elfcheck.Problem
}

// over lists how the program exceeds its budget.
func (r result) over() []string {
	var over []string
	check := func(what string, size, budget int64) {
		if budget > 0 && size > budget {
			over = append(over, fmt.Sprintf("%s is %s, the budget is %s: leave something out or raise the budget in cross/target with the reason",
				what, megabytes(size), megabytes(budget)))
		}
	}
	check("size", r.size.raw, r.target.Budget.Raw)
	check("compressed size", r.size.packed, r.target.Budget.XZ)
	return over
}

// report prints the table of sizes and then everything that is wrong; it
// returns an error if anything is.
func report(out io.Writer, results []result) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "target\traw\tbudget\txz -9e\tbudget\tELF\t")
	estimate := false
	for _, r := range results {
		estimate = estimate || r.size.estimate
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t\n", r.target.Name,
			megabytes(r.size.raw), budget(r.target.Budget.Raw),
			packed(r.size), budget(r.target.Budget.XZ), verdict(r.problems))
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("print sizes: %w", err)
	}
	if estimate {
		fmt.Fprintln(out, "* compressed by a Go library, which compresses less than xz -9e; make setup installs xz")
	}
	return complain(out, results)
}

func complain(out io.Writer, results []result) error {
	wrong := 0
	for _, r := range results {
		for _, problem := range r.problems {
			fmt.Fprintf(out, "%s: %s\n", r.target.Name, problem)
			wrong++
		}
		for _, over := range r.over() {
			fmt.Fprintf(out, "%s: %s\n", r.target.Name, over)
			wrong++
		}
	}
	if wrong > 0 {
		return fmt.Errorf("%d problems with the programs built", wrong)
	}
	return nil
}

// megabytes prints a size in MB of 10^6 bytes, rounded up so that a size over
// its budget never looks as if it were within.
func megabytes(size int64) string {
	const hundredth = 10_000
	n := (size + hundredth - 1) / hundredth
	return fmt.Sprintf("%d.%02d MB", n/100, n%100)
}

func packed(s sizes) string {
	if s.estimate {
		return megabytes(s.packed) + "*"
	}
	return megabytes(s.packed)
}

func budget(limit int64) string {
	if limit == 0 {
		return "-"
	}
	return megabytes(limit)
}

func verdict(problems []elfcheck.Problem) string {
	if len(problems) > 0 {
		return "does not fit"
	}
	return "static, fits"
}
