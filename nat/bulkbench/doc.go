// Package bulkbench measures what bulk over a direct path costs: two devices
// behind port-restricted NATs, a stream from one to the other, and iperf3 in the
// same place in the same run. It holds a benchmark, and a test that it works:
//
//	go test -run '^$' -bench Bulk -benchtime 1x ./nat/bulkbench
//
// It needs root, iproute2, nftables and iperf3, a quiet machine for figures that
// mean something, and takes about a minute. What it prints is explained at
// BenchmarkBulk; no figure is asserted.
//
//	 sender                                                              receiver
//	┌──────────┐   ┌──────────────┐   ┌──────────┐   ┌──────────────┐   ┌──────────┐
//	│ homea    │   │ routera      │   │ middle   │   │ routerb      │   │ homeb    │
//	│ .1.2     ├───┤ masquerade,  ├───┤ forwards ├───┤ masquerade,  ├───┤ .1.2     │
//	│          │   │ nothing in   │   │          │   │ nothing in   │   │          │
//	└──────────┘   └──────────────┘   └──────────┘   └──────────────┘   └──────────┘
//	 192.168.1.0/24    44.128.1.0/24      44.128.2.0/24    192.168.1.0/24
//
// Each box is a network namespace, each line a veth pair; there is no delay and
// no limit, so processor time is the only bottleneck. Sender and receiver are
// processes of their own (this test binary, started again), which measure their
// own processor time, user and system, from the first byte to the last.
//
// # Caveats
//
//   - The kernel does a sender's forwarding, through all five namespaces, within
//     the sender's system call: its processor time includes what two routers
//     would do. That is as true of iperf3, so the ratios stand.
//   - iperf3 enters through a forwarded port, the others through holes they punch.
//   - Packet sizes: iperf3 sends 1400 bytes, plain quic-go what it finds by probing
//     (1452), nat.Socket what its configuration says.
package bulkbench
