# The file system with the tools that tests use in a guest: Debian's packages for its architecture, unpacked, without their scripts. Sourced.
# shellcheck shell=bash disable=SC2154 # variables of tests/qemu/run

# prepare_tools: sets $tools, the file system with Debian's tools for the guest.
prepare_tools() {
    local architecture root file
    architecture=$(about debian)
    tools=$boards_cache/tools-$architecture-$(cat "$qemu_directory/packages" "$qemu_directory/tools.sh" | sha256sum | cut -c1-12)
    [ ! -e "$tools" ] || return 0
    say "making the tools' file system for $architecture"
    root=$work/root
    mkdir -p "$root"/{usr/{bin,sbin,lib,lib64},etc,proc,sys,dev,run,tmp,root,flash,var/lib}
    for file in bin sbin lib lib64; do ln -s "usr/$file" "$root/$file"; done
    for file in $(fetch_tools "$architecture"); do unpack "$file" "$root" --exclude './usr/share/*'; done
    unpack "$(busybox_package "$architecture" "$(about busybox)")" "$root" ./bin/busybox
    printf '%s\n' root:x:0:0:root:/root:/bin/sh mosquitto:x:100:100::/:/bin/false nobody:x:65534:65534::/:/bin/false >"$root/etc/passwd"
    printf '%s\n' root:x:0: tty:x:5: mosquitto:x:100: nogroup:x:65534: >"$root/etc/group"
    ln -sf dash "$root/usr/bin/sh"
    ln -sf perl "$root/usr/bin/perl5" && ln -sf python3.11 "$root/usr/bin/python3"
    chmod 1777 "$root/tmp"
    file_system "$root" "$work/tools" root 4096
    rm -r "$root"
    mv "$work/tools" "$tools"
}

# fetch_tools ARCHITECTURE: prints the files of the packages and of all that they need; apt verifies them against the signed index.
fetch_tools() {
    local conf
    conf=$(apt_tree "$1" "$(toml ../board/guest/architectures.toml busybox suite)")
    # shellcheck disable=SC2046 # words
    APT_CONFIG=$conf apt_quietly install -y --no-install-recommends --download-only $(cat "$qemu_directory/packages")
    find "${conf%/*}/cache/archives" -name '*.deb'
}
