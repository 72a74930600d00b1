#!/usr/bin/env bash
# Fuzzes what strangers write and Samovar reads: each target of this folder for so many seconds, as many at once as there
# are processors. `fuzz/run.sh SECONDS`, with cargo-fuzz on the PATH. What breaks one is printed, and kept.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:?how many seconds for each target}
target=$(rustc -vV | sed -n 's/^host: //p')
# cargo-fuzz wants a nightly compiler for its flags. Rust that is safe gains nothing from a sanitizer.
export RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}-fuzz
# As in the Makefile: it tells this checkout's own crate apart in a build directory that checkouts share.
[ -z "${CARGO_PROFILE_DEV_CODEGEN_UNITS:-}" ] || export CARGO_PROFILE_RELEASE_CODEGEN_UNITS=$CARGO_PROFILE_DEV_CODEGEN_UNITS
cargo-fuzz build --fuzz-dir . --sanitizer none

found=$(mktemp -d)
fuzz() {
  local at=$found/$1
  mkdir -p "$at/grown" "$at/broken"
  if "$CARGO_TARGET_DIR/$target/release/$1" "$at/grown" "corpus/$1" -max_total_time="$seconds" -timeout=10 \
    -rss_limit_mb=2048 -artifact_prefix="$at/broken/" -verbosity=1 >"$at/log" 2>&1; then
    printf '%-10s %s\n' "$1" "$(grep '^Done' "$at/log")"
  else
    tail -n 40 "$at/log" >&2
    echo "$1 is broken; what breaks it is in $at/broken. Make a test of it." >&2
    return 1
  fi
}
export -f fuzz
export found seconds target
cargo-fuzz list --fuzz-dir . | xargs -P "$(nproc)" -I{} bash -c 'fuzz {}'
rm -r "$found"
