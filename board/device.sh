# A real device: there is nothing to boot here. Says what is known of it, and how Wherry gets there. Sourced by board/run.
# shellcheck shell=bash disable=SC2154 # variables of board/run

announce() {
    cat <<TEXT
$board is a real device ($(setting cpu), $(setting ram_mb) MB, $(setting storage)): its file is data, and nothing of it is emulated here.
To run Wherry on one that you have, with OpenWrt on it and reachable as root@ROUTER:

    scp -O "\$(cross/build --release $(setting target))" root@ROUTER:/usr/bin/wherry
    ssh root@ROUTER wherry check               # what its kernel has, and what a gap means
    ssh root@ROUTER wherry help keeper         # settings belong into /etc/wherry/settings.json

The package of openwrt/ does the same, and starts keeper at boot. What it lacks, and what then:
TEXT
    sed -n '/^missing = \[/,/^\]/s/^    "\(.*\)",$/    no \1/p' "$board_directory/$board.toml"
    exit 0
}
