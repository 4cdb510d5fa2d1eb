# An emulated board: keeper and its agent run in the guest, the broker and whoever looks are on this machine. Sourced by board/run.
# shellcheck shell=bash disable=SC2034,SC2154,SC2016,SC2164 # variables for and of board/run; text for the reader to paste; run with set -e

# Everything is emulated, instruction by instruction.
slowness=6
remote='device '
home=/flash
begun_with=boot
in_container='demo ps                          a program in the container'
group=wherry

announce() {
    cat <<TEXT
Wherry on $(setting description).
The machine is emulated, so times are about ten times those of a real one. It installs, where missing, Debian packages with apt (each is
named when it happens); Debian's kernel and busybox for the board are kept below $boards_cache. Everything else lives in a
private directory, on ports of 127.0.0.1, and is gone at the end, also after Ctrl-C.
TEXT
}

check_machine() {
    [ "$(uname -s)" = Linux ] || fail "this is not Linux" "use a Debian machine or a virtual one"
    command -v apt-get >/dev/null || fail "there is no apt-get" "board/run installs what it needs on Debian 12 or later only"
    [ "$(id -u)" = 0 ] || fail "must run as root" "sudo board/run $board"
}

install_what_is_missing() {
    heading "What is missing?"
    apt_install_idle "a broker and its clients; an OCI image; this walk" mosquitto mosquitto-clients skopeo umoci busybox-static jq procps python3
    install_emulator
    PATH=$PATH:/usr/sbin:/sbin
    prepare_machine
    echo "nothing (any more)"
}

# The board's own `wherry check` comes once it has started.
check_binary() { :; }

set_up() {
    [ "${guest_ram:-$(setting ram_mb)}" -gt 64 ] || hog_wants=16 hog_may=4
    heading "A broker, and the board's flash, in $directory"
    cd "$directory"
    mkdir bin flash
    install "$board_directory"/guest/{device,wherry} bin/
    PATH=$directory/bin:$PATH
    [ -z "$figures" ] || { apt_install "certificates" openssl && make_certificate >openssl.log 2>&1; }
    start_broker
    make_flash
    heading "The board starts"
    start_board
    export_names
    show 'wherry check || true'
}

# For a test that wants something else there first: prints commands.
before_keeper() { :; }

# What is on the board's flash as it starts: the binary, settings, an image of the board's architecture.
make_flash() {
    local busybox
    busybox=$(busybox_package "$(about debian)" "$(about busybox)")
    unpack "$busybox" . ./bin/busybox --transform 's,./bin/busybox,busybox.board,'
    (cd flash && make_image ../busybox.board --architecture "$(about debian | sed s/armhf/arm/)" && rm -f image.log)
    mkdir flash/bin
    cp "$binary" flash/bin/wherry
    [ -z "$figures" ] || cp ca.pem flash/
    install "$board_directory"/guest/{start,answer} flash/
    write_settings 10.0.2.2 >flash/settings.json
    { before_keeper; write_supervise; } >flash/supervise
    file_system flash flash.img flash "$(setting flash_mb)"
    rm -r flash busybox.board
}

start_board() {
    local attempt
    for attempt in 1 2 3 4 5; do
        DEVICE_SHELL=$((20000 + RANDOM % 20000))
        emulator flash.img /flash/start \
            -netdev "user,id=net,hostfwd=tcp:127.0.0.1:$DEVICE_SHELL-:2323" -device "virtio-net-$(about bus),netdev=net"
        started=$EPOCHREALTIME
        apart "${emulate[@]}" >console.log 2>&1
        emulator_session=$!
        sleep 1
        kill -0 "$emulator_session" 2>/dev/null && break
        grep -q 'forwarding rule' console.log || console_says "the emulator does not start"
        unset 'running[-1]'
    done
    [ "$attempt" -lt 5 ] || console_says "cannot start the emulator ($attempt attempts on different ports)"
    export DEVICE_SHELL
    await_shell
}

await_shell() {
    local end=$((SECONDS + 120))
    until device true >/dev/null 2>&1; do
        kill -0 "$emulator_session" 2>/dev/null || console_says "the emulator has ended before the board was up"
        [ "$SECONDS" -lt "$end" ] || console_says "the board does not come up"
        sleep 0.5
    done
}

# console_says MESSAGE: fails with what the board's console has shown.
console_says() {
    tail -n 40 console.log >&2
    fail "$1" "the lines above are from the board's console"
}

export_names() {
    export PORT TOPIC
    TOPIC=wherry/v1/d/$(setting device)
    printf '\nFor another terminal, so that the commands below work there too (wherry and device run on the board):\n\n'
    printf '    cd %s\n' "$directory"
    printf '    export PORT=%s TOPIC=%s DEVICE_SHELL=%s PATH=%s/bin:$PATH\n' "$PORT" "$TOPIC" "$DEVICE_SHELL" "$directory"
}

# On this machine there is only the emulator, a session like others: it ends as in a power cut.
stop_keeper() { :; }
remove_groups() { :; }
our_groups() { :; }
