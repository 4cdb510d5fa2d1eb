# Sourced by the init script: from the UCI configuration to settings that are proven good.
# shellcheck shell=sh

SETTINGS=/etc/wherry/settings.json

tell() { logger -t wherry -p "daemon.$1" "$2"; }

# Renders the configuration and puts it in place if it is good and differs from what is there: flash is written only for a change.
# With a bad one there is one error in the log, status 1, and the settings stay as they were.
render_settings() (
	umask 077
	work=$(mktemp -d /tmp/wherry.XXXXXX) || { tell err "cannot make a directory in /tmp"; exit 1; }
	trap 'rm -rf "$work"' EXIT
	if ! /usr/lib/wherry/uci-settings >"$work/settings.json" 2>"$work/fault"; then
		tell err "bad configuration, nothing changed: $(head -n 1 "$work/fault")"
		exit 1
	fi
	if ! wherry validate "$work/settings.json" >"$work/faults" 2>&1; then
		tell err "bad configuration, nothing changed: $(first_fault "$work")"
		exit 1
	fi
	cmp -s "$work/settings.json" "$SETTINGS" || put_in_place "$work"
)

# The first error, without the name of the temporary file. Excerpts of the text, which follow a fault, are indented.
first_fault() {
	grep -e '^[^ ]*: error: ' -e '^wherry: ' "$1/faults" | sed "s|^$1/settings.json: error: ||; s|$1/settings.json|the settings|; q"
}

# Renamed when whole: a router loses power at any moment, and its flash may be full.
put_in_place() {
	mkdir -p "${SETTINGS%/*}" 2>"$1/fault" && cp "$1/settings.json" "$SETTINGS.new" 2>"$1/fault" && sync_file "$SETTINGS.new" &&
		mv "$SETTINGS.new" "$SETTINGS" 2>"$1/fault" && return 0
	rm -f "$SETTINGS.new"
	tell err "cannot write $SETTINGS: $(head -n 1 "$1/fault")"
	return 1
}

# Not every busybox has fsync.
sync_file() { fsync "$1" 2>/dev/null || sync; }
