//! From `/etc/config/wherry` to settings, through OpenWrt's own `uci` and `jshn`.

use crate::root::{Device, run};
use serde_json::{Value, json};
use std::fs;

/// A value as UCI writes it in a file.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', "'\\''"))
}

fn rendered(device: &Device, config: &str) -> Value {
    device.write("etc/config/wherry", config);
    let text = run(&mut device.command("/usr/lib/wherry/uci-settings"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

const EVERY_FIELD: &str = "
config wherry 'main'
	option enabled '1'
	option device 'router-17'
	option root 'wherry'
	list groups 'site-north'
	list groups 'all'
	option data_dir '/var/lib/wherry'
	option run_dir '/run/wherry'
	option cgroup 'wherry'
	option interval_s '060'
	list import_dirs '/var/lib/wherry/import'
	list bind_sources '/srv/www'
	option secrets_dir '/etc/wherry/secrets'
	option trust_dir '/etc/wherry/trust'
	option log_level 'info'

config broker
	option host 'mqtt.example'
	option port '8883'
	option tls '1'
	option ca '/etc/wherry/ca.pem'
	option certificate '/etc/wherry/device.pem'
	option key '/etc/wherry/device.key'
	option username 'router-17'
	option password 'change me'
	option keep_alive '60s'
	option retained 'yes'

config variables
	option site 'north'

config broker
	option host '192.168.1.2'
	option keep_alive '30s'
	option username ''

config users
	option agent '65501'
	option hash '65502'
	option unpack '65503'

config fetch 'fetch'
	option ca '/etc/wherry/images-ca.pem'
	option certificate '/etc/wherry/device.pem'
	option key '/etc/wherry/device.key'

config proxy
	option host '192.168.1.3'
	option port '3128'
	option username 'router-17'
	option password 'change me'

config limits
	option max_image_bytes '512M'
	option max_image_inodes '100000'
	option fetch_timeout_s '600'
	option max_log_bytes '4M'

config syslog
	option all '0'
	option socket '/dev/log'
";

#[test]
fn every_field_of_the_settings_can_be_said_in_uci() {
    let example: Value = serde_json::from_str(wherry::config::example()).unwrap();
    assert_eq!(rendered(&Device::new(), EVERY_FIELD), example);
}

#[test]
fn the_configuration_of_the_package_makes_good_settings() {
    let device = Device::new();
    let text = run(&mut device.command("/usr/lib/wherry/uci-settings"));
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json!({"data_dir": "/overlay/wherry"}));
    wherry::config::parse(text.as_bytes()).unwrap_or_else(|faults| panic!("{faults}"));
}

#[test]
fn data_goes_to_the_flash_itself_where_the_root_is_an_overlay() {
    let device = Device::new();
    for (mounts, config, dir) in [
        ("/dev/root / ext4 rw 0 0\n", "config wherry\n", "/srv/wherry"),
        ("o / overlay rw 0 0\n/dev/mtdblock6 /overlay jffs2 rw 0 0\n", "config wherry\n", "/overlay/wherry"),
        ("tmpfs /overlayed tmpfs rw 0 0\n", "", "/srv/wherry"),
        ("/dev/mtdblock6 /overlay jffs2 rw 0 0\n", "config wherry\n\toption data_dir '/mnt/usb'\n", "/mnt/usb"),
    ] {
        device.write("proc/mounts", mounts);
        assert_eq!(rendered(&device, config), json!({"data_dir": dir}), "{mounts}");
    }
}

#[test]
fn any_value_reads_back_as_it_was_written_and_none_is_a_command() {
    let device = Device::new();
    let long = "x".repeat(30_000);
    let values = [
        "plain",
        " blanks at both ends ",
        "double \" quote",
        "single ' quote ''",
        "back\\slash \\\\ \\n \\u0041 \\",
        "two\nlines\n\nand an end\n",
        "tab\tand return\r",
        "\u{1}\u{1b}[31m\u{7f}",
        "ü € 😀 \u{2028} \u{202e}",
        "$(touch /tmp/ran) `touch /tmp/ran` ${HOME} $$",
        "; touch /tmp/ran & | > /tmp/ran #",
        "* ? [a-z] ~ {a,b} !",
        "-n",
        "-- %s %n",
        "it's\nconfig $(touch /tmp/ran)\nconfig ;touch${IFS}/tmp/ran\n'",
        "{\"json\": [null]}",
        "true",
        "1",
        "0123",
        &long,
    ];
    for value in values {
        let text = quoted(value);
        let config = format!("config variables\n\toption x {text}\nconfig broker\n\toption host 'h'\n\toption username {text}\n");
        let found = rendered(&device, &config);
        assert_eq!((&found["variables"]["x"], &found["brokers"][0]["username"]), (&json!(value), &json!(value)), "{config}");
        let settings = run(&mut device.command("/usr/lib/wherry/uci-settings"));
        if settings.len() <= wherry::config::MAX_SETTINGS {
            let checked = wherry::config::parse(settings.as_bytes()).unwrap_or_else(|faults| panic!("{config}: {faults}"));
            assert_eq!(checked.variables["x"], value);
            assert_eq!(checked.brokers[0].username.as_deref(), Some(value));
        }
    }
    assert!(!device.at("tmp/ran").exists(), "a value ran as a command");
}

#[test]
fn a_configuration_that_cannot_be_settings_gives_one_error_and_changes_nothing() {
    let device = Device::new();
    let before = "{\"device\":\"good\",\"data_dir\":\"/overlay/wherry\"}";
    device.write("etc/wherry/settings.json", before);
    let broker = |options: &str| format!("config wherry\nconfig broker\n{options}");
    let too_long = format!("config variables\n\toption x '{}'\n", "x".repeat(200_000));
    let too_big = format!("config variables\n\toption x '{}'\n", "x".repeat(40_000));
    for (config, error) in [
        ("config wherry\n\toption device 'a b'\n", "device: must be 1 to 64 of A-Z, a-z, 0-9"),
        ("config wherry\n\toption devise 'a'\n", "devise: there is no such field"),
        ("config wherry\n\toption groups 'a'\n", "groups: must be a list, not a string"),
        ("config wherry\n\tlist root 'a'\n", "root: must be a string, not a list"),
        (
            "config wherry 'main'\n\toption interval_s '1m'\n",
            "section wherry main: option interval_s must be a whole number of at most nine digits",
        ),
        ("config wherry\n\toption interval_s '9999999999'\n", "option interval_s must be a whole number of at most nine digits"),
        ("config wherry\n\toption interval_s '0'\n", "interval_s: must be from 1 to 86400"),
        ("config wherry 'a'\nconfig wherry 'b'\n", "section wherry b: there is one such section already"),
        ("config limits\nconfig limits 'b'\n", "section limits b: there is one such section already"),
        (
            "config brokers 'b'\n",
            "section brokers b: Wherry has no such section (wherry, broker, fetch, proxy, limits, syslog, users, variables)",
        ),
        (&broker("\toption port '1883'\n"), "brokers[0]: the field `host` is missing"),
        (&broker("\toption host 'h'\n\toption tls 'maybe'\n"), "option tls must be 0 or 1"),
        (&broker("\toption host 'h'\n\toption tls '0'\n\toption ca '/ca'\n"), "tls is 0, but there are certificates"),
        (&broker("\toption host 'h'\n\toption key '/key'\n"), "brokers[0].tls: `certificate` and `key` belong together"),
        (&broker("\toption host 'h'\n\tlist servers 'h'\n"), "there is no list servers"),
        ("config wherry\n\toption device 'a\n", "cannot read the configuration: uci: Parse error"),
        ("config variables\n\toption x 'a\u{0}b'\n", "cannot read the configuration: uci: Parse error"),
        (&too_big, "wherry: cannot validate the settings: larger than 32 KiB"),
        (&too_long, "cannot turn the configuration into settings: a value is too long for this system"),
    ] {
        device.write("etc/config/wherry", config);
        let shown = &config[..config.len().min(200)];
        run(&mut device.init("reload"));
        let logged = device.logged();
        let start = "-t wherry -p daemon.err bad configuration, nothing changed: ";
        let said = logged.first().and_then(|line| line.strip_prefix(start)).unwrap_or_else(|| panic!("{shown}: {logged:?}"));
        assert!(logged.len() == 1 && said.contains(error), "{shown}: {logged:?}");
        assert_eq!(device.read("etc/wherry/settings.json"), before, "{shown}");
        let left: Vec<_> = fs::read_dir(device.at("tmp")).unwrap().flatten().map(|e| e.file_name()).filter(|n| n != "procd").collect();
        assert!(left.is_empty(), "{shown}: {left:?}");
    }
}

#[test]
fn a_password_is_in_no_error() {
    let device = Device::new();
    let config =
        "config wherry\nconfig broker\n\toption host 'h'\n\toption username 'u'\n\toption password 'geheim'\n\toption port '70000'\n";
    device.write("etc/config/wherry", config);
    run(&mut device.init("start"));
    let logged = device.logged().join("\n");
    assert!(logged.contains("brokers[0].port") && !logged.contains("geheim"), "{logged}");
}
