#!/usr/bin/env bash
# Checks the chart without a cluster: lint, unit tests, and the table of values in its README. Needs helm, helm-unittest
# and helm-docs on the PATH (`make test-chart` puts them there). The apiserver tests apply its objects to an API server,
# the cluster tests run them.
set -euo pipefail
cd "$(dirname "$0")"

work=$(mktemp -d)
trap 'rm -rf "$work"; rmdir samovar/tests/__snapshot__ 2>/dev/null || true' EXIT

helm lint --strict --quiet samovar || { helm lint --strict samovar; exit 1; }
helm-unittest samovar

cp samovar/README.md "$work/README.md"
helm-docs --chart-search-root samovar --log-level warning
cmp -s "$work/README.md" samovar/README.md || {
  diff -u "$work/README.md" samovar/README.md || cp "$work/README.md" samovar/README.md
  echo 'The table of values in charts/samovar/README.md is out of date: run `make chart-readme` and commit it.' >&2
  exit 1
}
