//! A [`Unit`] and what was read of its source to an OCI spec.
//!
//! All merging is done on JSON: a bundle's config.json or the hardened defaults, then the unit's own keys, then `[oci]`.
//! Fields that the types do not know stay in [`SpecText::raw`], so that the OCI layer can name them.

use std::fmt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Map, Value, json};

use super::json::{JsonError, read_object, read_spec};
use super::root::{NOBODY, RootPlan, around};
use super::seccomp_file::Origin;
use super::{MountKind, Network, Seccomp, Source, SourceFacts, Unit, UnitName, defaults, merge, seccomp_default};
use crate::compact;
use crate::config::Spec;
use crate::words::CAPABILITIES;

/// Largest config.json, in bytes.
pub const CONFIG_MAX: usize = 1024 * 1024;

/// More mistakes than a person reads at once; what is left out is counted.
const ERRORS_MAX: usize = 100;

/// The period of a CPU quota, in microseconds: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

/// Where a container that tells by itself finds the directory of its socket. Below `/dev`, which nearly every container has in memory: there
/// a place can be made whatever the root is and however it is mounted, and a `/run` of the unit's own hides nothing.
pub const NOTIFY_DIR: &str = "/dev/moored-notify";

/// What a terminal is that nobody has described.
const DEFAULT_TERM: &str = "TERM=xterm";

/// The socket's name in it.
pub const NOTIFY_NAME: &str = "socket";

/// A unit's spec, and what a spec cannot say.
#[derive(Debug, Clone, PartialEq)]
pub struct SpecText {
    /// The spec.
    pub spec: Spec,
    /// The JSON that it was read from.
    pub raw: Value,
    /// What becomes the root. For [`RootPlan::Tmpfs`] `spec.root.path` is the word `tmpfs`, not a path.
    pub root: RootPlan,
    /// `user[:group]`, to be looked up in the root's own /etc/passwd and /etc/group at start, supplementary groups
    /// included. Until then the spec says nobody, or for a lone number that number as uid and gid, which also holds
    /// where /etc/passwd does not know it.
    pub user_lookup: Option<String>,
    /// The unit whose network namespace is joined; the spec's own network namespace has no path then.
    pub network_of: Option<UnitName>,
    /// A tiny reaping, forwarding init stands in front.
    pub init: bool,
    /// [`seccomp_default`] holds. The spec does not spell it out: it is the same for all, and larger than all the rest.
    pub allow_list: bool,
    /// Device nodes of the host's, to be looked at at start: each becomes a `linux.devices` entry of the same path and
    /// a rule that allows it "rwm".
    pub devices: Vec<PathBuf>,
    /// Where its system call filter is from, if a file alone says it.
    pub seccomp_from: Option<Origin>,
    /// What of config.json is not honoured in a unit, and why.
    pub warnings: Vec<String>,
}

/// What is wrong with a unit's spec. `Display` is `file:line:column path: message`, as far as these are known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SpecError {
    /// config.json, if it is its mistake; otherwise unit and source do not fit each other.
    pub file: Option<PathBuf>,
    /// Line and column in characters, from 1, where known.
    pub place: Option<(u32, u32)>,
    /// The JSON path: `process.args[0]`; empty for the whole.
    pub path: String,
    /// What was found and what was expected.
    pub message: String,
}

impl SpecError {
    /// What is wrong with a filter, at its place in the file that says it.
    pub fn of_filter(from: &Origin, path: &str, message: &str) -> Option<SpecError> {
        let (path, place) = from.place(path)?;
        Some(SpecError { file: Some(from.path.clone()), place, path, message: message.to_owned() })
    }

    /// Mistakes of a unit's spec by their paths: those that are in a bundle's config.json as it stands get their places there, the
    /// others are the unit's own.
    pub fn at_paths(errors: Vec<(String, String)>, facts: &SourceFacts, merged: Option<&Value>) -> Vec<SpecError> {
        let bytes = facts.config_json.as_deref().unwrap_or_default();
        let own: Option<Value> = compact::from_json(bytes).ok();
        let is_own = |path: &str| {
            let (own, merged) = (own.as_ref(), merged.or(own.as_ref()));
            own.is_some() && own.and_then(|own| at_path(own, path)) == merged.and_then(|merged| at_path(merged, path))
        };
        let shown = errors.iter().take(ERRORS_MAX).map(|(path, _)| path.as_str());
        let places = super::json::places(bytes, &compact::set(shown.filter(|path| is_own(path))));
        let left_out = errors.len().saturating_sub(ERRORS_MAX);
        let placed = errors.into_iter().take(ERRORS_MAX).map(|(path, message)| {
            let place = places.get(&path).copied();
            SpecError { file: place.map(|_| facts.resolved.join("config.json")), place, path, message }
        });
        let mut placed: Vec<SpecError> = placed.collect();
        compact::sort_by_key(&mut placed, |error| (error.file.is_none(), error.place));
        let rest = format!("and {left_out} more mistakes");
        let rest = SpecError { file: None, place: None, path: String::new(), message: rest };
        placed.extend((left_out > 0).then_some(rest));
        placed
    }
}

/// The value at a path as messages write it.
fn at_path<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    path.split(['.', '[']).filter(|part| !part.is_empty()).try_fold(value, |value, part| match part.strip_suffix(']') {
        Some(index) => value.get(index.parse::<usize>().ok()?),
        None => value.get(part),
    })
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}", super::diagnostic::one_line(&file.to_string_lossy()))?;
            if let Some((line, column)) = self.place {
                write!(f, ":{line}:{column}")?;
            }
            f.write_str(" ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Compiles a unit to its spec. Errors are those of config.json, or of what the unit makes of it.
pub fn compile(unit: &Unit, facts: &SourceFacts) -> Result<SpecText, Vec<SpecError>> {
    // What is wrong with config.json alone is looked for only when something is wrong: reading it to the types of the spec takes a third
    // of the time.
    merged(unit, facts).map_err(|errors| {
        let is_told = errors.iter().any(|error| error.file.is_some());
        let own = facts.config_json.as_deref().filter(|_| matches!(unit.source, Source::Bundle(_)) && !is_told);
        own.and_then(|own| read_spec(own).err()).map_or(errors, |error| vec![of_file(facts, error)])
    })
}

fn merged(unit: &Unit, facts: &SourceFacts) -> Result<SpecText, Vec<SpecError>> {
    let mut warnings = Vec::new();
    let mut value = match &unit.source {
        Source::Bundle(_) => bundle(facts).map_err(|error| vec![error])?,
        Source::Rootfs(_) | Source::Layers(_) | Source::Executable(_) => hardened(unit, facts),
        Source::Host => defaults::host(),
    };
    let user = user(unit);
    apply(unit, user.as_ref(), &mut value);
    let mut filter = filter(unit, &value)?;
    let is_merged = unit.oci.get("linux").is_some_and(|linux| linux.get("seccomp").is_some());
    if let Some(filter) = filter.take_if(|_| is_merged) {
        *slot(&mut value, &["linux", "seccomp"]) = as_json(&filter.profile());
    }
    if let Value::Object(map) = &mut value {
        merge::deep_merge(map, &unit.oci);
    }
    notify(unit, &mut value);
    terminal(unit, &mut value);
    take_what_is_ours(&mut value, &mut warnings);
    check_complete(&value, facts)?;
    check_users(unit, &value, facts)?;
    let root = root(unit, facts, user.as_ref(), &value);
    let mut spec = read_spec(value.to_string().as_bytes()).map_err(|error| vec![of_merged(error)])?;
    let allow_list = matches!(filter, Some(Filter::AllowList));
    let seccomp_from = match filter {
        Some(Filter::File(profile, from)) => {
            // As it is: through JSON it would take longer than all the rest.
            spec.linux.get_or_insert_default().set_seccomp(Some(profile));
            Some(from)
        }
        Some(Filter::AllowList) | None => None,
    };
    Ok(SpecText {
        spec,
        raw: value,
        root,
        user_lookup: user.and_then(|user| user.lookup),
        network_of: match &unit.network {
            Some(Network::Unit(other)) => Some(other.clone()),
            Some(Network::None | Network::Host) | None => None,
        },
        init: unit.process.init,
        allow_list,
        devices: unit.devices.iter().map(|device| device.path.clone()).collect(),
        seccomp_from,
        warnings,
    })
}

// --- where it starts from ---------------------------------------------------------------------------------------

fn of_file(facts: &SourceFacts, error: JsonError) -> SpecError {
    let place = Some((error.line, error.column));
    SpecError { file: Some(facts.resolved.join("config.json")), place, path: error.path, message: error.message }
}

/// config.json, its root made absolute.
fn bundle(facts: &SourceFacts) -> Result<Value, SpecError> {
    let of_file = |error| of_file(facts, error);
    let whole = |message: String| of_file(JsonError { line: 1, column: 1, path: String::new(), message });
    let bytes = facts.config_json.as_deref().unwrap_or(&[]);
    if bytes.len() > CONFIG_MAX {
        return Err(whole(format!("{} bytes, expected at most {CONFIG_MAX} (1M)", bytes.len())));
    }
    let mut value = read_object(bytes).map_err(of_file)?;
    if let Some(path) = value.pointer("/root/path").and_then(Value::as_str) {
        *slot(&mut value, &["root", "path"]) = json!(super::path::absolute(&facts.resolved, path).to_string_lossy());
    }
    for mount in value.get_mut("mounts").and_then(Value::as_array_mut).into_iter().flatten() {
        absolute_source(mount, &facts.resolved);
    }
    Ok(value)
}

/// A bind mount's relative source starts from the bundle, as in runc.
fn absolute_source(mount: &mut Value, bundle: &Path) {
    let option = |option: &Value| matches!(option.as_str(), Some("bind" | "rbind"));
    let listed = mount.get("options").and_then(Value::as_array).is_some_and(|options| options.iter().any(option));
    let is_bind = listed || mount.get("type").and_then(Value::as_str) == Some("bind");
    let source = mount.get("source").and_then(Value::as_str).filter(|source| is_bind && !source.starts_with('/'));
    if let Some(source) = source.map(|source| super::path::absolute(bundle, source)) {
        *slot(mount, &["source"]) = json!(source.to_string_lossy());
    }
}

fn hardened(unit: &Unit, facts: &SourceFacts) -> Value {
    let mut value = Value::Object(defaults::hardened());
    let path = match unit.source {
        Source::Executable(_) => "tmpfs".into(),
        Source::Rootfs(_) | Source::Layers(_) | Source::Bundle(_) | Source::Host => facts.resolved.to_string_lossy(),
    };
    *slot(&mut value, &["root", "path"]) = json!(path);
    if let Source::Layers(_) = unit.source {
        // What is written is nobody else's.
        *slot(&mut value, &["root", "readonly"]) = json!(false);
    }
    if matches!(unit.source, Source::Rootfs(_) | Source::Layers(_)) {
        list(&mut value, &["mounts"]).extend(defaults::sys_mounts());
    }
    value
}

/// The filter that a unit names.
enum Filter {
    AllowList,
    File(LinuxSeccomp, Origin),
}

impl Filter {
    fn profile(self) -> LinuxSeccomp {
        match self {
            Filter::AllowList => seccomp_default::profile(),
            Filter::File(profile, _) => profile,
        }
    }
}

/// As a whole, or as what `[oci]` is merged into; `None`: what is in `value` counts.
fn filter(unit: &Unit, value: &Value) -> Result<Option<Filter>, Vec<SpecError>> {
    match (&unit.security.seccomp, &unit.source) {
        (Some(Seccomp::Default), _) | (None, Source::Rootfs(_) | Source::Layers(_) | Source::Executable(_)) => {
            Ok(Some(Filter::AllowList))
        }
        (Some(Seccomp::Unconfined), _) | (None, Source::Bundle(_) | Source::Host) => Ok(None),
        // Until it is read nothing runs. What judges a text by itself has it as strict as can be.
        (Some(Seccomp::File(file)), _) if file.contents.is_none() => Ok(Some(Filter::AllowList)),
        (Some(Seccomp::File(file)), _) => {
            // What `[oci]` says of them goes before.
            let own = unit.oci.get("process").and_then(|process| process.pointer("/capabilities/bounding"));
            let bounding = own.or_else(|| value.pointer("/process/capabilities/bounding")).and_then(Value::as_array);
            let bounding: Vec<&str> = bounding.into_iter().flatten().filter_map(Value::as_str).collect();
            // A service of the host's that names none has all.
            let has_all = unit.source == Source::Host && value.pointer("/process/capabilities").is_none();
            let all = CAPABILITIES.map(|name| format!("CAP_{name}"));
            let bounding = if has_all { all.iter().map(String::as_str).collect() } else { bounding };
            let resolved = file.resolve(&bounding).map_err(|error| {
                let place = Some((error.line, error.column));
                vec![SpecError { file: Some(file.path.clone()), place, path: error.path, message: error.message }]
            })?;
            Ok(Some(Filter::File(resolved.profile, resolved.from)))
        }
    }
}

/// A profile as JSON. It always serialises: it is a tree of strings and numbers.
fn as_json(profile: &LinuxSeccomp) -> Value {
    serde_json::to_value(profile).unwrap_or(Value::Null)
}

// --- the unit's own words ---------------------------------------------------------------------------------------

fn apply(unit: &Unit, user: Option<&User>, value: &mut Value) {
    process(unit, user, value);
    if let Some(hostname) = &unit.hostname {
        *slot(value, &["hostname"]) = json!(hostname);
    }
    security(unit, value);
    resources(unit, value);
    network(unit, value);
    for mount in &unit.mounts {
        put_mount(value, mount_value(mount));
    }
}

fn process(unit: &Unit, user: Option<&User>, value: &mut Value) {
    let process = &unit.process;
    if let Some(args) = &process.args {
        *slot(value, &["process", "args"]) = json!(args);
    }
    if let Some(cwd) = &process.cwd {
        *slot(value, &["process", "cwd"]) = json!(cwd);
    }
    if let Some(user) = user {
        // Groups and umask of config.json's user are not this one's.
        *slot(value, &["process", "user"]) = json!({ "uid": user.uid, "gid": user.gid });
    }
    let mut own = process.variables.map().clone();
    own.extend(process.env.clone());
    if !own.is_empty() {
        let env = list(value, &["process", "env"]);
        let overridden = |entry: &Value| {
            let name = entry.as_str().and_then(|text| text.split('=').next());
            name.is_some_and(|name| own.contains_key(name))
        };
        env.retain(|entry| !overridden(entry));
        env.extend(own.iter().map(|(name, text)| json!(format!("{name}={text}"))));
    }
}

/// What sd_notify(3) and sd_watchdog_enabled(3) look for, unless the unit says otherwise. Whose pid is not known is not told: then the
/// watchdog is everybody's.
fn notify(unit: &Unit, value: &mut Value) {
    let Some(notify) = unit.notify() else { return };
    let namespaces = value.pointer("/linux/namespaces").and_then(Value::as_array);
    let is_own =
        |ns: &Value| ns.get("type").and_then(Value::as_str) == Some("pid") && ns.get("path").is_none_or(Value::is_null);
    let pid = namespaces.is_some_and(|all| all.iter().any(is_own)).then_some(if unit.process.init { 2 } else { 1 });
    let micros = notify.watchdog.map(|period| period.as_micros());
    // Of the host itself the start knows the path.
    let socket = (unit.source != Source::Host).then(|| format!("{NOTIFY_DIR}/{NOTIFY_NAME}"));
    let ours = [
        ("NOTIFY_SOCKET", socket),
        ("WATCHDOG_USEC", micros.map(|micros| micros.to_string())),
        ("WATCHDOG_PID", pid.filter(|_| micros.is_some()).map(|pid| pid.to_string())),
    ];
    let env = list(value, &["process", "env"]);
    for (name, text) in ours.into_iter().filter(|(name, _)| !unit.process.env.contains_key(*name)) {
        let is_it =
            |entry: &Value| entry.as_str().and_then(|entry| entry.split_once('=')).is_some_and(|(n, _)| n == name);
        env.retain(|entry| !is_it(entry));
        env.extend(text.map(|text| json!(format!("{name}={text}"))));
    }
}

fn security(unit: &Unit, value: &mut Value) {
    let security = &unit.security;
    if let Some(names) = &security.capabilities {
        // Inheritable and ambient stay empty unless [oci] asks (CVE-2022-29162).
        *slot(value, &["process", "capabilities"]) =
            json!({ "bounding": names, "effective": names, "permitted": names, "inheritable": [], "ambient": [] });
    }
    if let Some(flag) = security.no_new_privileges {
        *slot(value, &["process", "noNewPrivileges"]) = json!(flag);
    }
    if let Some(flag) = security.read_only {
        *slot(value, &["root", "readonly"]) = json!(flag);
    }
    // Ours comes in later.
    if security.seccomp.is_some() {
        remove(value, "linux", "seccomp");
    }
}

fn resources(unit: &Unit, value: &mut Value) {
    let resources = &unit.resources;
    if let Some(bytes) = resources.memory_bytes {
        *slot(value, &["linux", "resources", "memory", "limit"]) = json!(bytes);
    }
    if let Some(milli) = resources.cpus_milli {
        let quota = milli.saturating_mul(CPU_PERIOD_US / 1000);
        *slot(value, &["linux", "resources", "cpu", "quota"]) = json!(quota);
        *slot(value, &["linux", "resources", "cpu", "period"]) = json!(CPU_PERIOD_US);
    }
    if let Some(pids) = resources.pids {
        *slot(value, &["linux", "resources", "pids", "limit"]) = json!(pids);
    }
    if let Some(bytes) = resources.shm_bytes {
        shm_size(value, bytes);
    }
}

/// Sets the size of the tmpfs at /dev/shm, which is added if there is none. Another kind of mount there has its own.
fn shm_size(value: &mut Value, bytes: u64) {
    let mounts = list(value, &["mounts"]);
    let Some(shm) = mounts.iter_mut().find(|mount| target(mount) == Some("/dev/shm")) else {
        let options =
            ["nosuid".to_owned(), "noexec".into(), "nodev".into(), "mode=1777".into(), format!("size={bytes}")];
        mounts.push(json!({ "destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": options }));
        return;
    };
    if shm.get("type").and_then(Value::as_str) == Some("tmpfs") {
        let options = list(shm, &["options"]);
        options.retain(|option| !option.as_str().is_some_and(|text| text.starts_with("size=")));
        options.push(json!(format!("size={bytes}")));
    }
}

fn network(unit: &Unit, value: &mut Value) {
    let Some(network) = unit.network.as_ref().filter(|_| unit.source != Source::Host) else { return };
    let namespaces = list(value, &["linux", "namespaces"]);
    namespaces.retain(|namespace| namespace.get("type").and_then(Value::as_str) != Some("network"));
    match network {
        Network::Host => {}
        Network::None | Network::Unit(_) => namespaces.push(json!({ "type": "network" })),
    }
}

fn mount_value(mount: &super::Mount) -> Value {
    match &mount.kind {
        MountKind::Tmpfs { size_bytes } => defaults::tmpfs(&mount.target, *size_bytes, mount.read_only),
        MountKind::Bind { source } => {
            // rro: what is mounted below the source is read-only too (mount_setattr(2), AT_RECURSIVE).
            let access: &[&str] = if mount.read_only { &["ro", "rro"] } else { &["rw"] };
            let options = [&["rbind", "rprivate", "nosuid", "nodev"], access].concat();
            json!({ "destination": mount.target, "type": "bind", "source": source.to_string_lossy(), "options": options })
        }
    }
}

/// In the place of the mount with the same target, or after all others.
fn put_mount(value: &mut Value, mount: Value) {
    let mounts = list(value, &["mounts"]);
    match mounts.iter_mut().find(|other| target(other).is_some() && target(other) == target(&mount)) {
        Some(other) => *other = mount,
        None => mounts.push(mount),
    }
}

/// A mount's target without trailing slashes.
fn target(mount: &Value) -> Option<&str> {
    let text = mount.get("destination").and_then(Value::as_str)?;
    Some(if text.len() > 1 { text.trim_end_matches('/') } else { text })
}

// --- the user ---------------------------------------------------------------------------------------------------

struct User {
    uid: u32,
    gid: u32,
    lookup: Option<String>,
}

/// What the spec says of the user, and what is left to the lookup at start. A made root knows all its names already.
fn user(unit: &Unit) -> Option<User> {
    let text = unit.process.user.as_deref()?;
    let made_root = matches!(unit.source, Source::Executable(_));
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let id = |part: &str| match part {
        "root" if made_root => Some(0),
        "nobody" | "nogroup" if made_root => Some(NOBODY),
        part => part.parse::<u32>().ok(),
    };
    let (uid, gid) = (id(user), group.map_or_else(|| id(user), id));
    let settled = uid.is_some() && gid.is_some() && (group.is_some() || made_root);
    let lookup = (!settled).then(|| text.to_owned());
    // Nobody, so that a lookup that does not happen never leaves root.
    Some(User { uid: uid.unwrap_or(NOBODY), gid: gid.unwrap_or(NOBODY), lookup })
}

// --- the end ----------------------------------------------------------------------------------------------------

/// The supervisor places the cgroup.
fn take_what_is_ours(value: &mut Value, warnings: &mut Vec<String>) {
    if value.pointer("/linux/cgroupsPath").is_some() {
        remove(value, "linux", "cgroupsPath");
        warnings
            .push("config.json: linux.cgroupsPath is not honoured: the supervisor places a unit's cgroup".to_owned());
    }
}

/// What the unit says of it counts before config.json. A program on a terminal that nobody has described is told what Docker and Podman tell.
fn terminal(unit: &Unit, value: &mut Value) {
    let Some(terminal) = unit.process.terminal else { return };
    *slot(value, &["process", "terminal"]) = json!(terminal);
    let env = list(value, &["process", "env"]);
    let names_one = env.iter().any(|entry| entry.as_str().is_some_and(|entry| entry.starts_with("TERM=")));
    if terminal && !names_one {
        env.push(json!(DEFAULT_TERM));
    }
}

/// Whether the unit's process has a terminal of its own: it says so, or its config.json does.
pub fn has_terminal(unit: &Unit, facts: &SourceFacts) -> bool {
    let of_bundle = || {
        let value: Option<Value> = compact::from_json(facts.config_json.as_deref()?).ok();
        value?.pointer("/process/terminal")?.as_bool()
    };
    unit.process.terminal.or_else(of_bundle).unwrap_or(false)
}

/// Both are optional in the types, and both are needed to run.
fn check_complete(value: &Value, facts: &SourceFacts) -> Result<(), Vec<SpecError>> {
    let missing = |path: &str, cure: &str| (path.to_owned(), format!("missing, expected {cure}"));
    let mut errors = Vec::new();
    let args = value.pointer("/process/args").and_then(Value::as_array);
    if args.and_then(|args| args.first()).and_then(Value::as_str).is_none_or(str::is_empty) {
        errors.push(missing("process.args", "a program here or in the unit's [process] args"));
    }
    if value.pointer("/root/path").and_then(Value::as_str).is_none_or(str::is_empty) {
        errors.push(missing("root.path", "the directory that becomes the root"));
    }
    if errors.is_empty() { Ok(()) } else { Err(SpecError::at_paths(errors, facts, Some(value))) }
}

/// Two user namespaces are none that anybody meant.
fn check_users(unit: &Unit, value: &Value, facts: &SourceFacts) -> Result<(), Vec<SpecError>> {
    if !unit.has_own_users() {
        return Ok(());
    }
    let is_user = |namespace: &Value| namespace.get("type").and_then(Value::as_str) == Some("user");
    let namespaces = value.pointer("/linux/namespaces").and_then(Value::as_array);
    let listed = namespaces.and_then(|all| all.iter().position(is_user)).map(|n| format!("linux.namespaces[{n}]"));
    let mapped = ["uidMappings", "gidMappings"].into_iter().find(|key| {
        let list = value.pointer(&format!("/linux/{key}")).and_then(Value::as_array);
        list.is_some_and(|list| !list.is_empty())
    });
    let found = listed.or_else(|| mapped.map(|key| format!("linux.{key}")));
    let message = || "stands beside security.userns = \"auto\", which makes its own: leave one of them out".to_owned();
    found.map_or(Ok(()), |path| Err(SpecError::at_paths(vec![(path, message())], facts, Some(value))))
}

fn root(unit: &Unit, facts: &SourceFacts, user: Option<&User>, value: &Value) -> RootPlan {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
    match &unit.source {
        Source::Executable(_) => {
            let ids = user.map_or((0, 0), |user| (user.uid, user.gid));
            let hostname = text("/hostname").unwrap_or(unit.name.as_str());
            around(&facts.resolved, hostname, ids, unit.network == Some(Network::Host))
        }
        Source::Layers(_) => RootPlan::Layers { layers: facts.layers.clone(), upper: unit.upper },
        Source::Bundle(_) | Source::Rootfs(_) | Source::Host => {
            RootPlan::Directory(super::path::absolute(&facts.resolved, text("/root/path").unwrap_or("")))
        }
    }
}

/// An error of the merged text: its line is nobody's.
fn of_merged(error: JsonError) -> SpecError {
    SpecError { file: None, place: None, path: error.path, message: error.message }
}

// --- JSON -------------------------------------------------------------------------------------------------------

/// The value at a path; objects on the way, and the value as null, are made if they are not there.
fn slot<'v>(mut value: &'v mut Value, path: &[&str]) -> &'v mut Value {
    for key in path {
        if !value.is_object() {
            *value = Value::Object(Map::new());
        }
        // Indexing an object by a key inserts null where there is none.
        value = &mut value[*key];
    }
    value
}

/// The array at a path, made if it is not there.
fn list<'v>(value: &'v mut Value, path: &[&str]) -> &'v mut Vec<Value> {
    let place = slot(value, path);
    if !place.is_array() {
        *place = Value::Array(Vec::new());
    }
    match place {
        Value::Array(items) => items,
        _ => unreachable!("an array was put there above"),
    }
}

fn remove(value: &mut Value, parent: &str, key: &str) {
    if let Some(map) = value.get_mut(parent).and_then(Value::as_object_mut) {
        map.remove(key);
    }
}
