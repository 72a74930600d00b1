# The first process of a node, in namespaces of its own: node-init.sh NAME FOLDER PAUSE
set -e
hostname "$1"
# A kubelet sets sysctls at its start, which belong to the machine and not to the node: bound files show it that they
# are set already.
mkdir -p "$2/sysctl"
for setting in vm/overcommit_memory=1 kernel/panic=10 kernel/panic_on_oops=1 \
  kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
  file=$2/sysctl/$(echo "${setting%=*}" | tr / .)
  echo "${setting#*=}" >"$file"
  mount --bind "$file" "/proc/sys/${setting%=*}"
done
for folder in /run /var/log /var/lib; do mount -t tmpfs -o mode=755 "$1" "$folder"; done
mkdir -p /var/lib/containerd /var/lib/kubelet /run/lock
mount --bind "$2/containerd" /var/lib/containerd
mount --bind "$2/kubelet" /var/lib/kubelet
# Shared, so that the volumes that a kubelet mounts reach the containers.
mount --make-rshared /
: >"$2/booted"
exec "$3"
