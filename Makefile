# Every target brings what it needs: Debian packages, Go, the test hosts' root
# file system, the newest containerd. All of it lands under build/ (or under
# $SEALIFT_CACHE for what several checkouts can share).

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS   += --no-builtin-rules

export PATH        := $(CURDIR)/build/go/bin:$(PATH)
export GOTOOLCHAIN ?= auto
ifeq ($(GOTOOLCHAIN),local)
# An explicit "local" would keep an older Go from fetching the one go.mod names.
export GOTOOLCHAIN := auto
endif
export GOFLAGS     := -buildvcs=false $(filter-out -buildvcs=%,$(GOFLAGS))
export SEALIFT_CACHE ?= $(CURDIR)/build/cache

VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS  := -s -w -X github.com/sealift/sealift/internal/version.Version=$(VERSION)
BINARIES := containerd-shim-sealift-v2 sealiftd sealift
JOBS     ?= $(shell nproc)

PREFIX  ?= /usr/local
DESTDIR ?=
UNITS   ?= /etc/systemd/system

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-13s %s\n", $$1, $$2}'

.PHONY: build
build: bootstrap-go ## the three binaries, into build/bin
	@mkdir -p build/bin
	CGO_ENABLED=0 go build -trimpath -tags no_grpc -ldflags '$(LDFLAGS)' -o build/bin/ ./cmd/containerd-shim-sealift-v2
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o build/bin/ ./cmd/sealiftd ./cmd/sealift

.PHONY: build-faults
build-faults: bootstrap-go # the same with fault points, for tests, into build/faults
	@mkdir -p build/faults
	CGO_ENABLED=0 go build -trimpath -tags no_grpc,faults -ldflags '$(LDFLAGS)' -o build/faults/ ./cmd/containerd-shim-sealift-v2
	CGO_ENABLED=0 go build -trimpath -tags faults -ldflags '$(LDFLAGS)' -o build/faults/ ./cmd/sealiftd ./cmd/sealift

.PHONY: demo
demo: bootstrap build ## an ordinary container, measured; then refused after one changed byte
	@go run ./integration/demo

.PHONY: test
test: bootstrap build build-faults cross vet ## all tests but the slow ones (root; half an hour from nothing)
	@SEALIFT_BUILT=1 go run ./integration/suite -p $(JOBS) -timeout 28m ./...

.PHONY: test-vm
test-vm: bootstrap build build-faults ## tests that need a whole virtual machine
	@SEALIFT_BUILT=1 SEALIFT_TEST=vm go run ./integration/suite -p 1 -timeout 120m -run '^TestVM' ./integration/...

.PHONY: test-long
test-long: bootstrap build build-faults ## soak, full fault matrices, every fuzz target for SEALIFT_FUZZ_TIME, or 5m (hours)
	@SEALIFT_BUILT=1 SEALIFT_TEST=long go run ./integration/suite -p 1 -timeout 12h ./...

.PHONY: bench
bench: bootstrap build ## ratios against the stock shim and sha256sum, into build/bench
	@SEALIFT_BUILT=1 go run ./integration/bench $(BENCH)

.PHONY: client-suite
client-suite: bootstrap build ## containerd's own client tests, stock shim and ours side by side
	@SEALIFT_BUILT=1 go run ./integration/clientsuite

.PHONY: lint
lint: bootstrap-go vet ## go vet, gofmt, golangci-lint with the import rules
	@test -z "$$(gofmt -l $$(git ls-files '*.go' | grep -v '\.pb\.go$$'))" || { gofmt -l $$(git ls-files '*.go' | grep -v '\.pb\.go$$'); exit 1; }
	@GOBIN=$(CURDIR)/build/tools go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI)
	build/tools/golangci-lint run ./...

GOLANGCI     := v2.5.0
PROTOC_GO    := v1.36.12
PROTOC_TTRPC := v1.2.9
PROTOC_GRPC  := v1.6.2

.PHONY: generate
generate: bootstrap-go ## the Go code of the node and peer APIs, from their protos
	@integration/bootstrap.sh protoc
	@GOBIN=$(CURDIR)/build/tools go install google.golang.org/protobuf/cmd/protoc-gen-go@$(PROTOC_GO)
	@GOBIN=$(CURDIR)/build/tools go install github.com/containerd/ttrpc/cmd/protoc-gen-go-ttrpc@$(PROTOC_TTRPC)
	@GOBIN=$(CURDIR)/build/tools go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@$(PROTOC_GRPC)
	PATH=$(CURDIR)/build/tools:$$PATH protoc -I . --go_out=. --go_opt=paths=source_relative \
		--go-ttrpc_out=. --go-ttrpc_opt=paths=source_relative $$(git ls-files 'api/node/*.proto')
	PATH=$(CURDIR)/build/tools:$$PATH protoc -I . --go_out=. --go_opt=paths=source_relative \
		--go-grpc_out=. --go-grpc_opt=paths=source_relative $$(git ls-files 'api/peer/*.proto')

.PHONY: install
install: build ## into $(PREFIX)/bin, with the systemd units (DESTDIR is honoured)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(UNITS)
	install -m 755 $(addprefix build/bin/,$(BINARIES)) $(DESTDIR)$(PREFIX)/bin/
	install -m 644 systemd/*.service $(DESTDIR)$(UNITS)/
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi

.PHONY: uninstall
uninstall: ## what install put there; logs and state under /var/lib/sealift stay
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then systemctl disable --now $(notdir $(wildcard systemd/*.service)) || true; fi
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/bin/,$(BINARIES)) $(addprefix $(DESTDIR)$(UNITS)/,$(notdir $(wildcard systemd/*.service)))

.PHONY: clean
clean: ## remove build/ (and with it the cache, unless SEALIFT_CACHE is elsewhere)
	rm -rf build

.PHONY: vet
vet: bootstrap-go
	go vet ./...

.PHONY: cross
cross: bootstrap-go
	GOOS=linux GOARCH=arm64 CGO_ENABLED=0 go build ./...

.PHONY: bootstrap bootstrap-go
bootstrap-go:
	@integration/bootstrap.sh go
bootstrap:
	@integration/bootstrap.sh test
