# Shared by the scripts here; sourced, never run.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${WHERRY_CACHE:-$HOME/.cache/wherry}

say() { printf '%s\n' "$*" >&2; }
die() { say "${0##*/}: $*"; exit 1; }

# toml FILE KEY...: prints one value of a TOML file, nothing if it is not there.
toml() {
    /usr/bin/python3 - "$here/$1" "${@:2}" <<'PY'
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
    seccomp_version=${WHERRY_LIBSECCOMP_VERSION:-$(toml targets.toml libseccomp version)}
    seccomp_sha256=$(toml targets.toml libseccomp tarball "$seccomp_version")
    [ -n "$seccomp_sha256" ] || die "unknown libseccomp version $seccomp_version (targets.toml has no checksum for it)"
    zig_args=$(toml targets.toml target "$target" zig)
    cflags=$(toml targets.toml libseccomp cflags)
    zig=$cache/zig-$zig_version/ziglang/zig
    # Everything that changes the object code is in the name, so a changed flag makes a new build and an old one stays valid.
    key=$(printf '%s\n' "$zig_version" "$zig_args" "$cflags" "$seccomp_sha256" | sha256sum | cut -c1-12)
    tools=$cache/$target/tools-$key
    seccomp=$cache/$target/libseccomp-$seccomp_version-$key
}

warn_if_weak() {
    local weak
    weak=$(toml targets.toml libseccomp weak "$seccomp_version")
    [ -z "$weak" ] || say "WARNING: libseccomp $seccomp_version by WHERRY_LIBSECCOMP_VERSION: $weak. Not to be shipped"
}

# apt_install REASON PACKAGE...: installs what is missing, says so, starts no service.
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
