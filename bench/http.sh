#!/usr/bin/env bash
# Compares throughput and latency over HTTP on loopback with a hyper server that does nothing. Alternates between the two,
# so that drift of the machine's speed affects both; only the ratios are meaningful. Needs Rust and jq.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${SAMOVAR_CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/samovar}" "${CARGO_TARGET_DIR:=target}"
export CARGO_TARGET_DIR
version=1.16.0
oha=$SAMOVAR_CACHE/tools/oha-$version/bin/oha
seconds=${SECONDS_EACH:-5}
rounds=${ROUNDS:-3}
connections=${CONNECTIONS:-32}
testbed/needs.sh bench >&2
[ -x "$oha" ] || cargo install --locked --no-default-features --features rustls --version "$version" --root "$SAMOVAR_CACHE/tools/oha-$version" oha
cargo build --release --workspace --bin samovar --bin empty-server
bin=$CARGO_TARGET_DIR/release

state=$(mktemp -d)
empty=127.0.0.1:${EMPTY_PORT:-18070} agent=127.0.0.1:${AGENT_PORT:-18080}
"$bin/empty-server" "$empty" >"$state/empty.log" & servers=$!
"$bin/samovar" run examples/hello/hello.wat --listen "$agent" --ops-listen 127.0.0.1:0 --state-dir "$state" >"$state/agent.log" & servers="$servers $!"
trap 'kill $servers 2>/dev/null; rm -rf "$state"' EXIT
for log in empty agent; do
  timeout 30 sh -c "until grep -q ready '$state/$log.log'; do sleep 0.05; done"
done

# load URL [oha's arguments]: prints calls per second, p99 in microseconds, success rate
load() {
  local url=$1; shift
  "$oha" --no-tui --output-format json -z "${seconds}s" -c "$connections" -m POST -T application/json -d '[2,40]' "$@" "$url" |
    jq -r '[.summary.requestsPerSec, (.latencyPercentiles.p99 * 1e6), .summary.successRate] | map(tostring) | join(" ")'
}
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
empty_url=http://$empty/ agent_url=http://$agent/v1/default/hello/add

for round in $(seq "$rounds"); do
  read -r calls _ _ < <(load "$empty_url"); echo "$calls" >>"$state/empty.rps"
  read -r calls _ rate < <(load "$agent_url"); echo "$calls" >>"$state/agent.rps"
  echo "round $round, saturated: empty $(tail -1 "$state/empty.rps") calls/s, samovar $calls calls/s, success $rate"
done
empty_rps=$(median <"$state/empty.rps") agent_rps=$(median <"$state/agent.rps")
half=$(awk "BEGIN { print int($agent_rps / 2) }")
for round in $(seq "$rounds"); do
  read -r _ p99 _ < <(load "$empty_url" -q "$half" --latency-correction); echo "$p99" >>"$state/empty.p99"
  read -r _ p99 _ < <(load "$agent_url" -q "$half" --latency-correction); echo "$p99" >>"$state/agent.p99"
  echo "round $round, at $half calls/s: p99 empty $(tail -1 "$state/empty.p99") us, samovar $p99 us"
done
awk -v a="$agent_rps" -v e="$empty_rps" -v pa="$(median <"$state/agent.p99")" -v pe="$(median <"$state/empty.p99")" 'BEGIN {
  printf "throughput, samovar / empty: %.2f (target: at least 0.5)\n", a / e
  printf "p99 at half of saturation, samovar / empty: %.2f (target: at most 3)\n", pa / pe
}'
