# Everything a person or a CI does with Porchlight. `make` lists the commands.
#
# On a fresh Debian 12 only Go and Node.js must be there; `make setup`, which
# `make test` begins with, installs the rest. Nothing here asks a question.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Debian packages, each with the reason for it.
DEMO_PACKAGES += iproute2         # network namespaces of the demo and the NAT laboratory
DEMO_PACKAGES += nftables         # the NATs themselves
LAB_PACKAGES += miniupnpd-nftables # UPnP, NAT-PMP and PCP on the laboratory's routers
LAB_PACKAGES += coturn            # another TURN server to speak with; its service is kept off
BENCH_PACKAGES += iperf3          # what raw UDP and TCP do in the same place
TEST_PACKAGES += ca-certificates  # module and package downloads
TEST_PACKAGES += git              # the version, from the last tag or commit
TEST_PACKAGES += gcc libc6-dev    # the race detector links with C
TEST_PACKAGES += qemu-user-static # tests on emulated MIPS and ARM
TEST_PACKAGES += xz-utils         # the sizes that the budget is about
TEST_PACKAGES += chromium         # tests of the console in a real browser
TEST_PACKAGES += systemd          # systemd-analyze: how exposed the service is
TEST_PACKAGES += python3-libtorrent # a node of the DHT that is not written in Go
TEST_PACKAGES += openssh-server openssh-client # a session through two homes; its service is kept off
TEST_PACKAGES += sip-tester       # a telephone call through two homes
TEST_PACKAGES += miniupnpc natpmpc # ask those routers as others do
TEST_PACKAGES += tcpdump          # reads the captures that failed laboratory runs leave

# What may be set: make run STATE=…, make fuzz FUZZTIME=5m, make soak SOAK=50,
# make lab ROUNDS=1.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
STATE ?= $(HOME)/.local/share/porchlight
BENCHTIME ?= 1s
FUZZTIME ?= 30s
SOAK ?= 10
ROUNDS ?= 3
# Emulated in `make test`: the commonest router, the Raspberry Pi in 32 and
# 64 bit, and the other byte order.
EMULATED ?= mipsle arm7 arm64 mips

CODE := agent nat share compute firmware cross
WEB := agent/console/web
# Modules of their own: what other programs bring stays out of the agent.
PEERS := nat/natlab/peers agent/dht/peers
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
# One test's time limit is go test's for its whole package; the race detector
# makes the laboratory's slowest package take minutes.
GOTEST := go test -timeout 15m

.PHONY: help
help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: setup-demo build ## two homes behind NATs meet: file, task, console, live
	go run ./agent/lab demo

.PHONY: run
run: build ## run the agent here, state in STATE (default ~/.local/share/porchlight)
	mkdir -p "$(STATE)"
	bin/porchlight run --state "$(STATE)"

.PHONY: build
build: ## build bin/porchlight for this machine
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -tags=nethttpomithttp2 \
		-ldflags "-s -w -X porchlight/agent/version.version=$(VERSION)" -o bin/porchlight ./agent

# The sections of `make test`, in order, and what each may take on two cores
# once caches are cold: setup 3 min, lint 3, test-go 9, test-console 2,
# test-lab 4, cross 3, test-emulated 5: 29 minutes in all.
SECTIONS := setup lint test-go test-console test-lab cross test-emulated

.PHONY: test
test: ## everything CI checks: lint, tests, laboratory, all targets, emulators
	@begin=$$SECONDS; \
	for section in $(SECTIONS); do \
		start=$$SECONDS; \
		printf '\n=== %s\n' $$section; \
		$(MAKE) $$section || { printf '\n=== %s failed after %d s; to repeat it: make %s\n' \
			$$section $$((SECONDS - start)) $$section; exit 1; }; \
		printf '=== %s: passed in %d s\n' $$section $$((SECONDS - start)); \
	done; \
	printf '\n=== all sections passed in %d s\n' $$((SECONDS - begin))

.PHONY: test-go test-console test-lab test-emulated
test-go:
	$(GOTEST) -race ./...
	@for module in $(PEERS); do \
		echo "cd $$module && $(GOTEST) -race ./..."; (cd $$module && $(GOTEST) -race ./...); \
	done

test-console: web-packages
	npm --prefix $(WEB) test

test-lab:
	go run ./agent/lab matrix -short
	go run ./agent/lab people -short

test-emulated:
	go run ./cross test $(EMULATED)

.PHONY: lint
lint: ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -l $(CODE)); \
	if [ -n "$$unformatted" ]; then \
		printf 'not formatted, run gofmt -w on:\n%s\n' "$$unformatted"; exit 1; \
	fi
	go vet ./...
	GOOS=wasip1 GOARCH=wasm go vet ./compute/examples/...
	go run $(STATICCHECK) ./...
	@for module in $(PEERS); do \
		echo "go vet and staticcheck in $$module"; go vet -C $$module ./...; (cd $$module && go run $(STATICCHECK) ./...); \
	done

.PHONY: bench
bench: setup-bench ## benchmarks; each prints a ratio against a peer in the same run
	@folders=$$(grep -rl --include='*_test.go' --exclude-dir=node_modules '^func Benchmark' $(CODE) \
		| xargs -r dirname | sort -u | sed 's|^|./|'); \
	$(GOTEST) -run '^$$' -bench . -benchtime $(BENCHTIME) $$folders

.PHONY: lab
lab: setup-lab ## the NAT laboratory: every kind against every other, recoveries, a village without each of its hosts, ten thousand devices
	go run ./agent/lab matrix -repeat $(ROUNDS) -peers
	go run ./agent/lab recovery
	go run ./agent/lab people
	go run ./agent/lab idle
	go run ./agent/lab scale

.PHONY: cross
cross: ## build for every target, check the files, print sizes and budgets
	go run ./cross build

.PHONY: console
console: web-packages ## build the web console into the folder that is embedded
	npm --prefix $(WEB) run build

.PHONY: clean
clean: ## remove what these commands built
	rm -rf bin lab-out $(WEB)/node_modules

# apt-missing sets $missing to those of the packages $(1) that are not there.
define apt-missing
	missing=; \
	for package in $(1); do \
		[ "$$(dpkg-query -W -f='$${db:Status-Status}' $$package 2>/dev/null)" = installed ] \
			|| missing="$$missing $$package"; \
	done
endef

# apt-install installs $missing: as root, by sudo, or by telling how.
define apt-install
	if [ -n "$$missing" ]; then \
		line="apt-get install -y --no-install-recommends$$missing"; \
		if [ "$$(id -u)" = 0 ]; then as_root=; \
		elif sudo -n true 2>/dev/null || { [ -t 0 ] && command -v sudo >/dev/null; }; then as_root=sudo; \
		else echo "missing:$$missing. Run as root: apt-get update && $$line"; exit 1; fi; \
		echo "installing Debian packages:$$missing"; \
		if [ -d /run/systemd/system ]; then \
			for service in coturn miniupnpd ssh; do \
				if [[ $$missing == *$${service/#ssh/openssh-server}* ]]; then $$as_root systemctl mask $$service.service; fi; \
			done; \
		fi; \
		$$as_root apt-get update -qq; \
		$$as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a \
			apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 $$missing >/dev/null \
			|| { echo "Run as root, and look at what it says: $$line"; exit 1; }; \
	fi
endef

.PHONY: setup
setup: web-packages ## install what development needs (apt, npm) and is missing
	@command -v dpkg-query >/dev/null || { \
		echo "this is not Debian; install what these packages give: $(DEMO_PACKAGES) $(LAB_PACKAGES) $(BENCH_PACKAGES) $(TEST_PACKAGES)"; exit 1; }
	@$(call apt-missing,$(DEMO_PACKAGES) $(LAB_PACKAGES) $(BENCH_PACKAGES) $(TEST_PACKAGES)); $(apt-install); \
	[ -n "$$missing" ] || echo "Debian packages: all there"

# The demo and the laboratory need no browser and no emulator. Without root
# there are no namespaces, so nothing is missing: the demo uses loopback.
.PHONY: setup-demo
setup-demo:
	@if [ "$$(id -u)" = 0 ] && command -v dpkg-query >/dev/null; then \
		$(call apt-missing,$(DEMO_PACKAGES)); $(apt-install); \
	fi

.PHONY: setup-lab setup-bench
setup-lab:
	@if [ "$$(id -u)" = 0 ] && command -v dpkg-query >/dev/null; then \
		$(call apt-missing,$(DEMO_PACKAGES) $(LAB_PACKAGES)); $(apt-install); \
	fi
setup-bench:
	@if [ "$$(id -u)" = 0 ] && command -v dpkg-query >/dev/null; then \
		$(call apt-missing,$(DEMO_PACKAGES) $(BENCH_PACKAGES)); $(apt-install); \
	fi

.PHONY: web-packages
web-packages: $(WEB)/node_modules/.package-lock.json

$(WEB)/node_modules/.package-lock.json: $(WEB)/package-lock.json
	@command -v npm >/dev/null || { echo "npm is missing: install Node.js 20 or later"; exit 1; }
	@echo "installing npm packages of the console"
	npm --prefix $(WEB) ci --no-audit --no-fund
	@touch $@

.PHONY: soak
soak: setup-lab ## repeat tests and laboratory SOAK times (default 10)
	$(GOTEST) -race -count $(SOAK) -timeout 0 ./...
	@for round in $$(seq $(SOAK)); do \
		echo "laboratory, round $$round of $(SOAK)"; \
		go run ./agent/lab matrix; \
	done

.PHONY: fuzz
fuzz: ## every fuzz test for FUZZTIME each (default 30s)
	@for folder in $$(grep -rl --include='*_test.go' --exclude-dir=node_modules '^func Fuzz' $(CODE) \
		| xargs -r dirname | sort -u); do \
		for name in $$(go test -list '^Fuzz' ./$$folder | grep '^Fuzz'); do \
			echo "$$folder $$name"; \
			go test -run '^$$' -fuzz "^$$name$$" -fuzztime $(FUZZTIME) ./$$folder; \
		done; \
	done
