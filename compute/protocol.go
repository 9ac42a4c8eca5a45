package compute

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"porchlight/compute/frames"
	"porchlight/compute/sandbox"
)

// Limits of the request, on both sides.
const (
	// MaxHeader is the longest header line of a task, in bytes with its line
	// feed.
	MaxHeader = 64 << 10
	// MaxArgs is the most arguments of a task.
	MaxArgs = 256
	// MaxModule is the largest module, in bytes.
	MaxModule = 16 << 20
	// maxSeed is the longest seed, in bytes.
	maxSeed = 128
)

// TaskHeader is the first line of a task.
type TaskHeader struct {
	Module    string   `json:"module"`               // SHA-256, lower-case hexadecimal
	Args      []string `json:"args,omitempty"`       // the program's name first
	Seed      string   `json:"seed,omitempty"`       // of its random numbers
	InputName string   `json:"input_name,omitempty"` // below /in; empty: no input
}

// Notice tells where a task stands.
type Notice struct {
	State string `json:"state"` // "queued" or "running"
}

// Status is the end of a task.
type Status struct {
	ExitCode     int          `json:"exit_code"`
	Stop         sandbox.Stop `json:"stop,omitempty"` // why it was ended from outside
	Detail       string       `json:"detail,omitempty"`
	CPUMillis    int64        `json:"cpu_ms"`
	WallMillis   int64        `json:"wall_ms"`
	PeakRSSBytes int64        `json:"peak_rss_bytes"`
	Engine       string       `json:"engine"`
}

// StopDonationOff is the reason when the donor's owner wants the machine back.
const StopDonationOff sandbox.Stop = "donation_off"

// Refusal is the body of an HTTP error.
type Refusal struct {
	Code    string `json:"code"`    // for machines
	Message string `json:"message"` // for people
}

// Error returns the message.
func (r *Refusal) Error() string { return r.Message }

// Codes of [Refusal].
const (
	CodeBadRequest    = "bad_request"
	CodeNotAllowed    = "not_allowed"
	CodeModuleUnknown = "module_unknown"
	CodeTooLarge      = "too_large"
	CodeBusy          = "busy"
	CodeDonationOff   = "donation_off"
	CodeNoSpace       = "no_space"
)

// ParseTaskHeader reads a header line, without its line feed.
func ParseTaskHeader(line []byte) (TaskHeader, error) {
	var h TaskHeader
	if len(line) >= MaxHeader {
		return h, fmt.Errorf("task header of %d bytes, less than %d allowed", len(line), MaxHeader)
	}
	if err := json.Unmarshal(line, &h); err != nil {
		return h, fmt.Errorf("task header: %w", err)
	}
	return h, h.check()
}

func (h TaskHeader) check() error {
	if err := checkHash(h.Module); err != nil {
		return err
	}
	if len(h.Args) > MaxArgs {
		return fmt.Errorf("task header: %d arguments, at most %d", len(h.Args), MaxArgs)
	}
	for _, a := range h.Args {
		if strings.ContainsRune(a, 0) {
			return errors.New("task header: argument with a zero byte")
		}
	}
	if len(h.Seed) > maxSeed {
		return fmt.Errorf("task header: seed of %d bytes, at most %d", len(h.Seed), maxSeed)
	}
	if h.InputName == "" {
		return nil
	}
	if strings.Contains(h.InputName, "/") {
		return fmt.Errorf("task header: input name %q is no plain name", h.InputName)
	}
	return frames.CheckName(h.InputName)
}

// line encodes the header for the wire.
func (h TaskHeader) line() ([]byte, error) {
	if err := h.check(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(h); err != nil {
		return nil, fmt.Errorf("encode task header: %w", err)
	}
	if b.Len() > MaxHeader {
		return nil, fmt.Errorf("task header of %d bytes, at most %d: use shorter arguments", b.Len(), MaxHeader)
	}
	return b.Bytes(), nil
}

// checkHash accepts 64 lower-case hexadecimal digits.
func checkHash(s string) error {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != sha256.Size || s != strings.ToLower(s) {
		return fmt.Errorf("module name %.80q is no SHA-256", s)
	}
	return nil
}

// ModuleHash names a module.
func ModuleHash(module []byte) string {
	sum := sha256.Sum256(module)
	return hex.EncodeToString(sum[:])
}
