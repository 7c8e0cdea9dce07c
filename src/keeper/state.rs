//! What a process hands to the program that replaces its own ([`super::upgrade`]): the state of an anchor or of a keeper, in a sealed memfd.
//!
//! | bytes | |
//! |---|---|
//! | 8 | `MOOREDST` |
//! | 4 | the version, little endian as all of these |
//! | 8 | how long the text is |
//! | 8 | FNV-1a of the version and the text |
//! | … | the text, JSON |
//!
//! # Rules
//!
//! - **A field more is no other version.** What a program does not know it leaves out, what it misses has a default; so a program may be
//!   replaced by an older one too. The version grows when an older program would misunderstand; that one refuses it, in the dry run.
//! - **Descriptors are numbers**, open in the process and not closed by the execution. Those that no number names are.
//! - **It is for one process**: it holds its pid, and another one does not believe it.
//! - How it is found: `MOORED_STATE` in the environment is the memfd's number. It is passed on to nobody.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{FdFlags, fcntl_setfd};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::boot::environment;
use super::process1::InitState;
use super::wire::{ChildState, Kind, Line, Orphan, Refusal, Role};
use crate::compact;
use crate::sys::base::BaseRecord;
use crate::sys::{fd, image};

/// The environment variable with the memfd's number.
pub(super) const NAME: &str = "MOORED_STATE";
const MAGIC: [u8; 8] = *b"MOOREDST";
const HEADER_BYTES: usize = 28;
/// Longest state, in bytes: every child with the longest tag is half of it.
const STATE_BYTES_MAX: u64 = 256 << 20;
/// Standard input, output and error are nobody's to take over.
const FIRST_FD: RawFd = 3;

/// The version that this program writes, at its end. It is a text in the program's file, so that a test can make a program of another
/// version from this one.
static VERSION_TEXT: [u8; 30] = *b"moored state version: 00000001";

/// The version that this program writes, and the newest that it reads.
pub(crate) fn version() -> u32 {
    // Not looked through, so that it is read from the file's text.
    let text = std::hint::black_box(&VERSION_TEXT);
    let digits = text.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let digits = text.get(text.len().saturating_sub(digits)..).and_then(|digits| std::str::from_utf8(digits).ok());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// Why bytes are no state to go on from.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// Something else.
    #[error("it is no state of moored's")]
    NotAState,
    /// From a program that is too new.
    #[error("it has version {found}, and the newest that this program reads is {known}")]
    Newer {
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Not all of it.
    #[error("it is torn: its length or checksum is wrong")]
    Torn,
    /// Another process'.
    #[error("it is that of pid {0}")]
    Foreign(i32),
    /// Not what its version has.
    #[error("it is not understood: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A descriptor that is not there, or named twice.
    #[error("descriptor {0} of it is not open, or named twice")]
    Descriptor(RawFd),
    /// The system.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// The state of one process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct State {
    /// Whose.
    pub pid: i32,
    /// What it is.
    pub of: Of,
}

/// What a process is.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Of {
    /// As long as it has not taken a keeper's place.
    Anchor(AnchorState),
    /// Also an anchor that has.
    Keeper(Box<KeeperState>),
    /// Process 1, whichever of the two it is.
    Init(Box<InitState>),
}

/// What an anchor knows.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AnchorState {
    pub run_dir: Bytes,
    pub keeper_argv: Vec<Bytes>,
    pub supervisor_argv: Vec<Bytes>,
    /// None where it only controls a keeper that it has not started.
    pub listener: Option<RawFd>,
    pub control: RawFd,
    pub stage: Option<RawFd>,
    pub keeper: Option<i32>,
    pub stopping: bool,
    pub base: BaseRecord,
    /// Device and inode of the programs that it was before.
    #[serde(default)]
    pub earlier: Vec<(u64, u64)>,
    /// What it holds for its keeper.
    #[serde(default)]
    pub spares: Vec<NamedRecord>,
}

/// What a keeper knows.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeeperState {
    pub run_dir: Bytes,
    pub listener: RawFd,
    pub stage: Option<RawFd>,
    /// Those it waits for.
    pub signals: Vec<i32>,
    pub base: BaseRecord,
    pub supervisor_argv: Vec<Bytes>,
    pub supervisor_env: Vec<Bytes>,
    #[serde(default)]
    pub children: Vec<ChildRecord>,
    #[serde(default)]
    pub named: Vec<NamedRecord>,
    /// Whose terminals the anchor is to let go of.
    #[serde(default)]
    pub spares_over: Vec<String>,
    #[serde(default)]
    pub orphans: Vec<Orphan>,
    #[serde(default)]
    pub kept: Vec<KeptRecord>,
    #[serde(default)]
    pub links: Vec<LinkRecord>,
    pub adopting: bool,
    pub is_anchor: bool,
    pub stopping: bool,
    /// The supervisor's last word: whether children stay.
    pub finish: Option<bool>,
    pub supervisor: SupervisorRecord,
}

/// One container or exec.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ChildRecord {
    pub id: String,
    pub kind: Kind,
    pub pid: i32,
    pub state: ChildState,
    pub tag: Bytes,
    pub held: Vec<Option<RawFd>>,
    /// What was heard over its notify socket.
    #[serde(default)]
    pub said: Vec<Line>,
    #[serde(default)]
    pub rests_until_ns: u64,
    #[serde(default)]
    pub asked: bool,
}

/// The FIFOs of one container, held while the supervisor adopts.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeptRecord {
    pub id: String,
    pub fifos: Vec<RawFd>,
}

/// One descriptor held by name.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NamedRecord {
    pub name: String,
    pub fd: RawFd,
}

/// One connection, with what it is still to be told. Of children, names and orphans it is told everything again.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LinkRecord {
    pub fd: RawFd,
    pub peer: i32,
    pub role: Option<Role>,
    #[serde(default)]
    pub welcome: bool,
    #[serde(default)]
    pub synced: bool,
    #[serde(default)]
    pub stop: bool,
    #[serde(default)]
    pub stats: bool,
    #[serde(default)]
    pub builds: bool,
    #[serde(default)]
    pub refusal: Option<Refusal>,
    #[serde(default)]
    pub build: Option<String>,
    /// It asked for the upgrade.
    #[serde(default)]
    pub upgrades: bool,
}

/// The supervisor's process.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct SupervisorRecord {
    pub pid: Option<i32>,
    pub due_ns: Option<u64>,
    pub ready: bool,
    pub ever_ready: bool,
    pub starts: u32,
    #[serde(default)]
    pub started_ns: u64,
    #[serde(default)]
    pub failures: u32,
}

/// Bytes that need not be text, as hexadecimal digits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut digits = String::with_capacity(self.0.len().saturating_mul(2));
        for byte in &self.0 {
            for half in [byte >> 4, byte & 15] {
                digits.extend(char::from_digit(u32::from(half), 16));
            }
        }
        serializer.serialize_str(&digits)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(pair).collect();
        let even = text.len() & 1 == 0;
        bytes
            .filter(|_| even)
            .map(Bytes)
            .ok_or_else(|| serde::de::Error::custom("expected pairs of hexadecimal digits"))
    }
}

impl Bytes {
    /// For execve(2). What holds a NUL never came from one.
    pub fn c_string(self) -> io::Result<CString> {
        CString::new(self.0).map_err(io::Error::other)
    }
}

/// As the path that it was made from.
pub(crate) fn path_of(bytes: Bytes) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(bytes.0).into()
}

/// Several of them.
pub(crate) fn c_strings(all: Vec<Bytes>) -> io::Result<Vec<CString>> {
    all.into_iter().map(Bytes::c_string).collect()
}

/// Several of them.
pub(crate) fn bytes_of(all: &[CString]) -> Vec<Bytes> {
    all.iter().map(|one| Bytes(one.as_bytes().to_vec())).collect()
}

/// The state as a sealed memfd.
pub(super) fn write(state: &State) -> io::Result<OwnedFd> {
    let text = serde_json::to_vec(state)?;
    let mut file = File::from(memfd_create(c"moored-state", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.write_all(&MAGIC)?;
    file.write_all(&version().to_le_bytes())?;
    file.write_all(&(text.len() as u64).to_le_bytes())?;
    file.write_all(&checksum(version(), &text).to_le_bytes())?;
    file.write_all(&text)?;
    image::seal(file.as_fd())?;
    Ok(file.into())
}

/// Reads it; whose it is was not looked at.
pub(super) fn read(memfd: BorrowedFd<'_>) -> Result<State, StateError> {
    let mut file = File::from(memfd.try_clone_to_owned()?);
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(STATE_BYTES_MAX).read_to_end(&mut bytes)?;
    decode(&bytes)
}

/// What is read of any bytes, as a whole and as the text alone, is written and read as the same.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(bytes: &[u8]) {
    drop(decode(bytes));
    let Ok(state) = compact::from_json::<State>(bytes) else { return };
    let written = serde_json::to_vec(&state).unwrap_or_default();
    let again = compact::from_json::<State>(&written).and_then(|again| serde_json::to_vec(&again));
    assert_eq!(again.ok().as_ref(), Some(&written), "{state:?}");
}

fn decode(bytes: &[u8]) -> Result<State, StateError> {
    let (header, text) = bytes.split_at_checked(HEADER_BYTES).ok_or(StateError::NotAState)?;
    let rest = header.strip_prefix(&MAGIC).ok_or(StateError::NotAState)?;
    let (found, rest) = rest.split_first_chunk().ok_or(StateError::Torn)?;
    let (length, rest) = rest.split_first_chunk().ok_or(StateError::Torn)?;
    let (sum, _) = rest.split_first_chunk().ok_or(StateError::Torn)?;
    let (found, known) = (u32::from_le_bytes(*found), version());
    if u64::from_le_bytes(*length) != text.len() as u64 || u64::from_le_bytes(*sum) != checksum(found, text) {
        return Err(StateError::Torn);
    }
    if found > known {
        return Err(StateError::Newer { found, known });
    }
    // Every version so far has the same text. One that has another is read here, into what it means now.
    Ok(compact::from_json(text)?)
}

/// FNV-1a, 64 bits: against accidents, as nobody can write a sealed memfd.
fn checksum(version: u32, text: &[u8]) -> u64 {
    let version = version.to_le_bytes();
    let bytes = version.iter().chain(text);
    bytes.fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The state that the program before left to this process, if there was one.
pub(crate) fn inherited() -> Option<Result<State, StateError>> {
    let number: RawFd = std::env::var(NAME).ok()?.parse().ok().filter(|number| *number >= FIRST_FD)?;
    let memfd = fd::inherited(number)?;
    if !image::is_sealed(memfd.as_fd()) {
        // Not ours to close: the variable came from somebody else.
        let _ = memfd.into_raw_fd();
        return None;
    }
    let state = read(memfd.as_fd());
    let me = i32::try_from(std::process::id()).unwrap_or(0);
    Some(state.and_then(|state| if state.pid == me { Ok(state) } else { Err(StateError::Foreign(state.pid)) }))
}

/// Descriptors on their way to the next program, by their numbers.
#[derive(Debug, Default)]
pub(crate) struct Passed<'fd>(Vec<BorrowedFd<'fd>>);

impl<'fd> Passed<'fd> {
    /// One more.
    pub fn pass(&mut self, fd: BorrowedFd<'fd>) -> RawFd {
        self.0.push(fd);
        fd.as_raw_fd()
    }
}

/// Descriptors of the program before, each to be taken once.
#[derive(Debug, Default)]
pub(crate) struct Inherited(BTreeSet<RawFd>);

impl Inherited {
    /// Takes one; it is closed on the next execution again.
    pub fn take(&mut self, number: RawFd) -> Result<OwnedFd, StateError> {
        let first = number >= FIRST_FD && self.0.insert(number);
        let taken = if first { fd::inherited(number) } else { None };
        let taken = taken.ok_or(StateError::Descriptor(number))?;
        fcntl_setfd(&taken, FdFlags::CLOEXEC).map_err(io::Error::from)?;
        Ok(taken)
    }
}

/// Replaces the program of this process by `program`, with the same arguments. Returns only where that fails: then all is as it was.
pub(crate) fn execute(program: BorrowedFd<'_>, state: &State, passed: &Passed<'_>) -> io::Error {
    match try_execute(program, state, passed) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn try_execute(program: BorrowedFd<'_>, state: &State, passed: &Passed<'_>) -> io::Result<std::convert::Infallible> {
    use std::os::unix::ffi::OsStringExt;
    let memfd = write(state)?;
    let argv: Vec<CString> = std::env::args_os().filter_map(|arg| CString::new(arg.into_vec()).ok()).collect();
    let mut env = environment();
    env.push(CString::new(format!("{NAME}={}", memfd.as_raw_fd())).map_err(io::Error::other)?);
    let all = || passed.0.iter().copied().chain([memfd.as_fd()]);
    let flags = |flags: FdFlags| all().try_for_each(|fd| fcntl_setfd(fd, flags));
    let failed = match flags(FdFlags::empty()) {
        Ok(()) => image::execute(program, &argv, &env),
        Err(errno) => Err(errno.into()),
    };
    // It knows no failure for descriptors that are open.
    let _ = flags(FdFlags::CLOEXEC);
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeper() -> State {
        let of = KeeperState {
            run_dir: Bytes(b"/run/\xff".to_vec()),
            listener: 4,
            stage: None,
            signals: vec![15],
            base: BaseRecord::default(),
            supervisor_argv: vec![Bytes(b"moored".to_vec())],
            supervisor_env: Vec::new(),
            children: Vec::new(),
            named: Vec::new(),
            spares_over: Vec::new(),
            orphans: Vec::new(),
            kept: Vec::new(),
            links: Vec::new(),
            adopting: false,
            is_anchor: false,
            stopping: true,
            finish: Some(true),
            supervisor: SupervisorRecord { starts: 3, ..SupervisorRecord::default() },
        };
        State { pid: 7, of: Of::Keeper(Box::new(of)) }
    }

    fn bytes(state: &State) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut file = File::from(write(state).unwrap());
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// A header that fits, around another text.
    fn with_text(version: u32, text: &str) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(version.to_le_bytes());
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(checksum(version, text.as_bytes()).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes
    }

    #[test]
    fn what_was_written_is_read() {
        let state = keeper();
        assert_eq!(format!("{:?}", decode(&bytes(&state)).unwrap()), format!("{state:?}"));
        assert_eq!(version(), 1);
    }

    #[test]
    fn nobody_can_change_it_any_more() {
        let memfd = write(&keeper()).unwrap();
        assert!(image::is_sealed(memfd.as_fd()));
        let mut file = File::from(memfd);
        file.rewind().unwrap();
        assert!(file.write_all(b"x").is_err());
    }

    #[test]
    fn a_bit_that_changed_is_found() {
        let whole = bytes(&keeper());
        for at in 0..whole.len() {
            let mut broken = whole.clone();
            broken[at] ^= 1;
            assert!(decode(&broken).is_err(), "byte {at}");
        }
        for length in 0..whole.len() {
            assert!(decode(&whole[..length]).is_err(), "cut to {length} bytes");
        }
        assert!(matches!(decode(b""), Err(StateError::NotAState)));
    }

    #[test]
    fn a_field_more_and_a_field_less_are_no_other_version() {
        let text = serde_json::to_value(keeper()).unwrap();
        let mut newer = text.clone();
        newer["of"]["keeper"]["colour"] = "red".into();
        newer["weather"] = 1.into();
        assert!(decode(&with_text(1, &newer.to_string())).is_ok());
        let mut older = text;
        older["of"]["keeper"].as_object_mut().unwrap().remove("named");
        assert!(decode(&with_text(0, &older.to_string())).is_ok());
    }

    #[test]
    fn a_newer_version_is_refused_by_its_number() {
        let error = decode(&with_text(2, "{}")).unwrap_err();
        assert_eq!(error.to_string(), "it has version 2, and the newest that this program reads is 1");
    }

    #[test]
    fn descriptors_are_taken_once_and_never_those_of_the_standard_streams() {
        let number = File::open("/dev/null").unwrap().into_raw_fd();
        let mut inherited = Inherited::default();
        assert!(inherited.take(1).is_err());
        let taken = inherited.take(number).unwrap();
        assert!(matches!(inherited.take(number), Err(StateError::Descriptor(other)) if other == number));
        assert_eq!(rustix::io::fcntl_getfd(&taken).unwrap(), FdFlags::CLOEXEC);
    }
}
