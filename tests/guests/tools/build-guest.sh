#!/usr/bin/env bash
# build-guest.sh FOLDER [--wasi|--command|--preview1]: builds the Rust component in FOLDER (a crate with its WIT, or a
# program) into FOLDER/<crate>.wasm; with --preview1, the program in FOLDER as a core module into FOLDER/<crate>.preview1.wasm.
#
# With rustup it uses the target wasm32-wasip2, whose linker makes the component. Where that target is not installed and
# cannot be had, it uses Debian's own Rust for WebAssembly:
#   apt-get install rustc-web rust-web-src cargo-web wasi-libc lld-19
# There, --wasi says that the guest uses files, time or other things of its host, and --command that it is a program;
# without either, its std knows no host.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(cd "$1" && pwd)
name=$(sed -n 's/^name = "\(.*\)"$/\1/p' "$folder/Cargo.toml" | head -1)
# The checkout's own, as in the Makefile. Guests are workspaces of their own, which a shared build directory would mix up.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$(cd "$here/../../.." && pwd)/target}/guests
unset CARGO_BUILD_BUILD_DIR
cd "$folder"

# A panic names its source file, but not where that lies on the machine that built it.
flags=("--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}/registry/src/=")

# A cdylib's file has no hash in its name: one that a guest of the same name elsewhere left would pass for this guest's.
rm -f "$CARGO_TARGET_DIR"/*/release/deps/"${name//-/_}.wasm"

made=$name.wasm
with_rustup=wasm32-wasip2
if [ "${2:-}" = --preview1 ]; then
  made=$name.preview1.wasm
  with_rustup=wasm32-wasip1
fi

if rustup target list --installed 2>/dev/null | grep -qx "$with_rustup"; then
  CARGO_ENCODED_RUSTFLAGS=${flags[0]} cargo build --release --target "$with_rustup"
  cp "$CARGO_TARGET_DIR/$with_rustup/release/$name.wasm" "$made"
elif [ -x /usr/bin/rustc ] && command -v wasm-ld-19 >/dev/null; then
  target=wasm32-unknown-unknown
  flags+=(-Clinker=wasm-ld-19)
  if [ -n "${2:-}" ]; then
    target=wasm32-wasip1
    libc=/usr/lib/wasm32-wasi
    start=${2#--}
    start=${start/preview1/command}
    flags+=(-Clink-self-contained=no "-Lnative=$libc" "-Clink-arg=$libc/crt1-${start/wasi/reactor}.o")
  fi
  RUSTUP_TOOLCHAIN='' RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && echo "${flags[*]}") \
    /usr/bin/cargo build --release --target "$target" -Zbuild-std=std,panic_abort
  built=$CARGO_TARGET_DIR/$target/release/$name.wasm
  if [ "${2:-}" = --preview1 ]; then
    cp "$built" "$made"
  else
    cargo run --release --quiet --manifest-path "$here/componentize/Cargo.toml" -- "$built" "$made" "${2:-}"
  fi
else
  echo "building a guest needs Rust's WebAssembly target: rustup target add $with_rustup" >&2
  exit 1
fi
ls -l "$made"
