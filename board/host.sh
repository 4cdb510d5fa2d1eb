# The board "host": is this machine fit, what does it lack, where is the binary? Sourced by board/run.
# shellcheck shell=bash disable=SC2154 # variables of board/run

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

find_binary() {
    [ -z "$binary" ] || { binary=$(readlink -f "$binary") || true; return 0; }
    heading "Building the static binary"
    command -v cargo >/dev/null || fail "there is no cargo" "install stable Rust with rustup first"
    patiently "$board_directory/../cross/setup" "$(setting target)"
    patiently "$board_directory/../cross/build" --release "$(setting target)" >"$directory/built"
    binary=$(cat "$directory/built")
}

check_binary() {
    if [ ! -f "$binary" ] || [ ! -x "$binary" ]; then
        fail "there is no program $binary" "--bin takes the path of a wherry binary"
    fi
    "$binary" check >"$directory/check" 2>&1 && return 0
    cat "$directory/check" >&2
    fail "this kernel lacks what containers need: see the table" "$unfit"
}
