# xenferry. "make help" lists the targets.
GO       ?= go
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null)
# Real Xen support is built where its libraries are found; see README.md.
XEN_LIBS := xencontrol xenlight xenguest xenforeignmemory xenevtchn xenstore xentoollog
CC_FOUND := $(shell command -v $(firstword $(or $(CC),cc)) 2>/dev/null)
XEN      ?= $(if $(CC_FOUND),$(shell pkg-config --exists $(XEN_LIBS) 2>/dev/null && echo yes))
# So is zstd in C, which takes less of the processor than that in Go.
LIBZSTD  ?= $(if $(CC_FOUND),$(shell pkg-config --exists libzstd 2>/dev/null && echo yes))
# And so is AES-GCM in C, which takes half as long as that in Go. The library has no pkg-config file.
IPSECMB  ?= $(if $(CC_FOUND),$(shell $(or $(CC),cc) -E -x c -include intel-ipsec-mb.h /dev/null >/dev/null 2>&1 && echo yes))
TAG_LIST := $(strip $(if $(filter yes,$(XEN)),xen) $(if $(filter yes,$(LIBZSTD)),libzstd) $(if $(filter yes,$(IPSECMB)),ipsecmb))
empty    :=
comma    := ,
TAGS     := $(if $(TAG_LIST),-tags $(subst $(empty) $(empty),$(comma),$(TAG_LIST)))
# The race detector needs cgo, which needs a C compiler.
RACE     := $(if $(CC_FOUND),-race)
export CGO_ENABLED := $(if $(CC_FOUND),1,0)

STATICCHECK := $(GO) tool -modfile=scripts/tools.mod staticcheck

.PHONY: help build demo test fuzz faults kills lint bench-downtime bench-peers lab-test lab-test-long lab-bench lab-bench-signal lab-bench-downtime install clean
.DEFAULT_GOAL := build

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

build: ## build ./xenferry, with real Xen support if libxen-dev is installed, and with zstd and AES-GCM in C if libzstd-dev and libipsec-mb-dev are
	$(GO) build $(TAGS) -ldflags '-X main.release=$(VERSION)' -o xenferry ./cmd/xenferry

demo: build ## move a guest of 1 GiB between two simulated hosts, there and back
	./xenferry demo

test: ## all tests that need no hypervisor
	$(GO) vet $(TAGS) ./...
	$(GO) test $(TAGS) $(RACE) -timeout 25m ./...
ifneq ($(filter libzstd ipsecmb,$(TAG_LIST)),)
	$(GO) test ./savefmt ./xen/record
endif
	GO=$(GO) GOFLAGS="$(FUZZ_TAGS)" scripts/fuzz.sh 2000x

FUZZTIME  ?= 5m
FUZZ_TAGS := -tags=$(subst $(empty) $(empty),$(comma),$(filter libzstd ipsecmb,$(TAG_LIST)))
fuzz: ## every decoder with random input, FUZZTIME=5m each
	GO=$(GO) GOFLAGS="$(FUZZ_TAGS)" scripts/fuzz.sh $(FUZZTIME)

faults: ## every fault at every point of a migration, singly, and 50,000 pairs of them
	$(GO) test ./xen/faults -v -all -seeds 50000 -timeout 20m

KILLS ?= 1000
kills: ## programs that share memory killed and stopped, KILLS=1000 times, on a simulated host and by themselves
	$(GO) test ./cmd/xenferry -run SharersKilled -v -rounds $(KILLS) -timeout 60m
	$(GO) test ./evtchn -run TestKills -v -rounds $(KILLS) -timeout 20m

bench-downtime: ## the downtime of a simulated guest of 2 GiB that writes 100 MB/s, 20 moves; CHECK=1 fails where the bar is missed
	$(GO) test $(TAGS) ./cmd/xenferry -run '^TestDowntime$$' -v -downtimes 20 -timeout 30m

.PHONY: bench
bench: ## Go benchmarks of the page path, each for a moment
	$(GO) test -run '^$$' $(TAGS) -bench . -benchtime 300ms ./savefmt ./xen ./xen/record

lint: ## gofmt, vet and staticcheck, with and without the libraries in C; shellcheck
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "gofmt: $$out"; exit 1; }
	$(GO) vet ./... && $(GO) vet -tags lab ./scripts/...
	$(STATICCHECK) ./...
	$(STATICCHECK) -tags lab ./scripts/...
ifneq ($(TAGS),)
	$(GO) vet $(TAGS) ./... && $(STATICCHECK) $(TAGS) ./...
endif
ifneq ($(filter xen,$(TAG_LIST)),)
	$(GO) vet $(TAGS),lab ./xen/xl && $(STATICCHECK) $(TAGS),lab ./xen/xl
endif
	@if command -v shellcheck >/dev/null; then shellcheck $$(git ls-files '*.sh'); else echo "shellcheck is not installed: scripts not checked"; fi

bench-peers: ## xenferry and QEMU 10 side by side on shaped links (root; about 20 minutes)
	tree=$$(scripts/bench/qemu.sh) && $(MAKE) build && $(GO) build -o build/bench ./scripts/bench && \
	  build/bench -qemu "$$tree" -xenferry ./xenferry -out build/bench-peers.json

lab-test: ## real Xen: build the lab once, boot pairs of hosts, run the tests (root; some hours)
	scripts/lab/test.sh

lab-test-long: ## real Xen: saves that end in the middle; PV without shadow paging; a guest whose balloon moves; the cuts of lab-test against stock xl (root; three quarters of an hour)
	XENFERRY_LAB_LONG=1 scripts/lab/test.sh -run 'TestPVStopped|TestHelperEnds|TestBallooned|TestKillsStock' 4.17+4.17

lab-bench: ## real Xen: the total time of xl migrate and xenferry migrate side by side; CHECK=1 fails where a bar is missed (root)
	scripts/lab/bench.sh

lab-bench-signal: ## real Xen 4.17: how soon a suspend is known, by event channel and by watch; saves under load; CHECK=1 fails where a bar is missed (root)
	scripts/lab/bench-signal.sh

lab-bench-downtime: ## real Xen: the downtime of xl migrate and of xenferry migrate, part by part; CHECK=1 fails where a bar is missed (root)
	scripts/lab/bench-downtime.sh

install: build ## install to $(DESTDIR)/usr/bin, with the service that recovers at boot
	install -D -m 755 xenferry $(DESTDIR)/usr/bin/xenferry
	install -D -m 644 scripts/systemd/xenferry-recover.service $(DESTDIR)/usr/lib/systemd/system/xenferry-recover.service

clean: ## remove what was built
	rm -rf xenferry build
