# The front door. `make` alone prints this list.
SHELL := /bin/bash
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
CARGO ?= cargo

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

# ── a new machine ────────────────────────────────────────────────────────────────────────────────────────────────

BUILD_PACKAGES := gcc libc6-dev protobuf-compiler libprotobuf-dev
TEST_PACKAGES := etcd-server etcd-client postgresql postgresql-client haproxy openssh-server openssh-client sudo python3 python3-venv
LAB_PACKAGES := systemd-container debootstrap iproute2 nftables util-linux procps
installed = dpkg-query -W -f '$${db:Status-Status}\n' $(1) 2>/dev/null | grep -cx installed
define need
	@[ "$$($(call installed,$(1)))" = $(words $(1)) ] || { \
	  mkdir -p target; $(SUDO) scripts/no-services.sh on; \
	  $(SUDO) apt-get -qq update && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $(1) > target/setup.log 2>&1; \
	  status=$$?; $(SUDO) scripts/no-services.sh off; [ $$status = 0 ] || { tail -n 20 target/setup.log; exit $$status; }; }
endef

setup-build: ## install what the build needs
	$(call need,$(BUILD_PACKAGES))

setup: setup-build ## install what build, tests and lab need
	$(call need,$(TEST_PACKAGES) $(LAB_PACKAGES))

setup-guest: setup ## unpack what the emulated host of the guest tier boots from
	$(SUDO) scripts/guest-packages.sh $(CURDIR)/target/guest

# ── build ────────────────────────────────────────────────────────────────────────────────────────────────────────

TRIPLE := x86_64-unknown-linux-gnu

build: setup-build ## one static release binary: target/keddah
	$(CARGO) build --release --locked
	install -D -m 0755 target/$(TRIPLE)/release/keddah target/keddah

# ── checks ───────────────────────────────────────────────────────────────────────────────────────────────────────

check: setup-build ## format, lints
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

test: setup check test-unit test-sim test-local test-guest test-lab ## everything

test-unit: setup-build ## pure functions, house rules, the binary as a user sees it
	$(CARGO) test --locked --lib --bins --test tidy --test cli --test modules --test contract

test-sim: setup-build ## the decision core against a simulated world
	$(CARGO) test --locked --test sim

sim-faults: setup-build ## as many simulated faults as FAULTS says (100000), with an account of them
	FAULTS=$(or $(FAULTS),100000) $(CARGO) test --locked --test sim seeds::seeds -- --nocapture

# Servers that are killed leave shared memory behind, of which the kernel has a limited number: it goes with the namespace.
test-local: setup ## real etcd, Postgres and sshd on loopback
	unshare --ipc $(CARGO) test --locked --test local -- --test-threads 2

test-guest: setup-guest ## an emulated host whose kernel has a watchdog, which resets it
	$(CARGO) test --locked --test guest -- --test-threads 2

test-lab: setup build ## systemd hosts, playbooks over SSH, failures of whole hosts
	KEDDAH=$(CURDIR)/target/keddah $(CARGO) test --locked --test lab -- --test-threads 1


# ── the main job ─────────────────────────────────────────────────────────────────────────────────────────────────

KEDDAH := target/keddah

demo: build ## from bare hosts to a cluster that fails over, on this machine
	$(SUDO) $(KEDDAH) lab up
	$(SUDO) $(KEDDAH) apply -i inventory/lab playbooks/site.yml
	@$(SUDO) $(KEDDAH) list -i inventory/lab
	@echo; echo "Through HAProxy (superuser postgres, password keddah_superuser_password in inventory/lab/group_vars/all/secrets.yml):"
	@$(SUDO) $(KEDDAH) lab status | awk '$$3 == "haproxy" { printf "  %s  read-write %s:5000  read-only %s:5001  stats http://%s:7000/\n", $$1, $$2, $$2, $$2 }'
	@echo; echo "Next:"
	@echo "  sudo $(KEDDAH) switchover -i inventory/lab                       move the leader"
	@echo "  sudo $(KEDDAH) lab kill db1 && sudo $(KEDDAH) list -i inventory/lab    a host dies"
	@echo "  sudo $(KEDDAH) lab heal                                          and comes back"
	@echo "  sudo $(KEDDAH) check -i inventory/lab playbooks/site.yml         has anything drifted?"
	@echo "  make demo-down                                                 take it all away"

demo-down: ## take the demo's hosts away
	$(SUDO) $(KEDDAH) lab down

bench: build ## the product's figures, beside the tools it is compared with
	$(SUDO) env KEDDAH=$(CURDIR)/$(KEDDAH) bench/run.py $(FIGURES)

.PHONY: bench sim-faults help setup setup-build setup-guest build check test test-unit test-sim test-local test-guest test-lab demo demo-down
