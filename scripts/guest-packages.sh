#!/bin/sh
# What the guest of tests/guest is made of, unpacked into a folder and installed nowhere: a kernel with a watchdog of
# its own, the programs of its init, and QEMU where this machine has none.
# guest-packages.sh FOLDER
set -eu
folder=$1
[ ! -e "$folder/complete" ] || exit 0
rm -rf "$folder"
mkdir -p "$folder/archives/partial" "$folder/root"
cd "$folder/archives"
apt() { apt-get -qq -o APT::Sandbox::User=root -o Dir::Cache::archives="$PWD" -o Debug::NoLocking=1 "$@"; }
apt-get -qq update
kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: //p')
apt download "$kernel" busybox-static
command -v qemu-system-x86_64 > /dev/null || apt -y --no-install-recommends --download-only install qemu-system-x86 > /dev/null
for package in *.deb; do dpkg-deb -x "$package" "$folder/root"; done
rm -rf "$folder/archives"
: > "$folder/complete"
