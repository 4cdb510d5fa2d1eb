# Stands in for procd: a record in /tmp/procd of what procd would be asked, a line each. It starts, signals and restarts nothing.
# shellcheck shell=sh

asked() { printf '%s\n' "$*" >>/tmp/procd; }
procd_open_service() { asked "open $1"; }
procd_close_service() { service_triggers; asked set; }
procd_open_instance() { asked instance; }
procd_set_param() { asked "param $*"; }
procd_close_instance() { :; }
procd_add_reload_trigger() { asked "trigger $*"; }
procd_kill() { asked "kill $1"; }
procd_send_signal() { asked "signal $*"; }
