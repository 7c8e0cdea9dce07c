//! Paths that lead elsewhere: links, descriptors, mounts over others, and all of it while somebody swaps them.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::{Value, json};

use super::canary::SECRET;
use super::{Stand, falls, said};
use crate::oci::receive;
use crate::support::{PATIENCE, tool, wait_for};

/// Descriptors that a runtime may hold; runc's of the cgroups was 7 or 8.
const DESCRIPTORS: std::ops::RangeInclusive<u32> = 3..=12;

/// From any directory of the host's to its root, and from there to the canary.
fn outwards(stand: &Stand) -> String {
    "../".repeat(16) + stand.canary.dir.join("secret").to_str().unwrap().trim_start_matches('/')
}

/// CVE-2024-21626.
#[test]
fn a_working_directory_through_a_descriptor_stays_inside() {
    let Some(stand) = Stand::new("attack-cwd") else { return };
    let secret = outwards(&stand);
    let reaches = |runtime: &str, cwd: &str| {
        stand.config(&["/bin/cat", &secret], |config| config["process"]["cwd"] = json!(cwd));
        let output = stand.run(runtime, "run {}");
        stand.delete(runtime);
        said(&output).contains(SECRET)
    };
    symlink("/proc/self/fd", stand.root.join("fds")).unwrap();
    for fd in DESCRIPTORS {
        for cwd in [format!("/proc/self/fd/{fd}"), format!("/fds/{fd}")] {
            assert!(!reaches("moored", &cwd), "{cwd}");
        }
    }
    for cwd in ["/proc/self/cwd", "/proc/1/root/proc/1/cwd/..", "/proc/thread-self/root/.."] {
        assert!(!reaches("moored", cwd), "{cwd}");
    }
    stand.config(&["/bin/sleep", "1000"], |_| ());
    stand.ok("run --detach {}");
    for fd in DESCRIPTORS {
        let mut exec = stand.command("moored", &format!("exec --cwd /proc/self/fd/{fd} {{}} /bin/cat"));
        let output = stand.finish(exec.arg(&secret));
        assert!(!said(&output).contains(SECRET), "exec in {fd}: {}", said(&output));
    }
    stand.canary.assert_unharmed("a working directory");
    // Debian has mended its runc. One that goes into the root with a descriptor left open, and then where config.json says:
    let script = format!(
        "mount --bind /proc {root}/proc; exec 7</; exec chroot {root} /bin/sh -c 'cd /proc/self/fd/7; cat {secret}'",
        root = stand.root.display()
    );
    let naive = Command::new("unshare").args(["-m", "sh", "-c", &script]).stdin(Stdio::null()).output().unwrap();
    assert!(said(&naive).contains(SECRET), "{}", said(&naive));
}

/// What a script inside says of the masked file `/masked`, with this in the place of `/dev/null`.
fn masked(stand: &Stand, runtime: &str, change: impl FnOnce(&mut Value)) -> String {
    let script = "stat -c '%F %t:%T' /masked; grep -o 'what is masked' /masked";
    stand.config(&["/bin/sh", "-c", script], |config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        config["linux"]["maskedPaths"] = json!(["/masked"]);
        change(config);
    });
    let output = stand.run(runtime, "run {}");
    stand.delete(runtime);
    // runc takes descriptors of this number for the null device's, and puts what it has for that in their place.
    said(&output) + &fs::read_to_string(stand.root.join("fake")).unwrap_or_default()
}

/// CVE-2025-31133.
#[test]
fn a_mask_is_the_null_device_whatever_lies_at_its_path() {
    let Some(stand) = Stand::new("attack-null") else { return };
    let (dev, fake) = (stand.root.join("dev"), stand.root.join("fake"));
    let put = |what: &str| {
        let _ = fs::remove_file(dev.join("null"));
        fs::write(&fake, "").unwrap();
        fs::write(stand.root.join("masked"), "what is masked").unwrap();
        match what {
            "a file" => fs::write(dev.join("null"), "").unwrap(),
            target => symlink(target, dev.join("null")).unwrap(),
        }
    };
    // The mask would be a file that can be written, or what it leads to would be found at the path of the mask.
    let exposed = |said: &str| said.contains("regular") || said.contains("what is masked");
    let secret = stand.canary.dir.join("secret").display().to_string();
    for what in ["/fake", "../fake", "/proc/self/root/fake", "/proc/sys/vm/laptop_mode", "/masked", &secret, "a file"] {
        put(what);
        let said = masked(&stand, "moored", |_| ());
        assert!(!exposed(&said) && !said.contains(SECRET), "{what}: {said}");
        stand.canary.assert_unharmed(what);
    }
    // A node that is already there and the right one is taken.
    fs::remove_file(dev.join("null")).unwrap();
    let node = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(
        CWD,
        dev.join("null"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from_raw_mode(0o666),
        node,
    )
    .unwrap();
    let said = masked(&stand, "moored", |_| ());
    assert!(said.starts_with("character special file 1:3"), "{said}");
    if falls("runc") {
        fs::remove_dir_all(&dev).unwrap();
        fs::create_dir(&dev).unwrap();
        put("/fake");
        let said = masked(&stand, "runc", |_| ());
        assert!(exposed(&said), "runc 1.1.5 does not fall: {said}");
    }
}

/// CVE-2025-52565: the device at the path that the kernel names for a terminal may be any other.
#[test]
fn a_console_that_is_a_link_covers_nothing_that_is_masked() {
    let Some(stand) = Stand::new("attack-console") else { return };
    let dev = stand.root.join("dev");
    fs::create_dir(dev.join("pts")).unwrap();
    let script = "echo $(stat -c '%F %t:%T' /proc/keys) $(stat -L -c %t:%T /dev/stdin) end";
    let secret = stand.canary.dir.join("secret").display().to_string();
    for target in ["/proc/keys", "../proc/keys", "/proc/self/fd/0", &secret] {
        let _ = fs::remove_file(dev.join("console"));
        symlink(target, dev.join("console")).unwrap();
        fs::write(dev.join("pts/0"), "not a terminal").unwrap();
        stand.config(&["/bin/sh", "-c", script], |config| {
            let mounts = config["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| {
                mount["destination"] != "/dev" && mount["type"] != "mqueue" && mount["destination"] != "/dev/shm"
            });
            config["process"]["terminal"] = json!(true);
        });
        let socket = stand.dir.join("console.sock");
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let made = stand.run("moored", &format!("create --console-socket {} {{}}", socket.display()));
        if made.status.success() {
            let mut master = receive(&listener.accept().unwrap().0);
            stand.ok("start {}");
            let mut shown = String::new();
            let mut chunk = [0u8; 512];
            while !shown.contains(" end") {
                match master.read(&mut chunk) {
                    Ok(got) => shown.push_str(&String::from_utf8_lossy(&chunk[..got])),
                    Err(error) => panic!("{error} after {shown:?}"),
                }
            }
            // The null device over the link's target, and a pty for a terminal: 136 is 0x88.
            assert!(shown.contains("character special file 1:3") && shown.contains(" 88:"), "{target}: {shown}");
        }
        stand.delete("moored");
        stand.canary.assert_unharmed(target);
    }
}

/// CVE-2019-19921, CVE-2025-52881.
#[test]
fn a_sysctl_goes_to_the_kernel_and_not_to_what_lies_over_it() {
    let Some(mut stand) = Stand::new("attack-sysctl") else { return };
    if tool("nsenter").is_none() {
        return;
    }
    let over = stand.canary.dir.join("deep");
    fs::write(over.join("somaxconn"), "128\n").unwrap();
    symlink("/proc", stand.root.join("also")).unwrap();
    stand.canary.forget();
    let setting = "/proc/sys/net/core/somaxconn";
    for target in ["/proc/sys/net/core", "/also/sys/net/core", "/proc/self/../sys/net/core"] {
        // The program does what the runtime would do by path.
        let script = format!("while ! test -e /go; do sleep 0.05; done; echo 4321 >{setting}");
        let _ = fs::remove_file(stand.root.join("go"));
        stand.config(&["/bin/sh", "-c", &script], |config| {
            config["linux"]["sysctl"] = json!({"net.core.somaxconn": "1234"});
            config["linux"]["readonlyPaths"] = json!([]);
            let bind = json!({"destination": target, "source": over, "type": "bind", "options": ["bind", "rw"]});
            config["mounts"].as_array_mut().unwrap().push(bind);
        });
        let made = stand.run("moored", "run --detach {}");
        stand.canary.assert_unharmed(target);
        if !made.status.success() {
            println!("{target} is refused: {}", said(&made));
            continue;
        }
        let inside = Command::new("nsenter").args(["-t", &stand.pid(), "-n", "cat", setting]).output();
        assert_eq!(said(&inside.unwrap()), "1234\n", "{target}: the kernel has it");
        fs::write(stand.root.join("go"), "").unwrap();
        let written = || fs::read_to_string(over.join("somaxconn")).unwrap() == "4321\n";
        wait_for("the naive write to fall", || written().then_some(()));
        fs::write(over.join("somaxconn"), "128\n").unwrap();
        stand.delete("moored");
    }
    assert!(stand.canary.changes().is_empty(), "{:?}", stand.canary.changes());
}

/// Exchanges two names until it is told to end.
fn exchange(one: &Path, other: &Path, end: &AtomicBool) {
    while !end.load(Ordering::Relaxed) {
        renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
    }
}

/// CVE-2021-30465, CVE-2024-45310: a volume that another container writes to holds a directory, then a link to the host's.
#[test]
fn a_path_that_is_swapped_while_it_is_used_leads_nowhere_else() {
    let Some(mut stand) = Stand::new("attack-swap") else { return };
    let volume = stand.root.join("volume");
    fs::create_dir_all(volume.join("dir")).unwrap();
    symlink(&stand.canary.dir, volume.join("link")).unwrap();
    fs::create_dir_all(stand.root.join("tmp/work")).unwrap();
    let end = AtomicBool::new(false);
    let (dir, link) = (volume.join("dir"), volume.join("link"));
    std::thread::scope(|scope| {
        scope.spawn(|| exchange(&dir, &link, &end));
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..12 {
                stand.config(&["/bin/sh", "-c", "echo x 2>/dev/null >/volume/dir/file; cat /volume/dir/secret; true"], |config| {
                    let mounts = config["mounts"].as_array_mut().unwrap();
                    let made = format!("/volume/dir/new-{round}/a/b");
                    mounts.push(json!({"destination": made, "source": "tmpfs", "type": "tmpfs"}));
                    let bind = |target: String, source: &Path| {
                        json!({"destination": target, "source": source, "type": "bind", "options": ["bind", "rw"]})
                    };
                    mounts.push(bind(format!("/volume/dir/file-{round}"), &stand.root.join("etc/passwd")));
                    mounts.push(bind("/volume/dir/deep".to_owned(), &stand.root.join("tmp/work")));
                    config["process"]["cwd"] = json!("/volume/dir");
                    config["linux"]["maskedPaths"] = json!(["/volume/dir/secret"]);
                    config["linux"]["readonlyPaths"] = json!(["/volume/dir/deep"]);
                });
                // It may be refused, as things are not as they were a moment before; what matters is what is reached.
                let output = stand.run("moored", "run {}");
                assert!(!said(&output).contains(SECRET), "{}", said(&output));
                stand.canary.assert_unharmed("a swapped path");
                stand.delete("moored");
                let exec = stand.run("moored", "list");
                assert!(exec.status.success(), "{}", said(&exec));
            }
            // The naive way: look whether it is inside, then make it by path.
            let begun = Instant::now();
            for round in 0.. {
                let target = volume.join("dir/naive");
                let inside = fs::canonicalize(&dir).is_ok_and(|found| found.starts_with(&stand.root));
                let _ = inside.then(|| fs::create_dir_all(target.join(round.to_string())));
                if stand.canary.dir.join("naive").is_dir() {
                    break;
                }
                assert!(begun.elapsed() < PATIENCE, "the naive way does not fall: the attack is none");
            }
        }));
        end.store(true, Ordering::Relaxed);
        done.unwrap();
    });
    assert!(!stand.canary.changes().is_empty());
    stand.canary.forget();
}

/// Nothing swaps; the links are there from the start.
#[test]
fn targets_that_are_links_are_made_inside() {
    let Some(stand) = Stand::new("attack-links") else { return };
    let canary = stand.canary.dir.display().to_string();
    let up = "../".repeat(16) + canary.trim_start_matches('/');
    for (at, target) in
        [canary.clone(), up, format!("/proc/self/root{canary}"), format!("/proc/1/root{canary}")].iter().enumerate()
    {
        let link = stand.root.join(format!("link-{at}"));
        symlink(target, &link).unwrap();
        stand.config(&["/bin/true"], |config| {
            let mounts = config["mounts"].as_array_mut().unwrap();
            mounts.push(json!({"destination": format!("/link-{at}/made"), "source": "tmpfs", "type": "tmpfs"}));
            let source = stand.root.join("etc/passwd");
            let bind = json!({"destination": format!("/link-{at}/file"), "source": source, "type": "bind", "options": ["bind"]});
            mounts.push(bind);
            config["linux"]["devices"] = json!([{"path": format!("/link-{at}/node"), "type": "c", "major": 1, "minor": 3}]);
            config["process"]["cwd"] = json!(format!("/link-{at}/cwd"));
        });
        let output = stand.run("moored", "run {}");
        stand.delete("moored");
        stand.canary.assert_unharmed(target);
        // What leads out by its text is a place inside; what leads through a magic link is refused.
        let inside = stand.root.join(canary.trim_start_matches('/')).join("made").is_dir();
        assert!(inside || !output.status.success(), "{target}: {}", said(&output));
        // The naive way: by path, from outside.
        if at == 0 {
            fs::create_dir_all(link.join("made")).unwrap();
            assert!(!stand.canary.changes().is_empty());
            fs::remove_dir(stand.canary.dir.join("made")).unwrap();
        }
    }
    stand.canary.assert_unharmed("links");
}
