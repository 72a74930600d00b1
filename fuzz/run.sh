#!/usr/bin/env bash
# Fuzzes what strangers write and Samovar reads: each target of this folder for so many seconds, as many at once as there
# are processors. `fuzz/run.sh SECONDS`, with cargo-fuzz on the PATH. What breaks one is printed, and kept.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:?how many seconds for each target}
target=$(rustc -vV | sed -n 's/^host: //p')
# cargo-fuzz wants a nightly compiler for its flags. Rust that is safe gains nothing from a sanitizer.
export RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}-fuzz
cargo-fuzz build --fuzz-dir . --sanitizer none

found=$(mktemp -d)
fuzz() {
  mkdir -p "$found/$1/grown" "$found/$1/broken"
  "$CARGO_TARGET_DIR/$target/release/$1" "$found/$1/grown" "corpus/$1" -max_total_time="$seconds" -timeout=10 \
    -rss_limit_mb=2048 -artifact_prefix="$found/$1/broken/" -verbosity=1 >"$found/$1/log" 2>&1
}
broken=()
running=()
for name in $(cargo-fuzz list --fuzz-dir .); do
  while [ "$(jobs -pr | wc -l)" -ge "$(nproc)" ]; do wait -n || true; done
  fuzz "$name" &
  running+=("$name=$!")
done
for each in "${running[@]}"; do
  if wait "${each#*=}"; then
    printf '%-10s %s\n' "${each%=*}" "$(grep '^Done' "$found/${each%=*}/log")"
  else
    tail -n 40 "$found/${each%=*}/log" >&2
    broken+=("${each%=*}")
  fi
done
if [ ${#broken[@]} -gt 0 ]; then
  echo "broken: ${broken[*]}; what breaks them is in $found/*/broken. Make a test of it." >&2
  exit 1
fi
rm -r "$found"
