package natlab

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// vnetHeaderLen is the legacy virtio-net header in front of each packet that is
// read from or written to our TUN devices (linux/virtio_net.h, struct
// virtio_net_hdr): flags, gso_type, hdr_len, gso_size, csum_start, csum_offset.
// We pass it on unread, which is what carries a 64 KB super-packet from one
// kernel to the other in a single read and write.
const vnetHeaderLen = 10

// What a TUN device may leave undone, for TUNSETOFFLOAD (linux/if_tun.h): checksums
// and the segmentation of TCP and, where the kernel knows it, of UDP.
const (
	tunOffloadTCP = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	tunOffloadUDP = tunOffloadTCP | unix.TUN_F_USO4 | unix.TUN_F_USO6 // Linux ≥ 6.2
)

// openTUN makes the TUN device name in the network namespace of the calling
// thread. With offload the kernel may hand over unsegmented packets.
func openTUN(name string, offload bool) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun (is the tun module loaded?): %w", err)
	}
	if err := configureTUN(fd, name, offload); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make tun device %s: %w", name, err)
	}
	// Only now: an fd that epoll learns before TUNSETIFF reports errors for ever.
	return os.NewFile(uintptr(fd), name), nil
}

func configureTUN(fd int, name string, offload bool) error {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return err
	}
	if !offload {
		return unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0)
	}
	if unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tunOffloadUDP) == nil {
		return nil
	}
	return unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tunOffloadTCP)
}
