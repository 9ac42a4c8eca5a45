package natlab_test

import (
	"context"
	"testing"
	"time"

	"porchlight/nat/natlab"
)

// Two homes and a public host. A run that fails leaves capture, diagram and the
// routers' state in the folder given.
func Example() {
	_ = func(t *testing.T) {
		lab, err := natlab.New(context.Background(), natlab.Options{Dir: "captures"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if t.Failed() {
				t.Log(lab.Dump("", t.Name()))
			}
			lab.Close()
		})
		rendezvous, _ := lab.Host("rendezvous")
		alice, _ := lab.Home("alice", natlab.PortRestricted)
		bob, _ := lab.Home("bob", natlab.Symmetric)

		server := rendezvous.Command(t.Context(), "porchlight", "run", "--listen", ":7000")
		_ = server.Start()
		_, _ = alice.Dial(t.Context(), "tcp", rendezvous.Public().String()+":7000")
		_, _ = bob.ListenPacket(t.Context(), "udp4", ":7000")

		_, _ = lab.AddDevice(alice, "phone")
		_ = alice.SwapLAN()                        // cable to Wi-Fi
		_ = bob.Renumber()                         // another public address
		_ = bob.Reboot(t.Context(), 2*time.Second) // the router
	}
}
