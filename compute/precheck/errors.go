package precheck

import (
	"errors"
	"fmt"
)

// ErrMalformed is wrapped by errors about bytes that are no WebAssembly
// binary of the version understood here.
var ErrMalformed = errors.New("malformed module")

// ErrUnsupported is wrapped by errors about well-formed modules that need
// something a task cannot have: other imports, a start section, no _start.
var ErrUnsupported = errors.New("unsupported module")

// LimitError says which of the [Limits] a module exceeds.
type LimitError struct {
	What  string // the field of Limits
	Value uint64 // what the module asks for, or the first number beyond
	Limit int
}

// Error names the limit, the value and the bound.
func (e *LimitError) Error() string {
	return fmt.Sprintf("module exceeds limit %s: %d, at most %d", e.What, e.Value, e.Limit)
}

func exceeds(what string, value uint64, limit int) error {
	if value <= uint64(limit) {
		return nil
	}
	return &LimitError{What: what, Value: value, Limit: limit}
}

func malformed(offset int, format string, args ...any) error {
	return fmt.Errorf("%w: offset %d: %s", ErrMalformed, offset, fmt.Sprintf(format, args...))
}

func unsupported(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnsupported, fmt.Sprintf(format, args...))
}
