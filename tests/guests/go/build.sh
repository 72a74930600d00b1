#!/usr/bin/env bash
# build.sh FILE: builds the Go reactor into FILE. It has 2 MB, so it is built where it is needed and not kept beside its source.
set -euo pipefail
out=$(realpath -m "${1:?usage: build.sh FILE}")
cd "$(dirname "$0")"
GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -trimpath -ldflags='-s -w' -o "$out" .
