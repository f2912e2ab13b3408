#!/bin/sh
# First program of a lab host, under catatonit: gives the host version 2 cgroups and becomes sshd.
# Touches only this container's mounts. lab.py puts it into the host's /etc/lab.
set -e

# What podman mounted there may be version 1: CRIU would then try to restore cpusets, and fail.
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup

# The packages that role prerequisites wants are in the image: the lists count as fresh, and apt asks no mirror.
mkdir -p /var/lib/apt/periodic
touch /var/lib/apt/periodic/update-success-stamp /var/lib/apt/lists

mkdir -p /run/sshd
exec /usr/sbin/sshd -D -e -o HostKey=/etc/lab/host_key -o AuthorizedKeysFile=/etc/lab/authorized_keys -o PasswordAuthentication=no
