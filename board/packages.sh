# Debian packages of any architecture and release. The machine's own apt is not touched: each architecture and suite has a private
# tree of lists, and what is fetched is kept by its checksum. Sourced.
# shellcheck shell=bash disable=SC2154 # variables of cross/lib.sh

boards_cache=$cache/boards

# apt_tree ARCHITECTURE SUITE: prints the configuration file of its private tree, with fresh lists.
apt_tree() {
    local architecture=$1 suite=$2 tree=$boards_cache/apt/$1-$2
    if [ ! -e "$tree/fresh" ]; then
        mkdir -p "$tree"/{etc/apt.conf.d,etc/preferences.d,etc/trusted.gpg.d,state/lists/partial,cache/archives/partial}
        : >"$tree/status"
        apt_source "$architecture" "$suite" >"$tree/etc/sources.list"
        apt_configuration "$architecture" "$tree" >"$tree/apt.conf"
        APT_CONFIG=$tree/apt.conf apt_quietly update
        touch "$tree/fresh"
    fi
    printf '%s\n' "$tree/apt.conf"
}

# The machine's own mirror, for a release that need not be the machine's.
apt_source() {
    local mirror
    mirror=$(apt-get indextargets --format '$(LABEL)|$(REPO_URI)' 'Created-By: Packages' | sed -n 's/^Debian|//p' | sort -u | sed -n 1p)
    [ -n "$mirror" ] || die "this machine's apt sources name no Debian mirror: cannot fetch packages for $1"
    printf 'deb [arch=%s signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' "$1" "$mirror" "$2"
}

# A release that is no longer supported has an index past its date: what is taken from it is pinned by checksum.
apt_configuration() {
    cat <<CONF
APT::Architecture "$1";
APT::Architectures { "$1"; };
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Check-Valid-Until "false";
Dir "$2";
Dir::Etc "$2/etc";
Dir::State "$2/state";
Dir::State::status "$2/status";
Dir::Cache "$2/cache";
CONF
}

# package_file ARCHITECTURE SUITE PACKAGE VERSION SHA256: prints the path of the fetched and verified package.
package_file() {
    local architecture=$1 suite=$2 package=$3 version=$4 sha256=$5 file=$boards_cache/packages/$3-${5:0:12}.deb work conf
    if [ ! -e "$file" ]; then
        say "fetching $package $version for $architecture from Debian's $suite"
        mkdir -p "${file%/*}"
        work=$(mktemp -d "$boards_cache/work.XXXXXX")
        conf=$(apt_tree "$architecture" "$suite")
        (cd "$work" && APT_CONFIG=$conf apt_quietly download "$package=$version") || package_is_gone "$work" "$package $version"
        echo "$sha256  $(echo "$work"/*.deb)" | sha256sum --check --status || package_is_gone "$work" "$package with the pinned checksum"
        mv "$work"/*.deb "$file"
        rm -r "$work"
    fi
    printf '%s\n' "$file"
}

package_is_gone() {
    rm -r "$1"
    die "Debian's archive does not give $2: pin another version in the board's file (apt-cache show prints checksums)"
}

# unpack PACKAGE-FILE DIRECTORY [PATTERN...]: without its scripts; a link to a directory stays one (Debian's /bin).
unpack() {
    local file=$1 directory=$2
    shift 2
    dpkg-deb --fsys-tarfile "$file" | tar --extract --keep-directory-symlink --wildcards --directory "$directory" "$@"
}
