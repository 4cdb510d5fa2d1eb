# An emulated machine: its kernel and initramfs, from Debian's packages, and the emulator around them. Sourced by board/run and tests/qemu.
# shellcheck shell=bash disable=SC2154 # variables of cross/lib.sh

# about KEY: of the architecture of the board in $board.
about() { toml ../board/guest/architectures.toml "$(setting target)" "$1"; }

install_emulator() {
    apt_install "emulated boards" "$(about package)" "$(about binutils)" cpio kmod xz-utils e2fsprogs binutils
}

# prepare_machine: sets $machine, the directory with `kernel` and `initramfs`. Made anew only where something that goes into it changed. The modules
# in the file $more_modules, where that is set, come along.
prepare_machine() {
    local sums
    sums=$(cd "$board_directory" && cat machine.sh guest/init guest/modules "${more_modules:-/dev/null}" | sha256sum)
    machine=$boards_cache/machine-$(printf '%s\n' "$sums" "$(toml "../board/$board.toml" kernel sha256)" "$(about busybox)" | sha256sum | cut -c1-12)
    mkdir -p "$boards_cache"
    exec {machine_lock}>"$boards_cache/lock"
    flock "$machine_lock"
    [ -d "$machine" ] || make_machine
    exec {machine_lock}>&-
}

make_machine() {
    local work kernel busybox
    kernel=$(kernel_package)
    busybox=$(busybox_package "$(about debian)" "$(about busybox)")
    say "making the initramfs of $board"
    work=$(mktemp -d "$boards_cache/work.XXXXXX")
    mkdir -p "$work"/{kernel,machine,root/{bin,sbin,usr/bin,usr/sbin,proc,sys,dev,run,tmp,etc,root,modules}}
    unpack "$kernel" "$work/kernel"
    unpack "$busybox" "$work/root" ./bin/busybox
    install "$board_directory/guest/init" "$work/root/init"
    echo root:x:0:0:root:/root:/bin/sh >"$work/root/etc/passwd"
    echo root:x:0: >"$work/root/etc/group"
    copy_modules "$work/kernel" "$work/root/modules"
    cp "$work"/kernel/boot/vmlinuz-* "$work/machine/kernel"
    (cd "$work/root" && find . -mindepth 1 -print0 | sort -z | cpio --null --create --format newc --owner 0:0 --quiet --reproducible) |
        gzip -9n >"$work/machine/initramfs"
    mv -T "$work/machine" "$machine"
    rm -r "$work"
}

kernel_package() {
    local key fields=()
    for key in suite package version sha256; do fields+=("$(toml "../board/$board.toml" kernel "$key")"); done
    package_file "$(about debian)" "${fields[@]}"
}

# busybox_package ARCHITECTURE SHA256
busybox_package() {
    local data=../board/guest/architectures.toml
    package_file "$1" "$(toml $data busybox suite)" busybox-static "$(toml $data busybox version)" "$2"
}

# copy_modules KERNEL-TREE DIRECTORY: the modules of guest/modules and of $more_modules, and what they need, stripped, and `order`, in which they can be loaded.
copy_modules() {
    local tree=$1 directory=$2 version module path name
    version=$(ls "$tree/lib/modules")
    PATH=$PATH:/usr/sbin:/sbin depmod -b "$tree" "$version"
    while read -r module; do
        PATH=$PATH:/usr/sbin:/sbin modprobe --dirname "$tree" --set-version "$version" --show-depends "$module"
    done < <(cat "$board_directory/guest/modules" "${more_modules:-/dev/null}") | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' |
        while read -r path; do
            name=$(basename "$path" .xz)
            case $path in *.xz) xz -dc "$path" >"$directory/$name" ;; *) cp "$path" "$directory/$name" ;; esac
            "$(about strip)" --strip-debug "$directory/$name"
            echo "$name" >>"$directory/order"
        done
}

# emulator FLASH START [OPTION...]: sets the array $emulate, the command line that boots the board with this disk and runs START. With $guest_ram (MB)
# and $guest_root set, they count instead of the board's own.
emulator() {
    local disk start=$2 bus
    bus=$(about bus)
    disk="if=none,id=flash,format=raw,file=$1"
    shift 2
    # shellcheck disable=SC2046,SC2086 # words
    emulate=("$(about emulator)" $(about machine) -accel tcg -m "${guest_ram:-$(setting ram_mb)}" -smp "$(setting cpus)" -nodefaults -nographic -no-reboot
        -serial stdio -kernel "$machine/kernel" -initrd "$machine/initramfs"
        -append "console=$(about console) quiet panic=-1 board.root=${guest_root:-$(setting root)} board.cgroups=$(setting cgroups) board.start=$start"
        -drive "$disk" -device "virtio-blk-$bus,drive=flash" "$@")
}

# file_system DIRECTORY FILE LABEL MEGABYTES: an ext4 image of what is in the directory, to which the kernel has nothing to add by itself.
file_system() {
    truncate -s "$4M" "$2"
    PATH=$PATH:/usr/sbin:/sbin mkfs.ext4 -q -E lazy_itable_init=0 -L "$3" -d "$1" "$2" 2>mkfs.log || { cat mkfs.log >&2; die "cannot make the file system $3 of $4 MB"; }
    rm mkfs.log
}
