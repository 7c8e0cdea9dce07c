//! What the machine boots from: an archive in cpio's "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const SECRET: u32 = 0o100_600;
const LINK: u32 = 0o120_777;
/// Every name and every content begins at a multiple of this.
const ALIGNMENT: usize = 4;
/// Ends the archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive that is being written. Names are relative, parents come before what is in them, and a later file replaces an earlier one.
#[derive(Debug, Default)]
pub struct Initramfs {
    bytes: Vec<u8>,
    entries: u32,
    /// Of everything in it, in seconds since 1970.
    mtime: u32,
}

impl Initramfs {
    /// One whose files are of this time, in seconds since 1970.
    pub fn of_time(mtime: u32) -> Initramfs {
        Initramfs { mtime, ..Initramfs::default() }
    }

    /// A directory.
    pub fn directory(&mut self, name: &str) {
        self.entry(name, DIRECTORY, &[]);
    }

    /// A file that root may execute, with these contents.
    pub fn program(&mut self, name: &str, contents: &[u8]) {
        self.entry(name, PROGRAM, contents);
    }

    /// A file that root may write and everybody read.
    pub fn file(&mut self, name: &str, contents: &[u8]) {
        self.entry(name, FILE, contents);
    }

    /// A file for root alone.
    pub fn secret(&mut self, name: &str, contents: &[u8]) {
        self.entry(name, SECRET, contents);
    }

    /// Directories, files and links below `root`, with their modes and owners, but for what is below one of `without`.
    pub fn tree(&mut self, root: &Path, without: &[&str]) {
        self.below(root, "", without);
    }

    fn below(&mut self, root: &Path, parent: &str, without: &[&str]) {
        let mut names: Vec<_> =
            fs::read_dir(root.join(parent)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            let name = name.to_str().unwrap();
            let name = if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") };
            let path = root.join(&name);
            let found = fs::symlink_metadata(&path).unwrap();
            let owner = (found.uid(), found.gid());
            if found.is_dir() {
                self.owned(&name, found.mode(), owner, &[]);
                if !without.contains(&name.as_str()) {
                    self.below(root, &name, without);
                }
            } else if found.is_symlink() {
                self.owned(&name, LINK, owner, fs::read_link(&path).unwrap().as_os_str().as_bytes());
            } else if found.is_file() {
                self.owned(&name, found.mode(), owner, &fs::read(&path).unwrap());
            }
        }
    }

    /// A symbolic link.
    pub fn link(&mut self, name: &str, to: &str) {
        self.entry(name, LINK, to.as_bytes());
    }

    /// A file of the host's.
    pub fn copy(&mut self, name: &str, from: &Path) {
        let contents = fs::read(from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        self.program(name, &contents);
    }

    /// A program of the host's in `bin`, and where it is dynamically linked the files that its loader would open, under their own names.
    pub fn program_with_libraries(&mut self, program: &Path) {
        self.copy(&format!("bin/{}", program.file_name().unwrap().to_str().unwrap()), program);
        let output = Command::new("ldd").arg(program).output().unwrap();
        let listed = String::from_utf8(output.stdout).unwrap();
        for path in listed.split_whitespace().filter(|word| word.starts_with('/')) {
            let mut parent = String::new();
            for part in path.trim_start_matches('/').split('/') {
                if !parent.is_empty() {
                    self.directory(&parent);
                    parent.push('/');
                }
                parent.push_str(part);
            }
            self.copy(path.trim_start_matches('/'), Path::new(path));
        }
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, contents: &[u8]) {
        self.owned(name, mode, (0, 0), contents);
    }

    fn owned(&mut self, name: &str, mode: u32, (uid, gid): (u32, u32), contents: &[u8]) {
        self.entries += 1;
        let (inode, size) = (self.entries, contents.len());
        let (links, mtime, device, check) = (1, self.mtime, 0, 0);
        let name_size = name.len() + 1;
        let header = format!(
            "070701{inode:08x}{mode:08x}{uid:08x}{gid:08x}{links:08x}{mtime:08x}{size:08x}\
             {device:08x}{device:08x}{device:08x}{device:08x}{name_size:08x}{check:08x}{name}\0"
        );
        self.push(header.as_bytes());
        self.push(contents);
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}
