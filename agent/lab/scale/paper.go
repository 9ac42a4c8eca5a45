package scale

import (
	"fmt"
	"io"
	"time"
)

// writePaper prints what the formulas of the package's documentation give, beside
// what was simulated.
func (r *Report) writePaper(t io.Writer) {
	w := r.world
	share := float64(r.public) / float64(r.cfg.Devices)
	notes := float64(contactsEach) * paperNotes
	fmt.Fprintf(t, "on paper, an hour\tformula\tsimulated\n")
	fmt.Fprintf(t, "private, registrations: packets\t%.0f\t%.0f\n", wanted*renewedPerMinute*60., r.private[forRegistration].packets)
	fmt.Fprintf(t, "private, registrations: kB\t%.0f\t%.0f\n", wanted*w.renewalBytes()*60/1e3, r.private[forRegistration].bytes/1e3)
	fmt.Fprintf(t, "private, presence: packets at most\t%.0f\t%.0f\n", notes*(opened+2*exchange)/2, r.private[forPresence].packets)
	fmt.Fprintf(t, "private, DHT for itself: packets\t%.0f\t%.0f\n", paperDHT, r.private[forAsking].packets)
	mean := 0.0
	for _, n := range r.load {
		mean += float64(n) / float64(max(1, len(r.load)))
	}
	fmt.Fprintf(t, "registrations of a rendezvous, mean\t%.1f\t%.1f\n", wanted/share, mean)
	fmt.Fprintf(t, "public, registrations: packets\t%.0f\t%.0f\n", (wanted+wanted/share)*renewedPerMinute*60, r.publics[forRegistration].packets)
	fmt.Fprintf(t, "public, DHT for others: packets\t%.0f\t%.0f\n", paperDHT/share, r.publics[forServing].packets)
}

const (
	// paperNotes is how many notes a pair of contacts exchanges in an hour at
	// most, both ways together: a lease ends after 22.5 minutes at the
	// earliest (doc of agent/people).
	paperNotes = 60 / 22.5
	// paperSearch is how many packets a search takes that asks about two dozen
	// nodes, and paperPut those of storing at eight of them.
	paperSearch = 2 * 24
	paperPut    = 2 * 8
	// paperDHT is what a node that only asks spends: its record each 50 minutes,
	// one refresh an hour and a ping each five minutes.
	paperDHT = float64(time.Hour)/float64((refreshMin+refreshMax)/2)*(paperSearch+paperPut) + paperSearch + 2*12
)
