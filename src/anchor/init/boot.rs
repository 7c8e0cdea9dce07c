//! What init.toml asks for, in the order in which the steps need each other. A child of process 1 does it: a disk or a program that hangs must
//! not hold process 1.
//!
//! A step that fails is noted and the next one is taken. The notes go to the console and to a file in the run-dir, from which `moored status`
//! and `ps` show them until the next boot. The file is written last: where it is, the machine is booted.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{Access, access};
use rustix::mount::{MountFlags, mount, mount_remount};

use super::early::make_directory;
use super::{console, disks, duty, mounted, network};
use crate::sys::loopback;
use crate::unit::{INIT_TOML, InitToml, TEXT_MAX, is_host_name, parse_init_toml, text_of};

/// In the run-dir: one note a line.
pub(super) const NOTES: &str = "init.notes";
/// The logs of a machine that has no disk for them may take this part of the memory.
const LOGS_IN_MEMORY: &std::ffi::CStr = c"mode=0755,size=12%";
/// The records of such a machine.
const STATE_IN_MEMORY: &std::ffi::CStr = c"mode=0700,size=5%";
/// What is called nothing else.
const NO_NAME: &str = "localhost";

/// Directories that the supervisor needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places<'p> {
    pub run_dir: &'p Path,
    pub state_dir: &'p Path,
    pub log_dir: &'p Path,
}

/// Reads init.toml: the defaults if there is none, or if it is not valid, with what is wrong.
pub(super) fn read(file: &Path) -> (InitToml, Vec<String>) {
    match text(file) {
        Ok(None) => (InitToml::default(), Vec::new()),
        Ok(Some(bytes)) => {
            let parsed =
                text_of(file, &bytes).map_err(|error| vec![error]).and_then(|text| parse_init_toml(file, text));
            match parsed {
                Ok(found) => (found, Vec::new()),
                Err(errors) => {
                    let first = format!("{} is not valid: booted with the defaults", file.display());
                    let errors = errors.iter().map(ToString::to_string);
                    (InitToml::default(), std::iter::once(first).chain(errors).collect())
                }
            }
        }
        Err(error) => (InitToml::default(), vec![format!("{}: {error}: booted with the defaults", file.display())]),
    }
}

fn text(file: &Path) -> Result<Option<Vec<u8>>, String> {
    let metadata = match fs::metadata(file) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
        return Err("it must belong to root and be writable by nobody else: chown root, chmod go-w".to_owned());
    }
    if !metadata.is_file() || metadata.len() > u64::try_from(TEXT_MAX).unwrap_or(0) {
        return Err("expected a file of at most 1 MiB".to_owned());
    }
    fs::read(file).map(Some).map_err(|error| error.to_string())
}

/// Takes all steps; `notes` are there already. Returns when all is done or noted.
pub(super) fn run(wanted: &InitToml, places: Places<'_>, mut notes: Vec<String>) {
    notes.extend(steps(wanted, places));
    for note in &notes {
        console::say(note);
    }
    make_directory(places.run_dir, 0o700);
    let mut text = notes.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    if let Err(error) = fs::write(places.run_dir.join(NOTES), text) {
        console::say(&format!("{}: {error}", places.run_dir.join(NOTES).display()));
    }
}

/// One more, of what could only be done after them.
pub(super) fn add_note(run_dir: &Path, note: &str) {
    use std::io::Write;
    console::say(note);
    let file = fs::File::options().append(true).open(run_dir.join(NOTES));
    let _ = file.and_then(|mut file| file.write_all(format!("{note}\n").as_bytes()));
}

fn steps(wanted: &InitToml, places: Places<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    let mut note = |done: Result<(), String>| notes.extend(done.err());
    note(host_name(wanted.host_name.as_deref()));
    note(bring_up_loopback());
    wanted.modules.iter().for_each(|module| note(load(module)));
    note(root(wanted));
    wanted.mounts.iter().for_each(|mount| note(disks::make(mount)));
    // The file may be on one of them.
    note(wanted.clock.as_deref().and_then(duty::set_clock).map_or(Ok(()), Err));
    wanted.sysctls.iter().for_each(|(name, value)| note(set(name, value)));
    wanted.addresses.iter().for_each(|address| note(network::configure(address)));
    note(writable(places.state_dir, STATE_IN_MEMORY, false));
    note(writable(places.log_dir, LOGS_IN_MEMORY, true));
    notes
}

fn host_name(wanted: Option<&str>) -> Result<(), String> {
    let text = fs::read_to_string("/etc/hostname").unwrap_or_default();
    let lines = text.lines().map(str::trim);
    let from_file = lines.filter(|line| !line.starts_with('#')).find(|line| is_host_name(line));
    let name = wanted.or(from_file).unwrap_or(NO_NAME);
    rustix::system::sethostname(name.as_bytes()).map_err(|errno| format!("host name {name}: {errno}"))
}

fn bring_up_loopback() -> Result<(), String> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    let up = socket.map_err(io::Error::from).and_then(|socket| loopback::up(std::os::fd::AsFd::as_fd(&socket)));
    up.map_err(|error| format!("loopback interface: {error}"))
}

/// By path, or by name with the root's own modprobe, which knows what else a module needs.
fn load(module: &str) -> Result<(), String> {
    let said = |what: String| format!("module {module}: {what}");
    if module.starts_with('/') {
        let file = fs::File::open(module).map_err(|error| said(error.to_string()))?;
        return match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(errno) => Err(said(errno.to_string())),
        };
    }
    let Some(modprobe) = disks::program("modprobe") else {
        return Err(said("there is no modprobe: install it, or name the module's file by its path".to_owned()));
    };
    match Command::new(modprobe).arg("--").arg(module).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(said(format!("modprobe: {status}"))),
        Err(error) => Err(said(format!("modprobe: {error}"))),
    }
}

/// The root becomes what init.toml says; as the kernel mounted it if that says nothing.
fn root(wanted: &InitToml) -> Result<(), String> {
    let mounts = mounted::read();
    let Some(root) = mounted::at(&mounts, Path::new("/")).filter(|root| !root.is_in_memory()) else { return Ok(()) };
    if wanted.root_fsck && root.read_only {
        let device = device(&root.device).ok_or("root: its device is not known, so it was not checked")?;
        disks::check(&device, &root.kind).map_err(|error| format!("root: {error}"))?;
    }
    let flags = match wanted.root_read_only {
        Some(true) if !root.read_only => MountFlags::RDONLY,
        Some(false) if root.read_only => MountFlags::empty(),
        Some(_) | None => return Ok(()),
    };
    mount_remount("/", flags, c"").map_err(|errno| format!("root: mounting it again: {errno}"))
}

/// A device's node from its numbers, `8:1`.
fn device(numbers: &str) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/sys/dev/block/{numbers}/uevent")).ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
    Some(Path::new("/dev").join(name))
}

/// Both spellings, `net.ipv4.ip_forward` and `net/ipv4/ip_forward`.
fn set(name: &str, value: &str) -> Result<(), String> {
    let path = match name.contains('/') {
        true => name.to_owned(),
        false => name.replace('.', "/"),
    };
    fs::write(Path::new("/proc/sys").join(path), value).map_err(|error| format!("sysctl {name} = {value}: {error}"))
}

/// Makes sure that a directory can be written to: with a tmpfs of bounded size where the root is read-only, and with `bounded` also where it is
/// in memory, which its files must not fill.
fn writable(dir: &Path, options: &std::ffi::CStr, bounded: bool) -> Result<(), String> {
    let made = fs::create_dir_all(dir);
    if dir.is_dir() {
        let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o755));
    }
    let in_memory = bounded && in_root_in_memory(dir);
    if made.is_ok() && access(dir, Access::WRITE_OK).is_ok() && !in_memory {
        return Ok(());
    }
    // On a read-only root, what is there of the path.
    let place = dir.ancestors().find(|place| place.is_dir()).filter(|place| *place != Path::new("/"));
    let failed = |what: String| format!("{}: {what}", dir.display());
    let place =
        place.ok_or_else(|| failed("the root is read-only and has no such directory: make it there".to_owned()))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", place, "tmpfs", flags, options).map_err(|errno| failed(format!("mounting a tmpfs: {errno}")))?;
    fs::create_dir_all(dir).map_err(|error| failed(error.to_string()))?;
    match in_memory {
        true => Ok(()),
        false => Err(failed(
            "the root is read-only: what is written there is in memory and lost at the next boot".to_owned(),
        )),
    }
}

/// Whether a path is on the root's own mount, and that is in memory.
fn in_root_in_memory(dir: &Path) -> bool {
    let mounts = mounted::read();
    let is_on = |path: &Path| mounted::at(&mounts, path).map(|found| (path == Path::new("/"), found.is_in_memory()));
    dir.ancestors().find_map(is_on) == Some((true, true))
}

/// Where it is unless the command line says otherwise.
pub(super) fn default_file() -> PathBuf {
    INIT_TOML.into()
}
