# gotd: `make run` shows it, `make regress` tests it. See README.md.

CARGO ?= cargo
PROFILE ?= release
BIN = $(or $(CARGO_TARGET_DIR),target)/$(PROFILE)

.PHONY: all build install uninstall deb reproducible deny run regress test lint man bench faults floods disk-full conformance c-gotd-suite debian-walk fuzz asan drawing clean install-test-tools

all: build

build:
	@CARGO="$(CARGO)" sh dist/build.sh $(PROFILE)

# DESTDIR and PREFIX say where; /usr/local by default. `make` comes first, as the user who has the compiler.
install uninstall:
	@BIN=$(BIN) sh dist/install.sh $@

# A Debian package in target/, by dpkg-deb alone, and beside it the list of what is linked (CycloneDX).
deb: build
	@BIN=$(BIN) CARGO="$(CARGO)" sh dist/debian/deb.sh target

# Builds the last commit twice, in two directories and otherwise as two builders would, and compares programs and package.
reproducible:
	@CARGO="$(CARGO)" sh dist/reproducible.sh

# Licences, sources and advisories of what is built; needs cargo-deny and, for advisories, a network. See doc/dev/releasing.md.
deny:
	@$(CARGO) deny --version >/dev/null 2>&1 || { echo "make deny: please install cargo-deny (cargo install --locked cargo-deny)" >&2; exit 1; }
	$(CARGO) deny check

# A demo: a scratch directory with a repository, gotd in the foreground as the present user.
run:
	@sh regress/demo/run.sh

# All tests. Installs what they need when run as root, else names it.
regress: install-test-tools
	@sh regress/regress.sh

install-test-tools:
	@sh regress/tools.sh

test:
	$(CARGO) test --workspace --locked

lint: man
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

man:
	mandoc -T lint -W warning man/*.[0-9]

# REPO=path of a bare repository. See regress/bench/README.md.
bench: build
	GOTD_BIN=$(BIN) $(BIN)/bench --repo $(REPO) $(BENCHFLAGS)

# Kills every process of a push at random moments; RUNS of them.
RUNS ?= 500
faults: build
	GOTD_BIN=$(BIN) $(BIN)/faults --runs $(RUNS)

# What an honest client notices while others flood the daemon. `make floods FLOODFLAGS="--stranger 60"`: what one
# stranger can cost it.
floods: build
	GOTD_BIN=$(BIN) $(BIN)/floods $(FLOODFLAGS)

# Fills small file systems at every stage of a push; mounts them in a mount namespace.
disk-full: build
	GOTD_BIN=$(abspath $(BIN)) $(CARGO) test --locked -p regress --test push disk_full:: -- --nocapture

# GIT_TREE=path of a built git source tree; see regress/conformance.sh and regress/conformance.md.
conformance: build
	@sh regress/conformance.sh $(SCRIPTS)

# GOT_TREE=path of a built tree of Game of Trees; see regress/c-gotd-suite.sh and regress/c-gotd-suite.md.
c-gotd-suite: build
	@sh regress/c-gotd-suite.sh $(TARGETS)

# Does on a fresh Debian what doc/five-minutes.md says, in both its ways, with and without systemd; see regress/debian-walk.sh.
debian-walk: deb
	@export DEB=$$(ls -t target/gotd_*.deb | head -n 1) BIN=$(BIN); \
	WAY=package INIT=none sh regress/debian-walk.sh && \
	WAY=install INIT=none sh regress/debian-walk.sh && \
	WAY=install INIT=systemd sh regress/debian-walk.sh && \
	WAY=package INIT=systemd sh regress/debian-walk.sh

# SECONDS for each target; needs cargo-fuzz and a nightly compiler, or RUSTC_BOOTSTRAP=1.
SECONDS ?= 60
fuzz:
	@sh regress/fuzz/run.sh $(SECONDS)

# Makes doc/processes.svg of doc/processes.dot. Both are committed.
drawing:
	@command -v dot >/dev/null || { echo "make drawing: please install graphviz (and fonts-dejavu-core, so that words fit)" >&2; exit 1; }
	dot -Kneato -n -Tsvg doc/processes.dot -o doc/processes.svg

# The files with `unsafe` under AddressSanitizer; see regress/asan.sh.
asan:
	@CARGO="$(CARGO)" sh regress/asan.sh

clean:
	$(CARGO) clean
