#!/usr/bin/env bash
# Shows `make test` on a machine that lacks the packages it needs: names them at once, or installs them. The machine is
# this one under an overlay, from which apt-get removes them; cargo and go are stubs there, which only record their
# calls. The overlay ends with its mount and PID namespaces.
set -euo pipefail
limit=300 # seconds; 40 are usual

fail() {
  printf 'test-needs: %s\n' "$@" >&2
  exit 1
}

# On the machine: creates the namespaces.
start() {
  local outcome=0
  . /etc/os-release
  if [ "$EUID" -ne 0 ] || ! [[ " $ID ${ID_LIKE:-} " =~ \ (debian|ubuntu)\  ]]; then
    echo 'test-needs: SKIPPED: it needs root, on Debian or Ubuntu' >&2
    exit
  fi
  folder=$(mktemp -d)
  trap 'rmdir "$folder"' EXIT
  timeout --foreground --signal=KILL "$limit" \
    unshare --mount --pid --fork --kill-child "$0" in-namespaces "$folder" || outcome=$?
  [ "$outcome" -ne 137 ] || fail "not done after $limit s; can this machine reach its mirror of packages?"
  exit "$outcome"
}

# In the namespaces: mounts the root and enters it, with no more of the checkout than make reads before it builds.
enter() {
  local here root=$1/root
  here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
  mount -t tmpfs -o mode=755 test-needs "$1"
  mkdir "$1"/{upper,work,root}
  mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" test-needs "$root"
  # Read-only, so that no package changes the sysctls of the whole machine.
  mount -t proc -o ro proc "$root/proc"
  mount --rbind /dev "$root/dev"
  # An overlay lacks the mounts below its lower directory, which these two files are in a container.
  cp --dereference --remove-destination /etc/resolv.conf /etc/hosts "$root/etc/"
  mkdir -p "$root/samovar/testbed" "$root/samovar-stubs"
  cp "$here/../Makefile" "$root/samovar/"
  cp -r "$here"/{*.sh,needs.txt,modules} "$root/samovar/testbed/"
  chmod -R a+rX "$root/samovar"
  local variables=(PATH=/samovar-stubs:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root)
  for proxy in http_proxy https_proxy no_proxy; do
    [ -z "${!proxy:-}" ] || variables+=("$proxy=${!proxy}")
  done
  exec chroot "$root" /usr/bin/env -i "${variables[@]}" bash /samovar/testbed/test-needs.sh in-root
}

calls=/samovar-stubs/calls

stub() {
  cat >"/samovar-stubs/$1"
  chmod 755 "/samovar-stubs/$1"
}

# In the root: removes what `make test` needs. Fills `missing` with the packages, except those that apt-get cannot
# remove.
strip() {
  local package state program
  stub cargo <<<"#!/bin/sh
echo cargo >>$calls
exit 1"
  stub go <<<"#!/bin/sh
case \$1 in
  env) echo go1.99.0; echo auto ;;
  version) echo go version go1.99.0 linux/amd64 ;;
  list) echo v1.99.0 ;;
  *) echo go >>$calls; exit 1 ;;
esac"
  # Keeps packages from starting services.
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
  chmod 755 /usr/sbin/policy-rc.d
  missing=()
  while read -r package; do
    state=$(dpkg-query -W -f '${db:Status-Status} ${Essential} ${Priority}' "$package" 2>/dev/null || true)
    case $state in
      installed\ yes* | installed*required) continue ;;
      installed*) DEBIAN_FRONTEND=noninteractive apt-get -qq --yes remove "$package" &>/dev/null || continue ;;
    esac
    missing+=("$package")
    while read -r program; do
      rm -f "/usr/bin/$program" "/usr/sbin/$program" # of another package
    done < <(awk -v package="$package" '$2 == package && $1 !~ /[.\/]/ { print $1 }' needs.txt)
  done < <(awk '!/^#/ && $3 !~ /^(fuzz|bench)$/ && !seen[$2]++ { print $2 }' needs.txt)
  # A container's image has no package lists either.
  rm -rf /var/lib/apt/lists/*
  echo "test-needs: removed ${missing[*]}"
  for package in runc nftables iptables conntrack; do
    [[ " ${missing[*]} " == *" $package "* ]] || fail "this machine cannot be without $package"
  done
}

# try COMMAND...: sets `said`, `code` and `took` (seconds)
try() {
  local started=$SECONDS
  code=0
  said=$("$@" 2>&1) || code=$?
  took=$((SECONDS - started))
}

# says WORDS...: the command failed at once, before anything was built, with one sentence that contains all the words
says() {
  local words
  [ "$code" -ne 0 ] || fail 'make test passes without what it needs:' "$said"
  [ "$took" -le 10 ] || fail "make test takes $took s to say what it needs"
  [ "$(wc -l <<<"$said")" -eq 1 ] || fail 'this is not one sentence:' "$said"
  for words; do [[ $said == *"$words"* ]] || fail "this does not say \"$words\":" "$said"; done
  [ ! -e "$calls" ] || fail "something was built before this was said: $said"
  echo "test-needs: $said"
}

# In the root: runs make as root, as another user, on another distribution, and where it may install.
tests() {
  local package
  cd "$(dirname "${BASH_SOURCE[0]}")"
  strip
  cd /samovar

  try env SAMOVAR_NO_INSTALL=1 make test
  says "(apt-get install ${missing[*]}; SAMOVAR_NO_INSTALL is set)"
  try env SAMOVAR_NO_INSTALL=1 make -j8 test-apiserver test-cluster
  says "(apt-get install ${missing[*]}; SAMOVAR_NO_INSTALL is set)"
  try setpriv --reuid=65534 --regid=65534 --clear-groups make test
  says 'needs root' "(apt-get install ${missing[*]})"
  mv /etc/os-release /etc/os-release.own
  printf 'ID=fedora\nID_LIKE="rhel centos"\n' >/etc/os-release
  try make test
  says "packages of Debian and Ubuntu: ${missing[*]};"
  mv /etc/os-release.own /etc/os-release
  try make -n test
  [ "$code" -eq 0 ] || fail 'make -n test fails:' "$said"
  [ ! -e "$calls" ] || fail 'make -n test builds something'
  for package in "${missing[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" != installed ] || fail "$package is installed too early"
  done

  try make test
  [[ $said != *'apt-get could not'* ]] || fail "this machine's mirror does not have the packages, or cannot be reached:" "$said"
  [ "$(head -n 1 <<<"$said")" = "make test: installing with apt-get: ${missing[*]} (SAMOVAR_NO_INSTALL=1 refuses that)" ] ||
    fail 'this does not begin with what is installed:' "$said"
  for package in "${missing[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package")" = installed ] || fail "$package is not installed:" "$said"
  done
  for package in runc nft iptables conntrack; do
    command -v "$package" >/dev/null || fail "$package is not on the PATH:" "$said"
  done
  [ -e "$calls" ] || fail 'nothing is built once all is installed:' "$said"
  try env SAMOVAR_NO_INSTALL=1 testbed/needs.sh test
  [ "$code.$said" = 0. ] || fail 'still missing:' "$said"
  echo 'test-needs: installed, and then make test builds'
}

case ${1:-} in
  '') start ;;
  in-namespaces) enter "$2" ;;
  in-root) tests ;;
esac
