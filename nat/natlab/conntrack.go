package natlab

import (
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Numbers of linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h.
const (
	nfnlSubsysCTNetlink = 1
	ipctnlMsgCTDelete   = 2
	ctaMark             = 8
	ctaMarkMask         = 21
	nfgenmsgLen         = 4
)

// conntrackTimeout bounds the wait for the kernel's answer, which comes at once.
const conntrackTimeout = 5 * time.Second

// flushConntrack makes the namespace forget its flows: all, or those whose mark is
// mark if that is not 0.
func flushConntrack(ns string, mark uint32) error {
	err := inNamespace(ns, func() error { return deleteFlows(mark) })
	if err != nil {
		return fmt.Errorf("flush conntrack: %w", err)
	}
	return nil
}

// deleteFlows does it for the network of the calling thread: a request to delete
// without a tuple deletes everything that the other attributes fit.
func deleteFlows(mark uint32) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	wait := unix.NsecToTimeval(int64(conntrackTimeout))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return err
	}
	if err := unix.Sendto(fd, deleteRequest(mark), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return fmt.Errorf("unexpected answer of %d bytes", n)
	}
	if code := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}

// deleteRequest is a netlink message (linux/netlink.h): header, nfgenmsg, attributes.
// Lengths and types are in the machine's byte order, marks in the network's.
func deleteRequest(mark uint32) []byte {
	b := make([]byte, unix.SizeofNlMsghdr+nfgenmsgLen)
	if mark != 0 {
		for _, attribute := range []uint16{ctaMark, ctaMarkMask} {
			b = binary.NativeEndian.AppendUint16(b, 8)
			b = binary.NativeEndian.AppendUint16(b, attribute)
			b = binary.BigEndian.AppendUint32(b, mark)
		}
	}
	binary.NativeEndian.PutUint32(b[0:], uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], nfnlSubsysCTNetlink<<8|ipctnlMsgCTDelete)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	binary.NativeEndian.PutUint32(b[8:], 1)
	return b
}
