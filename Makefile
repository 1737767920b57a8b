# Fanfare. `make help` lists what there is.

CARGO ?= cargo

.DEFAULT_GOAL := help
# The server that the SDKs and examples are tested with.
SERVER ?= $(CURDIR)/target/debug/fanfare

.PHONY: help run test test-clients test-sdk test-all check bench fuzz loadtest dist test-dist docs book fmt setup setup-build setup-dist setup-test

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: setup-build ## build in release (as root on Debian, installs a missing C compiler) and serve on 127.0.0.1:7070; flags: make run ARGS="--listen 127.0.0.1:7071"
	$(CARGO) run --release --locked -- serve $(ARGS)

test: setup-build setup-test ## set up what the tests need, and run them all
	$(CARGO) test --workspace --locked
	$(CARGO) test --locked --doc
	@$(MAKE) --no-print-directory test-clients test-sdk

test-clients: setup-build setup-test ## test the server with the clients of other systems, as npm has them
	$(CARGO) build --locked
	@for package in tests/clients/*/package.json; do \
	  package=$${package%/*}; \
	  [ $$package/node_modules/.package-lock.json -nt $$package/package-lock.json ] || npm ci --prefix $$package || exit 1; \
	  echo "$$package" && (cd $$package && FANFARE_BIN=$(SERVER) npm run --silent test) || exit 1; \
	done

test-sdk: setup-build setup-test setup-sdk ## test the SDKs in Node, Deno and Python, and two of the examples
	$(CARGO) build --locked
	cd sdk/typescript && npm run --silent check
	cd sdk/typescript && FANFARE_BIN=$(SERVER) npm run --silent test:short
	cd sdk/typescript && FANFARE_BIN=$(SERVER) npm run --silent test:runtimes deno
	FANFARE_BIN=$(SERVER) sdk/python/check.sh
	cd examples && npm run --silent check && FANFARE_BIN=$(SERVER) node test.mjs chat notify

test-all: test ## run all tests, with pages, every runtime and every example
	cd sdk/typescript && FANFARE_BIN=$(SERVER) npm run --silent test
	cd sdk/typescript && FANFARE_BIN=$(SERVER) npm run --silent test:runtimes
	cd examples && FANFARE_BIN=$(SERVER) node test.mjs

check: setup-build ## format, clippy and docs with warnings denied, layers, links, licences
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --locked
	$(CARGO) test --locked --test it -- layers:: links:: words:: dependencies::

bench: setup-build ## run the criterion benches (see benches/README.md)
	$(CARGO) bench --locked

# Each target in turn. What they find by themselves gathers in fuzz/found; fuzz/corpus holds what is worth keeping.
TIME ?= 600
TARGETS ?= $(basename $(notdir $(wildcard fuzz/targets/*.rs)))
fuzz: setup-build ## run the fuzz targets, TIME=600 seconds each (see fuzz/README.md)
	@command -v cargo-fuzz >/dev/null || { echo "cargo-fuzz is needed: cargo install cargo-fuzz --locked" >&2; exit 1; }
	@for target in $(TARGETS); do \
	  mkdir -p fuzz/found/$$target && \
	  $(CARGO) +nightly fuzz run $$target fuzz/found/$$target fuzz/corpus/$$target -- \
	    -max_total_time=$(TIME) -timeout=5 -max_len=65536 || exit 1; \
	done

loadtest: setup-build ## build the load-test harness and list its scenarios
	$(CARGO) build --release --locked --workspace
	./target/release/fanfare-loadtest --help

dist: setup-build setup-dist ## make what is downloaded, in target/dist: archive, Debian package, what the image holds
	@CARGO=$(CARGO) deploy/dist/build.sh

test-dist: setup-dist ## try what make dist made, in a bare Debian (as root)
	@.ci/need debootstrap:debootstrap debootstrap:debian-archive-keyring
	@deploy/dist/test.sh

docs: setup-build ## render the crate's documentation
	$(CARGO) doc --workspace --no-deps --document-private-items --locked
	@echo "see target/doc/fanfare/index.html and docs/"

book: ## render docs/ as a book, in target/book (needs mdbook)
	@command -v mdbook >/dev/null || { echo "mdbook is needed: cargo install mdbook --locked" >&2; exit 1; }
	mdbook build docs

fmt: ## format the code
	$(CARGO) fmt --all

setup: setup-build setup-test ## install what building and testing need (Debian, as root)

# The C compiler links, and builds the allocator and the cryptography.
setup-build:
	@.ci/rust $(CARGO)
	@.ci/need cc:gcc cc:libc6-dev make:make

setup-sdk:
	@node -e 'const [major, minor] = process.versions.node.split("."); process.exit(major > 20 || (major == 20 && minor >= 19) ? 0 : 1)' || \
	  { echo "the SDKs need Node 20.19 or later, and this is $$(node --version): see https://nodejs.org" >&2; exit 1; }
	@for package in sdk/typescript sdk/typescript/test/runtimes examples; do \
	  [ $$package/node_modules/.package-lock.json -nt $$package/package-lock.json ] || npm ci --prefix $$package || exit 1; \
	done
	@python3 -c 'import ensurepip' 2>/dev/null || .ci/need ensurepip:python3-venv

setup-dist:
	@.ci/need curl:curl dpkg-deb:dpkg objdump:binutils pip3:python3-pip python3:python3

# Chromium shows the page; the command line's printed examples are run with curl; haproxy and nginx stand before three
# nodes, and real Redis servers behind them; the load tests drive servers on Node; the examples act from Node and Python;
# types made from docs/openapi.json are compiled, and schemathesis tests a server by it; axe-core checks the page.
setup-test:
	@PATH=$$PATH:/usr/sbin .ci/need chromium:chromium curl:curl haproxy:haproxy nginx:nginx-light node:nodejs npm:npm \
	  pip3:python3-pip python3:python3 redis-cli:redis-tools redis-server:redis-server
	@for peer in docs/examples/package-lock.json loadtest/peers/*/package-lock.json tests/*/package-lock.json; do \
	  peer=$${peer%/*}; \
	  [ $$peer/node_modules/.package-lock.json -nt $$peer/package-lock.json ] || npm ci --prefix $$peer || exit 1; \
	done
	@[ docs/examples/python_modules/redis -nt docs/examples/requirements.txt ] || \
	  python3 -m pip install --quiet --root-user-action ignore --require-hashes --upgrade --target docs/examples/python_modules \
	    -r docs/examples/requirements.txt
	@[ tests/openapi/python_modules/schemathesis -nt tests/openapi/requirements.txt ] || \
	  python3 -m pip install --quiet --root-user-action ignore --require-hashes --only-binary :all: --upgrade \
	    --target tests/openapi/python_modules -r tests/openapi/requirements.txt
