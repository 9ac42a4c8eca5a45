package natlab

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"time"
)

// Fields of the classic capture file (draft-ietf-opsawg-pcap §4), all little-endian.
const (
	pcapMagicNanoseconds = 0xa1b23c4d
	pcapLinkTypeRaw      = 101 // packets begin with their IP header
	pcapFileHeaderLen    = 24
	pcapRecordHeaderLen  = 16
)

// writePCAP writes sightings as a capture file; start is the lab clock's zero.
func writePCAP(w io.Writer, start time.Time, all []sighting) error {
	b := bufio.NewWriter(w)
	var h [pcapFileHeaderLen]byte
	binary.LittleEndian.PutUint32(h[0:], pcapMagicNanoseconds)
	binary.LittleEndian.PutUint16(h[4:], 2)
	binary.LittleEndian.PutUint16(h[6:], 4)
	binary.LittleEndian.PutUint32(h[16:], 65535)
	binary.LittleEndian.PutUint32(h[20:], pcapLinkTypeRaw)
	b.Write(h[:])
	for i := range all {
		s := &all[i]
		at := start.Add(time.Duration(s.at))
		var r [pcapRecordHeaderLen]byte
		binary.LittleEndian.PutUint32(r[0:], uint32(at.Unix()))
		binary.LittleEndian.PutUint32(r[4:], uint32(at.Nanosecond()))
		binary.LittleEndian.PutUint32(r[8:], uint32(s.kept))
		binary.LittleEndian.PutUint32(r[12:], uint32(s.length))
		b.Write(r[:])
		b.Write(s.data[:s.kept])
	}
	return b.Flush() // reports the first error of all writes
}

// WritePCAP writes the heads (128 bytes) of the packets that the forwarder
// remembers, the first 2,048 and the last 8,192, dropped ones included, to a
// capture file for tcpdump and Wireshark. Times are those of sending. Packets the
// kernel left unsegmented appear as one long packet.
func (l *Lab) WritePCAP(path string) error {
	all, _ := l.core.capture.snapshot()
	return writeFile(path, func(w io.Writer) error { return writePCAP(w, l.core.start, all) })
}

// writeFile writes a file by write and closes it.
func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write capture: %w", err)
	}
	if err := write(f); err != nil {
		f.Close()
		return fmt.Errorf("write %s: %w", path, err)
	}
	return f.Close()
}
