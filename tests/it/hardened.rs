//! The defaults for `rootfs` and `executable` units (SAFETY.md), each looked at from inside a container.

use std::collections::BTreeSet;
use std::fs;

use super::support::tool;
use super::world::{World, quoted};

/// Prints a file between marks, or why it cannot be read.
const LOOK: &str = "look() { echo \"[$1]\"; cat \"$1\" 2>&1; echo; }\n";

/// What LOOK printed of a file.
fn section<'l>(log: &'l str, file: &str) -> &'l str {
    let from = log.find(&format!("[{file}]\n")).unwrap_or_else(|| panic!("no {file} in\n{log}")) + file.len() + 3;
    let rest = &log[from..];
    &rest[..rest.find("\n[").unwrap_or(rest.len())]
}

/// A field of /proc/PID/status.
fn field<'s>(status: &'s str, name: &str) -> &'s str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":"));
    line.unwrap_or_else(|| panic!("no {name} in\n{status}")).trim()
}

/// Options of the mount and of its file system at a target, of the one on top.
fn mount_options<'m>(mountinfo: &'m str, target: &str) -> Option<(&'m str, &'m str, BTreeSet<&'m str>)> {
    let line = mountinfo.lines().rev().find(|line| line.split(' ').nth(4) == Some(target))?;
    let (own, file_system) = line.split_once(" - ")?;
    let mut after = file_system.split(' ');
    let (kind, _, more) = (after.next()?, after.next()?, after.next()?);
    let options = own.split(' ').nth(5)?.split(',').chain(more.split(',')).collect();
    Some((kind, own.split(' ').nth(5)?, options))
}

#[test]
fn a_root_is_hardened_unless_its_unit_says_otherwise() {
    let Some(world) = World::start("hardened") else { return };
    let script = format!(
        "{LOOK}look /proc/self/status; look /proc/self/mountinfo; look /proc/net/dev; look /proc/self/oom_score_adj; look /proc/self/cgroup\n\
         echo '[identity]'; echo $$; hostname; pwd; id -u; id -G; umask\n\
         echo '[fds]'; for f in 0 1 2 3 4 5 6 7 8 9; do [ -e /proc/self/fd/$f ] && readlink /proc/self/fd/$f; done\n\
         echo '[namespaces]'; for n in pid ipc uts mnt cgroup net; do readlink /proc/1/ns/$n; done\n\
         echo '[dev]'; ls /dev\n\
         echo '[denied]'; touch /x; touch /proc/sys/kernel/x; echo 0 > /proc/sys/vm/swappiness; mkdir /sys/fs/cgroup/x; mknod /tmp/n c 1 3;\n\
         mount -t tmpfs t /tmp; hostname x; unshare -U true; cat /proc/kcore 2>/dev/null | wc -c; touch /dev/shm/x /tmp/x && echo writable\n\
         echo '[lo]'; ifconfig lo; nc -l -p 9999 & sleep 0.3; nc -w1 127.0.0.1 9999 </dev/null && echo up\n\
         echo '[masked]'; for f in {masked}; do [ -f $f ] && wc -c <$f; [ -d $f ] && ls $f | wc -l; done 2>&1\n\
         echo '[end]'",
        masked = "/proc/acpi /proc/asound /proc/interrupts /proc/keys /proc/latency_stats /proc/sched_debug /proc/scsi \
                  /proc/timer_list /sys/firmware /sys/devices/virtual/powercap"
    );
    let log = world.printed("web", &format!("exec 2>&1\n{script}"), "");

    let status = section(&log, "/proc/self/status");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "SigBlk", "SigIgn"] {
        assert_eq!(field(status, set), "0000000000000000", "{set}");
    }
    assert_eq!((field(status, "NoNewPrivs"), field(status, "Seccomp")), ("1", "2"));
    assert_eq!(section(&log, "/proc/self/oom_score_adj").trim(), "0");
    assert_eq!(section(&log, "/proc/self/cgroup").lines().find(|line| line.starts_with("0::")), Some("0::/"));
    assert_eq!(section(&log, "identity"), "1\nweb\n/\n0\n0\n0022");

    let fds: Vec<&str> = section(&log, "fds").lines().collect();
    assert_eq!(fds[0], "/dev/null");
    assert_eq!(fds.len(), 3, "{fds:?}");
    for (namespace, name) in section(&log, "namespaces").lines().zip(["pid", "ipc", "uts", "mnt", "cgroup", "net"]) {
        let ours = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(namespace, ours.to_str().unwrap(), "{name}");
    }
    let devices: Vec<&str> = section(&log, "dev").lines().collect();
    let links = ["fd", "stderr", "stdin", "stdout"];
    let nodes: Vec<&str> = devices.into_iter().filter(|name| !links.contains(name)).collect();
    assert_eq!(nodes, ["full", "null", "ptmx", "pts", "random", "shm", "tty", "urandom", "zero"]);

    let denied: Vec<&str> = section(&log, "denied").lines().collect();
    let says = [
        "touch: /x: Read-only file system",
        "touch: /proc/sys/kernel/x: ",
        "/proc/sys/vm/swappiness: Read-only file system",
        "/sys/fs/cgroup/x': Read-only file system",
        "mknod: /tmp/n: Operation not permitted",
        "mount: ",
        "hostname: sethostname: Operation not permitted",
        "unshare: ",
        "0",
        "writable",
    ];
    assert_eq!(denied.len(), says.len(), "{denied:#?}");
    for (line, part) in denied.iter().zip(says) {
        assert!(line.contains(part), "{line:?} without {part:?}");
    }

    let mounts = section(&log, "/proc/self/mountinfo");
    let has = |target: &str, wanted: &[&str]| {
        let (_, _, options) = mount_options(mounts, target).unwrap_or_else(|| panic!("no {target} in\n{mounts}"));
        for option in wanted {
            assert!(options.contains(option), "{target} without {option}: {options:?}");
        }
    };
    has("/", &["ro"]);
    has("/proc", &["nosuid", "nodev", "noexec"]);
    has("/tmp", &["nosuid", "nodev", "size=65536k"]);
    has("/dev", &["nosuid", "noexec"]);
    has("/dev/shm", &["nosuid", "nodev", "noexec", "size=65536k"]);
    has("/sys", &["ro", "nosuid", "nodev", "noexec"]);
    has("/sys/fs/cgroup", &["ro", "nosuid", "nodev", "noexec"]);
    for target in ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"] {
        if std::path::Path::new(target).exists() {
            has(target, &["ro"]);
        }
    }
    assert!(section(&log, "masked").lines().all(|count| count == "0"), "{}", section(&log, "masked"));
    let interfaces: Vec<&str> =
        section(&log, "/proc/net/dev").lines().skip(2).filter_map(|line| line.trim().split(':').next()).collect();
    assert!(interfaces.contains(&"lo") && !interfaces.contains(&"eth0"), "{interfaces:?}");
    let lo = section(&log, "lo");
    assert!(lo.contains("UP LOOPBACK RUNNING") && lo.ends_with("up"), "{lo}");
}

#[test]
fn an_executable_has_a_root_of_its_own() {
    let (Some(world), Some(busybox)) = (World::start("executable"), tool("busybox")) else { return };
    let program = world.dir.join("busybox");
    super::support::install(&busybox, &program);
    let script = format!(
        "exec 2>&1; {LOOK}for f in hostname hosts resolv.conf passwd group; do look /etc/$f; done\n\
         echo '[root]'; ls -A /; echo '[etc]'; ls /etc; look /proc/self/status; look /proc/self/mountinfo; echo '[denied]'; touch /x /etc/x /busybox; touch /tmp/x && echo tmp; id -u; id -g"
    );
    // Applets by themselves: there is no /bin. `busybox sh` finds them in itself only where it prefers applets.
    let script = format!("for a in cat ls touch id; do alias $a=\"/busybox $a\"; done\n{script}");
    let text = format!(
        "type = \"oneshot\"\nexecutable = \"../busybox\"\n[process]\nargs = [\"/busybox\", \"sh\", \"-c\", {}]\nuser = \"1000:100\"\n",
        quoted(&script.replace("exec 2>&1; ", "exec 2>&1\n"))
    );
    let log = world.printed_by("thing", &text);
    let names = |at: &str| section(&log, at).lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(names("root"), ["busybox", "dev", "etc", "proc", "tmp"]);
    assert_eq!(names("etc"), ["group", "hostname", "hosts", "passwd", "resolv.conf"]);
    assert_eq!(section(&log, "/etc/hostname").trim(), "thing");
    assert!(section(&log, "/etc/hosts").contains("127.0.0.1\tlocalhost thing"));
    assert!(section(&log, "/etc/passwd").contains("app:x:1000:100:"));
    assert!(section(&log, "/etc/group").contains("app:x:100:"));
    let (kind, _, options) = mount_options(section(&log, "/proc/self/mountinfo"), "/").unwrap();
    assert!(kind == "tmpfs" && options.contains("ro"), "{options:?}");
    let denied = names("denied");
    assert!(denied[..3].iter().all(|line| line.contains("Read-only file system")), "{denied:?}");
    assert_eq!(denied[3..], ["tmp", "1000", "100"]);
    assert_eq!(field(section(&log, "/proc/self/status"), "CapBnd"), "0000000000000000");
}

#[test]
fn what_is_looser_is_written_in_the_unit_and_shown() {
    let Some(world) = World::start("looser") else { return };
    let looser = "[security]\ncapabilities = [\"CAP_NET_BIND_SERVICE\", \"chown\"]\nno_new_privileges = false\nseccomp = \"unconfined\"\n\
                  read_only = false\n[network]\nmode = \"host\"\n[oci]\nlinux.sysctl = { \"kernel.domainname\" = \"example\" }\n";
    let log = world.printed(
        "loose",
        "cat /proc/self/status; touch /tmp/../written; readlink /proc/1/ns/net; cat /proc/sys/kernel/domainname",
        looser,
    );
    // Bits 0 and 10 of capabilities(7).
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(field(&log, set), "0000000000000401", "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(field(&log, set), "0000000000000000", "{set}");
    }
    assert_eq!((field(&log, "NoNewPrivs"), field(&log, "Seccomp")), ("0", "0"));
    assert!(world.root.join("written").exists());
    let net = fs::read_link("/proc/self/ns/net").unwrap();
    assert!(log.contains(net.to_str().unwrap()) && log.ends_with("example\n"), "{log}");
    let status = world.ok(&["status", "loose"]);
    for words in [
        "capabilities: CAP_CHOWN CAP_NET_BIND_SERVICE",
        "no_new_privileges = false",
        "seccomp = \"unconfined\"",
        "read_only = false",
        "network = \"host\"",
        "[oci] settings",
    ] {
        assert!(status.contains(words), "{words} is not in\n{status}");
    }

    let docker = world.printed("docker", "cat /proc/self/status", "[security]\ncapabilities = \"docker\"");
    assert_eq!(field(&docker, "CapEff"), "00000000a80425fb");
    // The default profile allows nothing that makes a user namespace; without it the kernel decides.
    let strict = world.printed(
        "strict",
        "unshare -r true 2>&1; echo $?",
        "[security]\nseccomp = \"default\"\ncapabilities = \"docker\"",
    );
    assert!(strict.contains("Operation not permitted") && strict.ends_with("1\n"), "{strict}");
}
