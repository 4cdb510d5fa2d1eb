# What every walk stands on: a private directory, a broker, an image; and the way out. Sourced by board/run.
# shellcheck shell=bash disable=SC2154,SC2016,SC2164 # variables of board/run; text for the reader to paste; run with set -e

directory=''
running=() # sessions that we started

make_directory() { directory=$(mktemp -d "${TMPDIR:-/tmp}/wherry-board.XXXXXX"); }

heading() { printf '\n── %s\n' "$*"; }

# apart COMMAND...: in the background and in a session of its own, which Ctrl-C does not reach: clean_up ends it, in its order.
apart() {
    setsid "$@" </dev/null &
    running+=($!)
}

# patiently COMMAND...: waits for it, and can be interrupted while it does.
patiently() {
    apart "$@"
    wait $! || fail "$* failed"
    unset 'running[-1]'
}

# await SECONDS WHAT COMMAND...: until the command succeeds; a walk that waits in vain has failed.
await() {
    local end=$((SECONDS + $1 * slowness)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || expected "$what"
        sleep 0.2
    done
}

start_broker() {
    local attempt
    for attempt in 1 2 3 4 5; do
        PORT=$((20000 + RANDOM % 20000))
        # "user root": else it becomes the user mosquitto, who may not read here.
        printf '%s\n' "listener $PORT 127.0.0.1" "allow_anonymous true" "persistence false" "user root" >broker.conf
        [ -z "$figures" ] || printf '%s\n' "listener $((PORT + 1)) 127.0.0.1" "certfile $directory/broker.pem" "keyfile $directory/broker.key" >>broker.conf
        apart mosquitto -c broker.conf >broker.log 2>&1
        sleep 0.5
        kill -0 "${running[-1]}" 2>/dev/null && return 0
        unset 'running[-1]'
    done
    cat broker.log >&2
    fail "cannot start mosquitto ($attempt attempts on different ports)"
}

# make_image BUSYBOX [UMOCI-OPTION...]: the image image:1 here, of that busybox and nothing else.
make_image() {
    local applet
    mkdir -p root/bin root/tmp
    cp "$1" root/bin/busybox
    shift
    for applet in $(busybox --list); do
        [ "$applet" = busybox ] || ln -s busybox "root/bin/$applet"
    done
    {
        umoci init --layout image
        umoci new --image image:1
        umoci insert --image image:1 root /
        umoci config --image image:1 --config.cmd /bin/sh --config.env PATH=/bin "$@"
    } >image.log 2>&1 || { cat image.log >&2; fail "cannot make the image"; }
    skopeo inspect "oci:image:1" | jq -c '{image: "oci:image:1", Digest, Architecture, layers: (.Layers | length)}'
    rm -r root
}

# write_settings HOST: for keeper in $home; HOST is where it finds the broker.
write_settings() {
    jq -n --arg dir "$home" --arg device "$(setting device)" --arg group "$group" --arg host "$1" \
        --argjson interval "$(setting interval_s)" --argjson port "$PORT" --arg figures "$figures" '{
            device: $device,
            brokers: [if $figures == "" then {host: $host, port: $port} else {host: $host, port: ($port + 1), tls: {ca: "\($dir)/ca.pem"}} end],
            data_dir: "\($dir)/data", run_dir: "\($dir)/run", cgroup: $group, interval_s: $interval, import_dirs: [$dir]
        }'
}

# The two lines that a service manager would be.
write_supervise() {
    cat <<'SH'
#!/bin/sh
while [ ! -e stop ]; do wherry keeper --config settings.json >>keeper.log 2>&1 & echo $! >keeper.pid; wait $!; sleep 0.2; done
SH
}

# ---- the way out ----

clean_up() {
    local status=$?
    trap '' HUP INT PIPE TERM
    trap - EXIT
    set +e
    restore_policy
    [ -n "$directory" ] || exit "$status"
    [ ! -e "$directory/stats" ] || last_message=$(tail -n 1 "$directory/stats")
    stop_keeper
    end_sessions
    remove_rest
    check_nothing_is_left || status=1
    [ -z "$once" ] || [ "$status" != 0 ] || printf '%s\n' "$last_message"
    exit "$status"
}

# What is still there of the sessions that we started.
end_sessions() {
    local session
    for session in "${running[@]}"; do
        signal_all TERM session_members "$session"
    done
    for session in "${running[@]}"; do
        for _ in {1..30}; do [ -n "$(session_members "$session")" ] || break; sleep 0.1; done
        signal_all KILL session_members "$session"
    done
}

# A session's number is ours as long as one of its members lives.
session_members() { ps -o pid= -s "$1"; }

signal_all() {
    local signal=$1 pids
    shift
    pids=$("$@")
    # shellcheck disable=SC2086 # a list of numbers
    [ -z "$pids" ] || kill -"$signal" $pids 2>/dev/null
}

remove_rest() {
    cd /
    ! mountpoint -q "$directory/run" || umount -l "$directory/run"
    remove_groups
    rm -rf --one-file-system "$directory"
}

check_nothing_is_left() {
    local left
    left=$(our_groups; grep -F " $directory" /proc/self/mountinfo; [ ! -e "$directory" ] || echo "$directory")
    [ -n "$left" ] || return 0
    printf 'board/run: left behind:\n%s\n' "$left" >&2
    return 1
}
