SUMMARY = "Containers small enough for a router"
DESCRIPTION = "Takes app manifests over MQTT, is itself the container runtime, and reports each container's control group \
statistics back. Containers run on while the service is restarted or upgraded."
SECTION = "admin"
LICENSE = "MIT | Apache-2.0"
LIC_FILES_CHKSUM = "\
    file://LICENSE-MIT;md5=158d7bf0ebf138a81acbf883a59718cf \
    file://LICENSE-APACHE;md5=3b4389b4f2b9fea45299516eaf98c12c \
"

DEPENDS = "libseccomp"

require ${BPN}-crates.inc

# There is no release to fetch yet: the source is the tree that the layer lies in. Tests come along since Cargo.toml names some of them.
# nooelint: oelint.vars.fileextrapaths,oelint.vars.outofcontext
FILESEXTRAPATHS:prepend := "${THISDIR}/../../../..:"
SRC_URI += "\
    file://Cargo.toml;subdir=${BP} \
    file://Cargo.lock;subdir=${BP} \
    file://LICENSE-APACHE;subdir=${BP} \
    file://LICENSE-MIT;subdir=${BP} \
    file://src;subdir=${BP} \
    file://tests;subdir=${BP} \
    file://settings.json;subdir=${BP}/packaged \
    file://wherry.init;subdir=${BP}/packaged \
    file://wherry.service;subdir=${BP}/packaged \
"

inherit cargo cargo-update-recipe-crates pkgconfig systemd update-rc.d useradd

CARGO_BUILD_FLAGS += "--bin wherry"
# Debugging information goes to the package -dbg, so cargo must leave it in.
export CARGO_PROFILE_RELEASE_STRIP = "false"
export LIBSECCOMP_LINK_TYPE = "dylib"
export LIBSECCOMP_LIB_PATH = "${STAGING_LIBDIR}"

SYSTEMD_SERVICE:${PN} = "wherry.service"
INITSCRIPT_NAME = "wherry"
INITSCRIPT_PARAMS = "defaults 95 05"

# The numbers of Wherry's settings; members of the group wherry may use keeper's socket.
USERADD_PACKAGES = "${PN}"
GROUPADD_PARAM:${PN} = "--system --gid 65501 wherry; --system --gid 65502 wherry-hash; --system --gid 65503 wherry-unpack"
USERADD_PARAM:${PN} = "\
    --system --uid 65501 --gid wherry --no-create-home --home-dir / --shell /bin/false wherry; \
    --system --uid 65502 --gid wherry-hash --no-create-home --home-dir / --shell /bin/false wherry-hash; \
    --system --uid 65503 --gid wherry-unpack --no-create-home --home-dir / --shell /bin/false wherry-unpack \
"

# The merge of 64-bit comparisons in libseccomp before 2.6.1 can weaken a filter (GHSA-4q85-33p6-j5g6).
do_configure:append() {
    pkg-config --atleast-version=2.6.1 libseccomp || \
        bbfatal "libseccomp is $(pkg-config --modversion libseccomp), Wherry needs 2.6.1 (see yocto/README.md)"
}

do_install:append() {
    install -d -m 0700 ${D}${sysconfdir}/wherry ${D}${sysconfdir}/wherry/secrets ${D}${sysconfdir}/wherry/trust
    install -m 0600 ${S}/packaged/settings.json ${D}${sysconfdir}/wherry/settings.json
    if ${@bb.utils.contains('DISTRO_FEATURES', 'systemd', 'true', 'false', d)}; then
        install -D -m 0644 ${S}/packaged/wherry.service ${D}${systemd_system_unitdir}/wherry.service
    else
        # Without systemd the groups below the root are nobody's: Wherry's default.
        echo '{"cgroup": "wherry"}' >${D}${sysconfdir}/wherry/settings.json
    fi
    if ${@bb.utils.contains('DISTRO_FEATURES', 'sysvinit', 'true', 'false', d)}; then
        install -D -m 0755 ${S}/packaged/wherry.init ${D}${sysconfdir}/init.d/wherry
    fi
}

CONFFILES:${PN} = "${sysconfdir}/wherry/settings.json"

RRECOMMENDS:${PN} = "ca-certificates kernel-module-overlay"
