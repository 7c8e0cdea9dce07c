//! `security.seccomp = "profile.json"`: the filter that the program gets, what an edit of the file does, and what is said of a broken one.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use super::support::{skip, wait_for};
use super::world::{FOREVER, Running, World};

/// Refuses `mkdir` with an error that nothing else gives (EDOM).
const NO_MKDIR: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
    {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 33}]}"#;

const TRIES: &str = "mkdir /tmp/x 2>&1 && echo made";

fn unit(world: &World) -> String {
    world.text("", &format!("{TRIES}; {FOREVER}"), "[security]\nseccomp = \"../web.json\"\n")
}

#[test]
fn an_edit_of_the_file_replaces_the_container_and_a_broken_one_changes_nothing() {
    let Some(mut world) = World::start("seccomp-file") else { return };
    let profile = world.dir.join("web.json");
    fs::write(&profile, NO_MKDIR).unwrap();
    world.unit("web", &unit(&world));
    let first = world.running("web");
    world.wait_log("web", "mkdir: can't create directory '/tmp/x': Numerical argument out of domain");
    let status = world.ok(&["status", "web"]);
    assert!(status.contains(&format!("seccomp = \"{}\"", profile.display())), "{status}");
    // What is run inside has it as well.
    let inside = world.run(&["exec", "web", "--", "/bin/mkdir", "/tmp/y"]);
    assert!(String::from_utf8_lossy(&inside.stderr).contains("out of domain"), "{inside:?}");

    let spaced = NO_MKDIR.replace(", \"syscalls\"", ",\n\n  \"syscalls\"");
    fs::write(&profile, spaced).unwrap();
    world.kept("web", &first, "spaces mean nothing");
    fs::write(&profile, NO_MKDIR.replace("33", "34")).unwrap();
    let second = world.replaced("web", &first);
    let changed = ("changed".to_owned(), "changed: security.seccomp.contents in its config files".to_owned());
    assert!(world.happened("web").contains(&changed), "{:?}", world.happened("web"));
    world.wait_log("web", "'/tmp/x': Numerical result out of range");

    for (text, says) in [
        (
            "{\n \"defaultAction\": \"SCMP_ACT_ALLOW\",\n \"sycalls\": []}",
            "web.json:3:10 sycalls: unknown field `sycalls`",
        ),
        ("{}", "web.json:1:2 missing field `defaultAction`"),
        // Told by who compiles it, and counted as in the file.
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
              {"names": ["a"], "action": "SCMP_ACT_LOG", "includes": {"arches": ["s390"]}},
              {"names": ["b"], "action": "SCMP_ACT_LOG", "errnoRet": 1}]}"#,
            "web.json:3:70 syscalls[1].errnoRet: SCMP_ACT_LOG has no errno",
        ),
    ] {
        fs::write(&profile, text).unwrap();
        let row = world.wait_reason("web", says);
        assert_eq!(Running::of(&row), second, "{row}");
    }
    fs::remove_file(&profile).unwrap();
    let row = world.wait_reason("web", "web.json: does not exist");
    assert!(row["reason"].as_str().unwrap().contains("web.toml:6:11 seccomp: "), "{row}");
    let checked = world.run(&["check", world.units().join("web.toml").to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&checked.stdout).contains("web.toml:6:11 seccomp: "), "{checked:?}");
    world.kept("web", &second, "the file is gone");

    // The last good one is in force after a reboot as well.
    assert!(world.supervisor.stop().success());
    let _ = fs::remove_dir_all(world.dir.join("run"));
    world.supervisor.up();
    world.wait_reason("web", "web.json: does not exist");
    wait_for("the last good filter", || (world.log("web").matches("result out of range").count() == 2).then_some(()));

    fs::write(&profile, NO_MKDIR).unwrap();
    fs::set_permissions(&profile, fs::Permissions::from_mode(0o602)).unwrap();
    world.wait_reason("web", "chmod o-w");
    fs::set_permissions(&profile, fs::Permissions::from_mode(0o644)).unwrap();
    chown(&profile, Some(4321), None).unwrap();
    world.wait_reason("web", "chown");
}

#[test]
fn dockers_form_depends_on_the_capabilities_of_the_unit() {
    let Some(world) = World::start("seccomp-docker") else { return };
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": null,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errno": "EDOM", "args": [],
                      "comment": "for those without", "includes": {}, "excludes": {"caps": ["CAP_CHOWN"]}}]}"#;
    fs::write(world.dir.join("web.json"), text).unwrap();
    let security = "[security]\nseccomp = \"../web.json\"\n";
    let without = world.printed("without", &format!("{TRIES}; true"), security);
    assert!(without.contains("out of domain"), "{without}");
    let with = world.printed("with", TRIES, &format!("{security}capabilities = [\"CHOWN\"]\n"));
    assert_eq!(with.trim(), "made");

    let theirs = Path::new("/usr/share/containers/seccomp.json");
    if !theirs.exists() {
        return skip("no profile of containers-common's");
    }
    let security = format!("[security]\nseccomp = \"{}\"\ncapabilities = ", theirs.display());
    let script = "mkdir /tmp/x && echo made; chroot / /bin/true 2>&1; grep Seccomp: /proc/self/status";
    let log = world.printed("theirs", script, &format!("{security}[]\n"));
    assert_eq!(
        log.lines().collect::<Vec<_>>(),
        ["made", "chroot: can't change root directory to '/': Operation not permitted", "Seccomp:\t2"]
    );
    let log = world.printed("theirs-root", script, &format!("{security}[\"SYS_CHROOT\"]\n"));
    assert_eq!(log.lines().collect::<Vec<_>>(), ["made", "Seccomp:\t2"]);
}
