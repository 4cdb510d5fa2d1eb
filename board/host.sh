# The board "host": is this machine fit, what does it lack, where is the binary, how does it start? Sourced by board/run.
# shellcheck shell=bash disable=SC2034,SC2154,SC2016,SC2164 # variables for and of board/run; text for the reader to paste; run with set -e

slowness=1
begun_with=start
in_container='-it demo sh                      a shell in the container'
# What the walk's commands begin with where they run on the device.
remote=''
# Of its own below /sys/fs/cgroup.
group=wherry/board-$$
device() { eval "$1"; }

announce() {
    cat <<'TEXT'
Wherry on this machine. It needs root, for the containers' namespaces, mounts and control groups, and for apt.
It installs, where missing: Debian packages with apt (each is named when it happens), Rust's musl target with rustup, and
libseccomp and a C compiler for musl in the cache directory of cross/setup. Those stay. Everything else lives in a private
directory, on a port of its own and in control groups of its own, and is gone at the end, also after Ctrl-C.
TEXT
}

# Before anything is installed or built: what no package can bring.
check_machine() {
    heading "Is this machine fit?"
    [ "$(uname -s)" = Linux ] || fail "this is not Linux" "use a Debian machine or a virtual one"
    [ "$(id -u)" = 0 ] || fail "must run as root" "sudo board/run $board"
    command -v apt-get >/dev/null || fail "there is no apt-get" "board/run installs what it needs on Debian 12 or later only"
    check_groups
    check_namespaces
    echo "root, control groups, namespaces, /proc, tmpfs and overlay: all usable"
}

unfit="this looks like a container without privileges, or like WSL 1; take the machine itself, a virtual one, or a privileged container"

check_groups() {
    awk '{ for (i = 7; $i != "-"; i++); if ($(i + 1) ~ /^cgroup2?$/ && $6 ~ /(^|,)rw(,|$)/) found = 1 } END { exit !found }' \
        /proc/self/mountinfo || fail "no control groups are mounted for writing" "$unfit"
}

# All of it in namespaces of its own, so nothing of it is seen outside.
check_namespaces() {
    try "make namespaces (unshare)" true
    # Images are unpacked in a user namespace. The kernel refuses one in a chroot, and where user.max_user_namespaces is 0.
    try "make a user namespace (unshare)" unshare --user true
    try "mount a private /proc" mount -t proc proc /proc
    try "mount a tmpfs" mount -t tmpfs tmpfs /tmp
    # shellcheck disable=SC2016 # for the inner shell
    try "mount an overlay" sh -c 'mount -t tmpfs tmpfs /tmp && cd /tmp && mkdir lower upper work root &&
        mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work root'
}

try() {
    local what=$1 answer
    shift
    answer=$(unshare --mount --pid --fork --net --ipc --uts --cgroup "$@" 2>&1) || fail "cannot $what: ${answer##*$'\n'}" "$unfit"
}

install_what_is_missing() {
    heading "What is missing?"
    apt_install_idle "a broker and its clients; a real OCI image; this walk" \
        mosquitto mosquitto-clients skopeo umoci busybox-static jq procps util-linux python3
    PATH=$PATH:/usr/sbin:/sbin
    echo "nothing (any more)"
}

check_binary() {
    "$binary" check >"$directory/check" 2>&1 && return 0
    cat "$directory/check" >&2
    fail "this kernel lacks what containers need: see the table" "$unfit"
}

set_up() {
    heading "A broker, keeper and agent, and an image, in $directory"
    cd "$directory"
    home=$directory
    mkdir bin
    ln -s "$binary" bin/wherry
    PATH=$directory/bin:$PATH
    start_broker
    make_image "$(command -v busybox)"
    start_keeper
    export_names
}

start_keeper() {
    write_settings 127.0.0.1 >settings.json
    wherry validate settings.json >/dev/null
    write_supervise >supervise
    started=$EPOCHREALTIME
    apart sh ./supervise
    keeper_session=$!
    await 10 "keeper answers at $directory/run/control.sock" wherry --socket run/control.sock version
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

# Processes in our control groups too, if keeper could not end them; then the groups.
remove_groups() {
    local left
    signal_all KILL group_members
    for _ in {1..20}; do
        left=$(our_groups)
        [ -n "$left" ] || break
        # shellcheck disable=SC2086 # paths without blanks
        rmdir $left 2>/dev/null || sleep 0.1
    done
}

group_members() { find /sys/fs/cgroup/ -path "*/$group/*" -name cgroup.procs -exec cat {} + 2>/dev/null; }
# Deepest first.
our_groups() { find /sys/fs/cgroup/ -depth -type d \( -path "*/$group" -o -path "*/$group/*" \) 2>/dev/null; }
