# `make demo` shows what this is; `make test` is what CI runs. Both install what they need on a bare Debian 12 or 13 with Go and make.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

export PATH := $(PATH):/usr/local/go/bin
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null)
COMMIT      ?= $(shell git rev-parse HEAD 2>/dev/null)
GOBUILD     := CGO_ENABLED=0 go build -trimpath -buildvcs=false
# Packages with tests that need a systemd have files with the build tag systemd.
SYSTEMD      = $(shell grep -rl --include='*_test.go' '^//go:build systemd' . | xargs -r -n 1 dirname | sort -u)
SYSTEM_TEST  = -count 1 -p 1 -timeout 20m -tags systemd -exec "$(CURDIR)/test/in-systemd"
# The race detector needs a C compiler.
RACE         = $(shell command -v gcc >/dev/null && echo -race)
SCRIPTS      = .ci/run $(shell grep -rlE '^\#!/bin/(ba)?sh|^\# shellcheck shell' --exclude-dir=testdata test packaging)

.PHONY: help build packages test unit system test-trixie test-packages lint vulnerabilities newest fmt fuzz bench demo clean

help: ## Print the targets.
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16

build: ## Build the programs into bin/.
	@mkdir -p bin/test
	$(GOBUILD) -ldflags "-X sdbackup/internal/cli.version=$(VERSION) -X sdbackup/internal/cli.commit=$(COMMIT)" -o bin/ ./cmd/...
	@$(GOBUILD) -o bin/test/ ./test/private-systemd ./test/report ./test/speed

packages: ## Build .deb and .rpm, for amd64 and arm64, into bin/packages/.
	@rm -rf bin/packages
	@packaging/build bin/packages $(VERSION)

test: unit system ## All tests on this machine's Debian.

unit: build ## Tests that need no systemd.
	@test/deps system gateway files ssh prometheus manual $(if $(CI),race)
	go vet ./...
	go vet -tags systemd,packages ./...
	@test/go-test unit $(RACE) -timeout 20m ./...

system: build ## Tests on a private systemd.
	@test/deps system gateway ssh prometheus
	@test/go-test system $(SYSTEM_TEST) $(SYSTEMD)

test-packages: build packages ## The packages: what is in them, and their life from the installation to the purge.
	@test/deps system trees packages
	@test/packages/run

# The gateway's tests, too: with the restic and the rclone of there.
test-trixie: build ## Tests on a private systemd of Debian 13.
	@test/deps system gateway ssh prometheus trees
	@SDBACKUP_TREE=$$(test/tree trixie) test/go-test trixie $(SYSTEM_TEST) $(SYSTEMD) ./internal/gateway

lint: ## Examine Go, shell scripts and go.mod.
	@test/deps lint
	go mod tidy -diff
	test/lint run
	shellcheck -x -P SCRIPTDIR $(SCRIPTS)

vulnerabilities: ## Look for known vulnerabilities in what is used, where their database can be reached.
	@test/vulnerabilities

newest: build ## Tests that need no systemd, with the newest versions of what is used. It changes nothing.
	@test/deps system gateway prometheus manual
	@test/newest

fmt: ## Format Go.
	test/lint fmt

fuzz: ## Every fuzz target, 30 s each; FUZZTIME=5m for longer.
	@test/fuzz

bench: build ## Print how fast it is.
	@test/deps system gateway ssh
	@test/bench

demo: build ## See a timer fire a backup, and restore from it.
	@test/deps system prometheus
	@test/demo

clean: ## Remove what was built, and what is cached.
	rm -rf bin "$${XDG_CACHE_HOME:-$$HOME/.cache}/sdbackup"
