#!/usr/bin/env bash
# Builds all that the tests run against (Kubernetes, etcd, containerd, CoreDNS, Helm, the distribution registry)
# from the Go modules in modules/, and prints the folder that holds the programs. Kept outside the checkout, one
# folder for each set of versions: a second run only prints. Progress goes to stderr.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
home=${SAMOVAR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/samovar}/testbed

"$here/needs.sh" testbed >&2

# What was built depends on these and on nothing else: the versions, the compiler, and this recipe.
key=$({ cat "$here"/modules/*/go.mod "$here"/modules/*/go.sum "$here/build.sh"; go version; } | sha256sum | cut -c1-16)
built=$home/$key
if [ -d "$built/bin" ]; then echo "$built/bin"; exit 0; fi

# Two builds at once would only take turns at the processor: the second waits, and then finds it done.
mkdir -p "$home"
exec 9>"$home/lock"
flock 9
if [ -d "$built/bin" ]; then echo "$built/bin"; exit 0; fi

work=$(mktemp -d "$home/building.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/bin"

# build MODULE [LINKER FLAGS]: every `tool` of that module's go.mod
build() {
  local started=$SECONDS
  echo "test bed: building $1" >&2
  (
    cd "$here/modules/$1"
    CGO_ENABLED=0 go build -trimpath -tags no_btrfs,no_zfs,no_devmapper -ldflags "-s -w ${2:-}" -o "$work/bin/" tool
  ) >&2
  echo "test bed: $1 took $((SECONDS - started)) s" >&2
}

# Without these an API server says v0.0.0, which clients that look at its version refuse.
version=$(cd "$here/modules/kubernetes" && go list -m -f '{{.Version}}' k8s.io/kubernetes)
IFS=. read -r major minor _ <<<"${version#v}"
stamps=
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  stamps+=" -X $package.gitVersion=$version -X $package.gitMajor=$major -X $package.gitMinor=$minor"
done

build etcd
mv "$work/bin/server" "$work/bin/etcd" # named after the last part of its import path
build registry
build kubernetes "$stamps"
build node
build coredns
build helm
build chart # helm-unittest and helm-docs
# The first process of each Pod, and of each node: Kubernetes' own, which is C.
kubernetes=$(cd "$here/modules/kubernetes" && go list -m -f '{{.Dir}}' k8s.io/kubernetes)
cc -Os -static -DVERSION="$version" -o "$work/bin/pause" "$kubernetes/build/pause/linux/pause.c"

mkdir "$work/whole"
mv "$work/bin" "$work/whole/bin"
mv -T "$work/whole" "$built" # whole or not at all
echo "$built/bin"
