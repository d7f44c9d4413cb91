#!/usr/bin/env bash
# The whole gate: formatting, lints, documentation, and every test. Installs what the tests need when it is missing.
set -euo pipefail
cd "$(dirname "$0")"

install() { # install PACKAGE USER: Debian's package, and who needs it
  echo "installing $1 for $2"
  if command -v apt-get >/dev/null; then
    as_root=""; [ "$(id -u)" = 0 ] || as_root=sudo
    $as_root apt-get update -q && $as_root apt-get install -y -q $1
  else
    echo "please install what Debian calls \`$1\`: $2 need it" >&2
    exit 1
  fi
}
need() { # need COMMAND PACKAGE: a program, and Debian's package of it
  command -v "$1" >/dev/null || install "$2" "tests that run \`$1\`"
}
need cc gcc
need nm binutils
# Code for other machines is run in an emulator.
need qemu-aarch64 qemu-user
need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu
need riscv64-linux-gnu-gcc gcc-riscv64-linux-gnu
need x86_64-w64-mingw32-gcc gcc-mingw-w64-x86-64
need wine "wine wine64"
need spirv-val spirv-tools
# The shaders in `shaders/` are compiled again and compared with what is checked in. Where CI has another library of shaderc, say where.
if [ -z "${SHADERC_LIB_DIR:-}" ]; then
  need ar binutils
  [ -f /usr/include/shaderc/shaderc.h ] || install libshaderc-dev "tests that compile shaders"
  export SHADERC_LIB_DIR="$PWD/target/shaderc"
  [ -f "$SHADERC_LIB_DIR/libshaderc_combined.a" ] || shaders/archive.sh "$SHADERC_LIB_DIR"
fi
# The C host of artefacts for Vulkan is built.
[ -f /usr/include/vulkan/vulkan.h ] || install libvulkan-dev "tests that build the host of artefacts for Vulkan"
# `dump --format html` is opened in a browser.
need chromium chromium
# A Vulkan that runs on the CPU, and the layers that check every call: with them no test of the GPU backend is skipped.
shopt -s nullglob
lavapipe=(/usr/share/vulkan/icd.d/lvp* /usr/local/share/vulkan/icd.d/lvp* /etc/vulkan/icd.d/lvp*)
layers=(/usr/share/vulkan/explicit_layer.d/VkLayer_khronos_validation* /etc/vulkan/explicit_layer.d/VkLayer_khronos_validation*)
shopt -u nullglob
if [ "$(uname)" = Linux ]; then
  [ ${#lavapipe[@]} -gt 0 ] || install mesa-vulkan-drivers "the tests of the Vulkan backend"
  [ ${#layers[@]} -gt 0 ] || install vulkan-validationlayers "the tests of the Vulkan backend"
  ldconfig -p 2>/dev/null | grep -q libvulkan.so.1 || install libvulkan1 "the tests of the Vulkan backend"
fi

# Random graphs are new on every run, but in CI the same each time, so that a change is judged by itself.
if [ -n "${CI:-}" ]; then export PROPTEST_RNG_SEED=20261123; fi

cargo fmt --all --check
cargo clippy --workspace --all-targets -- -D warnings
cargo clippy --no-default-features --lib --bins -- -D warnings
RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps --document-private-items --quiet
cargo test -p netloom -p netloom-ir --lib --bins --tests --examples --no-fail-fast
cargo test -p netloom -p netloom-ir --doc
cargo test -p netloom-shaders --lib --tests
# Readers of untrusted files were given damaged ones above (tests/readers.rs). Where cargo-fuzz and a nightly compiler are, libFuzzer looks further,
# a minute for each reader.
if [ -z "${CI:-}" ] && cargo fuzz --version >/dev/null 2>&1 && rustup toolchain list | grep -q nightly; then
  for target in onnx safetensors npz text; do
    cargo +nightly fuzz run --fuzz-dir tests/fuzz "$target" -- -max_total_time=60 -rss_limit_mb=2048
  done
fi
echo "all tests passed"
