#!/bin/sh
# Says, one line each, what keeps this machine from carrying a lab; exits 1 if anything does. Touches nothing.
problems=0
problem() {
    echo "$1"
    problems=1
}

[ "$(id -u)" = 0 ] || problem "The lab needs root: its hosts are privileged containers, and CRIU works for root only. Run make as root."
command -v apt-get >/dev/null || problem "The lab needs apt: it runs on Debian 12 and 13, and builds its hosts from Debian packages."

config=/boot/config-$(uname -r)
if [ -r /proc/config.gz ]; then
    zcat /proc/config.gz | grep -qx CONFIG_CHECKPOINT_RESTORE=y && found=yes || found=no
elif [ -r "$config" ]; then
    grep -qx CONFIG_CHECKPOINT_RESTORE=y "$config" && found=yes || found=no
else
    [ -e /proc/sys/kernel/ns_last_pid ] && found=yes || found=no # this file exists only with the option
fi
[ "$found" = yes ] || problem "This kernel ($(uname -r)) was built without CONFIG_CHECKPOINT_RESTORE: CRIU cannot work on it."

exit $problems
