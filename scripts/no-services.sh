#!/bin/sh
# Debian packages start their services when installed; the tests start their own, so the machine's stay down.
# no-services.sh on | off
set -eu
policy=/usr/sbin/policy-rc.d
mark='# made by keddah: no services while its test packages are installed'
case "$1" in
  on) [ -e "$policy" ] || { printf '#!/bin/sh\n%s\nexit 101\n' "$mark" > "$policy"; chmod 755 "$policy"; } ;;
  off) ! grep -qsF "$mark" "$policy" || rm -f "$policy" ;;
esac
