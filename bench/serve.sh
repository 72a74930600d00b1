#!/usr/bin/env bash
# Compares `type: Http` with `wasmtime serve` of the same wasmtime version: throughput and latency over HTTP on loopback,
# one guest, a fresh instance for each request on both sides. Alternates between the two, so that drift of the machine's
# speed affects both; only the ratios are meaningful. Needs Rust and jq.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${SAMOVAR_CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/samovar}" "${CARGO_TARGET_DIR:=target}"
export CARGO_TARGET_DIR
oha_version=1.16.0
oha=$SAMOVAR_CACHE/tools/oha-$oha_version/bin/oha
wasmtime_version=$(sed -n '/^name = "wasmtime"$/{n;s/^version = "\(.*\)"$/\1/p}' Cargo.lock)
wasmtime=$SAMOVAR_CACHE/tools/wasmtime-$wasmtime_version/bin/wasmtime
seconds=${SECONDS_EACH:-5}
rounds=${ROUNDS:-5}
connections=${CONNECTIONS:-32}
guest=tests/guests/http/http.wasm
testbed/needs.sh bench >&2
[ -x "$oha" ] || cargo install --locked --no-default-features --features rustls --version "$oha_version" --root "$SAMOVAR_CACHE/tools/oha-$oha_version" oha
[ -x "$wasmtime" ] || cargo install --locked --no-default-features --version "$wasmtime_version" --root "$SAMOVAR_CACHE/tools/wasmtime-$wasmtime_version" \
  --features run,serve,cranelift,compile,parallel-compilation,pooling-allocator,component-model,component-model-async,threads,gc,gc-drc wasmtime-cli
[ -n "${BUILT:-}" ] || cargo build --release --workspace --bin samovar

state=$(mktemp -d)
agent=127.0.0.1:${AGENT_PORT:-18080} serve=127.0.0.1:${SERVE_PORT:-18090}
cat >"$state/web.yaml" <<YAML
apiVersion: samovar.dev/v1alpha1
kind: WasmPlugin
metadata: { name: web }
spec: { image: "file:$PWD/$guest", type: Http }
YAML
"$CARGO_TARGET_DIR/release/samovar" run "$state/web.yaml" --listen "$agent" --ops-listen 127.0.0.1:0 --state-dir "$state" >"$state/agent.log" 2>&1 & servers=$!
"$wasmtime" serve -S cli "--addr=$serve" "$guest" >"$state/serve.log" 2>&1 & servers="$servers $!"
trap 'kill $servers 2>/dev/null; rm -rf "$state"' EXIT
timeout 60 sh -c "until grep -q ready '$state/agent.log' && grep -q Serving '$state/serve.log'; do sleep 0.05; done"
head -c 1024 /dev/zero | tr '\0' x >"$state/body"

declare -A url=([samovar]=http://$agent/v1/default/web [wasmtime]=http://$serve)
declare -A path=([no-op]=/ [echo]=/echo)
# load SERVER REQUEST [oha's arguments]: prints requests per second, p50 and p99 in microseconds, success rate
load() {
  local at=${url[$1]}${path[$2]} body=()
  [ "$2" = no-op ] || body=(-m POST -D "$state/body")
  shift 2
  "$oha" --no-tui --output-format json -z "${seconds}s" "${body[@]}" "$@" "$at" |
    jq -r '[.summary.requestsPerSec, .latencyPercentiles.p50 * 1e6, .latencyPercentiles.p99 * 1e6, .summary.successRate] | map(tostring) | join(" ")'
}
# median FILE COLUMN: prints the median of a column
median() { cut -d' ' -f"$2" "$1" | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# measure NAME REQUEST [oha's arguments]: runs the rounds and prints both servers' medians and their ratios
measure() {
  local name=$1 request=$2 server
  shift 2
  for _ in $(seq "$rounds"); do
    for server in samovar wasmtime; do
      load "$server" "$request" "$@" >>"$state/$name.$server"
    done
  done
  for server in samovar wasmtime; do
    printf '%-24s %-9s %8.0f/s  p50 %7.0f us  p99 %7.0f us  success %s\n' "$name" "$server" \
      "$(median "$state/$name.$server" 1)" "$(median "$state/$name.$server" 2)" "$(median "$state/$name.$server" 3)" "$(sort -n -k4 "$state/$name.$server" | head -1 | cut -d' ' -f4)"
  done
  awk -v s="$(median "$state/$name.samovar" 1)" -v w="$(median "$state/$name.wasmtime" 1)" \
    -v ps="$(median "$state/$name.samovar" 3)" -v pw="$(median "$state/$name.wasmtime" 3)" -v name="$name" 'BEGIN {
    printf "%-24s samovar / wasmtime serve: %.2f of its throughput, %.2f of its p99\n", name, s / w, ps / pw
  }'
}

for request in no-op echo; do
  measure "$request, saturated" "$request" -c "$connections"
  half=$(awk -v rate="$(median "$state/$request, saturated.wasmtime" 1)" 'BEGIN { print int(rate / 2) }')
  measure "$request, at $half a second" "$request" -c "$connections" -q "$half" --latency-correction
  measure "$request, 1 connection" "$request" -c 1
done
