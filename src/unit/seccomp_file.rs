//! `security.seccomp = "profile.json"`: a filter that somebody keeps in a file of its own. Pure: its bytes come in, read by whoever may.
//!
//! Two forms are taken, which share most keys:
//!
//! | form | where from | what only it has |
//! |---|---|---|
//! | OCI's `linux.seccomp` | runtime-spec, `config-linux.md` | |
//! | Docker's and containers-common's | `docker run --security-opt seccomp=`, `/usr/share/containers/seccomp.json` | `archMap` instead of `architectures`; `includes` and `excludes` of a rule; `name`, `comment`; `errno`, `defaultErrno` by name |
//!
//! What a rule's conditions mean (as in both projects): it counts if the machine's architecture is among `includes.arches`, **all** of
//! `includes.caps` are in the container's bounding set and its kernel is at least `includes.minKernel`; and not if **any** part of
//! `excludes` holds. So the same file gives another filter to a unit with other capabilities. Architectures have Go's names (amd64, arm64).
//!
//! Different from there: an unknown key is an error (`sycalls` would otherwise allow what was to be refused), a file without
//! `defaultAction` too (there it means no filter at all: write "unconfined"), and so are two numbers for one errno that differ.

use std::fmt;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSyscall,
};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::config_file::FileContents;
use super::json::{self, JsonError};

/// A profile's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeccompFile {
    /// Absolute path outside.
    pub path: PathBuf,
    /// `None` until it is read.
    pub contents: Option<FileContents>,
    /// The kernel that it is for.
    pub kernel: KernelVersion,
}

/// Whether a value of `security.seccomp` is a path: a word is none.
pub(super) fn is_profile_path(text: &str) -> bool {
    text.contains('/') || text.ends_with(".json")
}

/// Major and minor number of a kernel. No version is the oldest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion(pub u32, pub u32);

impl KernelVersion {
    /// From a release as uname(2) gives it (`6.1.0-25-amd64`), or from `4.8`.
    pub fn of_release(release: &str) -> Option<KernelVersion> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
        Some(KernelVersion(numbers.next()?.ok()?, numbers.next()?.ok()?))
    }
}

/// A profile as it is for one container.
#[derive(Debug, PartialEq)]
pub(super) struct Resolved {
    pub(super) profile: LinuxSeccomp,
    /// Where it comes from, for what the compiler finds wrong with it.
    pub(super) from: Origin,
}

/// What the rules of a resolved profile were in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub(super) path: PathBuf,
    bytes: Arc<[u8]>,
    /// Of each rule that counts its place among all.
    rules: Vec<usize>,
}

impl Origin {
    /// A mistake at `linux.seccomp…` of the spec, at its place in the file: the path there, line and column.
    pub(super) fn place(&self, path: &str) -> Option<(String, Option<(u32, u32)>)> {
        let rest = path.strip_prefix("linux.seccomp")?.trim_start_matches('.');
        let own = match rest.strip_prefix("syscalls[").and_then(|rest| rest.split_once(']')) {
            Some((index, rest)) => {
                let index = index.parse::<usize>().ok().and_then(|index| self.rules.get(index))?;
                format!("syscalls[{index}]{rest}")
            }
            None => rest.to_owned(),
        };
        let place = json::places(&self.bytes, &[own.as_str()].into()).remove(&own);
        Some((own, place))
    }
}

impl SeccompFile {
    /// The profile for a container with this bounding set. Errors have their places in the file.
    pub(super) fn resolve(&self, bounding: &[&str]) -> Result<Resolved, JsonError> {
        let bytes = self.contents.as_ref().map(|contents| Arc::clone(contents.bytes())).unwrap_or_default();
        let at = |path: String, message: String| {
            let (line, column) = json::places(&bytes, &[path.as_str()].into()).remove(&path).unwrap_or((1, 1));
            JsonError { line, column, path, message }
        };
        let file: File = json::read_as(&bytes)?;
        let host = Host { bounding, kernel: self.kernel };
        let mut profile = LinuxSeccomp::default();
        profile.set_default_action(file.default_action);
        let errno = one_errno(file.default_errno_ret, file.default_errno);
        profile.set_default_errno_ret(errno.map_err(|why| at("defaultErrno".to_owned(), why))?);
        profile.set_architectures(
            architectures(file.architectures, file.arch_map).map_err(|why| at("archMap".to_owned(), why))?,
        );
        profile.set_flags(file.flags);
        profile.set_listener_path(file.listener_path);
        profile.set_listener_metadata(file.listener_metadata);
        let (mut rules, mut places) = (Vec::new(), Vec::new());
        for (index, rule) in file.syscalls.unwrap_or_default().into_iter().enumerate() {
            if host.counts(&rule) {
                let rule = syscall(rule).map_err(|(key, why)| at(format!("syscalls[{index}].{key}"), why))?;
                rules.push(rule);
                places.push(index);
            }
        }
        profile.set_syscalls(Some(rules));
        Ok(Resolved { profile, from: Origin { path: self.path.clone(), bytes, rules: places } })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    default_errno: Option<Errno>,
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<Architecture>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<PathBuf>,
    listener_metadata: Option<String>,
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Architecture {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    errno: Option<Errno>,
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(rename = "comment")]
    _comment: Option<String>,
    includes: Option<Condition>,
    excludes: Option<Condition>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Condition {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<MinKernel>,
}

/// As text.
struct MinKernel(KernelVersion);

impl<'de> Deserialize<'de> for MinKernel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let found = KernelVersion::of_release(&text);
        found
            .map(MinKernel)
            .ok_or_else(|| D::Error::custom(format!("{text:?} is no kernel version, expected one like \"4.8\"")))
    }
}

/// By name or number, as text; none where it is empty.
struct Errno(Option<u32>);

impl<'de> Deserialize<'de> for Errno {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let found = if text.is_empty() { Some(None) } else { errno(&text).map(Some) };
        found
            .map(Errno)
            .ok_or_else(|| D::Error::custom(format!("unknown errno {text:?}, expected a name like \"EPERM\"")))
    }
}

/// What the conditions of rules are held against.
struct Host<'h> {
    bounding: &'h [&'h str],
    kernel: KernelVersion,
}

impl Host<'_> {
    fn counts(&self, rule: &Rule) -> bool {
        let has = |cap: &String| self.bounding.contains(&cap.as_str());
        let runs_on = |arch: &String| Some(arch.as_str()) == ARCHITECTURE.map(|(go, _)| go);
        let includes = rule.includes.as_ref().is_none_or(|only| {
            only.arches.as_deref().is_none_or(|arches| arches.is_empty() || arches.iter().any(runs_on))
                && only.caps.iter().flatten().all(has)
                && only.min_kernel.as_ref().is_none_or(|least| self.kernel >= least.0)
        });
        let excludes = rule.excludes.as_ref().is_some_and(|except| {
            except.arches.iter().flatten().any(runs_on)
                || except.caps.iter().flatten().any(has)
                || except.min_kernel.as_ref().is_some_and(|least| self.kernel >= least.0)
        });
        includes && !excludes
    }
}

/// The machine's architecture as Go and as OCI call it.
const ARCHITECTURE: Option<(&str, Arch)> = if cfg!(target_arch = "x86_64") {
    Some(("amd64", Arch::ScmpArchX86_64))
} else if cfg!(target_arch = "aarch64") {
    Some(("arm64", Arch::ScmpArchAarch64))
} else {
    None
};

fn architectures(listed: Option<Vec<Arch>>, map: Option<Vec<Architecture>>) -> Result<Option<Vec<Arch>>, String> {
    match (listed.filter(|listed| !listed.is_empty()), map.filter(|map| !map.is_empty())) {
        (Some(_), Some(_)) => Err("stands beside `architectures`, expected only one of them".to_owned()),
        (listed, None) => Ok(listed),
        (None, Some(map)) => {
            let own = map.into_iter().find(|entry| Some(entry.architecture) == ARCHITECTURE.map(|(_, arch)| arch));
            Ok(own.map(|own| [own.architecture].into_iter().chain(own.sub_architectures.unwrap_or_default()).collect()))
        }
    }
}

/// The rule without its conditions; or the key that is wrong, and why.
fn syscall(rule: Rule) -> Result<LinuxSyscall, (&'static str, String)> {
    let names = match (rule.name.filter(|name| !name.is_empty()), rule.names.filter(|names| !names.is_empty())) {
        (Some(_), Some(_)) => return Err(("name", "stands beside `names`, expected only one of them".to_owned())),
        (Some(name), None) => vec![name],
        (None, names) => names.unwrap_or_default(),
    };
    let errno = one_errno(rule.errno_ret, rule.errno).map_err(|why| ("errno", why))?;
    let mut syscall = LinuxSyscall::default();
    syscall.set_names(names).set_action(rule.action).set_errno_ret(errno);
    syscall.set_args(rule.args.filter(|args| !args.is_empty()));
    Ok(syscall)
}

fn one_errno(number: Option<u32>, name: Option<Errno>) -> Result<Option<u32>, String> {
    match (number, name.and_then(|name| name.0)) {
        (Some(number), Some(named)) if number != named => {
            Err(format!("is {named}, and the number beside it {number}: expected the same or only one of them"))
        }
        (number, named) => Ok(number.or(named)),
    }
}

/// errno(3) of x86-64 and aarch64: the same numbers. Blanks in place of numbers that are free.
const ERRNO: &str = "EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY \
    EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE \
    EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP - ENOMSG EIDRM ECHRNG EL2NSYNC EL3HLT EL3RST ELNRNG EUNATCH ENOCSI \
    EL2HLT EBADE EBADR EXFULL ENOANO EBADRQC EBADSLT - EBFONT ENOSTR ENODATA ETIME ENOSR ENONET ENOPKG EREMOTE ENOLINK EADV \
    ESRMNT ECOMM EPROTO EMULTIHOP EDOTDOT EBADMSG EOVERFLOW ENOTUNIQ EBADFD EREMCHG ELIBACC ELIBBAD ELIBSCN ELIBMAX ELIBEXEC \
    EILSEQ ERESTART ESTRPIPE EUSERS ENOTSOCK EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT \
    EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH ENETRESET ECONNABORTED ECONNRESET \
    ENOBUFS EISCONN ENOTCONN ESHUTDOWN ETOOMANYREFS ETIMEDOUT ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY EINPROGRESS ESTALE \
    EUCLEAN ENOTNAM ENAVAIL EISNAM EREMOTEIO EDQUOT ENOMEDIUM EMEDIUMTYPE ECANCELED ENOKEY EKEYEXPIRED EKEYREVOKED \
    EKEYREJECTED EOWNERDEAD ENOTRECOVERABLE ERFKILL EHWPOISON";

/// Second names of some.
const ERRNO_TOO: [(&str, &str); 3] = [("EWOULDBLOCK", "EAGAIN"), ("EDEADLOCK", "EDEADLK"), ("ENOTSUP", "EOPNOTSUPP")];

fn errno(text: &str) -> Option<u32> {
    if let Ok(number) = u32::from_str(text) {
        return Some(number);
    }
    let name = ERRNO_TOO.iter().find(|(too, _)| *too == text).map_or(text, |(_, name)| name);
    let found = ERRNO.split_whitespace().zip(1u32..).try_for_each(|(known, number)| match known == name {
        true => ControlFlow::Break(number),
        false => ControlFlow::Continue(()),
    });
    found.break_value().filter(|_| name != "-")
}

impl fmt::Display for SeccompFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> SeccompFile {
        SeccompFile {
            path: "/etc/x.json".into(),
            contents: Some(FileContents::json(text.as_bytes().into())),
            kernel: KernelVersion(6, 1),
        }
    }

    fn names(text: &str, bounding: &[&str]) -> Vec<String> {
        let resolved = of(text).resolve(bounding).unwrap();
        resolved.profile.syscalls().iter().flatten().flat_map(|rule| rule.names().clone()).collect()
    }

    #[test]
    fn errno_names_have_the_kernels_numbers() {
        for (name, number) in [
            ("EPERM", libc::EPERM),
            ("EAGAIN", libc::EAGAIN),
            ("EWOULDBLOCK", libc::EWOULDBLOCK),
            ("EDEADLK", libc::EDEADLK),
            ("EDEADLOCK", libc::EDEADLOCK),
            ("ENOSYS", libc::ENOSYS),
            ("ELOOP", libc::ELOOP),
            ("ENOMSG", libc::ENOMSG),
            ("EBADSLT", libc::EBADSLT),
            ("EBFONT", libc::EBFONT),
            ("ENOTSUP", libc::ENOTSUP),
            ("EAFNOSUPPORT", libc::EAFNOSUPPORT),
            ("EHWPOISON", libc::EHWPOISON),
        ] {
            assert_eq!(errno(name), u32::try_from(number).ok(), "{name}");
        }
        assert_eq!((errno("-"), errno("EFOO"), errno("38")), (None, None, Some(38)));
    }

    #[test]
    fn a_rule_counts_where_its_conditions_hold() {
        let rule = |name: &str, more: &str| {
            format!("{{\"names\": [\"{name}\"], \"action\": \"SCMP_ACT_ALLOW\", \"comment\": \"x\", {more}}}")
        };
        let (own, _) = ARCHITECTURE.unwrap();
        let rules = [
            rule("always", "\"includes\": {}, \"excludes\": {\"caps\": []}, \"args\": null"),
            rule("own", &format!("\"includes\": {{\"arches\": [\"s390\", \"{own}\"]}}")),
            rule("other", "\"includes\": {\"arches\": [\"s390\"]}"),
            rule("not-own", &format!("\"excludes\": {{\"arches\": [\"{own}\"]}}")),
            rule("both", "\"includes\": {\"caps\": [\"CAP_CHOWN\", \"CAP_KILL\"]}"),
            rule("neither", "\"excludes\": {\"caps\": [\"CAP_CHOWN\", \"CAP_KILL\"]}"),
            rule("new", "\"includes\": {\"minKernel\": \"6.1\"}"),
            rule("newer", "\"includes\": {\"minKernel\": \"6.10\"}"),
            rule("old", "\"excludes\": {\"minKernel\": \"4.8\"}"),
        ];
        let text = format!("{{\"defaultAction\": \"SCMP_ACT_ERRNO\", \"syscalls\": [{}]}}", rules.join(","));
        assert_eq!(names(&text, &[]), ["always", "own", "neither", "new"]);
        assert_eq!(names(&text, &["CAP_KILL"]), ["always", "own", "new"]);
        assert_eq!(names(&text, &["CAP_KILL", "CAP_CHOWN"]), ["always", "own", "both", "new"]);
        let origin = of(&text).resolve(&["CAP_KILL", "CAP_CHOWN"]).unwrap().from;
        let (path, place) = origin.place("linux.seccomp.syscalls[2].action").unwrap();
        assert_eq!((path.as_str(), place.is_some()), ("syscalls[4].action", true), "as the file counts");
    }

    #[test]
    fn both_forms_of_architectures_and_errnos_are_taken() {
        let text = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "defaultErrno": "ENOSYS",
            "archMap": [{"architecture": "SCMP_ARCH_S390X", "subArchitectures": ["SCMP_ARCH_S390"]},
                        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
            "syscalls": [{"name": "open", "action": "SCMP_ACT_ERRNO", "errno": "EACCES", "args": []}]}"#;
        let profile = of(text).resolve(&[]).unwrap().profile;
        assert_eq!(profile.default_errno_ret(), Some(38));
        assert_eq!(profile.architectures().as_ref().map(Vec::len), Some(2));
        let rule = &profile.syscalls().as_ref().unwrap()[0];
        assert_eq!(
            (rule.names().as_slice(), rule.errno_ret(), rule.args()),
            (&["open".to_owned()][..], Some(13), &None)
        );
    }

    #[test]
    fn what_is_wrong_has_its_place() {
        for (text, path, says) in [
            ("{", "", "not JSON from here on"),
            ("[]", "", "expected a JSON object"),
            ("{}", "", "missing field `defaultAction`"),
            ("{\"defaultAction\": \"ALLOW\"}", "defaultAction", "unknown variant `ALLOW`"),
            ("{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"sycalls\": []}", "sycalls", "unknown field `sycalls`"),
            (
                "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"architectures\": [\"SCMP_ARCH_X86\"], \"archMap\": [{\"architecture\": \"SCMP_ARCH_X86\"}]}",
                "archMap",
                "beside `architectures`",
            ),
            (
                "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": [\"a\"], \"name\": \"b\", \"action\": \"SCMP_ACT_LOG\"}]}",
                "syscalls[0].name",
                "beside `names`",
            ),
            (
                "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": [\"a\"], \"errno\": \"EPERN\", \"action\": \"SCMP_ACT_LOG\"}]}",
                "syscalls[0].errno",
                "unknown errno \"EPERN\"",
            ),
            (
                "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": [\"a\"], \"errno\": \"EPERM\", \"errnoRet\": 2, \"action\": \"SCMP_ACT_ERRNO\"}]}",
                "syscalls[0].errno",
                "is 1, and the number beside it 2",
            ),
            (
                "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": [\"a\"], \"includes\": {\"minKernel\": \"new\"}, \"action\": \"SCMP_ACT_LOG\"}]}",
                "syscalls[0].includes",
                "is no kernel version",
            ),
        ] {
            let error = of(text).resolve(&[]).unwrap_err();
            assert_eq!(error.path, path, "{text}: {error:?}");
            assert!(error.message.contains(says) && error.line == 1, "{text}: {error:?}");
        }
    }

    #[test]
    fn a_path_starts_where_its_text_lies_also_in_what_cat_writes() {
        use crate::unit::{Layer, LayerKind, Names, UnitName, cat, parse_layers};
        use std::path::Path;
        fn layer(text: &str) -> Layer<'_> {
            let (file, base) = (Path::new("/d/web.toml"), Path::new("/real"));
            Layer { kind: LayerKind::Main, file, base, text, is_template: false }
        }
        let name = UnitName::new("web").unwrap();
        for (word, expected) in [("default", "default"), ("x.json", "/real/x.json"), ("../a/x", "/a/x")] {
            let text = format!("bundle = \"/b\"\nsecurity.seccomp = \"{word}\"\n");
            let merged = cat::cat(Names::of(&name), &[layer(&text)]).unwrap().text;
            assert!(merged.contains(&format!("seccomp = \"{expected}\"")), "{merged}");
            let unit = parse_layers(Names::of(&name), &[layer(&text)]).unwrap().unit;
            assert_eq!(unit.seccomp_file().map_or("default".into(), ToString::to_string), expected);
        }
    }

    #[test]
    fn spaces_and_the_order_of_keys_mean_nothing() {
        let one = FileContents::json(br#"{"a": 1, "b": [2]}"#[..].into());
        let other = FileContents::json(br#"{ "b":[2],"a":1 }"#[..].into());
        assert_eq!(one.digest(), other.digest());
        assert_ne!(one.digest(), FileContents::json(br#"{"a": 1, "b": [3]}"#[..].into()).digest());
    }
}
