#!/bin/sh
# First program of a lab host, under catatonit: gives the host a version 2 cgroup tree and becomes sshd.
# Touches only this container's mounts and its own cgroup. lab.py puts it into the host's /etc/lab.
set -e

umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
if [ -e /sys/fs/cgroup/cgroup.type ]; then
    # Not the machine's own root: controllers can be handed on only by a cgroup without processes, so ours go into a leaf.
    mkdir -p /sys/fs/cgroup/host
    while read -r pid; do
        echo "$pid" >/sys/fs/cgroup/host/cgroup.procs 2>/dev/null || true # it may have ended
    done </sys/fs/cgroup/cgroup.procs
    tr ' ' '\n' </sys/fs/cgroup/cgroup.controllers | while read -r controller; do
        echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || true
    done
fi

# The packages that role prerequisites wants are in the image: the lists count as fresh, and apt asks no mirror.
mkdir -p /var/lib/apt/periodic
touch /var/lib/apt/periodic/update-success-stamp /var/lib/apt/lists

mkdir -p /run/sshd
exec /usr/sbin/sshd -D -e -o HostKey=/etc/lab/host_key -o AuthorizedKeysFile=/etc/lab/authorized_keys -o PasswordAuthentication=no
