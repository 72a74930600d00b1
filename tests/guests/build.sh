#!/usr/bin/env bash
# Builds the Rust guests anew, each beside its source.
set -euo pipefail
cd "$(dirname "$0")"
../../examples/build-guest.sh types
../../examples/build-guest.sh wasi --wasi
../../examples/build-guest.sh command --command
../../examples/build-guest.sh files --command
../../examples/build-guest.sh files --preview1
../../examples/build-guest.sh outgoing --wasi
