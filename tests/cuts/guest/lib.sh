# What recording and recovery share. The tools are at /mnt, the disk under test at /media, what a reboot forgets at /srv. Sourced.
# shellcheck shell=sh

export WHERRY_SOCKET=/srv/run/control.sock LC_ALL=C

wherry() { /mnt/wherry "$@"; }

# A tree as one number: names, kinds, modes, owners, times, links, and content. Sizes of directories are the file system's own affair. A whiteout has
# the time of its unpacking, and the root that of its last rename (on f2fs, which then writes its "..").
tree_digest() {
    (
        cd "$1" || exit
        stat -c '%f %u %g' .
        find . -mindepth 1 -type d -exec stat -c '%n %f %u %g %Y' {} +
        find . ! -type d ! -type c -exec stat -c '%n %f %u %g %Y %s %h' {} +
        find . -type c -exec stat -c '%n %f %u %g %t:%T' {} +
        find . -type f -exec sha256sum {} +
        find . -type l -exec readlink {} \;
    ) | sort | sha256sum | cut -c1-16
}

# Every layer that the store would take for whole.
show_layers() {
    for layer in /media/data/layers/*/0; do
        [ -d "$layer" ] || continue
        name=${layer%/0} digest=$(tree_digest "$layer")
        # One that was removed meanwhile was not read to its end.
        [ ! -d "$layer" ] || echo "layer ${name##*/} $digest"
    done
}

# start_keeper PROGRAM: its first answer is waited for; fails when there is none. Sets $keeper.
start_keeper() {
    "$1" keeper --config /srv/settings.json >/srv/log 2>&1 </dev/null &
    keeper=$!
    answers 600
}

# answers TRIES
answers() {
    tries=$1
    until wherry --json ls >/srv/ls 2>/srv/ls-error; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] && kill -0 "$keeper" 2>/dev/null || return 1
        sleep 0.02
    done
}

# Nothing is on its way any more, and no stage works.
settled() {
    wherry --json ls >/srv/ls || return 1
    ! grep -qE '"state":"(received|accepted|fetching|staged|starting|testing|stopping|restarting)"' /srv/ls || return 1
    read -r children <"/proc/$keeper/task/$keeper/children"
    for child in $children; do
        ! grep -q stage "/proc/$child/cmdline" 2>/dev/null || return 1
    done
}

settle() {
    tries=$1
    until settled; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || { echo "unsettled"; return; }
        sleep 0.02
    done
}

# prepare DIRECTORY GROUP: tools, and a place for what a reboot forgets.
prepare() {
    mkdir -p /mnt /media /srv
    mount --bind "$1" /mnt
    mount -t tmpfs srv /srv
    ip link set lo up
    echo "{\"device\":\"cuts\",\"data_dir\":\"/media/data\",\"run_dir\":\"/srv/run\",\"cgroup\":\"$2\",\"interval_s\":3600}" >/srv/settings.json
    /mnt/busybox httpd -p 127.0.0.1:8080 -h /mnt/www
}

# other_disk: the one that does not hold the tools; which name it has is the machine's affair.
other_disk() {
    for name in vda vdb; do
        grep -q "^/dev/$name /flash " /proc/mounts || echo "/dev/$name"
    done
}

# mtd TOOL ARGUMENT...: a program of mtd-utils.
mtd() {
    tool=/mnt/lib/$1
    shift
    /mnt/lib/ld.so --library-path /mnt/lib "$tool" "$@" >/dev/null
}

# The flash, and the marks behind it: sizes and places are those of flash.py.
make_flash() {
    insmod /mnt/modules/mtdram.ko total_size=32768 erase_size=64
    insmod /mnt/modules/phram.ko phram=marks,0xE000000,262144,4096
}

# A NAND flash of 256 blocks of 128 KiB, with pages of 2 KiB.
make_nand() {
    insmod /mnt/modules/nandsim.ko first_id_byte=0x20 second_id_byte=0xa1 third_id_byte=0x00 fourth_id_byte=0x15 overridesize=8
}
