#!/usr/bin/env bash
# The whole gate: formatting, lints, documentation, and every test. Installs what the tests need when it is missing.
set -euo pipefail
cd "$(dirname "$0")"

need() { # need COMMAND PACKAGE: a program, and Debian's package of it
  command -v "$1" >/dev/null && return
  echo "installing $2 for \`$1\`"
  if command -v apt-get >/dev/null; then
    as_root=""; [ "$(id -u)" = 0 ] || as_root=sudo
    $as_root apt-get update -q && $as_root apt-get install -y -q "$2"
  else
    echo "please install \`$1\`; the tests of code compiled ahead of time need it" >&2
    exit 1
  fi
}
need cc gcc
need nm binutils
# Code for other machines is run in an emulator.
need qemu-aarch64 qemu-user
need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu
need riscv64-linux-gnu-gcc gcc-riscv64-linux-gnu

# Random graphs are new on every run, but in CI the same each time, so that a change is judged by itself.
if [ -n "${CI:-}" ]; then export PROPTEST_RNG_SEED=20261123; fi

cargo fmt --all --check
cargo clippy --workspace --all-targets -- -D warnings
cargo clippy --no-default-features --lib --bins -- -D warnings
RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps --document-private-items --quiet
cargo test -p netloom -p netloom-ir --lib --bins --tests --examples
cargo test -p netloom -p netloom-ir --doc
echo "all tests passed"
