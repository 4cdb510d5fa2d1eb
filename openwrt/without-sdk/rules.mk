# What openwrt/build needs of an OpenWrt build tree to read the recipe: where things are, and the four ways to install a file.
INCLUDE_DIR := $(TOPDIR)/include
INSTALL_DIR := install -d -m0755
INSTALL_BIN := install -m0755
INSTALL_DATA := install -m0644
INSTALL_CONF := install -m0600
