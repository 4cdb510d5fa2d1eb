# Shared by the scripts here; sourced, never run.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${WHERRY_CACHE:-$HOME/.cache/wherry}

say() { printf '%s\n' "$*" >&2; }
die() { say "${0##*/}: $*"; exit 1; }

# toml FILE KEY...: prints one value of a TOML file (here, unless it is a whole path), nothing if it is not there.
toml() {
    /usr/bin/python3 - "$([[ $1 = /* ]] || echo "$here/")$1" "${@:2}" <<'PY'
import sys, tomllib
value = tomllib.load(open(sys.argv[1], "rb"))
for key in sys.argv[2:]:
    value = value.get(key, {})
print("" if value == {} else " ".join(value) if isinstance(value, list) else value)
PY
}

known_targets() {
    /usr/bin/python3 -c 'import sys, tomllib; print(*tomllib.load(open(sys.argv[1], "rb"))["target"])' "$here/targets.toml"
}

# target_facts TARGET: sets the variables that follow from the data and the cache, without touching anything.
target_facts() {
    target=$1
    [ -x /usr/bin/python3 ] || die "cannot read targets.toml: python3 is missing (cross/setup $target installs it)"
    case " $(known_targets) " in *" $target "*) ;; *) die "unknown target $target (known: $(known_targets))" ;; esac
    zig_version=$(toml targets.toml zig version)
    seccomp_version=$(toml targets.toml libseccomp version)
    seccomp_sha256=$(toml targets.toml libseccomp tarball)
    debian_package=$(toml targets.toml libseccomp debian "$target" package)
    debian_sha256=$(toml targets.toml libseccomp debian "$target" sha256)
    musl_version=$(toml targets.toml musl version)
    musl_sha256=$(toml targets.toml musl tarball)
    zig_args=$(toml targets.toml target "$target" zig)
    own_std=$(toml targets.toml target "$target" own_std)
    cflags=$(toml targets.toml libseccomp cflags)
    zig=$cache/zig-$zig_version/ziglang/zig
    # Everything that changes the object code is in the name, so a changed flag makes a new build and an old one stays valid.
    tools=$cache/$target/tools-$(name_key)
    seccomp_built=$cache/$target/libseccomp-$seccomp_version-built-$(name_key "$seccomp_sha256")
    seccomp_debian=$cache/$target/libseccomp-$seccomp_version-debian-$(name_key "$debian_sha256" "$(cat "$here/libseccomp"/{glibc.c,table.py})")
    # Only for a target whose standard library is compiled here.
    musl=${own_std:+$cache/$target/musl-$musl_version-$(name_key "$musl_sha256" "$(toml targets.toml musl unwind)")}
}

name_key() { printf '%s\n' "$zig_version" "$zig_args" "$cflags" "$@" | sha256sum | cut -c1-12; }

# The directory of the libseccomp to link. The built one comes first: it exists only where somebody asked for it or Debian's would not do.
libseccomp_directory() {
    local directory
    for directory in "$seccomp_built" "$seccomp_debian"; do
        [ ! -d "$directory" ] || { printf '%s\n' "$directory"; return 0; }
    done
    return 1
}

# unlisted_symbols ARCHIVE: prints the symbols that the archive needs from elsewhere and that are not in libseccomp/allowed-symbols.
unlisted_symbols() {
    local needed defined
    needed=$(nm --undefined-only "$1") && defined=$(nm --defined-only --extern-only "$1") || return
    comm -23 <(awk 'NF == 2 {print $2}' <<<"$needed" | sort -u) \
        <(awk 'NF == 3 {print $3}' <<<"$defined" | cat - "$here/libseccomp/allowed-symbols" | sort -u)
}

# apt_install REASON PACKAGE...: installs what is missing and says so.
apt_install() {
    local reason=$1 missing=() package
    shift
    for package; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing with apt ($reason): ${missing[*]}"
    [ "$(id -u)" = 0 ] || die "cannot install without root; run: apt-get install --no-install-recommends ${missing[*]}"
    apt_quietly update
    apt_quietly install -y --no-install-recommends "${missing[@]}"
}

apt_quietly() {
    local log
    log=$(mktemp)
    if ! DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=400 -q "$@" >"$log" 2>&1 </dev/null; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        die "apt-get $1 failed"
    fi
    rm -f "$log"
}

# While packages are installed, Debian asks this file whether a package may start its service: none may.
policy=/usr/sbin/policy-rc.d policy_is_ours=
forbid_services() {
    [ ! -e "$policy" ] || return 0
    policy_is_ours=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
}
# Whoever calls apt_install_idle calls this in its exit trap too.
restore_policy() {
    [ -z "$policy_is_ours" ] || rm -f "$policy"
    policy_is_ours=
}

# apt_install_idle REASON PACKAGE...: as apt_install, but nothing that came along runs, now or after the next boot.
apt_install_idle() {
    local had_mosquitto=
    ! command -v mosquitto >/dev/null && [ ! -x /usr/sbin/mosquitto ] || had_mosquitto=yes
    forbid_services
    apt_install "$@"
    restore_policy
    [ -n "$had_mosquitto" ] || update-rc.d mosquitto disable >/dev/null 2>&1 || true
}
