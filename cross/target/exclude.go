package target

import (
	"slices"
	"strings"
)

// Exclusion says which tests cannot run under an emulator, and why.
type Exclusion struct {
	// Packages are import paths below the module, without its name; a
	// trailing "/..." includes everything below.
	Packages []string
	// Targets are the targets it holds for; nil means every emulated one.
	Targets []string
	// Tests, if not empty, is a pattern of test names to leave out (as for
	// go test -skip); the package's other tests run.
	Tests string
	// Reason is printed with every emulated run.
	Reason string
}

// bigEndian names the targets whose kernel messages qemu-user hands over in
// the wrong byte order.
var bigEndian = []string{"mips"}

// noOffload and noInterfaces are artefacts of the emulator, not faults of the
// program: on big-endian machines qemu-user hands some messages to and from
// the kernel over unswapped.
const (
	noOffload = "qemu-user for big-endian MIPS does not swap the control messages of UDP_SEGMENT, UDP_GRO and " +
		"IP_TOS (sendmsg answers EINVAL, packets come joined)"
	noInterfaces = "qemu-user for big-endian MIPS does not swap netlink attributes, so net.Interfaces fails"
)

var exclusions = []Exclusion{
	{
		Packages: []string{"cross/...", "firmware/..."},
		Reason:   "works on the build machine with its tool chain; never runs on a device",
	},
	{
		Packages: []string{"nat/natlab/..."},
		Reason:   "builds network namespaces and nftables rules, which qemu-user does not translate; it runs on the build machine only",
	},
	{
		Packages: []string{"agent/lab/..."},
		Reason:   "drives whole agents in network namespaces of the build machine",
	},
	{
		Packages: []string{"nat/stun", "nat/tcppunch", "nat/spray"},
		Tests:    "BehindRealRouters|BehindARealRouter|BetweenHomes|MeetsBothWaysRound",
		Reason:   "connects homes in network namespaces of the build machine",
	},
	{
		Packages: []string{"nat/portmap"},
		Tests:    "Conflict|CrashedRun|DistrustMovesOn|EpochReset|HostileGateway|Remade|Renewed|Miniupnpd|PCPPacket|Pinholes",
		Reason:   "asks routers in network namespaces of the build machine",
	},
	{
		Packages: []string{"agent/beacon"},
		Tests:    "CutOffHouse|OnOneMachine",
		Reason:   "puts devices into network namespaces of the build machine",
	},
	{
		Packages: []string{"agent/directory", "agent/owner"},
		Tests:    "ThreeWeeks|NoWriteIsFatal|NobodyKnowsTheNewest",
		Reason:   "minutes of emulated arithmetic for what does not depend on the target",
	},
	{
		Packages: []string{"agent/mail"},
		Targets:  []string{"arm7", "arm64"},
		Tests:    "Model",
		Reason:   "a minute of emulated arithmetic, spent on MIPS",
	},
	{
		Packages: []string{"agent/dht"},
		Tests:    "Libtorrent|PublishAndResolve|TheSameSeed|AThird|Churn|IdleReading",
		Reason:   "starts a program of the build machine, or makes thousands of signatures, which take minutes emulated",
	},
	{
		Packages: []string{"agent/dht"},
		Targets:  bigEndian,
		Tests:    "OnLoopback|Closing|PacketConn",
		Reason:   noInterfaces,
	},
	{
		Packages: []string{"agent/forward"},
		Tests:    "SSH|ATargetThatIsNotThere",
		Reason:   "starts programs of the build machine; and qemu-user for MIPS hands SO_ERROR over untranslated",
	},
	{
		Packages: []string{"agent/cli"},
		Targets:  []string{"arm7", "arm64", "mips"},
		Tests:    "TestScripts/(devices|forward|lookup|messages|requests)",
		Reason:   "three agents each, emulated, take minutes; they are played on mipsle",
	},
	{
		Packages: []string{"agent/cli"},
		Targets:  []string{"mipsle"},
		Tests:    "TestScripts/forward",
		Reason:   "qemu-user for MIPS hands SO_ERROR over untranslated, so that a refused connection is not known as one",
	},
	{
		Packages: []string{"nat/bulkbench"},
		Reason:   "measures the build machine, in namespaces of its own",
	},
	{
		Packages: []string{"nat"},
		Targets:  bigEndian,
		Tests:    "ECN|KernelWillNotSplit|JoinedDatagram|SurviveSwitching",
		Reason:   noOffload,
	},
	{
		Packages: []string{"nat/relay"},
		Targets:  bigEndian,
		Tests:    "PionsClient",
		Reason:   noInterfaces,
	},
}

// Exclusions returns the table of what is left out under emulation.
func Exclusions() []Exclusion { return exclusions }

// Applies reports whether e concerns the package (import path below the
// module) on target t.
func (e Exclusion) Applies(t Target, pkg string) bool {
	if e.Targets != nil && !slices.Contains(e.Targets, t.Name) {
		return false
	}
	for _, pattern := range e.Packages {
		if Matches(pattern, pkg) {
			return true
		}
	}
	return false
}

// Matches reports whether pattern, a path or a path followed by "/...",
// covers the package.
func Matches(pattern, pkg string) bool {
	folder, below := strings.CutSuffix(pattern, "/...")
	return pkg == folder || below && strings.HasPrefix(pkg, folder+"/")
}
