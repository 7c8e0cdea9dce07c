//! Tests of `init.toml`.

use std::path::Path;
use std::time::Duration;

use super::diagnostic::Diagnostic;
use super::init_toml::*;

fn read(text: &str) -> Result<InitToml, Vec<String>> {
    let lines = |errors: Vec<Diagnostic>| errors.iter().map(ToString::to_string).collect();
    parse_init_toml(Path::new("init.toml"), text).map_err(lines)
}

#[test]
fn an_empty_file_is_the_defaults() {
    assert_eq!(read(""), Ok(InitToml::default()));
    assert_eq!(read("x-mine = 1\n"), Ok(InitToml::default()));
}

#[test]
fn every_key_is_taken() {
    let text = include_str!("init.toml");
    let found = read(text).unwrap();
    assert_eq!(found.host_name.as_deref(), Some("box"));
    assert_eq!(found.console, Some("/dev/ttyS0".into()));
    assert!(found.shell && found.root_fsck);
    assert_eq!(found.root_read_only, Some(true));
    assert_eq!(found.modules, ["virtio_net", "/lib/modules/own.ko"]);
    assert_eq!((found.stop_timeout, found.watchdog), (Duration::from_secs(120), Some(Duration::from_secs(30))));
    assert_eq!(found.boot_guard, Some(BootGuard { boots: 4, good_after: Duration::from_secs(180) }));
    assert_eq!(found.clock, Some("/var/lib/moored/clock".into()));
    let mount = HostMount {
        source: "LABEL=data".into(),
        target: "/var".into(),
        kind: "ext4".into(),
        options: vec!["noatime".into()],
        fsck: true,
        read_only: false,
        wait: Duration::from_secs(20),
    };
    assert_eq!(found.mounts, [mount]);
    let sysctls = [("net.ipv4.ip_forward".to_owned(), "1".to_owned()), ("kernel.panic".into(), "10".into())];
    assert!(sysctls.iter().all(|one| found.sysctls.contains(one)) && found.sysctls.len() == 2);
    let gateway = Some("192.168.1.1".parse().unwrap());
    let address = ("192.168.1.2".parse().unwrap(), 24);
    assert_eq!(found.addresses, [HostAddress { interface: "eth0".into(), address, gateway }]);
    for (table, keys) in KEYS {
        for key in keys {
            let is_there = |line: &str| line.trim_start_matches(['[', '#', ' ']).starts_with(key);
            assert!(text.lines().any(is_there), "{table}.{key} is not in init.toml");
        }
    }
}

#[test]
fn all_mistakes_are_told_with_their_places() {
    let text = "hostname = \"x\"\nhost_name = \"-a b\"\nconsole = \"ttyS0\"\nmodules = \"loop\"\nwatchdog = \"1s\"\n\
        boot_loop_guard = 3\n[root]\nreadonly = true\ntarget = \"/\"\n[[mount]]\nsource = \"\"\ntarget = \"/a/../b\"\n\
        [[address]]\ninterface = \"a/b\"\naddress = \"10.0.0.1\"\ngateway = \"x\"\n[[address]]\ninterface = \"e\"\n\
        address = \"10.0.0.1/24\"\ngateway = \"::1\"\n[sysctl]\nnet.ipv4 = 1\n\"..x\" = 2\n\"a.b\" = []\n";
    let expected = [
        "init.toml:1:1 unknown key `hostname`, did you mean `host_name`?",
        "init.toml:2:13 `host_name` is the string \"-a b\", expected a host name of at most 64 letters, digits, dots and dashes",
        "init.toml:3:11 `console` is the string \"ttyS0\", expected an absolute path without `..`",
        "init.toml:4:11 `modules` is the string \"loop\", expected an array of strings, write [\"loop\"]",
        "init.toml:5:12 `watchdog` is the string \"1s\", expected at least \"5s\"",
        "init.toml:6:19 `boot_loop_guard` is the integer 3, expected a table, write [boot_loop_guard]",
        "init.toml:8:1 unknown key `readonly`, did you mean `read_only`?",
        "init.toml:9:1 unknown key `target`, it belongs to [[mount]]",
        "init.toml:10:1 no `type` in [[mount]], write for example type = \"ext4\"",
        "init.toml:11:10 `mount.source` is the string \"\", expected a device, LABEL=…, UUID=… or a name",
        "init.toml:12:10 `mount.target` is the string \"/a/../b\", expected an absolute path without `..`",
        "init.toml:14:13 `address.interface` is the string \"a/b\", expected an interface's name of 1 to 15 bytes",
        "init.toml:15:11 `address.address` is the string \"10.0.0.1\", expected an address with its prefix, like \"192.168.1.2/24\", did you mean \"10.0.0.1/24\"?",
        "init.toml:16:11 `address.gateway` is the string \"x\", expected an address like \"192.168.1.1\"",
        "init.toml:20:11 `address.gateway` is the string \"::1\", expected an address of the same family as `address`",
        "init.toml:22:1 `sysctl.net` is a table, expected a string or a number, quote the name: \"net.ipv4.ip_forward\" = 1",
        "init.toml:23:1 `sysctl...x` is no sysctl's name",
        "init.toml:24:9 `sysctl.a.b` is an array, expected a string or a number",
    ];
    let found = read(text).unwrap_err();
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn the_boot_loop_guard_has_defaults_and_bounds() {
    let guard = |text: &str| read(text).map(|found| found.boot_guard);
    assert_eq!(guard("[boot_loop_guard]\n"), Ok(Some(BootGuard { boots: 3, good_after: Duration::from_secs(120) })));
    assert_eq!(
        guard("[boot_loop_guard]\nboots = 0\ngood_after = \"1ms\"\nboot = 3\n"),
        Err(vec![
            "init.toml:2:9 `boot_loop_guard.boots` is the integer 0, expected a whole number from 1 to 1000".to_owned(),
            "init.toml:3:14 `boot_loop_guard.good_after` is the string \"1ms\", expected at least \"1s\"".to_owned(),
            "init.toml:4:1 unknown key `boot`, did you mean `boots`?".to_owned(),
        ])
    );
}

#[test]
fn a_broken_line_does_not_hide_the_others() {
    let errors = read("shell = yes\nwatchdog = 5\n").unwrap_err();
    assert_eq!(errors.len(), 2, "{errors:?}");
}
