#!/usr/bin/env bash
# Makes one root file system of the lab with mmdebstrap: a lab host's, or the engine's.
# Usage: images.sh host|engine FOLDER. Touches FOLDER, which it makes. lab.py calls it in a mount namespace of its own,
# so that an interrupted run leaves no mount, and turns FOLDER into an image.
set -euo pipefail

kind=$1 root=$2
suite=forky # the first Debian whose CRIU (4.2) and podman (5.8) restore a server on kernels from 6.16 on

# What a GPU host would have before this collection comes to it ...
host_packages=podman,crun,netavark,aardvark-dns,nftables,iptables,iproute2,openssh-server,python3,python3-apt
host_packages+=,curl,ca-certificates,catatonit,procps,kmod
# ... and what role prerequisites installs on it over SSH: downloaded only, so that it takes seconds and no network.
ready_packages=(criu libcriu2 python3-httpx python3-jmespath zstd)
engine_packages=llama.cpp-tools,python3-minimal,catatonit

bootstrap() {
    # Some mirrors' index of a testing suite is past its date; the packages in it are still the signed ones.
    local options=(--mode=root --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"')
    # No fsync for what can be built again, and no documents: both stay in force on the hosts.
    options+=(--dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*')
    if ! mmdebstrap "${options[@]}" --include="$1" "$suite" "$root" 2>"$root.log"; then
        tail -n 20 "$root.log" >&2
        echo "images.sh: mmdebstrap of $suite failed" >&2
        exit 1
    fi
    rm -f "$root.log"
}

configure_host() {
    echo 'Acquire::Check-Valid-Until "false";' >"$root/etc/apt/apt.conf.d/90lab"
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    chroot "$root" apt-get -qq update
    chroot "$root" apt-get -qq install --yes --download-only "${ready_packages[@]}"

    cat >"$root/etc/containers/storage.conf" <<'END'
[storage]
driver = "overlay"
graphroot = "/var/lib/containers/storage"
runroot = "/run/containers/storage"
[storage.options]
additionalimagestores = ["/usr/local/lib/lab-images"]
END
    # The subnets must not be those of the podman outside: with the same ones, published ports break without a word.
    cat >"$root/etc/containers/containers.conf" <<'END'
[containers]
pids_limit = 0
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
default_subnet = "10.214.0.0/24"
default_subnet_pools = [{ base = "10.215.0.0/16", size = 24 }]
END
    mkdir -p "$root/usr/local/lib/lab-images" "$root/srv/models" "$root/etc/lab"
    rm -f "$root"/etc/ssh/ssh_host_* # each host gets its own from lab.py
}

case $kind in
host)
    bootstrap "$host_packages"
    configure_host
    ;;
engine)
    bootstrap "$engine_packages"
    ;;
esac
