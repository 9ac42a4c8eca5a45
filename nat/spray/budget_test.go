package spray

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// emptyTable is a router that follows nothing.
func emptyTable() (int, int, bool) { return 0, 4096, true }

// allowed begins a spray and ends it at once, after a number of packets.
func allowed(t *testing.T, b *Budget, peer string, found bool, packets int) {
	t.Helper()
	end, err := b.Begin(t.Context(), peer)
	if err != nil {
		t.Fatal(err)
	}
	end(found, packets)
	end(!found, packets) // does nothing
}

// refused expects a refusal and returns how long to wait.
func refused(t *testing.T, b *Budget, peer string) time.Duration {
	t.Helper()
	_, err := b.Begin(t.Context(), peer)
	var refusal *Refusal
	if !errors.As(err, &refusal) || !errors.Is(err, ErrBudget) || refusal.After <= 0 {
		t.Fatalf("begin: %v", err)
	}
	return refusal.After
}

func TestOnlyOneSprayRunsAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Budget{Flows: emptyTable}
		end, err := b.Begin(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := b.Begin(ctx, "b"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("two at a time: %v", err)
		}
		begun := make(chan error)
		for _, peer := range []string{"b", "c"} {
			go func() {
				end, err := b.Begin(t.Context(), peer)
				if err == nil {
					time.Sleep(time.Second)
					end(true, 1)
				}
				begun <- err
			}()
		}
		synctest.Wait()
		start := time.Now()
		end(true, 1)
		if err := errors.Join(<-begun, <-begun); err != nil || time.Since(start) != 2*time.Second {
			t.Errorf("the two that waited ended after %v: %v", time.Since(start), err)
		}
	})
}

func TestSpraysWaitForRoutersToForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Budget{Flows: emptyTable}
		allowed(t, b, "a", true, MaxFlows/2)
		time.Sleep(FlowLife / 2)
		allowed(t, b, "b", true, MaxFlows/2)
		allowed(t, b, "c", true, 1) // at the limit, not above
		if wait := refused(t, b, "d"); wait != FlowLife/2 {
			t.Errorf("wait %v", wait)
		}
		time.Sleep(FlowLife/2 - 1)
		refused(t, b, "d")
		time.Sleep(time.Nanosecond)
		allowed(t, b, "d", true, 1)
		if len(b.costs) != 3 {
			t.Errorf("%d costs are remembered", len(b.costs))
		}
	})
}

func TestAPeerGetsThreeAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Budget{Flows: emptyTable}
		for range PerHour {
			allowed(t, b, "a", true, 1)
			time.Sleep(FlowLife)
		}
		if wait := refused(t, b, "a"); wait != time.Hour-PerHour*FlowLife {
			t.Errorf("wait %v", wait)
		}
		allowed(t, b, "b", true, 1)
		time.Sleep(time.Hour - PerHour*FlowLife - 1)
		refused(t, b, "a")
		time.Sleep(time.Nanosecond)
		allowed(t, b, "a", true, 1)
		time.Sleep(FlowLife)
		allowed(t, b, "a", true, 1)
		time.Sleep(FlowLife)
		allowed(t, b, "a", true, 1)
		time.Sleep(FlowLife)
		refused(t, b, "a")
	})
}

func TestATurnWithoutPacketsCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Budget{Flows: emptyTable}
		for range 5 * PerHour {
			allowed(t, b, "a", false, 0)
		}
		for range PerHour {
			allowed(t, b, "a", true, 1)
		}
		if wait := refused(t, b, "a"); wait != time.Hour {
			t.Errorf("wait %v", wait)
		}
	})
}

func TestFailuresBackOffByDoubling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Budget{Flows: emptyTable}
		for pause := FirstBackOff; ; pause *= 2 {
			allowed(t, b, "a", false, 1)
			time.Sleep(FlowLife)
			got := refused(t, b, "a") + FlowLife
			if want := min(pause, LastBackOff); got < want || want > time.Hour && got != want {
				t.Fatalf("after %v comes %v", pause/2, got)
			}
			time.Sleep(got - FlowLife)
			if pause >= LastBackOff {
				break
			}
		}
		allowed(t, b, "a", true, 1)
		time.Sleep(FlowLife)
		allowed(t, b, "a", true, 1) // a success ends the back-off
	})
}

func TestAFullTableStopsSprays(t *testing.T) {
	for _, row := range []struct {
		count, limit int
		known, want  bool
	}{{2047, 4096, true, true}, {2048, 4096, true, true}, {2049, 4096, true, false}, {9999, 4096, false, true}} {
		b := &Budget{Flows: func() (int, int, bool) { return row.count, row.limit, row.known }}
		if _, err := b.Begin(t.Context(), "a"); (err == nil) != row.want {
			t.Errorf("%+v: %v", row, err)
		}
	}
	if count, limit, ok := linuxFlows(); ok && (count < 0 || count > limit) {
		t.Errorf("%d of %d flows", count, limit)
	}
}

func TestABudgetRemembersABoundedNumberOfPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Budget{Flows: emptyTable}
		for i := range MaxPeers {
			allowed(t, b, fmt.Sprint(i), false, 1)
			time.Sleep(FlowLife)
		}
		allowed(t, b, "one more", true, 1) // the first ones are forgotten
		if len(b.peers) >= MaxPeers {
			t.Errorf("%d peers", len(b.peers))
		}
		busy := &Budget{Flows: emptyTable, peers: make(map[string]*account)}
		for i := range MaxPeers {
			busy.peers[fmt.Sprint(i)] = &account{failures: 99, ended: time.Now()}
		}
		refused(t, busy, "one more")
		delete(busy.peers, "0")
		allowed(t, busy, "one more", true, 1)
	})
}
