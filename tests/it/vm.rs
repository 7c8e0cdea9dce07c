//! A machine with cgroup v2 alone and Debian's kernel (6.1), which the development machines do not have.
//!
//! One boot of qemu without hardware help runs all of `vm/scenarios`: each prints `ok NAME`, or `FAIL NAME` and how far it came, on the
//! serial console. `tests/run` puts the kernel into `target/vm`.

pub mod initramfs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use initramfs::Initramfs;

use super::support::{TempDir, end_of, skip, tool};

/// The kernel and its module for overlayfs.
pub const KERNEL_DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/vm");
/// Its modules for a disk of qemu's.
pub const VIRTIO: [&str; 6] = [
    "virtio.ko",
    "virtio_ring.ko",
    "virtio_pci_legacy_dev.ko",
    "virtio_pci_modern_dev.ko",
    "virtio_pci.ko",
    "virtio_blk.ko",
];
/// For what needs a file system whose ids this kernel maps.
const DISK_BYTES: u64 = 32 << 20;
/// A machine that is not done by then hangs; the whole takes a minute.
const BOOT: Duration = Duration::from_secs(900);
const INIT: &[u8] = include_bytes!("vm/init");
const SCENARIOS: &[u8] = include_bytes!("vm/scenarios");
/// What `tests/clients` runs with containerd, and what it needs beside busybox.
const CLIENTS: &[u8] = include_bytes!("../clients");
const CLIENT_PROGRAMS: [&str; 5] = ["containerd", "containerd-shim-runc-v2", "ctr", "bash", "script"];

#[test]
fn containers_and_units_work_on_pure_cgroup_v2() {
    let (Some(qemu), Some(busybox), Some(kernel)) = (tool("qemu-system-x86_64"), tool("busybox"), kernel()) else {
        return;
    };
    let clients: Option<Vec<PathBuf>> = CLIENT_PROGRAMS.iter().map(|name| tool(name)).collect();
    let Some(clients) = clients else { return };
    let dir = TempDir::new("vm");
    let Some(mke2fs) = tool("mke2fs") else { return };
    if VIRTIO.iter().any(|name| module(name).is_none()) {
        return;
    }
    fs::write(dir.join("initramfs"), archive(&dir, &busybox, &clients)).unwrap();
    fs::File::create(dir.join("disk")).unwrap().set_len(DISK_BYTES).unwrap();
    let made = Command::new(mke2fs).args(["-q", "-t", "ext4"]).arg(dir.join("disk")).status();
    assert!(made.is_ok_and(|status| status.success()));
    let console = run(&qemu, &kernel, &dir);
    let results: Vec<&str> = console.lines().map(str::trim_end).collect();
    let passed = results.iter().filter(|line| line.starts_with("ok ")).count();
    let failed = results.iter().any(|line| line.starts_with("FAIL "));
    let done = format!("done {passed}");
    assert!(!failed && passed > 0 && results.contains(&done.as_str()), "{console}");
    // The kernel's word: the last scenario ends with it, `init` would have switched the machine off.
    assert!(console.contains("Restarting system"), "{console}");
    println!("{console}");
}

pub fn kernel() -> Option<PathBuf> {
    let kernel = Path::new(KERNEL_DIR).join("vmlinuz");
    let found = kernel.is_file();
    if !found {
        skip("no kernel in target/vm: tests/run puts it there");
    }
    found.then_some(kernel)
}

/// A module of that kernel.
pub fn module(name: &str) -> Option<PathBuf> {
    let module = Path::new(KERNEL_DIR).join(name);
    if !module.is_file() {
        skip(&format!("no {name} in target/vm: tests/run puts it there"));
    }
    module.is_file().then_some(module)
}

fn archive(dir: &TempDir, busybox: &Path, clients: &[PathBuf]) -> Vec<u8> {
    let mut archive = Initramfs::default();
    for directory in ["bin", "dev", "etc", "lib", "proc", "root", "run", "sys", "tmp", "var"] {
        archive.directory(directory);
    }
    archive.program("init", INIT);
    archive.program("scenarios", SCENARIOS);
    archive.copy("bin/busybox", busybox);
    archive.copy("bin/moored", &stripped(dir, Path::new(env!("CARGO_BIN_EXE_moored"))));
    for name in ["overlay.ko"].into_iter().chain(VIRTIO) {
        archive.copy(&format!("lib/{name}"), &Path::new(KERNEL_DIR).join(name));
    }
    archive.program("clients", CLIENTS);
    clients.iter().for_each(|program| archive.program_with_libraries(program));
    archive.finish()
}

/// The binary without what a debugger reads, a third of its size: the machine copies it more than once, slowly.
pub fn stripped(dir: &TempDir, program: &Path) -> PathBuf {
    let copy = dir.0.join(program.file_name().unwrap());
    let strip = Command::new("strip").arg("-o").arg(&copy).arg(program).status();
    if strip.is_ok_and(|status| status.success()) { copy } else { program.to_owned() }
}

/// What the serial console says until the machine is off.
fn run(qemu: &Path, kernel: &Path, dir: &TempDir) -> String {
    let (image, console) = (dir.join("initramfs"), dir.join("console"));
    let mut command = Command::new(qemu);
    command.args(["-accel", "tcg,thread=multi", "-M", "q35", "-cpu", "max", "-smp", "2", "-m", "1G"]);
    command.args(["-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot"]);
    command.arg("-drive").arg(format!("file={},format=raw,if=none,id=disk", dir.join("disk").display()));
    command.args(["-device", "virtio-blk-pci,drive=disk"]);
    command.arg("-serial").arg(format!("file:{}", console.display()));
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(image);
    command.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"]);
    let mut machine = command.stdin(Stdio::null()).spawn().unwrap();
    let status = end_of(&mut machine, BOOT);
    if status.is_none() {
        let _ = machine.kill();
        let _ = machine.wait();
    }
    let console = String::from_utf8_lossy(&fs::read(&console).unwrap_or_default()).into_owned();
    assert!(status.is_some_and(|status| status.success()), "qemu: {status:?}\n{console}");
    console
}
