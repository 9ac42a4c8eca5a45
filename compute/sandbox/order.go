package sandbox

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"

	"porchlight/compute/precheck"
)

// Descriptors of the child beside standard input, output and error.
const (
	orderFD  = 3
	resultFD = 4
	inputFD  = 5
)

// maxOrder is the largest order without its module, in bytes.
const maxOrder = 1 << 20

// order is what the parent asks of a child: on the pipe it is 4 bytes of
// length, big-endian, this as JSON, and the module.
type order struct {
	Args       []string        `json:"args,omitempty"`
	Seed       string          `json:"seed,omitempty"`
	InputName  string          `json:"input_name,omitempty"`
	InputSize  int64           `json:"input_size,omitempty"`
	HasInput   bool            `json:"has_input,omitempty"`
	ModuleSize int             `json:"module_size"`
	Limits     Limits          `json:"limits"`
	Modules    precheck.Limits `json:"modules"`
	Engine     Engine          `json:"engine,omitempty"`
	Unchecked  bool            `json:"unchecked,omitempty"`
	Probe      bool            `json:"probe,omitempty"`
}

// confined is the first notice of a child.
type confined struct {
	Engine     string      `json:"engine"`
	Mechanisms []Mechanism `json:"mechanisms"`
}

// ending is the end of a child's results.
type ending struct {
	ExitCode int       `json:"exit_code"`
	Stop     Stop      `json:"stop,omitempty"`
	Detail   string    `json:"detail,omitempty"`
	Attempts []Attempt `json:"attempts,omitempty"`
}

func (o order) write(w io.Writer, module []byte) error {
	o.ModuleSize = len(module)
	head, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encode order: %w", err)
	}
	if len(head) > maxOrder {
		return fmt.Errorf("order of %d bytes, at most %d: use shorter arguments", len(head), maxOrder)
	}
	if err := binary.Write(w, binary.BigEndian, uint32(len(head))); err != nil {
		return err
	}
	if _, err := w.Write(head); err != nil {
		return err
	}
	_, err = w.Write(module)
	return err
}

func readOrder(r io.Reader) (order, []byte, error) {
	var o order
	var size uint32
	if err := binary.Read(r, binary.BigEndian, &size); err != nil {
		return o, nil, fmt.Errorf("read order: %w", err)
	}
	if size > maxOrder {
		return o, nil, fmt.Errorf("order of %d bytes, at most %d", size, maxOrder)
	}
	head := make([]byte, size)
	if _, err := io.ReadFull(r, head); err != nil {
		return o, nil, fmt.Errorf("read order: %w", err)
	}
	if err := json.Unmarshal(head, &o); err != nil {
		return o, nil, fmt.Errorf("read order: %w", err)
	}
	if o.ModuleSize < 0 {
		return o, nil, fmt.Errorf("module of %d bytes", o.ModuleSize)
	}
	module := make([]byte, o.ModuleSize)
	if _, err := io.ReadFull(r, module); err != nil {
		return o, nil, fmt.Errorf("read module: %w", err)
	}
	return o, module, nil
}
