//! What is mounted, as proc_pid_mountinfo(5) says.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Longest text that is read: some ten thousand mounts.
const LINES_MAX: usize = 65_536;
/// Bytes of some thirty mounts: what there are at boot.
const TEXT_USUAL: usize = 4096;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mounted {
    id: u64,
    parent: u64,
    /// The device's numbers, `8:1`.
    pub device: String,
    /// Seen from our root.
    pub target: PathBuf,
    pub read_only: bool,
    pub kind: String,
}

impl Mounted {
    /// It is the root of the whole mount namespace, which nothing can be pivoted away from: what an initramfs is.
    pub fn is_first(&self) -> bool {
        self.id == self.parent
    }

    /// Its files are in memory.
    pub fn is_in_memory(&self) -> bool {
        matches!(self.kind.as_str(), "rootfs" | "ramfs" | "tmpfs")
    }
}

/// All, in the order in which they were made. Empty where `/proc` is not mounted.
pub(super) fn read() -> Vec<Mounted> {
    // The kernel makes the text anew for each read, and tells no size beforehand: room for that of a small machine, so that one is enough.
    let mut text = Vec::with_capacity(TEXT_USUAL);
    let whole = File::open("/proc/self/mountinfo").and_then(|mut file| file.read_to_end(&mut text));
    if whole.is_err() {
        return Vec::new();
    }
    parse(&String::from_utf8_lossy(&text))
}

/// What is seen at this path, if something is mounted there.
pub(super) fn at<'m>(mounts: &'m [Mounted], path: &Path) -> Option<&'m Mounted> {
    mounts.iter().rfind(|mount| mount.target == path)
}

fn parse(text: &str) -> Vec<Mounted> {
    text.lines().take(LINES_MAX).filter_map(line).collect()
}

fn line(line: &str) -> Option<Mounted> {
    let (own, of_file_system) = line.split_once(" - ")?;
    let mut fields = own.split(' ');
    let id = fields.next()?.parse().ok()?;
    let parent = fields.next()?.parse().ok()?;
    let device = fields.next()?.to_owned();
    let target = unescaped(fields.nth(1)?);
    let read_only = fields.next()?.split(',').any(|option| option == "ro");
    let kind = of_file_system.split(' ').next()?.to_owned();
    Some(Mounted { id, parent, device, target, read_only, kind })
}

/// Space, tab, newline and backslash are written as `\` and three octal digits.
fn unescaped(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal.filter(|_| *first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_mount_and_the_last_at_a_place_are_known() {
        let text = "1 1 0:2 / / rw - rootfs rootfs rw\n22 1 0:20 / /proc rw,nosuid - proc proc rw\n\
            23 1 8:1 / /a\\040b ro,relatime shared:3 - ext4 /dev/sda1 rw\n24 23 0:21 / /a\\040b rw - tmpfs none rw\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 4);
        let root = at(&mounts, Path::new("/")).unwrap();
        assert!(root.is_first() && root.is_in_memory() && !root.read_only);
        assert_eq!(at(&mounts, Path::new("/a b")).map(|mount| mount.kind.as_str()), Some("tmpfs"));
        assert!(mounts[2].read_only && !mounts[2].is_first() && mounts[2].device == "8:1");
        assert!(at(&mounts, Path::new("/dev")).is_none());
    }

    #[test]
    fn this_machines_own_are_read() {
        let mounts = read();
        assert!(at(&mounts, Path::new("/")).is_some() && at(&mounts, Path::new("/proc")).is_some());
    }
}
