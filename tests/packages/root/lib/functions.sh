# Stands in for OpenWrt's /lib/functions.sh, of which no registry has the source: of it, what package scripts call, with the same effects.
# shellcheck shell=sh

packaged() { grep -s "^$1" "$IPKG_INSTROOT/usr/lib/opkg/info/wherry.list"; }

default_postinst() {
	if [ -n "$IPKG_INSTROOT" ]; then
		for script in $(packaged /etc/init.d/); do
			/bin/sh "$IPKG_INSTROOT/etc/rc.common" "$IPKG_INSTROOT$script" enable
		done
		return 0
	fi
	for script in $(packaged /etc/uci-defaults/); do
		(. "$script") && rm -f "$script"
	done
	for script in $(packaged /etc/init.d/); do
		"$script" enable
		"$script" start
	done
}

default_prerm() {
	own="$IPKG_INSTROOT/usr/lib/opkg/info/wherry.prerm-pkg"
	[ ! -f "$own" ] || (. "$own")
	for script in $(packaged /etc/init.d/); do
		[ "$PKG_UPGRADE" = 1 ] || "$script" disable
		"$script" stop
	done
}
