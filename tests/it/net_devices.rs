//! `linux.netDevices`: devices of a network namespace that a test makes for itself, moved into containers.

use std::process::{Command, Output};

use serde_json::{Value, json};

use super::oci::{MOORED, Place};
use super::support::{skip, tool};

/// A veth pair, of which one end has addresses of every kind, a bridge (which cannot be moved), and one more device.
const DEVICES: &str = "set -e
    ip link add mn0 mtu 1400 type veth peer name mn1
    ip addr add 10.9.8.7/24 dev mn0
    ip addr add 10.9.8.8/24 dev mn0
    ip addr add fd00:9::7/64 dev mn0 nodad
    ip addr add 10.9.9.9/32 scope link dev mn0
    ip addr add 10.9.7.7/24 dev mn0 valid_lft 1000 preferred_lft 1000
    ip link set mn0 up
    ip link add br0 type bridge
    ip link add mn2 type ifb\n";

fn place(name: &str, args: &str, change: impl FnOnce(&mut Value)) -> Option<Place> {
    tool("ip")?;
    let can = Command::new("unshare").args(["-n", "ip", "link", "add", "mn0", "type", "veth"]).output().unwrap();
    if !can.status.success() {
        skip("needs a kernel with veth");
        return None;
    }
    Place::new(name, |config| {
        config["process"]["args"] = json!(["/bin/sh", "-c", args]);
        config["linux"]["netDevices"] = json!({ "mn0": { "name": "eth7" } });
        change(config);
    })
}

/// Runs a script where these devices are, with the command that makes the container as `$RUN`.
fn apart(place: &Place, script: &str) -> Output {
    let run = format!("{MOORED} oci --root {} run {}", place.dir.join("state").display(), place.id);
    let mut command = Command::new("unshare");
    command.args(["-n", "sh", "-c", &format!("{DEVICES}{script}")]).env("RUN", run).current_dir(place.dir.join("b"));
    command.output().unwrap()
}

fn texts(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// What `ip addr` says inside.
fn assert_is_whole(said: &str) {
    for expected in ["eth7@", "mtu 1400", ",UP", "inet 10.9.8.7/24", "inet 10.9.8.8/24", "inet6 fd00:9::7/64"] {
        assert!(said.contains(expected), "{expected} in {said}");
    }
    for lost in ["10.9.9.9", "10.9.7.7", "mn0"] {
        assert!(!said.contains(lost), "{lost} in {said}");
    }
}

const LOOK: &str = "ip addr show dev eth7; ip route";

#[test]
fn a_device_is_moved_with_its_name_its_size_and_its_addresses() {
    let Some(place) = place("netdev", LOOK, |_| {}) else { return };
    // Both ends of a veth go with the network namespace, which the kernel clears away later.
    let (out, err) =
        texts(&apart(&place, "$RUN; while ip link show dev mn1 >/dev/null 2>&1; do sleep 0.05; done; ip -br link"));
    let (inside, outside) = out.split_once("lo ").unwrap_or_else(|| panic!("{out}{err}"));
    assert_is_whole(inside);
    assert!(inside.contains("10.9.8.0/24 dev eth7"), "its network has a route: {inside}");
    assert!(!outside.contains("mn0") && !outside.contains("mn1") && outside.contains("mn2"), "{outside}");
    place.assert_gone("after its end");
}

#[test]
fn a_container_with_users_of_its_own_gets_its_devices_too() {
    let Some(place) = place("netdev-user", LOOK, super::namespaces::map_users) else { return };
    let (out, err) = texts(&apart(&place, "$RUN"));
    assert!(err.is_empty(), "{err}");
    assert_is_whole(&out);
}

/// In a namespace that is joined the device stays. The names of a pod's containers' devices can meet there.
#[test]
fn a_namespace_that_is_joined_keeps_the_device_and_what_fails_leaves_all_as_it_was() {
    let Some(place) = place("netdev-join", LOOK, |config| {
        let net = std::path::Path::new(config["root"]["path"].as_str().unwrap()).with_file_name("net");
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({ "type": "network", "path": net }));
        config["linux"]["netDevices"]["mn2"] = json!({ "name": "taken" });
    }) else {
        return;
    };
    let net = place.dir.join("net");
    let script = format!(
        "touch {net}; unshare --net={net} ip link add taken type ifb
        trap 'umount {net}' EXIT
        $RUN && exit 3
        ip addr show dev mn0; ip -br link show dev mn2
        echo ---; nsenter --net={net} ip -br link
        nsenter --net={net} ip link del taken
        echo ---; $RUN
        echo ---; ip -br link; echo ---; nsenter --net={net} ip -br addr show dev eth7",
        net = net.display()
    );
    let (out, err) = texts(&apart(&place, &script));
    let expected = "linux.netDevices[\"mn2\"]: the container's network namespace has a device of that name";
    assert!(err.contains(expected), "{err}{out}");
    let parts: Vec<&str> = out.split("---").collect();
    let [back, there, inside, left, kept] = parts[..] else { panic!("{out}{err}") };
    for expected in ["mtu 1400", ",UP", "inet 10.9.8.7/24", "inet6 fd00:9::7/64", "mn2"] {
        assert!(back.contains(expected), "{expected} in {back}");
    }
    assert!(there.contains("taken") && !there.contains("eth7"), "{there}");
    assert_is_whole(inside);
    assert!(!left.contains("mn0") && !left.contains("mn2"), "{left}");
    assert!(kept.contains("10.9.8.7/24"), "{kept}");
}

#[test]
fn what_cannot_be_moved_is_named() {
    let Some(place) = place("netdev-bad", "true", |_| {}) else { return };
    let path = place.dir.join("b/config.json");
    for (devices, expected) in [
        (
            json!({ "none": {} }),
            "linux.netDevices[\"none\"]: there is no such device in the runtime's network namespace",
        ),
        (json!({ "br0": {} }), "linux.netDevices[\"br0\"]: the device cannot leave its network namespace"),
        (json!({ "lo": {} }), "linux.netDevices[\"lo\"]: the loopback device belongs to its network namespace"),
    ] {
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["linux"]["netDevices"] = devices;
        std::fs::write(&path, config.to_string()).unwrap();
        let (_, err) = texts(&apart(&place, "$RUN"));
        assert!(err.contains(expected), "{err}");
        place.assert_gone("after a failure");
    }
}
