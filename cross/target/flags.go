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
	"porchlight/agent/...", "porchlight/compute/...", "porchlight/share",
	"porchlight/nat/ice", "porchlight/nat/netwatch", "porchlight/nat/portmap/...", "porchlight/nat/spray", "porchlight/nat/tcppunch",
	"github.com/pion/...", "github.com/huin/...", "go.uber.org/...", "golang.org/x/net/...",
	"net", "net/http/...", "net/textproto", "net/url", "mime/...", "html", "log/...", "text/...", "reflect",
	"encoding/...", "crypto/x509/...", "crypto/tls/...", "crypto/ecdsa", "crypto/rsa", "math/big", "debug/...", "regexp/...", "vendor/golang.org/x/net/...", "vendor/golang.org/x/text/...", "os/...", "fmt",
	"porchlight/share/fetch", "porchlight/share/wire", "porchlight/nat/reflection", "porchlight/nat/probe",
	// The interpreter itself is not among them: there a call costs more.
	"github.com/tetratelabs/wazero", "github.com/tetratelabs/wazero/imports/...", "github.com/tetratelabs/wazero/internal/sysfs",
	"github.com/tetratelabs/wazero/internal/wasip1/...", "github.com/tetratelabs/wazero/internal/wasm/...", "github.com/tetratelabs/wazero/internal/wasmdebug",
}

// ProgramFlags returns the flags for programs, as opposed to tests. For MIPS,
// where flash is scarce and calls are cheap beside the rest, what is not on the
// way of packets is compiled without inlining: 0.9 MB of 16.45. To leave it out
// of everything makes programs larger again.
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
