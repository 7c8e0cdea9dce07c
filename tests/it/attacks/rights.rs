//! Who a container's process is, and what it may do: numbers, names, groups, capabilities, cgroups, and the names of containers themselves.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mknodat, openat};
use serde_json::json;

use super::{Stand, all_capabilities, falls, said};
use crate::support::{tool, wait_for};

/// One number more than there are ids; -1; one that would be 0 if it were cut to 32 bits.
const OUT_OF_RANGE: [&str; 4] = ["4294967296", "-1", "8589934592", "0x0"];

/// CVE-2024-40635: what is no id is an error, and never root.
#[test]
fn users_out_of_range_are_refused() {
    let Some(stand) = Stand::new("attack-uid") else { return };
    for number in OUT_OF_RANGE {
        for field in ["uid", "gid"] {
            stand.config(&["/bin/id"], |config| {
                config["process"]["user"][field] = serde_json::from_str(number).unwrap_or(json!(number));
            });
            let output = stand.run("moored", "run {}");
            assert!(
                !output.status.success() && said(&output).contains(&format!("process.user.{field}")),
                "{}",
                said(&output)
            );
        }
        // The cast that fell elsewhere.
        assert!(number.parse::<i128>().map_or(true, |number| number as u32 == 0 || number as u32 == u32::MAX));
    }
    // By name, where the files of the root say so.
    let lines = OUT_OF_RANGE.map(|number| format!("u{}:x:{number}:{number}::/:/bin/sh\n", number.replace('-', "m")));
    fs::write(stand.root.join("etc/passwd"), lines.concat()).unwrap();
    stand.config(&["/bin/sleep", "1000"], |_| ());
    stand.ok("run --detach {}");
    for number in OUT_OF_RANGE {
        let name = format!("u{}", number.replace('-', "m"));
        for user in [number.to_owned(), format!("1:{number}"), name] {
            let output = stand.run("moored", &format!("exec --user {user} {{}} /bin/id"));
            assert!(!output.status.success(), "{user}: {}", said(&output));
        }
    }
    stand.canary.assert_unharmed("users out of range");
}

/// CVE-2022-2989.
#[test]
fn groups_of_the_caller_stay_outside() {
    let Some(stand) = Stand::new("attack-groups") else { return };
    let Some(setpriv) = tool("setpriv") else { return };
    let with_groups = |command: &Command| {
        let mut caller = Command::new(&setpriv);
        caller.args(["--groups", "4242,4343", "--"]).arg(command.get_program()).args(command.get_args());
        caller.current_dir(stand.dir.join("b")).stdin(Stdio::null());
        caller
    };
    for (user, expected) in
        [(json!({"uid": 1, "gid": 2}), "2"), (json!({"uid": 1, "gid": 2, "additionalGids": [3]}), "2 3")]
    {
        stand.config(&["/bin/id", "-G"], |config| config["process"]["user"] = user.clone());
        let output = stand.finish(&mut with_groups(&stand.command("moored", "run {}")));
        assert_eq!(said(&output).trim(), expected);
    }
    stand.config(&["/bin/sleep", "1000"], |_| ());
    stand.ok("run --detach {}");
    for (user, expected) in [("0:0", "0"), ("7:8", "8")] {
        let exec = stand.command("moored", &format!("exec --user {user} {{}} /bin/id -G"));
        assert_eq!(said(&stand.finish(&mut with_groups(&exec))).trim(), expected);
    }
    // A caller that drops nothing.
    let naive = stand.finish(&mut with_groups(&Command::new("id")));
    assert!(said(&naive).contains("4242"), "{}", said(&naive));
}

/// CVE-2022-29162.
#[test]
fn nothing_is_inheritable_unless_asked_for() {
    let Some(stand) = Stand::new("attack-inheritable") else { return };
    let status = ["/bin/grep", "^Cap", "/proc/self/status"];
    let sets = |text: &str| -> Vec<String> {
        let of = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?").trim().to_owned();
        ["CapInh:", "CapAmb:", "CapEff:"].map(of).to_vec()
    };
    let none = "0000000000000000";
    stand.config(&status, all_capabilities);
    let found = sets(&stand.ok("run {}"));
    assert!(found[0] == none && found[1] == none && found[2] != none, "{found:?}");
    stand.config(&["/bin/sleep", "1000"], |_| ());
    stand.ok("run --detach {}");
    for words in ["exec {}", "exec --cap CAP_NET_ADMIN {}", "exec --user 7:8 --cap CAP_NET_ADMIN {}"] {
        let mut exec = stand.command("moored", words);
        let found = sets(&said(&stand.finish(exec.args(status))));
        assert!(found[0] == none && found[1] == none, "{words}: {found:?}");
    }
    stand.delete("moored");
    // Asked for, it is there: the sets are those of the process.
    stand.config(&status, |config| {
        all_capabilities(config);
        config["process"]["capabilities"]["inheritable"] = json!(["CAP_KILL"]);
    });
    assert_eq!(sets(&stand.ok("run {}"))[0], "0000000000000020");
}

/// Something else in the place of `/etc/passwd`.
fn put_passwd(stand: &Stand, what: &str) {
    let passwd = stand.root.join("etc/passwd");
    let _ = fs::remove_file(&passwd).or_else(|_| fs::remove_dir(&passwd));
    match what {
        "a FIFO" => mknodat(CWD, &passwd, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap(),
        "a device" => {
            mknodat(CWD, &passwd, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 5)).unwrap()
        }
        "a directory" => fs::create_dir(&passwd).unwrap(),
        "too large" => fs::write(&passwd, "x:x:1:1::/:/\n".repeat(200_000)).unwrap(),
        "one line" => fs::write(&passwd, "x".repeat(900_000)).unwrap(),
        link => symlink(link, &passwd).unwrap(),
    }
}

/// CVE-2024-9676: what it is, it is answered, and none of the host's files is what is read.
#[test]
fn account_files_that_are_something_else_hold_up_nobody() {
    let Some(stand) = Stand::new("attack-passwd") else { return };
    let host = stand.dir.join("passwd-of-the-host");
    fs::write(&host, "web:x:4242:4242::/:/bin/sh\n").unwrap();
    let up = "../".repeat(16) + host.to_str().unwrap().trim_start_matches('/');
    let links = ["/dev/zero", "/proc/self/fd/0", "/proc/1/root/etc/passwd", "passwd", host.to_str().unwrap(), &up];
    // Not id(1), which reads the file itself.
    let is_seven = ["/bin/grep", "-c", "^Uid:.7", "/proc/self/status"];
    stand.config(&["/bin/sleep", "1000"], |_| ());
    stand.ok("run --detach {}");
    for what in ["a FIFO", "a device", "a directory", "too large", "one line"].into_iter().chain(links) {
        put_passwd(&stand, what);
        // A number needs no file: only where its home is is not known.
        let output = stand.finish(stand.command("moored", "exec --user 7:8 {}").args(is_seven));
        assert_eq!(said(&output), "1\n", "{what}");
    }
    stand.delete("moored");
    put_passwd(&stand, "a FIFO");
    stand.config(&["/bin/true"], |_| ());
    stand.ok("run {}");
    stand.canary.assert_unharmed("account files");
    if falls("runc") {
        let mut runc = stand.command("runc", "run {}");
        let mut runc = runc.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Whoever waits for a writer makes this open succeed.
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let waits = || openat(CWD, stand.root.join("etc/passwd"), flags, Mode::empty()).is_ok();
        let fallen = wait_for("runc to fall, or to end", || match (waits(), runc.try_wait().unwrap()) {
            (true, _) => Some(true),
            (false, Some(_)) => Some(false),
            (false, None) => None,
        });
        stand.delete("runc");
        let _ = runc.kill();
        let _ = runc.wait();
        assert!(fallen, "runc 1.1.5 does not fall: the attack is none");
    }
}

/// CVE-2022-0492, CVE-2023-25809: the file with the program that the host runs when a cgroup is empty, and limits that a container could lift.
#[test]
fn no_release_agent_and_no_limit_is_written_from_inside() {
    let Some(stand) = Stand::new("attack-cgroup") else { return };
    // What is there already is written again, so that a host that falls is as it was.
    let script = r#"
        wrote() { ( cat "$1" >/tmp/was && cat /tmp/was >"$1" ) 2>/dev/null && echo "wrote $1"; }
        for file in $(find /sys/fs/cgroup -name release_agent -o -name pids.max -o -name memory.limit_in_bytes -o -name cgroup.procs 2>/dev/null); do wrote $file; done
        mkdir -p /tmp/new
        for type in rdma pids memory devices; do
            mount -t cgroup -o $type none /tmp/new 2>/dev/null && { wrote /tmp/new/release_agent; umount /tmp/new; }
        done
        mkdir /sys/fs/cgroup/*/made /sys/fs/cgroup/made 2>/dev/null && echo made
        echo end"#;
    stand.config(&["/bin/sh", "-c", script], |config| {
        config["linux"]["resources"]["pids"] = json!({"limit": 100});
    });
    assert_eq!(stand.ok("run {}"), "end\n");
    stand.canary.assert_unharmed("writes to cgroups");
    // The namespace alone: what there is to be written to is its own. (With CAP_SYS_ADMIN it could mount more, and the host is its.)
    stand.config(&["/bin/sh", "-c", script], |config| {
        for mount in config["mounts"].as_array_mut().unwrap() {
            if mount["type"] == "cgroup" {
                mount["options"] = json!(["nosuid", "noexec", "nodev", "rw"]);
            }
        }
    });
    let output = stand.ok("run {}");
    assert!(!output.contains("release_agent"), "{output}");
    // Without any of it: the host's cgroups, and the right to write to them.
    let agents = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|one| one.path().join("release_agent"));
    for agent in agents.filter(|agent| agent.exists()) {
        let was = fs::read(&agent).unwrap();
        fs::write(&agent, was).unwrap_or_else(|error| panic!("{} does not fall: {error}", agent.display()));
    }
    stand.canary.assert_unharmed("the same again");
}

/// Names that would be paths.
#[test]
fn ids_and_cgroup_paths_do_not_leave_their_place() {
    let Some(stand) = Stand::new("attack-ids") else { return };
    let state = stand.dir.join("moored.state");
    fs::create_dir_all(&state).unwrap();
    stand.config(&["/bin/sleep", "1000"], |_| ());
    let canary = stand.canary.dir.display().to_string();
    let long = "a".repeat(2000);
    for id in ["..", ".", "../canary", "a/../../canary", &canary, "", "a b", "a\nb", "a\u{1b}[31m", "ü", &long] {
        for words in [
            ["create"].as_slice(),
            &["run", "--detach"],
            &["delete", "--force"],
            &["state"],
            &["kill"],
            &["start"],
            &["exec"],
            &["update"],
        ] {
            let mut command = stand.command("moored", "");
            command.args(words).arg(id);
            let _ = (words[0] == "exec").then(|| command.arg("/bin/true"));
            let output = stand.finish(&mut command);
            assert!(!output.status.success(), "{words:?} {id:?}");
            assert!(!said(&output).contains('\u{1b}'), "{:?}", said(&output));
        }
        stand.canary.assert_unharmed(id);
    }
    // A place that somebody made a link: what it leads to is neither taken for a container nor removed.
    symlink(&stand.canary.dir, state.join(stand.id())).unwrap();
    for words in ["delete --force {}", "state {}", "create {}", "run --detach {}", "kill {} KILL", "list"] {
        stand.run("moored", words);
        stand.canary.assert_unharmed(words);
    }
    let _ = fs::remove_file(state.join(stand.id()));
    for path in ["/../../up", "../up", "/a/../../up", "a\nb"] {
        stand.config(&["/bin/true"], |config| config["linux"]["cgroupsPath"] = json!(path));
        let output = stand.run("moored", "run {}");
        let made = ["up", "a\nb"].iter().any(|name| Path::new("/sys/fs/cgroup/pids").join(name).exists());
        assert!(!made, "{path}: {}", said(&output));
        stand.delete("moored");
    }
    // The naive way: join, and remove what is there.
    let mut stand = stand;
    fs::remove_dir_all(state.join("../canary/deep")).unwrap();
    assert!(!stand.canary.changes().is_empty());
    stand.canary.forget();
}
