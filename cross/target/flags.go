package target

// BuildFlags returns the flags of go build and go test beside GoEnv, the same
// for every target. HTTP/2 is left out: between devices QUIC multiplexes, and
// the console is plain HTTP on the home network. For the agent on mipsle that
// is 0.5 MB of 15.3, 0.12 MB of 3.56 after xz.
func (t Target) BuildFlags() []string {
	return []string{"-trimpath", "-buildvcs=false", "-tags=nethttpomithttp2"}
}

// cold are packages whose code runs rarely: setting up, deciding, describing.
var cold = []string{
	"porchlight/agent/...", "github.com/pion/...", "github.com/huin/...", "go.uber.org/...",
	"net/http/...", "encoding/...", "crypto/x509/...", "crypto/tls/...",
}

// ProgramFlags returns the flags for programs, as opposed to tests. For MIPS,
// where flash is scarce and calls are cheap beside the rest, what is not on the
// way of packets is compiled without inlining: 0.6 MB of 16.45.
func (t Target) ProgramFlags() []string {
	flags := t.BuildFlags()
	if t.GOARCH != "mips" && t.GOARCH != "mipsle" {
		return flags
	}
	for _, pattern := range cold {
		flags = append(flags, "-gcflags="+pattern+"=-l")
	}
	return flags
}
