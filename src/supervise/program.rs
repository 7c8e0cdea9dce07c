//! A unit and its source, compiled to what the keeper runs: [`unit::compile`](crate::unit::compile), then [`oci::compile`](crate::oci::compile).

use std::path::Path;
use std::sync::OnceLock;

use oci_spec::runtime::{LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType, Mount};
use serde_json::Value;

use super::session::ExecProcess;
use super::swap::{ConfigDir, Owner};
use crate::oci::{self, CgroupSettings, Script};
use crate::store::IDS_OF_UNIT;
use crate::unit::{self, SourceFacts, SpecError, Unit};

/// The longest path of a socket (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

/// What a start is made of.
pub struct Program {
    /// For the container's first process.
    pub script: Script,
    /// For its cgroup.
    pub cgroup: CgroupSettings,
    /// Whose its config files and secrets are.
    pub owner: Owner,
    /// What is odd but no error.
    pub warnings: Vec<String>,
}

/// What a start has made ready, and knows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Dirs<'d> {
    /// Of its notify socket, if it has one.
    pub notify: Option<&'d Path>,
    /// Of its writable layer, if that is kept.
    pub upper: Option<&'d Path>,
    /// The first of the ids that it has, if it has its own.
    pub ids: Option<u32>,
}

/// Compiles a unit that was [checked](check) when it came into force: what only its config.json gets wrong is not looked for again, unless
/// something is. Errors are lines for people, each with the place it is about.
pub fn compile(
    unit: &Unit,
    facts: &SourceFacts,
    id: &str,
    files: &ConfigDir,
    dirs: Dirs,
) -> Result<Program, Vec<String>> {
    let finished = unit::compile(unit, facts).and_then(|text| finished(text, unit, facts, id, files, dirs));
    finished.map_err(|errors| lines(own_mistakes(facts).err().unwrap_or(errors)))
}

/// The same, with all mistakes that config.json has by itself, also where the unit's own keys would hide them, and with errors that still
/// know their places.
pub fn check(unit: &Unit, facts: &SourceFacts, id: &str, files: &ConfigDir) -> Result<Program, Vec<SpecError>> {
    // First: reading it to the types of the spec stops at its first mistake.
    own_mistakes(facts)?;
    // Which ids it will have is of no interest yet.
    let ids = unit.has_own_users().then_some(IDS_OF_UNIT);
    finished(unit::compile(unit, facts)?, unit, facts, id, files, Dirs { ids, ..Dirs::default() })
}

fn lines(errors: Vec<SpecError>) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn own_mistakes(facts: &SourceFacts) -> Result<(), Vec<SpecError>> {
    let own = oci::mistakes(facts.config_json.as_deref().unwrap_or_default());
    if own.is_empty() { Ok(()) } else { Err(placed(own, facts, None)) }
}

fn placed(errors: Vec<oci::CompileError>, facts: &SourceFacts, merged: Option<&Value>) -> Vec<SpecError> {
    let errors = errors.into_iter().map(|error| (error.path, error.problem.to_string())).collect();
    SpecError::at_paths(errors, facts, merged)
}

fn finished(
    mut text: unit::SpecText,
    unit: &Unit,
    facts: &SourceFacts,
    id: &str,
    files: &ConfigDir,
    dirs: Dirs,
) -> Result<Program, Vec<SpecError>> {
    map_users(unit, &mut text, dirs.ids)?;
    text.spec.mounts.get_or_insert_default().extend(files.mounts(unit));
    let user = owner(&text).or((!unit.configs.iter().any(|file| file.secret)).then_some(0)).ok_or_else(|| {
        let message = "a name, which is looked up when the secrets are there already: with a [[secret]] write numbers like \"1000:1000\"";
        let (file, place, path) = (None, None, "process.user".to_owned());
        vec![SpecError { file, place, path, message: message.to_owned() }]
    })?;
    let listens = unit::socket::environment(unit);
    if !listens.is_empty() {
        let env = text.spec.process.get_or_insert_default().env.get_or_insert_default();
        let is_ours = |entry: &String| listens.iter().any(|(name, _)| entry.split('=').next() == Some(*name));
        env.retain(|entry| !is_ours(entry));
        env.extend(listens.iter().map(|(name, value)| format!("{name}={value}")));
    }
    let host = unit.source == unit::Source::Host;
    match dirs.notify {
        Some(dir) if host => tell_by_path(unit, dir, &mut text)?,
        // After all others, so that none hides it.
        Some(dir) => text.spec.mounts.get_or_insert_default().push(notify_mount(dir)),
        None => {}
    }
    let filter = allow_list(&mut text);
    let context = oci::Context {
        root: Some(root(text.root, matches!(unit.source, unit::Source::Bundle(_)), dirs)),
        init: text.init,
        user: text.user_lookup.as_deref().map(user_and_group),
        devices: text.devices,
        join_network: text.network_of.is_some(),
        listen_pid: !unit.sockets.is_empty(),
        filter,
        keyring: oci::SessionKeyring::Anonymous,
        best_effort: true,
        host,
        pre_start: super::unit_hooks::pre_start(unit, id),
        again: true,
        ..oci::Context::new(facts.resolved.clone(), id.to_owned())
    };
    let compiled = oci::compile(&text.spec, Some(&text.raw), &context).map_err(|errors| {
        let of_filter = |error: &oci::CompileError| {
            SpecError::of_filter(text.seccomp_from.as_ref()?, &error.path, &error.problem.to_string())
        };
        let (theirs, rest): (Vec<_>, Vec<_>) = errors.into_iter().partition(|error| of_filter(error).is_some());
        theirs.iter().filter_map(of_filter).chain(placed(rest, facts, Some(&text.raw))).collect::<Vec<_>>()
    })?;
    let warnings = text.warnings.into_iter().chain(compiled.warnings.iter().map(ToString::to_string)).collect();
    let first = dirs.ids.unwrap_or(0);
    let owner = Owner { root: first, user: first.saturating_add(user) };
    Ok(Program { script: compiled.script, cgroup: compiled.cgroup, owner, warnings })
}

/// A user namespace with these ids. Its own binds have inside the owners that they have outside, unless it says otherwise; those of a bundle's
/// config.json are as that says.
fn map_users(unit: &Unit, text: &mut unit::SpecText, ids: Option<u32>) -> Result<(), Vec<SpecError>> {
    if !unit.has_own_users() {
        return Ok(());
    }
    let first = ids.ok_or_else(|| {
        let message = "its ids are not known: it is not running, or its process is gone".to_owned();
        vec![SpecError { file: None, place: None, path: "security.userns".to_owned(), message }]
    })?;
    let mapping = LinuxIdMappingBuilder::default().container_id(0u32).host_id(first).size(IDS_OF_UNIT).build();
    // The builder fails only where a field without a default is missing, and there is none.
    let mapping = mapping.unwrap_or_default();
    let linux = text.spec.linux.get_or_insert_default();
    let mut user = LinuxNamespace::default();
    user.set_typ(LinuxNamespaceType::User);
    linux.set_namespaces(Some(linux.namespaces().iter().flatten().cloned().chain([user]).collect()));
    linux.set_uid_mappings(Some(vec![mapping]));
    linux.set_gid_mappings(Some(vec![mapping]));
    let is_mapped = |target: &Path| {
        let is_bind = |mount: &&unit::Mount| matches!(mount.kind, unit::MountKind::Bind { .. });
        let mut own = unit.mounts.iter().filter(is_bind).filter(|mount| mount.idmap != Some(false));
        own.any(|mount| Path::new(&mount.target) == target)
    };
    for mount in text.spec.mounts.iter_mut().flatten().filter(|mount| is_mapped(mount.destination())) {
        let options = mount.options().iter().flatten().cloned().chain(["ridmap".to_owned()]).collect();
        mount.set_options(Some(options));
    }
    Ok(())
}

/// Who the process runs as, if that is known before its root is.
fn owner(text: &unit::SpecText) -> Option<u32> {
    let user = text.user_lookup.as_deref().map(|lookup| user_and_group(lookup).0);
    match user.as_deref() {
        None => Some(text.spec.process.as_ref()?.user.as_ref().and_then(|user| user.uid).unwrap_or(0)),
        Some("root") => Some(0),
        Some(user) => user.parse().ok(),
    }
}

/// Compiles a process that joins the unit's container: as its own process, but for what `process` says.
pub fn compile_exec(
    unit: &Unit,
    facts: &SourceFacts,
    id: &str,
    process: &ExecProcess,
    ids: Option<u32>,
) -> Result<Script, Vec<String>> {
    let mut text = unit::compile(unit, facts).map_err(lines)?;
    let filter = allow_list(&mut text);
    map_users(unit, &mut text, ids).map_err(lines)?;
    let mut own = text.spec.process.clone().unwrap_or_default();
    (own.args, own.terminal) = (Some(process.args.clone()), Some(process.terminal));
    own.env = Some(with_overrides(own.env.unwrap_or_default(), &process.env));
    if let Some(cwd) = &process.cwd {
        own.cwd = cwd.into();
    }
    if let Some((rows, columns)) = process.size {
        let size = oci_spec::runtime::BoxBuilder::default().height(rows).width(columns).build();
        own.console_size = size.ok();
    }
    let lookup = process.user.as_deref().or(text.user_lookup.as_deref());
    let annotations = text.spec.annotations.clone().unwrap_or_default().into_iter().collect();
    let joined = oci::Joined { oci_version: text.spec.version.clone(), annotations, status: "running".to_owned() };
    let context = oci::Context {
        user: lookup.map(user_and_group),
        keyring: oci::SessionKeyring::Anonymous,
        best_effort: true,
        filter,
        host: unit.source == unit::Source::Host,
        joined,
        again: true,
        ..oci::Context::new(facts.resolved.clone(), id.to_owned())
    };
    let lines = |errors: Vec<oci::CompileError>| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
    oci::compile_exec(&own, text.spec.linux.as_ref(), &context).map_err(lines)
}

/// The project's allow-list, if that holds: compiled once, as it takes longer than all the rest of a container. Should it not compile, it stands
/// in the spec, where that is an error.
fn allow_list(text: &mut unit::SpecText) -> Option<oci::seccomp::Filter> {
    static FILTER: OnceLock<Option<oci::seccomp::Filter>> = OnceLock::new();
    if !text.allow_list {
        return None;
    }
    let compiled = || oci::seccomp::compile(&unit::seccomp_default::profile(), oci::seccomp::native()?).ok();
    let filter = FILTER.get_or_init(compiled).clone();
    if filter.is_none() {
        text.spec.linux.get_or_insert_default().set_seccomp(Some(unit::seccomp_default::profile()));
    }
    filter
}

/// The directory, not the socket: should keeper and supervisor both die, another socket can take the place of the one that died with them.
/// Nothing can be made or removed in it from inside, and nothing else of the host's is in it.
fn notify_mount(dir: &Path) -> Mount {
    let mut mount = Mount::default();
    let options = ["bind", "rprivate", "ro", "nosuid", "nodev", "noexec"].map(str::to_owned);
    mount.set_destination(unit::NOTIFY_DIR.into());
    mount.set_typ(Some("bind".to_owned())).set_source(Some(dir.to_owned())).set_options(Some(options.to_vec()));
    mount
}

/// A service of the host's has no mounts of its own: it is told where the socket is.
fn tell_by_path(unit: &Unit, dir: &Path, text: &mut unit::SpecText) -> Result<(), Vec<SpecError>> {
    const NAME: &str = "NOTIFY_SOCKET";
    if unit.process.env.contains_key(NAME) {
        return Ok(());
    }
    let path = dir.join(unit::NOTIFY_NAME);
    let length = path.as_os_str().len();
    if length > SOCKET_PATH_MAX {
        let message = format!(
            "the path of its socket, {}, has {length} bytes, expected at most {SOCKET_PATH_MAX}: take a shorter name or --run-dir",
            path.display()
        );
        let (file, place, path) = (None, None, "process.notify".to_owned());
        return Err(vec![SpecError { file, place, path, message }]);
    }
    let env = text.spec.process.get_or_insert_default().env.get_or_insert_default();
    env.retain(|entry| entry.split('=').next() != Some(NAME));
    env.push(format!("{NAME}={}", path.display()));
    Ok(())
}

fn with_overrides(own: Vec<String>, over: &[String]) -> Vec<String> {
    let name = |entry: &String| entry.split('=').next().unwrap_or_default().to_owned();
    let is_overridden = |entry: &String| over.iter().any(|other| name(other) == name(entry));
    own.into_iter().filter(|entry| !is_overridden(entry)).chain(over.iter().cloned()).collect()
}

fn user_and_group(lookup: &str) -> (String, Option<String>) {
    match lookup.split_once(':') {
        Some((user, group)) => (user.to_owned(), Some(group.to_owned())),
        None => (lookup.to_owned(), None),
    }
}

/// The unit layer's root as the runtime makes it. Only a bundle says itself which devices it has: elsewhere a node that lies in the root is
/// none, also on hosts where no device rules are enforced. The program is the last of the binds.
fn root(plan: unit::RootPlan, devices: bool, dirs: Dirs) -> oci::RootPlan {
    let idmap = dirs.ids.is_some();
    match plan {
        unit::RootPlan::Layers { layers, upper } => {
            let memory = oci::Upper::Memory { size_bytes: upper.size_bytes };
            let kept = dirs.upper.filter(|_| upper.persist).map(|dir| oci::Upper::Kept(dir.to_owned()));
            oci::RootPlan::Layers { layers, upper: kept.unwrap_or(memory), idmap }
        }
        unit::RootPlan::Directory(path) => oci::RootPlan::Directory { path, devices, idmap },
        unit::RootPlan::Tmpfs { dirs, files, .. } => {
            let (mut texts, mut binds) = (Vec::new(), Vec::new());
            for unit::RootFile { path, contents, .. } in files {
                match contents {
                    unit::Contents::Inline(text) => texts.push((path, text.into_bytes())),
                    unit::Contents::HostFile(source) => binds.push((source, path)),
                }
            }
            oci::RootPlan::Tmpfs { dirs, files: texts, binds }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{DeviceRule, Step};
    use crate::unit::{UnitName, parse};

    fn of_host(more: &str, notify: &str) -> Result<Program, Vec<String>> {
        let text = format!("[process]\nargs = [\"/bin/x\"]\n{more}\n[security]\nprofile = \"host\"\n");
        let unit = parse(&UnitName::new("x").unwrap(), Path::new("/u/x.toml"), &text).unwrap().unit;
        compile(
            &unit,
            &super::super::source::of_host(),
            "x.1",
            &ConfigDir::of_none(),
            Dirs { notify: Some(Path::new(notify)), ..Dirs::default() },
        )
    }

    #[test]
    fn a_service_of_the_hosts_stays_where_it_is() {
        let program = of_host("notify = \"systemd\"\nwatchdog = \"10s\"", "/run/c/x.1/notify").unwrap();
        assert!(!program.script.new_pid_namespace);
        assert_eq!(program.cgroup.devices, [DeviceRule::everything()]);
        let steps: Vec<String> = program.script.steps.iter().map(ToString::to_string).collect();
        let expected = [
            "own session, not dumpable, die with the parent",
            "new session keyring",
            "join the cgroup v1 directories",
            "take the container's root",
            "set umask 0022",
            "change to /",
            "become uid 0 gid 0",
            "take the rights of the user",
            "find /bin/x",
            "put the descriptors into place",
            "execute /bin/x",
        ];
        assert_eq!(steps, expected);
        let Some(Step::Execute { env, .. }) = program.script.steps.last() else { panic!("{steps:?}") };
        assert_eq!(env[1..], ["WATCHDOG_USEC=10000000", "NOTIFY_SOCKET=/run/c/x.1/notify/socket"]);
    }

    #[test]
    fn a_socket_that_no_program_could_name_is_refused() {
        let long = format!("/run/{}", "x".repeat(100));
        let errors = of_host("notify = \"systemd\"", &long).err().unwrap();
        assert!(errors[0].contains("has 112 bytes, expected at most 107"), "{errors:?}");
        let own = of_host("notify = \"systemd\"\nenv.NOTIFY_SOCKET = \"/run/mine\"", &long).unwrap();
        let Some(Step::Execute { env, .. }) = own.script.steps.last() else { panic!() };
        assert_eq!(env[1..], ["NOTIFY_SOCKET=/run/mine"]);
    }
}
