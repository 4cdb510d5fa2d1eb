# What a walk stands on: a private directory, a broker, keeper with its agent, an image; and the way out. Sourced by board/run.
# shellcheck shell=bash disable=SC2154,SC2016,SC2164 # variables of board/run; text for the reader to paste; run with set -e

directory=''
group=wherry/board-$$
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
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || expected "$what"
        sleep 0.2
    done
}

set_up() {
    heading "A broker, keeper and agent, and an image, in $directory"
    cd "$directory"
    mkdir bin
    ln -s "$binary" bin/wherry
    PATH=$directory/bin:$PATH
    start_broker
    make_image
    start_keeper
    export_names
}

start_broker() {
    local attempt
    for attempt in 1 2 3 4 5; do
        PORT=$((20000 + RANDOM % 20000))
        # "user root": else it becomes the user mosquitto, who may not read here.
        printf '%s\n' "listener $PORT 127.0.0.1" "allow_anonymous true" "persistence false" "user root" >broker.conf
        apart mosquitto -c broker.conf >broker.log 2>&1
        sleep 0.5
        kill -0 "${running[-1]}" 2>/dev/null && return 0
        unset 'running[-1]'
    done
    cat broker.log >&2
    fail "cannot start mosquitto ($attempt attempts on different ports)"
}

make_image() {
    local applet
    mkdir -p root/bin root/tmp
    cp "$(command -v busybox)" root/bin/busybox
    for applet in $(root/bin/busybox --list); do
        [ "$applet" = busybox ] || ln -s busybox "root/bin/$applet"
    done
    {
        umoci init --layout image
        umoci new --image image:1
        umoci insert --image image:1 root /
        umoci config --image image:1 --config.cmd /bin/sh --config.env PATH=/bin
    } >image.log 2>&1 || { cat image.log >&2; fail "cannot make the image"; }
    skopeo inspect "oci:image:1" | jq -c '{image: "oci:image:1", Digest, Architecture, layers: (.Layers | length)}'
    rm -r root
}

start_keeper() {
    write_settings >settings.json
    wherry validate settings.json >/dev/null
    # The two lines that a service manager would be.
    cat >supervise <<'SH'
#!/bin/sh
while [ ! -e stop ]; do wherry keeper --config settings.json >>keeper.log 2>&1 & echo $! >keeper.pid; wait $!; sleep 0.2; done
SH
    apart sh ./supervise
    keeper_session=$!
    await 10 "keeper answers at $directory/run/control.sock" wherry --socket run/control.sock version
}

write_settings() {
    jq -n --arg dir "$directory" --arg device "$(setting device)" --arg group "$group" \
        --argjson interval "$(setting interval_s)" --argjson port "$PORT" '{
            device: $device, brokers: [{host: "127.0.0.1", port: $port}],
            data_dir: "\($dir)/data", run_dir: "\($dir)/run", cgroup: $group, interval_s: $interval, import_dirs: [$dir]
        }'
}

# The commands of the walk use these names; pasted first, they work in any terminal.
export_names() {
    export PORT TOPIC WHERRY_SOCKET
    TOPIC=wherry/v1/d/$(setting device)
    WHERRY_SOCKET=$directory/run/control.sock
    printf '\nFor another terminal, so that the commands below work there too:\n\n'
    printf '    cd %s\n' "$directory"
    printf '    export PORT=%s TOPIC=%s WHERRY_SOCKET=%s PATH=%s/bin:$PATH\n' "$PORT" "$TOPIC" "$WHERRY_SOCKET" "$directory"
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

# SIGINT tells keeper to stop its containers and to unmount its tmpfs. It may be starting just now and not listen yet, so we say it again.
stop_keeper() {
    local second
    [ -n "${keeper_session:-}" ] || return 0
    touch "$directory/stop"
    for second in {0..24}; do
        [ $((second % 6)) != 0 ] || kill -INT "$(cat "$directory/keeper.pid" 2>/dev/null)" 2>/dev/null
        for _ in {1..10}; do
            kill -0 "$keeper_session" 2>/dev/null || return 0
            sleep 0.1
        done
    done
    printf 'board/run: keeper did not stop within %s seconds and is killed\n' "$second" >&2
}

# What is still there of the sessions that we started; and of our control groups, if keeper could not.
end_sessions() {
    local session
    for session in "${running[@]}"; do
        signal_all TERM session_members "$session"
    done
    for session in "${running[@]}"; do
        for _ in {1..30}; do [ -n "$(session_members "$session")" ] || break; sleep 0.1; done
        signal_all KILL session_members "$session"
    done
    signal_all KILL group_members
}

# A session's number is ours as long as one of its members lives.
session_members() { ps -o pid= -s "$1"; }
group_members() { find /sys/fs/cgroup/ -path "*/$group/*" -name cgroup.procs -exec cat {} + 2>/dev/null; }

signal_all() {
    local signal=$1 pids
    shift
    pids=$("$@")
    # shellcheck disable=SC2086 # a list of numbers
    [ -z "$pids" ] || kill -"$signal" $pids 2>/dev/null
}

remove_rest() {
    local left
    cd /
    ! mountpoint -q "$directory/run" || umount -l "$directory/run"
    for _ in {1..20}; do
        left=$(our_groups)
        [ -n "$left" ] || break
        # shellcheck disable=SC2086 # paths without blanks
        rmdir $left 2>/dev/null || sleep 0.1
    done
    rm -rf --one-file-system "$directory"
}

# Deepest first.
our_groups() { find /sys/fs/cgroup/ -depth -type d \( -path "*/$group" -o -path "*/$group/*" \) 2>/dev/null; }

check_nothing_is_left() {
    local left
    left=$(our_groups; grep -F " $directory" /proc/self/mountinfo; [ ! -e "$directory" ] || echo "$directory")
    [ -n "$left" ] || return 0
    printf 'board/run: left behind:\n%s\n' "$left" >&2
    return 1
}
