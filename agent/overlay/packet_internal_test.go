package overlay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
)

func TestQueuesDropTheOldest(t *testing.T) {
	tests := []struct {
		name              string
		count, size, left int
	}{
		{"below the count", queuePackets - 1, 10, queuePackets - 1},
		{"at the count", queuePackets, 10, queuePackets},
		{"above the count", queuePackets + 1, 10, queuePackets},
		{"at the bytes", 32, queueBytes / 32, 32},
		{"above the bytes", 33, queueBytes / 32, 32},
		{"largest packets", 20, MaxPacket, queueBytes / MaxPacket},
		{"empty packets", 70, 0, queuePackets},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			q := NewQueue()
			for i := range tt.count {
				b := make([]byte, tt.size)
				if tt.size > 0 {
					b[0] = byte(i)
				}
				q.Put(b)
			}
			if got := q.Dropped(); got != int64(tt.count-tt.left) {
				t.Errorf("%d dropped, want %d", got, tt.count-tt.left)
			}
			for i := tt.count - tt.left; i < tt.count; i++ {
				select {
				case <-q.Ready():
				default:
					t.Fatal("not ready though there are packets")
				}
				b, ok := q.Get()
				if !ok || tt.size > 0 && b[0] != byte(i) {
					t.Fatalf("packet %d: %v, %t", i, b, ok)
				}
			}
			if _, ok := q.Get(); ok || q.bytes != 0 {
				t.Errorf("more than was put: %t, %d bytes", ok, q.bytes)
			}
		})
	}
}

func TestFramesAreBounded(t *testing.T) {
	frame := func(says, has int) []byte {
		return append(binary.BigEndian.AppendUint16(nil, uint16(says)), make([]byte, has)...)
	}
	tests := []struct {
		name string
		in   []byte
		size int
		err  error
	}{
		{"empty", frame(0, 0), 0, nil},
		{"below the limit", frame(MaxPacket-1, MaxPacket-1), MaxPacket - 1, nil},
		{"at the limit", frame(MaxPacket, MaxPacket), MaxPacket, nil},
		{"above the limit", frame(MaxPacket+1, MaxPacket+1), 0, ErrPacketSize},
		{"cut short", frame(10, 9), 0, io.ErrUnexpectedEOF},
		{"without its packet", frame(10, 0), 0, io.EOF},
		{"cut in the length", []byte{1}, 0, io.ErrUnexpectedEOF},
		{"the end", nil, 0, io.EOF},
	}
	for _, tt := range tests {
		b, err := readFrame(bytes.NewReader(tt.in))
		if len(b) != tt.size || !errors.Is(err, tt.err) {
			t.Errorf("%s: %d bytes, %v", tt.name, len(b), err)
		}
	}
}

// FuzzDatagrams: whatever a peer sends, only the flow it names gets anything,
// and what is kept is bounded.
func FuzzDatagrams(f *testing.F) {
	f.Add([]byte{}, []byte{0x40})
	f.Add([]byte{4}, []byte("\x04packet"))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, []byte{0x44, 0, 'x'})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		var all flows
		known := &Packets{id: []byte{4}, in: NewQueue()}
		if !all.add(4, known) || all.add(4, known) {
			t.Fatal("one flow, once")
		}
		for range queuePackets {
			all.deliver(first)
			all.deliver(second)
		}
		kept := int64(len(known.in.packets)) + known.in.Dropped()
		if kept+all.strays.Load() != 2*queuePackets || len(all.all) != 1 {
			t.Errorf("%d to the flow, %d strays, %d flows", kept, all.strays.Load(), len(all.all))
		}
		all.remove(known)
		all.deliver([]byte{4, 1})
		if len(all.all) != 0 {
			t.Error("a flow outlives its end")
		}
	})
}
