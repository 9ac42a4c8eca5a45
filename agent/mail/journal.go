package mail

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	// maxRecord is the size of the largest record, in bytes: a text of MaxText
	// with a copy for each of 2 × maxDevices devices has less than 3 KiB.
	maxRecord = 4096
	// maxLog is the size of the largest log that is read, in bytes. Twice what
	// may be alive, and what gathers before the next compaction, is less.
	maxLog = 12 << 20
	// compactFrom is the size below which a log is never rewritten, in bytes.
	compactFrom = 64 << 10

	frameHead = 12
)

var (
	frameMark  = []byte("PLM1")
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// journal is an append-only log of records, each framed as
//
//	bytes 0–3   "PLM1"
//	bytes 4–7   length of the record, big-endian, 1–4096
//	bytes 8–11  CRC-32C of bytes 4–7 and the record, big-endian
//	bytes 12–   the record
//
// The mark lets a reader find the next frame behind a damaged one. A nil
// journal keeps nothing and never fails.
type journal struct {
	fs   FS
	name string
	file File
	size int64
	// dirty: what lies behind size may be half a record. unnamed: the folder
	// was not synced since the file got its name.
	dirty, unnamed bool
	checkAt        int64
}

// openJournal reads a log and hands each record to apply, which says whether
// it could use it. It returns how many places were damaged; a record that was
// being written when power failed is none, it is cut off.
func openJournal(fs FS, name string, apply func(record []byte) bool) (*journal, int, error) {
	file, err := fs.Open(name)
	if err != nil {
		return nil, 0, fmt.Errorf("open %s: %w", name, err)
	}
	b, err := io.ReadAll(io.LimitReader(file, maxLog+1))
	if err == nil && len(b) > maxLog {
		err = fmt.Errorf("it is larger than %d bytes and not ours; move it away", maxLog)
	}
	if err != nil {
		file.Close()
		return nil, 0, fmt.Errorf("read %s: %w", name, err)
	}
	good, damaged := scan(b, apply)
	j := &journal{fs: fs, name: name, file: file, size: int64(good), dirty: good < len(b), unnamed: true}
	j.checkAt = max(compactFrom, j.size)
	// What was read may have been written by a process that was killed before
	// it synced: it must not be acknowledged as known while only memory has it.
	err = j.repair()
	if err == nil {
		err = j.sync()
	}
	if err != nil {
		file.Close()
		return nil, 0, fmt.Errorf("sync %s: %w", name, err)
	}
	return j, damaged, nil
}

// scan hands the records in b to apply. It returns where the last good one
// ends, and the number of damaged places.
func scan(b []byte, apply func([]byte) bool) (good, damaged int) {
	for at := 0; at < len(b); {
		record, ok := unframe(b[at:])
		if ok {
			if !apply(record) {
				damaged++
			}
			at += frameHead + len(record)
			good = at
			continue
		}
		next := nextFrame(b, at+1)
		if next < 0 {
			if !cutOff(b[at:]) {
				damaged++
			}
			return good, damaged
		}
		damaged++
		at = next
	}
	return good, damaged
}

func unframe(b []byte) ([]byte, bool) {
	if len(b) < frameHead || !bytes.Equal(b[:4], frameMark) {
		return nil, false
	}
	n := binary.BigEndian.Uint32(b[4:])
	if n == 0 || n > maxRecord || int(n) > len(b)-frameHead {
		return nil, false
	}
	record := b[frameHead : frameHead+int(n)]
	return record, checksum(b[4:8], record) == binary.BigEndian.Uint32(b[8:])
}

func checksum(length, record []byte) uint32 {
	return crc32.Update(crc32.Checksum(length, castagnoli), castagnoli, record)
}

func nextFrame(b []byte, from int) int {
	for from < len(b) {
		i := bytes.Index(b[from:], frameMark)
		if i < 0 {
			return -1
		}
		if _, ok := unframe(b[from+i:]); ok {
			return from + i
		}
		from += i + 1
	}
	return -1
}

// cutOff says whether b is the beginning of a frame, as an append leaves it
// that power ended: its record was never promised to anybody.
func cutOff(b []byte) bool {
	if len(b) < frameHead {
		return bytes.HasPrefix(frameMark, b[:min(len(b), 4)])
	}
	n := binary.BigEndian.Uint32(b[4:])
	return bytes.Equal(b[:4], frameMark) && n > 0 && n <= maxRecord && int(n) > len(b)-frameHead
}

func appendFrame(b, record []byte) []byte {
	b = append(b, frameMark...)
	at := len(b)
	b = binary.BigEndian.AppendUint32(b, uint32(len(record)))
	b = binary.BigEndian.AppendUint32(b, checksum(b[at:at+4], record))
	return append(b, record...)
}

// append adds a record. With durable it returns nil only once the record
// survives a power cut. After an error the record is not in the log, or is cut
// off before the next one.
func (j *journal) append(record []byte, durable bool) error {
	if j == nil {
		return nil
	}
	if len(record) == 0 || len(record) > maxRecord {
		return fmt.Errorf("record of %d bytes in %s", len(record), j.name)
	}
	if err := j.repair(); err != nil {
		return fmt.Errorf("repair %s: %w", j.name, err)
	}
	frame := appendFrame(make([]byte, 0, frameHead+len(record)), record)
	j.dirty = true
	if _, err := j.file.Write(frame); err != nil {
		j.repair()
		return fmt.Errorf("write %s: %w", j.name, err)
	}
	if durable {
		if err := j.sync(); err != nil {
			j.repair()
			return fmt.Errorf("sync %s: %w", j.name, err)
		}
	}
	j.dirty = false
	j.size += int64(len(frame))
	return nil
}

// repair cuts off what a write that broke off has left.
func (j *journal) repair() error {
	if !j.dirty {
		return nil
	}
	if err := j.file.Truncate(j.size); err != nil {
		return err
	}
	j.dirty = false
	return nil
}

func (j *journal) sync() error {
	if err := j.file.Sync(); err != nil {
		return err
	}
	if j.unnamed {
		if err := j.fs.Sync(); err != nil {
			return err
		}
		j.unnamed = false
	}
	return nil
}

// compact rewrites the log if more than half of it is dead, or in any case
// with force. live returns what is to be kept, as frames.
func (j *journal) compact(force bool, live func() []byte) error {
	if j == nil || (!force && j.size <= j.checkAt) {
		return nil
	}
	b := live()
	if !force && 2*int64(len(b)) >= j.size {
		j.checkAt = j.size + j.size/4
		return nil
	}
	// Whether it succeeds or not, a full disk is not tried at every record.
	j.checkAt = j.size + j.size/4
	file, err := j.write(b)
	if err != nil {
		return fmt.Errorf("rewrite %s: %w", j.name, err)
	}
	j.file.Close()
	j.file, j.size, j.dirty, j.unnamed = file, int64(len(b)), false, true
	j.checkAt = max(compactFrom, 2*j.size)
	if err := j.sync(); err != nil {
		return fmt.Errorf("rewrite %s: %w", j.name, err)
	}
	return nil
}

// write makes the new file and gives it the log's name.
func (j *journal) write(b []byte) (File, error) {
	file, err := j.fs.Open(j.name + ".new")
	if err != nil {
		return nil, err
	}
	if err = file.Truncate(0); err == nil {
		_, err = file.Write(b)
	}
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = j.fs.Rename(j.name+".new", j.name)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

func (j *journal) close() error {
	if j == nil {
		return nil
	}
	return j.file.Close()
}
