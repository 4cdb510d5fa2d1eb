# Nothing is compiled here: openwrt/build packs a binary that is built already.
