//! `moored oci` and mounts: whose files they are, what they begin with, who sees them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::oci::Place;
use super::support::wait_for;

/// A container with one more mount of `source` (a directory of the test's) at `/data`, able to mount.
fn with_mount(name: &str, script: &str, change: impl FnOnce(&mut Value)) -> Option<Place> {
    let place = Place::new(name, |config| {
        config["process"]["args"] = json!(["/bin/sh", "-c", script]);
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_SYS_ADMIN"));
        }
        config["mounts"].as_array_mut().unwrap().push(json!({ "destination": "/data", "type": "bind" }));
    })?;
    let source = place.dir.join("source");
    fs::create_dir(&source).unwrap();
    place.change(|config| {
        let mount = config["mounts"].as_array_mut().unwrap().last_mut().unwrap();
        mount["source"] = json!(source);
        mount["options"] = json!(["rbind"]);
        change(mount);
    });
    Some(place)
}

fn mount(arguments: &[&str], target: &Path) {
    assert!(Command::new("mount").args(arguments).arg(target).status().unwrap().success());
}

#[test]
fn an_id_mapped_bind_shows_and_stores_other_owners() {
    let Some(place) = with_mount("idmap", "stat -c %u:%g /data/file; echo x >/data/new", |mount| {
        mount["options"] = json!(["bind", "idmap"]);
        mount["uidMappings"] = json!([{ "containerID": 1000, "hostID": 0, "size": 1 }]);
        mount["gidMappings"] = json!([{ "containerID": 2000, "hostID": 0, "size": 1 }]);
    }) else {
        return;
    };
    let source = place.dir.join("source");
    fs::write(source.join("file"), "").unwrap();
    chown(source.join("file"), Some(1000), Some(2000)).unwrap();
    // What is not mapped is nobody's, and nobody may write to it.
    chown(&source, Some(1000), Some(2000)).unwrap();
    assert_eq!(place.ok("run {}"), "0:0\n");
    let new = fs::metadata(source.join("new")).unwrap();
    assert_eq!((new.uid(), new.gid()), (1000, 2000));
}

/// `idmap` alone: the root of the container is the root of the files.
#[test]
fn an_id_mapped_bind_without_mappings_takes_those_of_the_container() {
    let Some(place) = with_mount("idmap-own", "stat -c %u /data/file; stat -c %u /plain/file", |mount| {
        mount["options"] = json!(["rbind", "ridmap", "ro"]);
    }) else {
        return;
    };
    fs::write(place.dir.join("source/file"), "").unwrap();
    let path = place.dir.join("b/config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let maps = json!([{ "containerID": 0, "hostID": 710_000, "size": 1000 }]);
    config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
    (config["linux"]["uidMappings"], config["linux"]["gidMappings"]) = (maps.clone(), maps);
    let plain = json!({ "destination": "/plain", "source": place.dir.join("source"), "options": ["bind"] });
    config["mounts"].as_array_mut().unwrap().push(plain);
    fs::create_dir(place.dir.join("busybox-root/plain")).unwrap();
    fs::write(path, config.to_string()).unwrap();
    assert_eq!(place.ok("run {}"), "0\n65534\n");
}

#[test]
fn a_file_system_that_maps_no_ids_is_named() {
    let Some(place) = with_mount("idmap-proc", "true", |mount| {
        mount["source"] = json!("/proc");
        mount["options"] = json!(["bind"]);
        mount["uidMappings"] = json!([{ "containerID": 0, "hostID": 1000, "size": 1 }]);
        mount["gidMappings"] = json!([{ "containerID": 0, "hostID": 1000, "size": 1 }]);
    }) else {
        return;
    };
    let said = String::from_utf8_lossy(&place.run("run {}").stderr).into_owned();
    assert!(said.contains("mounts: /data: ids cannot be mapped: invalid argument"), "{said}");
    assert!(said.contains("0x9fa0"), "{said}");
    place.assert_gone("after a mistake");
}

#[test]
fn attributes_reach_the_mounts_below_where_asked() {
    for (options, expected) in [
        ("rro", "refused refused\n"),
        ("ro", "refused wrote\n"),
        ("rnoexec", "wrote wrote\n"),
        ("ro,rrw", "wrote wrote\n"),
        ("rw,rro", "refused refused\n"),
    ] {
        let probe =
            "try() { (: >$1) 2>/dev/null && echo wrote || echo refused; }; echo $(try /data/a) $(try /data/below/a)";
        let script = format!("{probe}; grep ' /data' /proc/self/mountinfo >&2");
        let Some(place) = with_mount("below", &script, |mount| {
            let words = std::iter::once("rbind").chain(options.split(','));
            mount["options"] = json!(words.collect::<Vec<_>>());
        }) else {
            return;
        };
        let below = place.dir.join("source/below");
        fs::create_dir(&below).unwrap();
        mount(&["-t", "tmpfs", "moored-test"], &below);
        let output = place.run("run {}");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(out, expected, "{options}: {err}");
        let wanted = if options == "rnoexec" { 2 } else { 0 };
        assert_eq!(err.lines().filter(|line| line.contains("noexec")).count(), wanted, "{options}: {err}");
    }
}

#[test]
fn a_tmpfs_begins_with_what_was_there() {
    let Some(place) = with_mount(
        "copy-up",
        "cd /data; stat -c %a . sub sub/file; stat -c %u:%g sub/file; cat sub/file link; echo z >sub/file",
        |mount| {
            mount["type"] = json!("tmpfs");
            mount["source"] = json!("tmpfs");
            mount["options"] = json!(["tmpcopyup", "size=1m", "nodev"]);
        },
    ) else {
        return;
    };
    let data = place.dir.join("busybox-root/data");
    fs::create_dir(data.join("sub")).unwrap();
    fs::write(data.join("sub/file"), "text\n").unwrap();
    chown(data.join("sub/file"), Some(5), Some(6)).unwrap();
    fs::set_permissions(data.join("sub/file"), fs::Permissions::from_mode(0o4757)).unwrap();
    fs::set_permissions(data.join("sub"), fs::Permissions::from_mode(0o711)).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o1775)).unwrap();
    symlink("sub/file", data.join("link")).unwrap();
    assert_eq!(place.ok("run {}"), "1775\n711\n4757\n5:6\ntext\ntext\n");
    assert_eq!(fs::read_to_string(data.join("sub/file")).unwrap(), "text\n", "what was there is as it was");
}

#[test]
fn a_tmpfs_where_nothing_was_is_as_any_other() {
    let Some(place) = with_mount("copy-none", "stat -c %a /made/for/it", |mount| {
        mount["destination"] = json!("/made/for/it");
        mount["type"] = json!("tmpfs");
        mount["options"] = json!(["tmpcopyup"]);
    }) else {
        return;
    };
    assert_eq!(place.ok("run {}"), "1777\n");
}

#[test]
fn what_does_not_fit_into_a_tmpfs_is_an_error() {
    let Some(place) = with_mount("copy-full", "true", |mount| {
        mount["type"] = json!("tmpfs");
        mount["options"] = json!(["tmpcopyup", "size=4k", "ro"]);
    }) else {
        return;
    };
    fs::write(place.dir.join("busybox-root/data/big"), vec![1; 1 << 20]).unwrap();
    let said = String::from_utf8_lossy(&place.run("run {}").stderr).into_owned();
    assert!(said.contains("/data/big: no space left on device"), "{said}");
}

/// Mounts made on either side, seen on the other: which, by the option.
#[test]
fn mounts_travel_as_the_propagation_says() {
    for (root, option, comes_in, goes_out) in [
        // As clients ask for a volume that is shared with the host: of the root as well.
        ("rshared", "rshared", true, true),
        ("shared", "shared", true, true),
        ("", "rshared", true, false),
        ("rslave", "shared", true, false),
        ("", "rslave", true, false),
        ("rshared", "rslave", true, false),
        ("", "rprivate", false, false),
        // Without a word it is as all mounts of the host's are in the container (runc).
        ("", "", true, false),
        ("rprivate", "", false, false),
        // Of the root alone.
        ("private", "rslave", true, false),
    ] {
        let inside = "mount -t tmpfs moored-test /data/inside && : >/data/inside/file; echo up; \
                      until [ -e /data/go ]; do sleep 0.02; done; [ -e /data/outside/file ] && echo in || echo not";
        let Some(place) = with_mount("travel", inside, |mount| {
            let options = ["rbind", option];
            mount["options"] = json!(options.iter().filter(|option| !option.is_empty()).collect::<Vec<_>>());
        }) else {
            return;
        };
        place.change(|config| config["linux"]["rootfsPropagation"] = json!(root));
        let source = place.dir.join("source");
        mount(&["--bind", source.to_str().unwrap()], &source);
        assert!(Command::new("mount").arg("--make-rshared").arg(&source).status().unwrap().success());
        fs::create_dir(source.join("inside")).unwrap();
        fs::create_dir(source.join("outside")).unwrap();
        place.ok("run --detach {}");
        let out = place.dir.join("stdout");
        let said = || fs::read_to_string(&out).unwrap();
        wait_for("it to be up", || said().contains("up\n").then_some(()));
        assert_eq!(source.join("inside/file").exists(), goes_out, "{root} {option}: out");
        mount(&["-t", "tmpfs", "moored-test"], &source.join("outside"));
        fs::write(source.join("outside/file"), "").unwrap();
        fs::write(source.join("go"), "").unwrap();
        wait_for("its answer", || (said().lines().count() == 2).then_some(()));
        assert_eq!(said(), if comes_in { "up\nin\n" } else { "up\nnot\n" }, "{root} {option}: in");
    }
}

#[test]
fn a_relative_destination_starts_at_the_root() {
    let Some(place) = with_mount("relative", "cat /data/sub/file", |mount| mount["destination"] = json!("data/./sub"))
    else {
        return;
    };
    fs::write(place.dir.join("source/file"), "found\n").unwrap();
    assert_eq!(place.ok("run {}"), "found\n");
}

#[test]
fn a_read_only_tmpfs_and_dev_hold_what_is_mounted_in_them() {
    let script = "cat /data/made/for/it/file; for f in /data/x /data/made/x /dev/x /data/made/for/it/x; do \
                  (: >$f) 2>/dev/null && echo wrote || echo refused; done; [ -c /dev/null ] && [ -d /dev/pts ] && echo there; \
                  grep -c ' /data ro,noexec' /proc/self/mountinfo";
    let Some(place) = with_mount("sealed", script, |mount| mount["destination"] = json!("/data/made/for/it")) else {
        return;
    };
    fs::write(place.dir.join("source/file"), "found\n").unwrap();
    // Once as fsconfig(2) has it, and once with a value that is too long for that.
    for mode in ["mode=755".to_owned(), format!("mode={:0>300}", "755")] {
        place.change(|config| {
            let mounts = config["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| mount["type"] != "tmpfs" || mount["destination"] != "/data");
            let at = mounts.len() - 1;
            let tmpfs = json!({ "destination": "/data", "type": "tmpfs", "source": "x", "options": ["ro", "noexec", "rexec", mode] });
            mounts.insert(at, tmpfs);
            let dev = mounts.iter_mut().find(|mount| mount["destination"] == "/dev").unwrap();
            dev["options"] = json!(["nosuid", "mode=755", "ro"]);
        });
        assert_eq!(place.ok("run {}"), "found\nrefused\nrefused\nrefused\nwrote\nthere\n1\n", "{mode}");
    }
}

#[test]
fn read_only_cgroups_stay_so_beside_a_word_for_all_mounts_below() {
    let script = "options() { grep ' /sys/fs/cgroup' /proc/self/mountinfo | cut -d ' ' -f 6; }; \
                  options | grep -c ^ro,; options | grep -c ^rw,; true";
    let Some(place) = Place::shell("cgroups-rrw", script) else { return };
    place.change(|config| {
        let mounts = config["mounts"].as_array_mut().unwrap().iter_mut();
        for mount in mounts.filter(|mount| mount["type"] == "cgroup") {
            mount["options"].as_array_mut().unwrap().push(json!("rrw"));
        }
    });
    let said = place.ok("run {}");
    assert!(said.ends_with("\n0\n") && !said.starts_with("0\n"), "{said}");
}
