//! `create` and `run`: from a bundle to a process.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::args::{Globals, Make, Run};
use super::error::{OciError, call, file};
use super::log::Log;
use super::pidfd::{self, Whose};
use super::wait;
use crate::config::Spec;
use crate::oci::{self, Context, Script, SessionKeyring, Step};
use crate::runtime::Trampoline;
use crate::runtime::cgroup::{device_rules_ignored, without_effect};
use crate::runtime::container::{Launch, Launched, StateRoot};
use crate::sys::fd::inherited;

/// Makes a container whose process waits for `start`.
pub fn create(root: &StateRoot, make: Make, globals: &Globals, log: &Log) -> Result<u8, OciError> {
    let extra = preserved(make.preserve_fds)?;
    let bundle = Bundle::read(&make, globals)?;
    let console = detached_console(bundle.terminal(), make.console_socket.as_deref())?;
    let wants_pidfd = pidfd::connect(make.pidfd_socket.as_deref())?;
    let launched = root.launch(bundle.launch(&make, true, Descriptors { console, extra }, log)?)?;
    tell(&make, wants_pidfd.as_ref(), &launched)?;
    Ok(0)
}

/// Makes a container that runs at once, and waits for its end unless it is detached.
pub fn run(root: &StateRoot, run: Run, globals: &Globals, log: &Log) -> Result<u8, OciError> {
    let Run { make, detach, keep, no_subreaper: _ } = run;
    let extra = preserved(make.preserve_fds)?;
    let bundle = Bundle::read(&make, globals)?;
    let wants_pidfd = pidfd::connect(make.pidfd_socket.as_deref())?;
    if detach {
        let console = detached_console(bundle.terminal(), make.console_socket.as_deref())?;
        let launched = root.launch(bundle.launch(&make, false, Descriptors { console, extra }, log)?)?;
        tell(&make, wants_pidfd.as_ref(), &launched)?;
        return Ok(0);
    }
    if make.console_socket.is_some() {
        return Err(OciError::Console("cannot use console socket if runc will not detach or allocate tty"));
    }
    let (ours, theirs) = bundle.terminal().then(pair).transpose()?.unzip();
    let signals = wait::hold_signals()?;
    let launched = root.launch(bundle.launch(&make, false, Descriptors { console: theirs, extra }, log)?)?;
    let told = tell(&make, wants_pidfd.as_ref(), &launched);
    let ended = told.and_then(|()| wait::wait(launched.pidfd.as_fd(), ours, signals));
    let removed = if keep { Ok(Vec::new()) } else { launched.container.delete(true) };
    let code = ended?;
    removed?.iter().for_each(|failed| log.warning(&failed.to_string()));
    Ok(code)
}

/// What the process gets from the caller.
struct Descriptors {
    console: Option<OwnedFd>,
    extra: Vec<OwnedFd>,
}

struct Bundle {
    directory: PathBuf,
    text: Vec<u8>,
    spec: Spec,
    warnings: Vec<String>,
    cgroups_path: Option<String>,
    rootless: bool,
}

impl Bundle {
    fn read(make: &Make, globals: &Globals) -> Result<Bundle, OciError> {
        let named = make.bundle.clone().unwrap_or_else(|| ".".into());
        let directory = fs::canonicalize(&named).map_err(file("open the bundle", named))?;
        let path = directory.join("config.json");
        let text = read_bounded(&path).map_err(|source| OciError::NoConfig { path: path.clone(), source })?;
        let parsed = oci::parse(&text).map_err(|errors| OciError::Config { path, errors })?;
        let warnings = parsed.warnings.iter().map(ToString::to_string).collect();
        let cgroups_path = cgroups_path(&parsed.spec, &make.id, globals.systemd_cgroup)?;
        Ok(Bundle {
            directory,
            text,
            spec: parsed.spec,
            warnings,
            cgroups_path,
            rootless: super::rootless::is_rootless(globals),
        })
    }

    fn terminal(&self) -> bool {
        self.spec.process.as_ref().and_then(|process| process.terminal).unwrap_or(false)
    }

    fn launch(mut self, make: &Make, gate: bool, descriptors: Descriptors, log: &Log) -> Result<Launch, OciError> {
        let context = Context {
            gate,
            keyring: if make.no_new_keyring { SessionKeyring::Callers } else { SessionKeyring::Named },
            pivot: !make.no_pivot,
            filter_comes: true,
            ..Context::new(self.directory.clone(), make.id.clone())
        };
        let compiled = oci::compile(&self.spec, None, &context)
            .map_err(|errors| OciError::Config { path: self.directory.join("config.json"), errors })?;
        super::rootless::check(&compiled.script, "makes")?;
        let trampoline = trampoline_or_seal(&compiled.script)?;
        let warnings = self.warnings.into_iter().chain(compiled.warnings.iter().map(ToString::to_string));
        let warnings = warnings.chain(without_effect(&compiled.cgroup));
        warnings.for_each(|warning| log.warning(&format!("config.json: {warning}")));
        device_rules_ignored().into_iter().for_each(|warning| log.warning(warning));
        compiled.script.steps.iter().for_each(|step| log.debug(step));
        let rootfs = self.spec.root.as_ref().map_or_else(PathBuf::new, |root| self.directory.join(root.path()));
        let awaits = compiled.script.steps.contains(&Step::SeccompComing);
        let linux = self.spec.linux.as_mut().filter(|_| awaits);
        let profile = linux.and_then(|linux| linux.seccomp_mut().take());
        let oci_version = self.spec.version.clone();
        let annotations = self.spec.annotations.clone().unwrap_or_default().into_iter().collect();
        // A seccomp profile has hundreds of names. To free each of them takes time before the process is made, and this one ends soon.
        std::mem::forget(self.spec);
        Ok(Launch {
            id: make.id.clone(),
            oci_version,
            rootfs,
            annotations,
            config: self.text,
            script: compiled.script,
            profile,
            settings: compiled.cgroup,
            cgroups_path: self.cgroups_path,
            rootless: self.rootless,
            gate,
            console: descriptors.console,
            extra: descriptors.extra,
            bundle: self.directory,
            trampoline,
        })
    }
}

/// `linux.cgroupsPath`, in either of its forms.
fn cgroups_path(spec: &Spec, id: &str, systemd: bool) -> Result<Option<String>, OciError> {
    let path = spec.linux.as_ref().and_then(|linux| linux.cgroups_path().as_ref());
    let path = path.map(|path| path.to_string_lossy().into_owned()).filter(|path| !path.is_empty());
    if !systemd {
        return Ok(path);
    }
    let bad = || OciError::Value {
        what: "linux.cgroupsPath",
        found: path.clone().unwrap_or_default(),
        expected: "slice:prefix:name, as --systemd-cgroup is given",
    };
    oci::systemd_path(path.as_deref(), id).map(Some).ok_or_else(bad)
}

/// What keeps the host's executable out of the container's reach: a trampoline where that is enough, else all of this runs from where nobody
/// can write, begun anew if it does not yet.
fn trampoline_or_seal(script: &Script) -> Result<Option<Trampoline>, OciError> {
    let trampoline = if Trampoline::suits(script) { Trampoline::reserve().ok() } else { None };
    if trampoline.is_none() {
        super::run_sealed().map_err(OciError::Seal)?;
    }
    Ok(trampoline)
}

/// Most config.json are smaller: one read has them whole.
const USUAL_BYTES: usize = 16 << 10;

/// At most as much as a config.json may have, and no more.
pub(super) fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    // A FIFO without a writer must not hold the command.
    let opened = fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let mut text = Vec::with_capacity(USUAL_BYTES);
    opened.take(oci::MAX_CONFIG_BYTES as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// The socket for a container that nobody waits for, in runc's words where terminal and socket do not go together.
pub(super) fn detached_console(terminal: bool, socket: Option<&Path>) -> Result<Option<OwnedFd>, OciError> {
    match (terminal, socket) {
        (false, None) => Ok(None),
        (true, None) => {
            Err(OciError::Console("cannot allocate tty if runc will detach without setting console socket"))
        }
        (false, Some(_)) => Err(OciError::Console("cannot use console socket if runc will not detach or allocate tty")),
        (true, Some(path)) => {
            let socket = UnixStream::connect(path).map_err(file("connect to the console socket", path))?;
            Ok(Some(socket.into()))
        }
    }
}

pub(super) fn pair() -> Result<(UnixStream, OwnedFd), OciError> {
    let (ours, theirs) = UnixStream::pair().map_err(call("socketpair"))?;
    Ok((ours, theirs.into()))
}

/// Descriptors 3 and up of the caller's. To be taken before anything else is opened, which would get these numbers.
pub(super) fn preserved(count: u16) -> Result<Vec<OwnedFd>, OciError> {
    let take = |number| inherited(number).ok_or(OciError::NoDescriptor { wanted: count, missing: number });
    (3..3 + i32::from(count)).map(take).collect()
}

/// Whoever asked for it hears which process it is.
fn tell(make: &Make, socket: Option<&UnixStream>, launched: &Launched) -> Result<(), OciError> {
    pidfd::send(socket, launched.pidfd.as_fd(), Whose::Init)?;
    make.pid_file.as_deref().map_or(Ok(()), |path| write_pid_file(path, launched.pid.0))
}

/// Whole or not at all: its reader waits for the name.
pub(super) fn write_pid_file(path: &Path, pid: u32) -> Result<(), OciError> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    let new = path.with_file_name(name);
    fs::write(&new, pid.to_string()).and_then(|()| fs::rename(&new, path)).map_err(file("write", path))
}
