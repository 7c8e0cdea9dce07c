//! Devices by name, label or UUID; their check; their mount.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, mount};

use super::early::make_directory;
use super::mounted;
use crate::unit::HostMount;

/// From one look for a device to the next.
const LOOK: Duration = Duration::from_millis(50);
/// The superblock of ext2, 3 and 4, and in it the magic number, the UUID and the label (linux/fs/ext4/ext4.h).
const SUPERBLOCK: usize = 1024;
const MAGIC: (usize, [u8; 2]) = (SUPERBLOCK + 0x38, [0x53, 0xef]);
const UUID: usize = SUPERBLOCK + 0x68;
const LABEL: usize = SUPERBLOCK + 0x78;
const FIELD_BYTES: usize = 16;
/// Most block devices looked at for a label.
const DEVICES_MAX: usize = 1024;
/// Up to here fsck has left no error behind: 1 corrected, 2 corrected and the machine should be rebooted (fsck(8)).
const FSCK_CLEAN: i32 = 3;
/// Where fsck's helpers may be.
const PROGRAMS: [&str; 4] = ["/sbin", "/usr/sbin", "/bin", "/usr/bin"];

/// Words of mount(8) that are flags.
const FLAGS: [(&str, MountFlags); 10] = [
    ("ro", MountFlags::RDONLY),
    ("nosuid", MountFlags::NOSUID),
    ("nodev", MountFlags::NODEV),
    ("noexec", MountFlags::NOEXEC),
    ("noatime", MountFlags::NOATIME),
    ("nodiratime", MountFlags::NODIRATIME),
    ("relatime", MountFlags::RELATIME),
    ("strictatime", MountFlags::STRICTATIME),
    ("sync", MountFlags::SYNCHRONOUS),
    ("bind", MountFlags::BIND),
];
/// Words of mount(8) and fstab(5) that ask for nothing.
const EMPTY: [&str; 5] = ["defaults", "rw", "auto", "noauto", "nofail"];

/// Makes one mount of init.toml. `Err` says what failed.
pub(super) fn make(wanted: &HostMount) -> Result<(), String> {
    let target = &wanted.target;
    if mounted::at(&mounted::read(), target).is_some() {
        return Ok(());
    }
    let said = |what: String| format!("mount {}: {what}", target.display());
    let source = source(&wanted.source, wanted.wait).map_err(said)?;
    if wanted.fsck {
        check(&source, &wanted.kind).map_err(said)?;
    }
    make_directory(target, 0o755);
    let (mut flags, data) = options(&wanted.options);
    flags.set(MountFlags::RDONLY, wanted.read_only || flags.contains(MountFlags::RDONLY));
    let data = std::ffi::CString::new(data).unwrap_or_default();
    let made = mount(&source, target, wanted.kind.as_str(), flags, data.as_c_str());
    made.map_err(|errno| said(format!("{} as {}: {errno}", source.display(), wanted.kind)))
}

/// Flags, and what is the file system's own.
fn options(words: &[String]) -> (MountFlags, String) {
    let mut flags = MountFlags::empty();
    let mut own = Vec::new();
    for word in words.iter().flat_map(|word| word.split(',')).filter(|word| !word.is_empty()) {
        match FLAGS.iter().find(|(name, _)| *name == word) {
            Some((_, flag)) => flags |= *flag,
            None if EMPTY.contains(&word) => {}
            None => own.push(word),
        }
    }
    (flags, own.join(","))
}

/// The device, once it is there; what is no device is taken as it is.
fn source(text: &str, wait: Duration) -> Result<PathBuf, String> {
    let begun = Instant::now();
    let find = || match text.split_once('=') {
        Some(("LABEL", label)) => labelled(LABEL, label.as_bytes().to_vec()),
        Some(("UUID", uuid)) => labelled(UUID, uuid_bytes(uuid)?),
        _ if text.starts_with("/dev/") => Some(PathBuf::from(text)).filter(|path| path.exists()),
        _ => Some(text.into()),
    };
    loop {
        if let Some(found) = find() {
            return Ok(found);
        }
        if begun.elapsed() >= wait {
            let ext = if text.starts_with("/dev/") { "" } else { " (labels and UUIDs are read of ext2, 3 and 4 only)" };
            return Err(format!("no device {text} after {wait:?}{ext}"));
        }
        std::thread::sleep(LOOK);
    }
}

fn uuid_bytes(text: &str) -> Option<Vec<u8>> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let pairs = (0..FIELD_BYTES).map(|n| {
        let at = n.checked_mul(2)?;
        u8::from_str_radix(digits.get(at..at.checked_add(2)?)?, 16).ok()
    });
    pairs.collect::<Option<Vec<u8>>>().filter(|_| digits.len() == 2 * FIELD_BYTES)
}

/// The block device in whose superblock this stands.
fn labelled(at: usize, wanted: Vec<u8>) -> Option<PathBuf> {
    let devices = fs::read_dir("/sys/class/block").ok()?.take(DEVICES_MAX).flatten();
    devices.map(|entry| Path::new("/dev").join(entry.file_name())).find(|device| {
        let mut start = [0; 2 * SUPERBLOCK];
        let read = File::open(device).and_then(|mut file| file.read_exact(&mut start));
        read.is_ok() && is_labelled(&start, at, &wanted)
    })
}

fn is_labelled(start: &[u8], at: usize, wanted: &[u8]) -> bool {
    let field = |from: usize, bytes: usize| start.get(from..from.saturating_add(bytes)).unwrap_or_default();
    let label = field(at, FIELD_BYTES);
    // A label that is shorter than its field ends with a NUL.
    let rest = label.get(wanted.len()..).unwrap_or_default();
    let fits = !wanted.is_empty() && label.starts_with(wanted) && rest.first().is_none_or(|byte| *byte == 0);
    field(MAGIC.0, 2) == MAGIC.1 && fits
}

/// Runs the root's own fsck for the type, if it has one, and corrects what can be corrected safely.
pub(super) fn check(device: &Path, kind: &str) -> Result<(), String> {
    let Some(program) = program(&format!("fsck.{kind}")) else { return Ok(()) };
    let status = Command::new(&program).arg("-p").arg(device).status();
    match status.map(|status| status.code()) {
        Ok(Some(code)) if code <= FSCK_CLEAN => Ok(()),
        Ok(code) => {
            let code = code.map_or("a signal".to_owned(), |code| format!("code {code}"));
            Err(format!("{} {} ended with {code}: not mounted", program.display(), device.display()))
        }
        Err(error) => Err(format!("{}: {error}", program.display())),
    }
}

/// A program of the root's, by name.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    PROGRAMS.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_flags_or_the_file_systems_own() {
        let words: Vec<String> = ["noatime", "defaults", "commit=5,nodev", "data=journal"].map(str::to_owned).into();
        let (flags, own) = options(&words);
        assert_eq!((flags, own.as_str()), (MountFlags::NOATIME | MountFlags::NODEV, "commit=5,data=journal"));
    }

    #[test]
    fn a_label_and_a_uuid_are_read_from_the_superblock() {
        let mut start = vec![0; 2 * SUPERBLOCK];
        start[MAGIC.0..MAGIC.0 + 2].copy_from_slice(&MAGIC.1);
        start[LABEL..LABEL + 4].copy_from_slice(b"data");
        let uuid = uuid_bytes("01234567-89ab-cdef-0123-456789abcdef").unwrap();
        start[UUID..UUID + 16].copy_from_slice(&uuid);
        assert!(is_labelled(&start, LABEL, b"data") && is_labelled(&start, UUID, &uuid));
        assert!(!is_labelled(&start, LABEL, b"dat") && !is_labelled(&start, LABEL, b"data2"));
        start[MAGIC.0] = 0;
        assert!(!is_labelled(&start, LABEL, b"data"));
        assert!(uuid_bytes("0123").is_none() && uuid_bytes(&"zz".repeat(16)).is_none());
    }

    #[test]
    fn what_is_not_there_is_waited_for_and_told() {
        let error = source("/dev/no-such-disk", Duration::ZERO).unwrap_err();
        assert_eq!(error, "no device /dev/no-such-disk after 0ns");
        assert_eq!(source("tmpfs", Duration::ZERO), Ok("tmpfs".into()));
        assert!(source("LABEL=no-such-label-anywhere", Duration::ZERO).unwrap_err().contains("ext2"));
    }
}
