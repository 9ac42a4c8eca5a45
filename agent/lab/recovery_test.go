package main

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"porchlight/nat/natlab"
)

// maxStall is how long a transfer may pause while its path becomes direct.
const maxStall = time.Second

// TestRecoveryTable lets everything happen to two homes that takes less than a
// minute. That a transfer ends otherwise than with the whole file is an error.
func TestRecoveryTable(t *testing.T) {
	t.Parallel()
	newScene(t, natlab.Options{}, 0) // skips without root
	var out bytes.Buffer
	err := recovery(bounded(t), &out, newFolder(t), built.program, natlab.PortRestricted, true)
	t.Logf("\n%s", out.String())
	check(t, err)
}

// TestUpgradeDoesNotStall measures how long a transfer pauses while its path
// changes from a relay to the direct one.
func TestUpgradeDoesNotStall(t *testing.T) {
	t.Parallel()
	s := newScene(t, natlab.Options{}, 1)
	attic, atticHost := s.at("attic", natlab.PortRestricted)
	cabin, cabinHost := s.at("cabin", natlab.PortRestricted)
	s.friends(attic, cabin)
	s.relayWell(attic, cabin)
	check(t, atticHost.Limit(40e6))
	s.lab.Part(atticHost, cabinHost, true)
	file := offer(t, s.ctx, cabin, 64<<20)
	get := file.get(s.ctx, attic, "film")
	end := make(chan error, 1)
	go func() {
		<-get.done
		end <- get.err
	}()
	check(t, awaitBytes(s.ctx, get.dst, 1<<20, end))
	if c := contact(s.ctx, attic, cabin); c.Path != relayed {
		t.Fatalf("the path is %q although the homes are parted", c.Path)
	}
	watch := newGrowth(get.dst)
	began := time.Now()
	check(t, watch.during(s.ctx, func() error {
		s.lab.Part(atticHost, cabinHost, false)
		for contact(s.ctx, attic, cabin).Path != direct {
			if get.over() {
				return fmt.Errorf("the transfer was over before the path was direct")
			}
			pause(s.ctx, glance)
		}
		return s.ctx.Err()
	}))
	t.Logf("direct after %.1f s, with %d of %d bytes there", time.Since(began).Seconds(), watch.size, file.size)
	check(t, watch.until(s.ctx, end))
	t.Logf("longest stall from before the change to the end: %.2f s", watch.stall.Seconds())
	if watch.stall > maxStall {
		t.Errorf("nothing came for %v, at most %v are allowed", watch.stall, maxStall)
	}
	if got := get.arrived(); got.Path != direct || got.Resumed || got.Fetched != file.size {
		t.Errorf("%+v", got)
	}
	s.unbroken(attic, cabin)
}
