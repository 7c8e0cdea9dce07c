//! The shipped service file under a real systemd: process 1 of a machine with Debian's root, cgroup v2 alone, and nothing else to do.
//!
//! `vm_systemd/check` runs there as a service, and switches the machine off. `tests/run` makes the root.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::crash::upgrades::places_in;
use super::support::{TempDir, end_of, skip, tool};
use super::vm::initramfs::Initramfs;
use super::vm::{kernel, stripped};
use super::vm_init::Console;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/systemd-root");
const SERVICE: &[u8] = include_bytes!("../../examples/moored.service");
const CHECK: &[u8] = include_bytes!("vm_systemd/check");
const CHECK_SERVICE: &[u8] =
    b"[Unit]\nDescription=The check\n[Service]\nType=oneshot\nExecStart=/check\nTimeoutStartSec=infinity\nEnvironment=HOME=/root\n";
/// An initramfs, which no container's root can be pivoted away from: so systemd gets the same tree mounted over itself, as switch_root(8) does.
const INIT: &[u8] =
    b"#!/bin/sh\nmount --bind / /mnt && cd /mnt && mount --move . / && exec chroot . /lib/systemd/systemd \"$@\"\n";
/// What nothing here reads; it would be unpacked into the machine's memory.
const WITHOUT: [&str; 10] = [
    "boot",
    "dev",
    "usr/share",
    "usr/lib/udev",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/perl-base",
    "var/cache",
    "var/lib/apt",
    "var/lib/dpkg",
    "run",
];
const UNITS: [(&str, &str); 2] = [("db", ""), ("front", "depends_on = { db = \"started\" }\n")];
const UNIT: &str = "executable = \"/bin/busybox\"\n\
    process.args = [\"/busybox\", \"sh\", \"-c\", \"trap 'exit 0' TERM; while :; do /busybox sleep 1000 & wait $!; done\"]\n";
/// A machine that is not off by then hangs. It takes a minute where nothing else runs.
const PATIENCE: Duration = Duration::from_secs(600);

#[test]
fn the_service_file_does_what_it_says() {
    let (Some(qemu), Some(busybox), Some(kernel)) = (tool("qemu-system-x86_64"), tool("busybox"), kernel()) else {
        return;
    };
    if !Path::new(ROOT).join("lib/systemd/systemd").exists() {
        return skip("no root in target/systemd-root: tests/run makes it");
    }
    let dir = TempDir::new("vm-systemd");
    let image = dir.join("initramfs");
    fs::write(&image, archive(&dir, &busybox)).unwrap();
    let mut command = Command::new(&qemu);
    command.args(["-accel", "tcg,thread=multi", "-M", "q35", "-cpu", "max", "-smp", "2", "-m", "768M"]);
    command.args(["-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot", "-serial", "stdio"]);
    command.arg("-kernel").arg(&kernel).arg("-initrd").arg(&image);
    // Its device manager and random seed are nobody's business here.
    command.args([
        "-append",
        "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check systemd.unit=check.service systemd.show_status=0 \
         systemd.mask=systemd-udevd.service systemd.mask=systemd-udev-trigger.service systemd.mask=systemd-random-seed.service",
    ]);
    let mut machine = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut console = Console::of(&mut machine);
    let status = console.end().then(|| end_of(&mut machine, PATIENCE)).flatten();
    if status.is_none() {
        let _ = machine.kill();
        let _ = machine.wait();
    }
    let console = console.text;
    assert!(status.is_some_and(|status| status.success()), "qemu: {status:?}\n{console}");
    let lines: Vec<&str> = console.lines().map(str::trim_end).collect();
    let passed = lines.iter().filter(|line| line.starts_with("ok ")).count();
    assert!(!console.contains("FAIL ") && passed > 0, "{console}");
    assert!(lines.contains(&format!("done {passed}").as_str()), "{console}");
    println!("{console}");
}

fn archive(dir: &TempDir, busybox: &Path) -> Vec<u8> {
    let moored = stripped(dir, Path::new(env!("CARGO_BIN_EXE_moored")));
    let mut image = Initramfs::default();
    image.tree(Path::new(ROOT), &WITHOUT);
    image.copy("usr/local/bin/moored", &moored);
    image.copy("usr/bin/busybox", busybox);
    let (id, _, version) = places_in(&fs::read(&moored).unwrap());
    image.file("places", format!("place_id={id}\nplace_version={version}\n").as_bytes());
    image.program("init", INIT);
    image.program("check", CHECK);
    image.file("etc/systemd/system/moored.service", SERVICE);
    image.file("etc/systemd/system/check.service", CHECK_SERVICE);
    for directory in ["etc/moored", "etc/moored/units"] {
        image.directory(directory);
    }
    for (unit, more) in UNITS {
        image.file(&format!("etc/moored/units/{unit}.toml"), format!("{more}{UNIT}").as_bytes());
    }
    image.finish()
}
