# What a test that walks a board through the main job stands on: board/'s scripts, and checks that are counted. Sourced; $qemu_directory, $board and
# $slowness are the caller's, and `set -e` holds.
# shellcheck shell=bash disable=SC2034,SC2154,SC2164 # variables for and of board/stand.sh; run with set -e

board_directory=$(cd "$qemu_directory/../../board" && pwd)
. "$board_directory/../cross/lib.sh"
. "$board_directory/stand.sh"
. "$board_directory/packages.sh"
. "$board_directory/machine.sh"
. "$board_directory/figures.sh"
. "$board_directory/emulated.sh"
once=''
passed=0 failed=0
trap clean_up EXIT
trap 'exit 130' INT TERM

setting() { toml "../board/$board.toml" "$1"; }
fail() { die "$1${2:+ ($2)}"; }

# check WHAT COMMAND...: within the time that an emulated machine may take, the command must succeed.
check() {
    local what=$1 end=$((SECONDS + 10 * slowness))
    shift
    until "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$end" ]; then
            echo "test $what ... FAILED"
            failed=$((failed + 1))
            return 0
        fi
        sleep 0.2
    done
    echo "test $what ... ok"
    passed=$((passed + 1))
}

# prepare [--bin PATH]: sets $binary, and goes to a directory of its own, from where `device` reaches the board.
prepare() {
    binary=''
    [ "${1:-}" != --bin ] || binary=$(readlink -f "$2")
    apt_install_idle "a broker and an image" mosquitto mosquitto-clients skopeo umoci busybox-static jq procps openssl make binutils
    install_emulator
    "$board_directory/../cross/setup" "$(setting target)" 2>/dev/null
    target_facts "$(setting target)"
    [ -n "$binary" ] || binary=$("$board_directory/../cross/build" --release "$(setting target)" --quiet)
    prepare_machine
    make_directory
    cd "$directory"
    mkdir bin flash
    install "$board_directory/guest/device" bin/
    PATH=$directory/bin:$PATH
}

# finish WHAT LOG...: the last line, and before it, where something failed, what the board's logs say.
finish() {
    [ "$failed" = 0 ] || { device "cat ${*:2}" || true; tail -n 20 console.log; }
    printf 'test result: %s. %d passed; %d failed\n' "$1" "$passed" "$failed"
    [ "$failed" = 0 ]
}
