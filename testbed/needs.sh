#!/usr/bin/env bash
# needs.sh TARGET...: checks for the programs that these make targets run and do not build (needs.txt), before they
# build anything. As root on Debian or Ubuntu it installs the missing packages, unless SAMOVAR_NO_INSTALL is set. If
# something is still missing, it prints one sentence that says what to install, and fails. Progress goes to stderr.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PATH=$PATH:/usr/sbin:/sbin # as the Makefile has it

groups=
for target; do
  case $target in
    help | test-needs) ;;
    fmt | fmt-check) groups+=' rust' ;;
    testbed | test-chart | chart-readme) groups+=' go bed' ;;
    test-apiserver) groups+=' rust build go bed' ;;
    test-standalone) groups+=' rust build go bed standalone' ;;
    test | test-cluster)
      groups+=' rust build go bed standalone images client'
      [ "$("$here/with-cluster.sh" --which)" != bed ] || groups+=' nodes'
      ;;
    cluster-up) groups+=' rust build go bed images client nodes' ;;
    images) groups+=' rust build images' ;;
    fuzz | bench) groups+=" rust build $target" ;;
    *) groups+=' rust build' ;;
  esac
done

wanted() { [[ " $groups " == *" $1 "* ]]; }

# From 1.21 on Go downloads the version that a module names, unless GOTOOLCHAIN is local.
go_suffices() {
  local version toolchain oldest=1.21
  { read -r version; read -r toolchain; } < <(cd / && go env GOVERSION GOTOOLCHAIN) || return
  [ "$toolchain" != local ] || oldest=$go_version
  printf '%s\n' "$oldest" "${version#go}" | sort --check=quiet --version-sort
}

has() {
  case $1 in
    /*) [ -e "$1" ] ;;
    *.[ao])
      if has cc; then [ -e "$(cc -print-file-name="$1")" ]; else [ -e "/usr/lib/$(uname -m)-linux-gnu/$1" ]; fi
      ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

# Fills `programs` with the missing ones, and `packages` with theirs.
look() {
  programs=() packages=()
  local program package of group
  while read -r program package of; do
    for group in $of; do
      if ! wanted "$group" || has "$program"; then continue; fi
      programs+=("$program")
      [[ " ${packages[*]} " == *" $package "* ]] || packages+=("$package")
      break
    done
  done < <(grep -v '^#' "$here/needs.txt")
}

is_debian() (
  # shellcheck source=/dev/null
  . /etc/os-release 2>/dev/null && [[ " $ID ${ID_LIKE:-} " =~ \ (debian|ubuntu)\  ]] && has apt-get
)

# Bounds each wait: for a mirror, and for the lock of another apt-get, such as Ubuntu's unattended upgrade on a new
# machine. Suspends needrestart, which would restart services.
apt_get() {
  DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 apt-get --yes --quiet=2 \
    -o Acquire::Retries=2 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 -o DPkg::Lock::Timeout=120 \
    -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold "$@" </dev/null >/dev/null
}

# Updates the package lists only where it must: a new machine has none, and old ones name files that a mirror has
# deleted.
install() {
  echo "make $targets: installing with apt-get: $* (SAMOVAR_NO_INSTALL=1 refuses that)" >&2
  if apt_get --simulate install "$@" 2>/dev/null && apt_get --no-install-recommends install "$@"; then return; fi
  apt_get update || true # the list that fails may be of another mirror
  apt_get --no-install-recommends install "$@"
}

targets=$*
lacking=()
go_version=$(sed -n 's/^go //p' "$here"/modules/*/go.mod | sort --version-sort | tail -n 1)
if wanted rust && ! has cargo; then
  lacking+=('Rust (https://rustup.rs; rust-toolchain.toml names the version)')
fi
if wanted go && ! { has go && go_suffices; }; then
  lacking+=("Go $go_version or newer (https://go.dev/dl)")
fi
if wanted nodes && [ "$EUID" -ne 0 ]; then
  lacking+=('root, for the Kubernetes that it starts on this machine (use sudo, or a cluster of yours with SAMOVAR_TEST_CLUSTER=existing)')
fi
if wanted nodes && ! grep -qw overlay /proc/filesystems && ! modprobe --dry-run --quiet overlay; then
  lacking+=('overlayfs in the kernel (modprobe overlay)')
fi
if wanted nodes && [ ! -e /proc/sys/net/bridge ] && ! modprobe --dry-run --quiet br_netfilter; then
  lacking+=('netfilter on bridges in the kernel (modprobe br_netfilter)')
fi

look
if [ "${#packages[@]}" -gt 0 ]; then
  how="packages of Debian and Ubuntu: ${packages[*]}; install what your system calls them"
  if is_debian; then
    how="apt-get install ${packages[*]}"
    if [ -n "${SAMOVAR_NO_INSTALL:-}" ]; then
      how+='; SAMOVAR_NO_INSTALL is set'
    elif [ "$EUID" -eq 0 ] && [ "${#lacking[@]}" -eq 0 ]; then
      install "${packages[@]}" || true # the next line finds what is still missing
      look
      how='apt-get could not install that, and says above why'
    fi
  fi
  missing=${programs[*]}
  [ -z "$missing" ] || lacking+=("${missing// /, } ($how)")
fi

if [ "${#lacking[@]}" -gt 0 ]; then
  printf 'make %s needs %s' "$targets" "${lacking[0]}"
  [ "${#lacking[@]}" -eq 1 ] || printf '; and %s' "${lacking[@]:1}"
  printf '\n'
  exit 1
fi
