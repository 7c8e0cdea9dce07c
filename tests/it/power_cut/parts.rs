//! What the machine is made of, and what looks at its disk from outside.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::support::{TempDir, tool};
use super::super::vm::initramfs::Initramfs;
use super::super::vm::{KERNEL_DIR, VIRTIO, kernel, stripped};
use super::UNIT_TOML;

const DISK_BYTES: u64 = 64 << 20;
const SERVE: &[u8] = include_bytes!("serve");
const INIT_TOML: &str = include_str!("init.toml");

/// What the machine is made of, and what looks at its disk.
pub struct Parts {
    pub dir: TempDir,
    pub qemu: PathBuf,
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    fsck: PathBuf,
    debugfs: PathBuf,
}

impl Parts {
    pub fn find() -> Option<Parts> {
        let (qemu, busybox, kernel) = (tool("qemu-system-x86_64")?, tool("busybox")?, kernel()?);
        let (fsck, debugfs) = (tool("e2fsck.static")?, tool("debugfs")?);
        tool("mke2fs")?;
        let dir = TempDir::new("power");
        let initramfs = dir.join("initramfs");
        let mut image = Initramfs::default();
        for directory in ["bin", "dev", "etc", "etc/moored", "etc/moored/units", "lib", "sbin", "var"] {
            image.directory(directory);
        }
        image.copy("init", &stripped(&dir, Path::new(env!("CARGO_BIN_EXE_moored"))));
        image.link("bin/moored", "/init");
        image.copy("bin/busybox", &busybox);
        image.program("bin/sh", b"#!/bin/busybox sh\n/bin/busybox --install -s /bin\nexec /bin/busybox sh \"$@\"\n");
        image.copy("sbin/fsck.ext4", &fsck);
        for module in VIRTIO {
            image.copy(&format!("lib/{module}"), &Path::new(KERNEL_DIR).join(module));
        }
        image.file("serve", SERVE);
        image.file("unit.toml", UNIT_TOML.as_bytes());
        image.file("etc/moored/init.toml", INIT_TOML.as_bytes());
        fs::write(&initramfs, image.finish()).unwrap();
        Some(Parts { dir, qemu, kernel, initramfs, fsck, debugfs })
    }

    /// A disk with nothing in it but directories.
    pub fn fresh_disk(&self) -> Vec<u8> {
        let (contents, image) = (self.dir.join("contents"), self.dir.join("fresh"));
        fs::create_dir_all(contents.join("units")).unwrap();
        fs::create_dir_all(contents.join("lib/moored")).unwrap();
        fs::File::create(&image).unwrap().set_len(DISK_BYTES).unwrap();
        let mut make = Command::new("mke2fs");
        make.args(["-q", "-t", "ext4", "-b", "4096", "-L", "state", "-J", "size=4", "-d"]).arg(&contents).arg(&image);
        assert!(make.status().unwrap().success());
        fs::read(image).unwrap()
    }

    /// The state-dir on a disk after a cut, its ext4 repaired by its journal alone.
    pub fn state_on(&self, image: &[u8], name: &str) -> Result<PathBuf, String> {
        let (file, out) = (self.dir.join(&format!("{name}.img")), self.dir.join(name));
        fs::write(&file, image).unwrap();
        let fsck = |options: &[&str]| Command::new(&self.fsck).args(options).arg(&file).output().unwrap();
        // What a boot does; then nothing may be left to repair.
        let (boot, whole) = (fsck(&["-p"]), fsck(&["-f", "-n"]));
        if boot.status.code().is_none_or(|code| code >= 4) || !whole.status.success() {
            return Err(format!("{name}: the file system is broken: {boot:?} {whole:?}"));
        }
        fs::create_dir(&out).unwrap();
        let dump = Command::new(&self.debugfs)
            .args(["-R", &format!("rdump /lib/moored {}", out.display())])
            .arg(&file)
            .output()
            .unwrap();
        assert!(dump.status.success(), "{dump:?}");
        fs::remove_file(file).unwrap();
        Ok(out.join("moored"))
    }
}
