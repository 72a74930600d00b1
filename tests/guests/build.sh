#!/usr/bin/env bash
# Builds the Rust guests anew, each beside its source.
set -euo pipefail
cd "$(dirname "$0")"
tools/build-guest.sh types
tools/build-guest.sh wasi --wasi
tools/build-guest.sh command --command
tools/build-guest.sh http
tools/build-guest.sh http3
tools/build-guest.sh files --command
tools/build-guest.sh files --preview1
tools/build-guest.sh outgoing --wasi
