# `make vm` takes a fresh checkout to booted kernels; `make help` lists the rest.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
# Each step below is parallel by itself and wants the one before it.
.NOTPARALLEL:
# Kernel builds are not part of this make: neither its flags nor its job server are for them.
unexport MAKEFLAGS MFLAGS
# Tests start dozens of Pythons; each would compile all modules again.
unexport PYTHONDONTWRITEBYTECODE
# The theme of the documentation advertises its successor at each build.
export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help

# The interpreter of the virtual environment: the first of these that is new enough.
PYTHON := python3 python3.14 python3.13 python3.12 python3.11
PYTEST_ARGS ?=

BIN := .venv/bin
# Workers for tests in depth, which often wait for a limit to pass.
IN_DEPTH := $$(($$(nproc) * 2))
# A copy of the pyproject.toml that the environment was made from.
INSTALLED := .venv/pyproject.toml

# A shell function: install Debian packages, as root, through sudo, or say how.
define apt_install
apt_install() {
    local packages=("$$@") as_root=() attempt name
    if ! command -v apt-get >/dev/null; then
        return 1
    fi
    if [ "$$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "missing Debian packages: $${packages[*]}" >&2
            echo "neither root nor sudo here; have root run:" >&2
            echo "  apt-get update && apt-get install --no-install-recommends $${packages[*]}" >&2
            exit 1
        fi
        # sudo forgets the environment; what apt reads from it must get through.
        as_root=(sudo)
    fi
    as_root+=(env DEBIAN_FRONTEND=noninteractive)
    for name in APT_CONFIG http_proxy https_proxy no_proxy; do
        [ -z "$${!name-}" ] || as_root+=("$$name=$${!name}")
    done
    echo "installing Debian packages: $${packages[*]}"
    # Not local: the trap runs when the function is long left.
    log=$$(mktemp)
    trap 'rm -f "$$log"' EXIT
    # apt-get ends an interrupted update in its own way; without this, an installation would begin.
    trap 'exit 130' INT
    for attempt in 1 2 3; do
        if "$${as_root[@]}" apt-get update --quiet >"$$log" 2>&1; then
            break
        elif [ $$attempt -lt 3 ] && grep -qi 'mirror sync in progress' "$$log"; then
            echo "the mirror is being synchronised; trying again in 20 s"
            sleep 20
        else
            # Perhaps the old indexes, or those that did come, are enough.
            grep -E '^(E|W|Err)\b' "$$log" >&2 || cat "$$log" >&2
            break
        fi
    done
    if ! "$${as_root[@]}" apt-get install --yes --quiet --no-install-recommends \
        "$${packages[@]}" >"$$log" 2>&1; then
        tail -n 30 "$$log" >&2
        exit 1
    fi
}
endef

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	echo
	echo "PYTEST_ARGS='-k modprobe -x' goes to pytest, PYTHON=/path/to/python3 makes .venv"

.PHONY: vm
vm: setup ## build the kernels that the store lacks, and run the main tests in guests
	@$(BIN)/kernelvm build
	$(BIN)/pytest -m 'vm and not slow' -n $$(nproc) $(PYTEST_ARGS)

.PHONY: check
check: libfdt for-tests lint ## run everything: lint, unit tests, kernels, tests in guests
	@$(BIN)/pytest -m 'not vm' -n $$(nproc) $(PYTEST_ARGS)
	$(BIN)/kernelvm build
	$(BIN)/pytest -m vm -n $(IN_DEPTH) --spread $(PYTEST_ARGS)

.PHONY: matrix
matrix: libfdt for-tests ## run all tests in guests on all cells; `make check` runs each slow one on two
	@$(BIN)/kernelvm build
	$(BIN)/pytest -m vm -n $(IN_DEPTH) $(PYTEST_ARGS)

.PHONY: lint
lint: $(INSTALLED) ## run ruff, mypy, the import contracts, and check the documentation's links
	@$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/mkdocs build --strict

.PHONY: docs
docs: $(INSTALLED) ## serve the documentation at http://127.0.0.1:8000, built anew at each edit
	@$(BIN)/mkdocs serve

.PHONY: reference
reference: $(INSTALLED) ## write the pages of docs/reference that are made from the code
	@$(BIN)/python -m docs.generate

.PHONY: test
test: setup ## run the unit tests that boot nothing
	@$(BIN)/pytest -m 'not vm and not slow' $(PYTEST_ARGS)

.PHONY: bench
bench: setup ## run the benchmarks
	@$(BIN)/python -m benchmarks

.PHONY: setup
setup: $(INSTALLED) ## install what is missing: Debian packages, and Python's in .venv
	@$(apt_install)
	missing=$$($(BIN)/kernelvm doctor --packages apt)
	[ -n "$$missing" ] || exit 0
	apt_install $$missing || true
	missing=$$($(BIN)/kernelvm doctor --packages apt)
	[ -n "$$missing" ] || exit 0
	$(BIN)/kernelvm doctor >&2 || true
	exit 1

# Its bindings come as source, which wants a compiler and Python.h.
.PHONY: libfdt
libfdt: setup
	@$(apt_install)
	! $(BIN)/python -c 'import libfdt' 2>/dev/null || exit 0
	python=$$(realpath $(BIN)/python)
	include=$$("$$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
	if [ ! -e "$$include/Python.h" ] && [[ "$$python" = /usr/bin/* ]]; then
	    apt_install "$${python##*/}-dev" || true
	fi
	if ! said=$$($(BIN)/python -m pip install --quiet --editable '.[device-tree]' 2>&1); then
	    tail -n 3 <<<"$$said" >&2
	    echo 'no libfdt: the tests that change device trees are skipped' >&2
	fi

# Programs that some tests use, which are skipped without, and their packages.
FOR_TESTS := mkfs.jffs2:mtd-utils mksquashfs:squashfs-tools mke2fs:e2fsprogs \
             bsdtar:libarchive-tools rpmbuild:rpm dtc:device-tree-compiler cpio:cpio
.PHONY: for-tests
for-tests: setup
	@$(apt_install)
	missing=
	for program in $(FOR_TESTS); do
	    PATH="$$PATH:/usr/sbin:/sbin" type -P "$${program%:*}" >/dev/null || missing+=" $${program#*:}"
	done
	[ -z "$$missing" ] || apt_install $$missing || true

$(INSTALLED): pyproject.toml
	@$(apt_install)
	if cmp --quiet $< $@; then
	    touch $@
	    exit 0
	fi
	for python in $(PYTHON) ''; do
	    if [ -z "$$python" ]; then
	        echo 'no Python 3.11 or newer among: $(PYTHON)' >&2
	        echo 'install one (Debian 12: apt-get install python3 python3-venv)' >&2
	        echo 'or name one: make PYTHON=/path/to/python3' >&2
	        exit 1
	    fi
	    ! "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || break
	done
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then
	    package=$$(basename "$$python")-venv
	    echo "$$python lacks ensurepip: $$package comes first, .venv will name the rest"
	    if ! apt_install "$$package"; then
	        echo "install what brings the modules venv and ensurepip to $$python" >&2
	        exit 1
	    fi
	fi
	echo "making .venv with $$("$$python" --version)"
	"$$python" -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	cp $< $@

.PHONY: clean
clean: ## remove .venv and the caches of this checkout; the store of kernels stays
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
