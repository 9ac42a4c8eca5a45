package cli

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"porchlight/agent/app"
	"porchlight/compute"
)

// submitJob runs a program on a device, one task for each input.
func submitJob(c *call) error {
	to := c.flags.String("to", "", "the device that is to do the work")
	out := c.flags.String("o", "results", "folder for the results")
	var globs []string
	c.flags.Func("input", "files, one task each (repeatable)", func(s string) error {
		globs = append(globs, s)
		return nil
	})
	if err := c.parse(1, -1); err != nil {
		return err
	}
	if *to == "" {
		return usage("say which device is to do the work: --to PEER")
	}
	inputs, err := expand(globs)
	if err != nil {
		return err
	}
	name, module, err := compute.LoadProgram(c.args[0])
	if err != nil {
		return err
	}
	address, err := c.client.resolve(c.ctx, *to)
	if err != nil {
		return err
	}
	donor := compute.Client{HTTP: c.client.peerClient(app.WorkService), Base: "http://" + address.String()}
	job := compute.Job{Name: name, Module: module, Args: c.args[1:], Inputs: inputs, Out: *out}
	summary, err := donor.Submit(c.ctx, job, c.progress)
	if err != nil {
		return err
	}
	if err := c.print(summary, func(w io.Writer) { jobText(w, summary) }); err != nil {
		return err
	}
	if summary.Failed > 0 {
		return fmt.Errorf("%d of %d tasks failed", summary.Failed, len(summary.Tasks))
	}
	return nil
}

// expand turns patterns into the files they match; each has to match one.
func expand(globs []string) ([]string, error) {
	var inputs []string
	for _, glob := range globs {
		files, err := filepath.Glob(glob)
		if err != nil {
			return nil, usage("input %q: %v", glob, err)
		}
		if len(files) == 0 {
			return nil, fmt.Errorf("no file matches %q; put the pattern in quotes if the shell changed it", glob)
		}
		inputs = append(inputs, files...)
	}
	slices.Sort(inputs)
	return slices.Compact(inputs), nil
}

func (c *call) progress(e compute.Event) {
	if c.json {
		return
	}
	fmt.Fprintf(c.err, "%s: %s %s\n", e.Input, e.State, e.Message)
}

func jobText(w io.Writer, s compute.Summary) {
	for _, t := range s.Tasks {
		if t.Error != "" {
			fmt.Fprintf(w, "%s: failed: %s\n", t.Input, t.Error)
			continue
		}
		fmt.Fprintf(w, "%s → %s  %d ms of processor time, %s\n", t.Input, t.Output, t.Status.CPUMillis, t.Status.Engine)
	}
}
