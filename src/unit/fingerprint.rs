//! What a unit means, as a number of 128 bits: the same for two texts that differ in comments, order or spelling.
//!
//! The meaning is a list of settings that are not at their default, by name. Because defaults are left out, a later
//! version that knows more keys gives the same number for the same file, and an upgrade changes nothing that runs.
//! Hash: FNV-1a with 128 bits (Fowler, Noll, Vo): stable for ever, small, and with some thousand units a collision is
//! out of reach. It is not for texts of an enemy: who may write a unit may do worse than collide.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config_file::{ConfigFile, FileContents, OnChange};
use super::health::{Check, CheckKind, DEFAULT_TIMEOUT, From, Probe};
use super::update::{DEADLINE, MIN_HEALTHY, Order};

use super::{
    Condition, DEFAULT_HOOK_TIMEOUT, HookOn, Kind, MountKind, Network, OnLayersChange, OnLimit, Reload, RestartPolicy,
    Seccomp, Source, SourceFacts, Unit, Upper,
};
use crate::compact;

/// The meaning of a unit or of a part of it. Equal means: nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Fingerprint(pub [u8; 16]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// What a change of a setting asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// The supervisor goes by the new value: restart policy, stop signal, log caps, description.
    Supervisor,
    /// The running container takes it: limits of its cgroup, and contents of a file with `on_change = "none"`.
    Live,
    /// The contents of a file that are swapped into the running container, which is then told to reload.
    Reload,
    /// It takes a new container.
    Replace,
}

/// Of everything: the unit, the resolved source, config.json.
pub fn fingerprint(unit: &Unit, facts: &SourceFacts) -> Fingerprint {
    hash(settings(unit, facts).iter())
}

/// Of what a running container was made from: if this is equal, no new one is needed.
pub fn container_fingerprint(unit: &Unit, facts: &SourceFacts) -> Fingerprint {
    hash(settings(unit, facts).iter().filter(|setting| setting.effect == Effect::Replace && !setting.apart))
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Setting {
    pub(super) name: String,
    pub(super) value: Vec<u8>,
    pub(super) effect: Effect,
    /// It may hold a secret: its value is not shown.
    pub(super) hidden: bool,
    /// It is compared in a [`SwapMark`](super::SwapMark), not in the container's fingerprint.
    pub(super) apart: bool,
}

/// Collects what is not at its default.
struct Settings(Vec<Setting>);

impl Settings {
    fn put(&mut self, effect: Effect, name: impl Into<String>, value: impl AsRef<[u8]>) {
        self.0.push(Setting { name: name.into(), value: value.as_ref().to_vec(), effect, hidden: false, apart: false });
    }

    fn unless<T: PartialEq>(&mut self, default: T, effect: Effect, name: &str, value: T, show: impl Fn(&T) -> String) {
        if value != default {
            self.put(effect, name, show(&value));
        }
    }

    fn some<T>(&mut self, effect: Effect, name: &str, value: Option<&T>, show: impl Fn(&T) -> String) {
        if let Some(value) = value {
            self.put(effect, name, show(value));
        }
    }
}

/// What is not at its default, by name.
pub(super) fn settings(unit: &Unit, facts: &SourceFacts) -> Vec<Setting> {
    let mut all = Settings(Vec::new());
    source(unit, facts, &mut all);
    supervised(unit, facts, &mut all);
    inside(unit, &mut all);
    around(unit, &mut all);
    environment(unit, &mut all);
    compact::sort(&mut all.0);
    for setting in &mut all.0 {
        setting.hidden |= unit.hidden.contains(&setting.name);
    }
    all.0
}

fn source(unit: &Unit, facts: &SourceFacts, all: &mut Settings) {
    let kind = match unit.source {
        Source::Bundle(_) => "bundle",
        Source::Rootfs(_) => "rootfs",
        Source::Layers(_) => return layers(unit, facts, all),
        Source::Executable(_) => "executable",
        Source::Host => return all.put(Effect::Replace, "security.profile", "host"),
    };
    all.put(Effect::Replace, kind, facts.resolved.as_os_str().as_encoded_bytes());
    if let Some(bytes) = &facts.config_json {
        // Spaces and the order of keys mean nothing; what is not JSON is compared as it is.
        let canonical = compact::from_json::<Value>(bytes).map(|value| value.to_string().into_bytes());
        all.put(Effect::Replace, "config.json", canonical.as_deref().unwrap_or(bytes));
    }
}

fn layers(unit: &Unit, facts: &SourceFacts, all: &mut Settings) {
    let paths: Vec<&[u8]> = facts.layers.iter().map(|path| path.as_os_str().as_encoded_bytes()).collect();
    // A NUL is in none of them.
    all.put(Effect::Replace, "layers", paths.join(&0));
    let (upper, default) = (&unit.upper, Upper::default());
    all.unless(default.persist, Effect::Replace, "upper.persist", upper.persist, bool::to_string);
    all.unless(default.size_bytes, Effect::Replace, "upper.size", upper.size_bytes, u64::to_string);
    let keep = |_: &OnLayersChange| "keep".to_owned();
    all.unless(default.on_change, Effect::Supervisor, "upper.on_change", upper.on_change, keep);
}

fn supervised(unit: &Unit, facts: &SourceFacts, all: &mut Settings) {
    use Effect::Supervisor;
    let shown = |duration: &Duration| duration.as_millis().to_string();
    let number = |n: &u64| n.to_string();
    all.some(Supervisor, "description", unit.description.as_ref(), String::clone);
    replicas(unit, facts, all);
    all.unless(true, Supervisor, "enabled", unit.enabled, bool::to_string);
    all.unless(Kind::Service, Supervisor, "type", unit.kind, |_| "oneshot".to_owned());
    let policy = if unit.kind == Kind::Service { RestartPolicy::Always } else { RestartPolicy::Never };
    all.unless(policy, Supervisor, "restart.policy", unit.restart.policy, |policy| policy_name(*policy).to_owned());
    all.unless(Duration::from_millis(100), Supervisor, "restart.delay", unit.restart.delay, shown);
    all.unless(Duration::from_secs(60), Supervisor, "restart.max_delay", unit.restart.max_delay, shown);
    all.unless(Duration::from_secs(60), Supervisor, "restart.reset_after", unit.restart.reset_after, shown);
    let limit = unit.restart.limit.as_ref();
    all.some(Supervisor, "restart.limit", limit, |limit| format!("{} {}", limit.burst, limit.interval.as_millis()));
    all.unless(OnLimit::StayFailed, Supervisor, "restart.on_limit", unit.restart.on_limit, |_| "reboot".to_owned());
    for (unit, dependency) in &unit.depends_on {
        let optional = if dependency.optional { " optional" } else { "" };
        let value = format!("{}{optional} {}", dependency.state.word(), dependency.on_loss.word());
        all.put(Supervisor, format!("depends_on.{unit}"), value);
    }
    for unit in &unit.on_failure {
        all.put(Supervisor, format!("on_failure.{unit}"), "");
    }
    for condition in &unit.conditions {
        match condition {
            Condition::PathExists(path) => {
                all.put(
                    Supervisor,
                    format!("condition.path_exists.{}", path.display()),
                    path.as_os_str().as_encoded_bytes(),
                );
            }
            Condition::MountPoint(path) => {
                all.put(
                    Supervisor,
                    format!("require_mountpoint.{}", path.display()),
                    path.as_os_str().as_encoded_bytes(),
                );
            }
            Condition::KernelCmdline(word) => all.put(Supervisor, format!("condition.kernel_cmdline.{word}"), ""),
        }
    }
    all.unless(15, Supervisor, "stop.signal", u64::from(unit.stop.signal.0), number);
    all.unless(Duration::from_secs(30), Supervisor, "stop.timeout", unit.stop.timeout, shown);
    match &unit.reload {
        Some(Reload::Signal(signal)) => all.put(Supervisor, "reload.signal", signal.0.to_string()),
        Some(Reload::Exec(args)) => all.put(Supervisor, "reload.exec", strings(args)),
        None => {}
    }
    if let Some(schedule) = unit.schedule.as_deref() {
        all.put(Supervisor, "schedule.calendar", schedule.calendar.to_string());
        all.some(Supervisor, "schedule.time_zone", schedule.time_zone.as_ref(), String::clone);
        all.unless(false, Supervisor, "schedule.persistent", schedule.persistent, bool::to_string);
        all.unless(Duration::ZERO, Supervisor, "schedule.random_delay", schedule.random_delay, shown);
        all.some(Supervisor, "schedule.max_runtime", schedule.max_runtime.as_ref(), shown);
        all.unless(true, Supervisor, "schedule.wait_for_clock", schedule.wait_for_clock, bool::to_string);
    }
    if let Some(health) = &unit.health {
        health.checks().for_each(|(kind, check)| checked(kind, check, all));
    }
    if unit.update.order != Order::StopFirst {
        all.put(Supervisor, "update.order", unit.update.order.word());
    }
    all.unless(MIN_HEALTHY, Supervisor, "update.min_healthy", unit.update.min_healthy, shown);
    all.unless(DEADLINE, Supervisor, "update.deadline", unit.update.deadline, shown);
    all.some(Supervisor, "update.on_bad", unit.update.on_bad.as_ref(), |on_bad| on_bad.word().to_owned());
    all.unless(10 << 20, Supervisor, "log.max_size", unit.log.max_size_bytes, number);
    all.unless(5, Supervisor, "log.max_files", u64::from(unit.log.max_files), number);
}

/// How many there are is nothing of any container. Of what differs by number two are enough: a text that is another one only for others would have to
/// do without the number, and to name it.
fn replicas(unit: &Unit, facts: &SourceFacts, all: &mut Settings) {
    let Some(replicas) = &unit.replicas else { return };
    all.put(Effect::Supervisor, "replicas", replicas.count.to_string());
    if replicas.own_host_names != unit.source.is_hardened() {
        all.put(Effect::Replace, "replicas.hostname", replicas.own_host_names.to_string());
    }
    let Some(second) = replicas.each.get(1) else { return };
    all.put(Effect::Replace, "replicas.2", container_fingerprint(second, facts).to_string());
    all.put(Effect::Supervisor, "replicas.2.all", fingerprint(second, facts).to_string());
}

fn checked(kind: CheckKind, check: &Check, all: &mut Settings) {
    use Effect::Supervisor;
    let name = |key: &str| format!("health.{}.{key}", kind.word());
    let shown = |duration: &Duration| duration.as_millis().to_string();
    let number = |n: &u32| n.to_string();
    match &check.probe {
        Probe::Exec(args) => all.put(Supervisor, name("exec"), strings(args)),
        Probe::Http { url, .. } => all.put(Supervisor, name("http"), url),
        Probe::Tcp { address, .. } => all.put(Supervisor, name("tcp"), address),
        Probe::File { path, max_age } => {
            all.put(Supervisor, name("file"), path.as_os_str().as_encoded_bytes());
            all.some(Supervisor, &name("max_age"), max_age.as_ref(), shown);
        }
    }
    all.unless(From::Container, Supervisor, &name("from"), check.from, |_| "host".to_owned());
    all.unless(kind.default_interval(), Supervisor, &name("interval"), check.interval, shown);
    all.unless(DEFAULT_TIMEOUT, Supervisor, &name("timeout"), check.timeout, shown);
    all.unless(kind.default_failures(), Supervisor, &name("failures"), check.failures, number);
    all.unless(1, Supervisor, &name("successes"), check.successes, number);
}

fn inside(unit: &Unit, all: &mut Settings) {
    use Effect::Replace;
    let process = &unit.process;
    let hardened = unit.source.is_hardened();
    let default = hardened.then(|| unit.name.to_string());
    if unit.hostname != default {
        all.some(Replace, "hostname", unit.hostname.as_ref(), String::clone);
    }
    all.some(Replace, "process.args", process.args.as_ref(), |args| strings(args));
    for (name, value) in &process.env {
        all.put(Replace, format!("process.env.{name}"), value);
    }
    all.some(Replace, "process.user", process.user.as_ref(), String::clone);
    all.some(Replace, "process.cwd", process.cwd.as_ref(), String::clone);
    all.unless(false, Replace, "process.init", process.init, bool::to_string);
    all.some(Replace, "process.terminal", process.terminal.as_ref(), bool::to_string);
    if let Some(notify) = unit.notify() {
        all.put(Replace, "process.notify", "systemd");
        all.some(Replace, "process.watchdog", notify.watchdog.as_ref(), |period| period.as_millis().to_string());
    }
    for (point, hook) in unit.hooks.iter().flat_map(|hooks| hooks.all()) {
        let name = |key: &str| format!("hooks.{}.{key}", point.word());
        all.put(Replace, name("exec"), strings(&hook.exec));
        let shown = |timeout: &Duration| timeout.as_millis().to_string();
        all.unless(DEFAULT_HOOK_TIMEOUT, Replace, &name("timeout"), hook.timeout, shown);
        all.unless(HookOn::Container, Replace, &name("on"), hook.on, |_| "host".to_owned());
    }
    let security = &unit.security;
    all.some(Replace, "security.capabilities", security.capabilities.as_ref(), |names| strings(names));
    all.some(Replace, "security.no_new_privileges", security.no_new_privileges.as_ref(), bool::to_string);
    if unit.has_own_users() {
        all.put(Replace, "security.userns", "auto");
    }
    all.some(Replace, "security.read_only", security.read_only.as_ref(), bool::to_string);
    all.some(Replace, "security.seccomp", security.seccomp.as_ref(), |which| match which {
        Seccomp::Default => "default".to_owned(),
        Seccomp::Unconfined => "unconfined".to_owned(),
        Seccomp::File(_) => String::new(),
    });
    if let Some(file) = unit.seccomp_file() {
        all.put(Effect::Supervisor, "security.seccomp.file", file.path.as_os_str().as_encoded_bytes());
        if let Some(contents) = file.contents.as_ref().map(FileContents::digest) {
            let (name, value) = ("security.seccomp.contents".to_owned(), contents.to_vec());
            all.0.push(Setting { name, value, effect: Replace, hidden: true, apart: false });
        }
    }
    if !unit.oci.is_empty() {
        all.put(Replace, "oci", Value::Object(unit.oci.clone()).to_string());
    }
}

/// What env files define, under the names that it would have in `env`: a variable that is moved from the one to the other means the same.
fn environment(unit: &Unit, all: &mut Settings) {
    let process = &unit.process;
    for file in &process.env_files {
        let optional = if file.optional { "optional" } else { "" };
        all.put(Effect::Supervisor, format!("process.env_file.{}", file.path.display()), optional);
    }
    let defined = process.variables.map().iter().filter(|(name, _)| !process.env.contains_key(*name));
    for (name, value) in defined {
        let (name, value) = (format!("process.env.{name}"), value.clone().into_bytes());
        all.0.push(Setting { name, value, effect: Effect::Replace, hidden: true, apart: false });
    }
}

fn around(unit: &Unit, all: &mut Settings) {
    let hardened = unit.source.is_hardened();
    let resources = &unit.resources;
    let number = |n: &u64| n.to_string();
    all.some(Effect::Live, "resources.memory", resources.memory_bytes.as_ref(), number);
    all.some(Effect::Live, "resources.cpus", resources.cpus_milli.as_ref(), number);
    all.some(Effect::Live, "resources.pids", resources.pids.filter(|n| !hardened || *n != 2048).as_ref(), number);
    let shm = resources.shm_bytes.filter(|n| !hardened || *n != 64 << 20);
    all.some(Effect::Replace, "resources.shm", shm.as_ref(), number);
    match &unit.network {
        Some(Network::None) if hardened => {}
        Some(Network::None) => all.put(Effect::Replace, "network.mode", "none"),
        Some(Network::Host) if unit.source == Source::Host => {}
        Some(Network::Host) => all.put(Effect::Replace, "network.mode", "host"),
        Some(Network::Unit(other)) => all.put(Effect::Replace, "network.mode", format!("unit:{other}")),
        None => {}
    }
    for mount in &unit.mounts {
        let access = if mount.read_only { "ro " } else { "rw " };
        let mut value = access.as_bytes().to_vec();
        if unit.has_own_users() && mount.idmap == Some(false) {
            value.extend_from_slice(b"idmap=false ");
        }
        match &mount.kind {
            MountKind::Bind { source } => {
                value.extend_from_slice(b"bind ");
                value.extend_from_slice(source.as_os_str().as_encoded_bytes());
            }
            MountKind::Tmpfs { size_bytes } => value.extend_from_slice(format!("tmpfs {size_bytes:?}").as_bytes()),
        }
        all.put(Effect::Replace, format!("mount.{}", mount.target), value);
    }
    for file in &unit.configs {
        config(file, all);
    }
    for device in &unit.devices {
        all.put(Effect::Replace, format!("device.{}", device.path.display()), "");
    }
    for (n, socket) in unit.sockets.iter().enumerate() {
        // Which descriptor it is.
        all.put(Effect::Replace, format!("socket.{}", socket.listen), (n + 3).to_string());
        let key = |key: &str| format!("socket.{}.{key}", socket.listen);
        all.some(Effect::Replace, &key("name"), socket.name.as_ref(), String::clone);
        let options = &socket.options;
        all.some(Effect::Replace, &key("backlog"), options.backlog.as_ref(), u32::to_string);
        all.some(Effect::Replace, &key("mode"), options.mode.as_ref(), |mode| format!("{mode:04o}"));
        all.some(Effect::Replace, &key("user"), options.user.as_ref(), String::clone);
        all.some(Effect::Replace, &key("group"), options.group.as_ref(), String::clone);
        all.unless(false, Effect::Replace, &key("reuse_port"), options.reuse_port, bool::to_string);
        all.unless(false, Effect::Replace, &key("free_bind"), options.free_bind, bool::to_string);
    }
}

/// That it is there is part of the container, its contents only where they are never swapped.
fn config(file: &ConfigFile, all: &mut Settings) {
    let name = format!("{}.{}", file.key(), file.target);
    all.put(Effect::Replace, name.as_str(), "");
    all.put(Effect::Supervisor, format!("{name}.source"), file.source.as_os_str().as_encoded_bytes());
    if let Some(mode) = file.mode {
        all.put(Effect::Replace, format!("{name}.mode"), format!("{mode:04o}"));
    }
    let (effect, word) = match file.on_change {
        OnChange::Restart => (Effect::Replace, None),
        OnChange::Reload => (Effect::Reload, Some("reload")),
        OnChange::None => (Effect::Live, Some("none")),
    };
    if let Some(word) = word {
        all.put(Effect::Supervisor, format!("{name}.on_change"), word);
    }
    if let Some(contents) = file.contents.as_ref().map(FileContents::digest) {
        let (name, value) = (format!("{name}.contents"), contents.to_vec());
        all.0.push(Setting { name, value, effect, hidden: true, apart: file.secret });
    }
}

fn policy_name(policy: RestartPolicy) -> &'static str {
    match policy {
        RestartPolicy::Always => "always",
        RestartPolicy::OnSuccess => "on-success",
        RestartPolicy::OnFailure => "on-failure",
        RestartPolicy::OnAbnormal => "on-abnormal",
        RestartPolicy::Never => "never",
    }
}

/// A list as one string that no other list gives: a NUL is in none of its members.
fn strings(list: &[String]) -> String {
    list.join("\0")
}

fn hash<'s>(settings: impl Iterator<Item = &'s Setting>) -> Fingerprint {
    digest(settings.flat_map(|setting| [setting.name.as_bytes(), &setting.value]))
}

/// Of parts in their order: for what is made of several units. Lengths in front, so that no two lists of parts give the same bytes.
pub fn digest<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> Fingerprint {
    let add = |state: u128, part: &[u8]| fnv1a(fnv1a(state, &(part.len() as u64).to_le_bytes()), part);
    Fingerprint(parts.into_iter().fold(OFFSET, add).to_be_bytes())
}

/// Of bytes alone.
pub(super) fn digest_of(bytes: &[u8]) -> [u8; 16] {
    fnv1a(OFFSET, bytes).to_be_bytes()
}

const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

fn fnv1a(state: u128, bytes: &[u8]) -> u128 {
    bytes.iter().fold(state, |state, byte| (state ^ u128::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::{UnitName, parse};
    use std::path::Path;

    fn unit(text: &str) -> Unit {
        let name = UnitName::new("web").unwrap();
        parse(&name, Path::new("/etc/moored/units/web.toml"), text).unwrap().unit
    }

    fn facts(config: &str) -> SourceFacts {
        SourceFacts { resolved: "/srv/web".into(), config_json: Some(config.as_bytes().into()), layers: Vec::new() }
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        assert_eq!(fnv1a(OFFSET, b""), 0x6c62272e07bb014262b821756295c58d);
        assert_eq!(fnv1a(OFFSET, b"a"), 0xd228cb696f1a8caf78912b704e4a8964);
        assert_eq!(fnv1a(OFFSET, b"foobar"), 0x343e1662793c64bf6f0d3597ba446f18);
    }

    #[test]
    fn comments_order_spelling_and_written_defaults_mean_nothing() {
        let one =
            unit("# a comment\nbundle = \"/srv/web\"\n[stop]\ntimeout = \"90s\"\n[process]\nenv = { A = 1, B = 2 }\n");
        let other = unit(
            "enabled = true\nbundle = \"/srv/./web/\"\n[process]\nenv = { B = \"2\", A = \"1\" }\n[stop]\nsignal = 15\ntimeout = \"1m30s\"\n",
        );
        let config = (facts("{\"a\": 1, \"b\": []}"), facts("{ \"b\" : [], \"a\":1 }\n"));
        assert_eq!(fingerprint(&one, &config.0), fingerprint(&other, &config.1));
    }

    #[test]
    fn only_what_the_container_is_made_from_asks_for_a_new_one() {
        let base = unit("bundle = \"/srv/web\"\n");
        let facts_ = facts("{}");
        for (text, name, effect) in [
            ("bundle = \"/srv/web\"\ndescription = \"x\"\n", "description", Effect::Supervisor),
            ("bundle = \"/srv/web\"\n[restart]\ndelay = \"1s\"\n", "restart.delay", Effect::Supervisor),
            ("bundle = \"/srv/web\"\ndepends_on.db = \"started\"\n", "depends_on.db", Effect::Supervisor),
            ("bundle = \"/srv/web\"\non_failure = \"alert\"\n", "on_failure.alert", Effect::Supervisor),
            ("bundle = \"/srv/web\"\ncondition.path_exists = \"/x\"\n", "condition.path_exists./x", Effect::Supervisor),
            ("bundle = \"/srv/web\"\n[log]\nmax_files = 2\n", "log.max_files", Effect::Supervisor),
            ("bundle = \"/srv/web\"\n[resources]\nmemory = \"64M\"\n", "resources.memory", Effect::Live),
            ("bundle = \"/srv/web\"\n[process]\nargs = [\"/x\"]\n", "process.args", Effect::Replace),
            ("bundle = \"/srv/web\"\n[oci]\nprocess.umask = 1\n", "oci process.umask", Effect::Replace),
            ("bundle = \"/srv/web\"\n[[mount]]\ntarget=\"/d\"\ntype=\"tmpfs\"\n", "mount./d", Effect::Replace),
            ("bundle = \"/srv/web\"\n[[socket]]\nlisten=\"unix:///a\"\n", "socket.unix:///a", Effect::Replace),
        ] {
            let new = unit(text);
            assert_ne!(fingerprint(&base, &facts_), fingerprint(&new, &facts_), "{text}");
            let same = container_fingerprint(&base, &facts_) == container_fingerprint(&new, &facts_);
            assert_eq!(same, effect != Effect::Replace, "{text}");
            let changes = crate::unit::changes((&base, &facts_), (&new, &facts_));
            let changes: Vec<_> = changes.iter().map(|change| (change.name.as_str(), change.effect)).collect();
            assert_eq!(changes, [(name, effect)]);
        }
    }

    #[test]
    fn the_resolved_source_and_config_json_are_part_of_it() {
        let unit = unit("bundle = \"/srv/web\"\n");
        let moved = SourceFacts { resolved: "/srv/web-2".into(), ..facts("{}") };
        for other in [moved, facts("{\"a\": 1}"), facts("{"), SourceFacts::default()] {
            assert_ne!(container_fingerprint(&unit, &facts("{}")), container_fingerprint(&unit, &other), "{other:?}");
        }
    }

    #[test]
    fn a_fingerprint_never_changes_between_versions() {
        let unit = unit(
            "rootfs = \"/srv/web\"\n[process]\nargs = [\"/bin/web\", \"-v\"]\n[restart]\npolicy = \"on-failure\"\n",
        );
        let facts = SourceFacts { resolved: "/srv/web".into(), config_json: None, layers: Vec::new() };
        assert_eq!(fingerprint(&unit, &facts).to_string(), "7d19f8ab15659ad79bdf1c68ff58e9f9");
    }
}
