#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Assembles the root folder of the image: the binary, the libraries that it loads, certificates of public authorities, and the
# folders of its unit. Nothing else: no shell, no package manager, no setuid file.
#
#   rootfs.sh BINARY FOLDER [MAX_MIB]
#
# Fails if FOLDER, compressed as a registry keeps it, is larger than MAX_MIB (default 35).
set -eu

binary="$1"
root="$2"
max_mib="${3:-35}"
here="$(cd "$(dirname "$0")" && pwd)"
# "nonroot" of distroless images, so that volumes can be shared with them.
user=65532
certificates=/etc/ssl/certs/ca-certificates.crt

[ -x "$binary" ] || { echo "rootfs.sh: $binary is not a program" >&2; exit 1; }
[ -s "$certificates" ] || { echo "rootfs.sh: install the package ca-certificates first" >&2; exit 1; }
[ ! -e "$root" ] || { echo "rootfs.sh: $root exists; name a new folder" >&2; exit 1; }

install -D -m 0755 "$binary" "$root/usr/bin/llm-lens"
install -D -m 0644 "$certificates" "$root$certificates"
install -D -m 0644 "$here/gateway.yaml" "$root/etc/llm-lens/gateway.yaml"
printf 'llm-lens:x:%s:%s::/var/lib/llm-lens:/nonexistent\n' "$user" "$user" > "$root/etc/passwd"
printf 'llm-lens:x:%s:\n' "$user" > "$root/etc/group"
# Names are looked up as on other systems: the hosts file, then DNS.
printf 'hosts: files dns\n' > "$root/etc/nsswitch.conf"

# Each library at the path where the loader looks for it.
libraries="$(ldd "$binary" | sed -n 's/^[^/]*\(\/[^ ]*\) (0x[0-9a-f]*)$/\1/p')"
for library in $libraries; do
  install -D -m 0755 "$library" "$root$library"
done

# State that outlives the container, logs, the socket of an upgrade, temporary files. New volumes get these owners.
install -d -m 0750 -o "$user" -g "$user" "$root/var/lib/llm-lens" "$root/var/log/llm-lens"
install -d -m 0700 -o "$user" -g "$user" "$root/run/llm-lens"
install -d -m 1777 "$root/tmp"

bytes="$(tar -C "$root" -cf - . | gzip -6 | wc -c)"
echo "$root: $(du -sm --apparent-size "$root" | cut -f1) MiB, compressed $((bytes / 1048576)) MiB of at most $max_mib"
[ "$bytes" -le "$((max_mib * 1048576))" ]
