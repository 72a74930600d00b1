#!/usr/bin/env bash
# Runs a command (the cluster tests) with a cluster, and says which: that of KUBECONFIG if SAMOVAR_TEST_CLUSTER=existing,
# else one of kind if Docker works, else the test bed, which the tests start. `with-cluster.sh --which` prints which
# (existing, kind, bed) and runs nothing.
#
# On a cluster that is not the test bed, the tests cannot control nodes and servers: this skips those of on_the_bed, and
# says so.
set -euo pipefail

which=bed
if [ "${SAMOVAR_TEST_CLUSTER:-}" = existing ]; then
  which=existing
elif [ "${SAMOVAR_TEST_CLUSTER:-kind}" = kind ] && command -v kind >/dev/null && docker info >/dev/null 2>&1; then
  which=kind
fi
if [ "$1" = --which ]; then echo "$which"; exit; fi

if [ "$which" = existing ]; then
  echo "cluster tests: on the cluster of KUBECONFIG (${KUBECONFIG:?set KUBECONFIG to the cluster\'s}); on_the_bed is skipped" >&2
  exec "$@" -- --skip on_the_bed
fi

if [ "$which" = kind ]; then
  name=samovar-test-$$
  registry=$name-registry
  echo "cluster tests: on a cluster of kind, $name; on_the_bed is skipped" >&2
  export KUBECONFIG
  KUBECONFIG=$(mktemp)
  trap 'kind delete cluster --name "$name"; docker rm -f "$registry" >/dev/null; rm -f "$KUBECONFIG"' EXIT
  kind create cluster --name "$name" --wait 120s --config - <<'CONFIG'
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
nodes: [{ role: control-plane }, { role: worker }, { role: worker }, { role: worker }]
containerdConfigPatches:
  - |-
    [plugins."io.containerd.grpc.v1.cri".registry]
      config_path = "/etc/containerd/certs.d"
CONFIG
  # On kind's network, nodes, Pods and (on Linux) this machine reach a container at the same address.
  docker run -d --name "$registry" --network kind registry:3 >/dev/null
  address=$(docker inspect -f '{{.NetworkSettings.Networks.kind.IPAddress}}' "$registry"):5000
  for node in $(kind get nodes --name "$name"); do
    docker exec -i "$node" sh -c "mkdir -p /etc/containerd/certs.d/$address && cat >/etc/containerd/certs.d/$address/hosts.toml" \
      <<<"[host.\"http://$address\"]"
  done
  SAMOVAR_TEST_CLUSTER=existing SAMOVAR_TEST_REGISTRY=$address "$@" -- --skip on_the_bed
  exit
fi

echo "cluster tests: on the test bed, which they start on this machine" >&2
exec "$@"
