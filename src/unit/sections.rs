//! The tables of a unit file, one function each: from keys to the types of [`super`].

use std::collections::BTreeSet;
use std::time::Duration;

use toml::de::DeValue;

use super::diagnostic::quote;
use super::seccomp_file::is_profile_path;
use super::walk::{Field, Table, Walk};
use super::{
    KernelVersion, Kind, Log, Network, OnLimit, Reload, Resources, Restart, RestartLimit, RestartPolicy, Seccomp,
    SeccompFile, Security, Signal, Source, Stop, Unit, UnitName, Userns,
};
use super::{
    capability, config_file, dependency, health, hooks, host, instances, layers, merge, mounts, process, replicas,
    schedule, socket, update,
};
use crate::compact;
use crate::words::{CAPABILITIES, nearest};

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// Below this nothing starts: the number was meant as megabytes.
const MEMORY_MIN: u64 = 1 << 20;
/// A page; tmpfs takes a size of 0 for "no limit".
pub(crate) const PAGE: u64 = 4096;
/// The kernel's PID_MAX_LIMIT.
const PIDS_MAX: u64 = 1 << 22;
/// HOST_NAME_MAX.
const HOSTNAME_MAX: usize = 64;
/// More CPUs than any machine has; keeps the quota far from overflow.
const CPUS_MAX: f64 = 8192.0;
/// The kernel's smallest quota is 1 ms in 100 ms.
const CPUS_MIN: f64 = 0.01;
/// Starts that a limit counts are remembered one by one.
const BURST_MAX: u64 = 1000;

/// The whole unit. `None` only after a mistake has been noted that leaves no source.
pub(crate) fn unit(walk: &mut Walk, name: &UnitName, top: &Table) -> Option<Unit> {
    instances::instances(walk, name, top);
    let env_files = process::env_files(walk, top);
    let (source, source_at) = source(walk, top).unzip();
    let description = top.field("description").and_then(|field| walk.text(&field, "a string"));
    let kind = walk.choice(
        top.field("type"),
        &[("service", Kind::Service), ("oneshot", Kind::Oneshot)],
        &[("simple", "service"), ("exec", "service"), ("daemon", "service"), ("task", "oneshot"), ("job", "oneshot")],
    );
    let schedule = schedule::schedule(walk, top);
    let (given, scheduled) = (kind, top.field("schedule").is_some());
    let kind = kind.unwrap_or(if scheduled { Kind::Oneshot } else { Kind::Service });
    let (mounts, mount_points) = mounts::mounts(walk, top);
    let configs = config_file::configs(walk, top, &mounts);
    let (update, security) = (update::update(walk, top), security(walk, top));
    mounts::check_id_maps(walk, top, &security);
    let mut unit = Unit {
        upper: layers::upper(walk, top, source.as_ref(), &security, &update),
        name: name.clone(),
        description,
        hostname: hostname(walk, top, name, source.as_ref()),
        replicas: replicas::replicas(walk, top, walk.of_replica),
        enabled: walk.boolean(top.field("enabled")).unwrap_or(true),
        kind,
        depends_on: dependency::depends_on(walk, top, name),
        on_failure: dependency::on_failure(walk, top, name),
        conditions: dependency::conditions(walk, top, mount_points),
        process: process::process(walk, top, source.as_ref(), source_at.as_ref(), env_files),
        restart: restart(walk, top, kind),
        stop: stop(walk, top),
        reload: reload(walk, top),
        schedule,
        hooks: hooks::hooks(walk, top),
        health: health::health(walk, top),
        update,
        resources: resources(walk, top, source.as_ref()),
        network: network(walk, top, name, source.as_ref()),
        mounts,
        configs,
        devices: mounts::devices(walk, top),
        sockets: socket::sockets(walk, top),
        log: log(walk, top),
        security,
        oci: merge::overrides(walk, top, source.as_ref()),
        source: source?,
        hidden: BTreeSet::new(),
    };
    if unit.source == Source::Host {
        host::settle(walk, top, &mut unit);
    }
    schedule::check(walk, top, scheduled, given, unit.restart.policy);
    unit.hidden = std::mem::take(&mut walk.hidden);
    warnings(walk, top, &unit);
    Some(unit)
}

/// Exactly one of four, or none where the profile is "host"; the field is where mistakes about it are shown.
fn source<'w>(walk: &mut Walk, top: &Table<'w>) -> Option<(Source, Field<'w>)> {
    let keys = ["bundle", "rootfs", "layers", "executable"];
    let mut found: Vec<(&str, Field)> = keys.iter().filter_map(|key| top.field(key).map(|f| (*key, f))).collect();
    compact::sort_by_key(&mut found, |(_, field)| field.key_span.start);
    if let Some(profile) = host::profile(top) {
        for (key, field) in &found {
            let message = format!("`{key}` beside `security.profile = \"host\"`, whose root is the host's");
            walk.error(&field.key_span, message, Some("keep one of them".to_owned()));
        }
        walk.source_at = profile.key_span.start;
        return Some((Source::Host, profile));
    }
    let Some((key, field)) = found.first().cloned() else {
        if !walk.source_misplaced {
            let help = "write for example rootfs = \"/srv/roots/web\" above the first [table]; for a service of the host itself \
                        profile = \"host\" in [security]";
            walk.absent(
                &(0..0),
                "no source, expected exactly one of `bundle`, `rootfs`, `layers`, `executable`",
                Some(help),
            );
        }
        return None;
    };
    walk.source_at = field.key_span.start;
    let line = walk.places.position(walk.source_at).line;
    for (other, second) in found.iter().skip(1) {
        let message = format!("`{other}` beside `{key}` (line {line}), expected exactly one source");
        walk.error(&second.key_span, message, Some("keep one of them".to_owned()));
    }
    if key == "layers" {
        let source = layers::layers(walk, &field)?;
        return Some((layers::overlay(walk, top, source), field));
    }
    let path = walk.host_path(Some(field.clone()))?;
    let source = match key {
        "bundle" => Source::Bundle(path),
        "rootfs" => Source::Rootfs(path),
        _ => Source::Executable(path),
    };
    check_source(walk, &source, &field);
    Some((layers::overlay(walk, top, source), field))
}

fn check_source(walk: &mut Walk, source: &Source, field: &Field) {
    match source {
        Source::Bundle(_) | Source::Layers(_) | Source::Host => {}
        Source::Rootfs(path) => {
            if path.parent().is_none() {
                walk.mismatch(field, "a directory of its own", Some("`/` is the host's root".to_owned()));
            }
        }
        Source::Executable(path) => match path.file_name().and_then(|name| name.to_str()) {
            None => walk.mismatch(field, "a file", None),
            // They are directories of the root that is made around the file.
            Some("dev" | "etc" | "proc" | "sys" | "tmp") => {
                walk.mismatch(
                    field,
                    "a file with another name",
                    Some("the container has a directory of that name".to_owned()),
                );
            }
            Some(_) => {}
        },
    }
}

/// "%n" is the default. A host name has no `@`: here `%n` of `worker@a` is `worker-a`.
fn hostname(walk: &mut Walk, top: &Table, name: &UnitName, source: Option<&Source>) -> Option<String> {
    let whole = replicas::host_name(name);
    let Some(field) = top.field("hostname") else {
        if matches!(source, Some(Source::Bundle(_) | Source::Host)) {
            return None;
        }
        if whole.len() > HOSTNAME_MAX {
            let message = format!("`{whole}` is too long for a host name, expected at most {HOSTNAME_MAX} letters");
            walk.error(&(0..0), message, Some("write a shorter `hostname`".to_owned()));
        }
        return Some(whole);
    };
    let text = walk.expanded(&field, "a host name", &whole)?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if text.is_empty() || text.len() > HOSTNAME_MAX || !text.bytes().all(allowed) {
        walk.mismatch(&field, &format!("1 to {HOSTNAME_MAX} of A-Z a-z 0-9 - _ ."), None);
        return None;
    }
    Some(text)
}

fn restart(walk: &mut Walk, top: &Table, kind: Kind) -> Restart {
    let table = walk.table(top, "restart", "restart");
    let field = |key: &str| table.as_ref().and_then(|table| table.field(key));
    let policies = [
        ("always", RestartPolicy::Always),
        ("on-success", RestartPolicy::OnSuccess),
        ("on-failure", RestartPolicy::OnFailure),
        ("on-abnormal", RestartPolicy::OnAbnormal),
        ("never", RestartPolicy::Never),
    ];
    let hints = [("no", "never"), ("unless-stopped", "always"), ("on-abort", "on-abnormal"), ("yes", "always")];
    let default = if kind == Kind::Service { RestartPolicy::Always } else { RestartPolicy::Never };
    let policy = walk.choice(field("policy"), &policies, &hints).unwrap_or(default);
    let delay = walk.duration(field("delay"), MILLISECOND).unwrap_or(Duration::from_millis(100));
    let max_delay = walk.duration(field("max_delay"), MILLISECOND);
    if let (Some(max), Some(field)) = (max_delay.filter(|max| *max < delay), field("max_delay")) {
        let shown = super::quantity::show_duration;
        let message = format!("`restart.max_delay` is {}, less than `delay`, which is {}", shown(max), shown(delay));
        walk.error(&field.at(), message, Some("the delay grows from the one to the other".to_owned()));
    }
    let limit = table.as_ref().and_then(|table| walk.table(table, "limit", "restart.limit"));
    let on_limit = [("stay-failed", OnLimit::StayFailed), ("reboot", OnLimit::Reboot)];
    Restart {
        policy,
        delay,
        max_delay: max_delay.unwrap_or(delay.max(60 * SECOND)),
        reset_after: walk.duration(field("reset_after"), MILLISECOND).unwrap_or(60 * SECOND),
        limit: limit.and_then(|limit| restart_limit(walk, &limit)),
        on_limit: walk.choice(field("on_limit"), &on_limit, &[]).unwrap_or(OnLimit::StayFailed),
    }
}

fn restart_limit(walk: &mut Walk, table: &Table) -> Option<RestartLimit> {
    for key in ["burst", "interval"] {
        if table.field(key).is_none() {
            let help = "write limit = { burst = 5, interval = \"1m\" }";
            walk.absent(&table.span, &format!("`restart.limit` has no `{key}`, expected both"), Some(help));
        }
    }
    let burst = walk.integer(table.field("burst"), 1..=BURST_MAX);
    let interval = walk.duration(table.field("interval"), MILLISECOND)?;
    Some(RestartLimit { burst: u32::try_from(burst?).ok()?, interval })
}

fn stop(walk: &mut Walk, top: &Table) -> Stop {
    let table = walk.table(top, "stop", "stop");
    let field = |key: &str| table.as_ref().and_then(|table| table.field(key));
    Stop {
        signal: field("signal").and_then(|field| signal(walk, &field)).unwrap_or(Signal(15)),
        timeout: walk.duration(field("timeout"), Duration::ZERO).unwrap_or(30 * SECOND),
    }
}

fn signal(walk: &mut Walk, field: &Field) -> Option<Signal> {
    const EXPECTED: &str = "a signal like \"SIGTERM\"";
    if let DeValue::Integer(number) = field.value.get_ref() {
        let signal = u64::from_str_radix(number.as_str(), number.radix()).ok().and_then(Signal::from_number);
        if signal.is_none() {
            walk.mismatch(field, "a signal from 1 to 64", None);
        }
        return signal;
    }
    let word = walk.word(field, EXPECTED)?;
    let signal = Signal::parse(word);
    if signal.is_none() {
        let upper = word.to_ascii_uppercase();
        let near = nearest(upper.strip_prefix("SIG").unwrap_or(&upper), Signal::names().iter().copied());
        walk.mismatch(field, EXPECTED, near.map(|name| format!("did you mean \"SIG{name}\"?")));
    }
    signal
}

fn reload(walk: &mut Walk, top: &Table) -> Option<Reload> {
    let table = walk.table(top, "reload", "reload")?;
    match (table.field("signal"), table.field("exec")) {
        (Some(_), Some(second)) => {
            let message = "`reload.exec` beside `reload.signal`, expected one of them";
            walk.error(&second.key_span, message, Some("keep one of them".to_owned()));
            None
        }
        (Some(field), None) => {
            let signal = signal(walk, &field)?;
            if matches!(signal, Signal(9 | 19)) {
                walk.mismatch(&field, "a signal that can be handled", Some("SIGHUP is the usual one".to_owned()));
            }
            Some(Reload::Signal(signal))
        }
        (None, Some(field)) => process::args(walk, &field).map(|(args, _)| Reload::Exec(args)),
        (None, None) => None,
    }
}

fn resources(walk: &mut Walk, top: &Table, source: Option<&Source>) -> Resources {
    let table = walk.table(top, "resources", "resources");
    let field = |key: &str| table.as_ref().and_then(|table| table.field(key));
    let hardened = source.is_none_or(Source::is_hardened);
    Resources {
        memory_bytes: walk.size(field("memory"), MEMORY_MIN),
        cpus_milli: field("cpus").and_then(|field| cpus_milli(walk, &field)),
        pids: walk.integer(field("pids"), 1..=PIDS_MAX).or(hardened.then_some(2048)),
        shm_bytes: walk.size(field("shm"), PAGE).or(hardened.then_some(64 << 20)),
    }
}

fn cpus_milli(walk: &mut Walk, field: &Field) -> Option<u64> {
    let value = match field.value.get_ref() {
        DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
        DeValue::Integer(number) => u32::from_str_radix(number.as_str(), number.radix()).ok().map(f64::from),
        _ => None,
    };
    // NaN is in no range.
    if let Some(cpus) = value.filter(|cpus| (CPUS_MIN..=CPUS_MAX).contains(cpus)) {
        return Some((cpus * 1000.0).round() as u64);
    }
    let quoted = field.value.get_ref().as_str().filter(|text| text.parse::<f64>().is_ok());
    let help = quoted.map(|text| format!("write {}, without quotes", quote(text)));
    walk.mismatch(field, &format!("a number of CPUs from {CPUS_MIN} to {CPUS_MAX}, like 1.5"), help);
    None
}

fn network(walk: &mut Walk, top: &Table, name: &UnitName, source: Option<&Source>) -> Option<Network> {
    let default = || source.is_none_or(Source::is_hardened).then_some(Network::None);
    let Some(field) = walk.table(top, "network", "network").and_then(|table| table.field("mode")) else {
        return default();
    };
    const EXPECTED: &str = "\"none\", \"host\" or \"unit:NAME\"";
    let text = walk.text(&field, EXPECTED)?;
    let word = text.as_str();
    match (word, word.strip_prefix("unit:")) {
        ("none", _) => return Some(Network::None),
        ("host", _) => return Some(Network::Host),
        ("bridge", _) => {
            let help = Some("use \"none\", \"host\" or \"unit:NAME\"".to_owned());
            walk.error(&field.at(), "`network.mode` \"bridge\" is known but not built in this version", help);
        }
        (_, Some(other)) if other == name.as_str() => {
            walk.mismatch(&field, "another unit than this one", None);
        }
        (_, Some(other)) => match UnitName::new(other) {
            Ok(other) => return Some(Network::Unit(other)),
            Err(bad) => {
                walk.error(&field.at(), format!("`network.mode`: {}", super::name::BadName(quote(&bad.0))), None)
            }
        },
        (word, None) => {
            let other = word.strip_prefix("container:").map(|other| format!("unit:{other}"));
            let meant = other.or_else(|| nearest(word, ["none", "host"]).map(str::to_owned));
            walk.mismatch(&field, EXPECTED, meant.map(|word| format!("did you mean \"{}\"?", quote(&word))));
        }
    }
    None
}

fn log(walk: &mut Walk, top: &Table) -> Log {
    let table = walk.table(top, "log", "log");
    let field = |key: &str| table.as_ref().and_then(|table| table.field(key));
    let files = walk.integer(field("max_files"), 1..=1000).and_then(|n| u32::try_from(n).ok());
    Log { max_size_bytes: walk.size(field("max_size"), PAGE).unwrap_or(10 << 20), max_files: files.unwrap_or(5) }
}

fn security(walk: &mut Walk, top: &Table) -> Security {
    let table = walk.table(top, "security", "security");
    let field = |key: &str| table.as_ref().and_then(|table| table.field(key));
    host::check_profile(walk, field("profile"));
    Security {
        capabilities: field("capabilities").and_then(|field| capabilities(walk, &field)),
        no_new_privileges: walk.boolean(field("no_new_privileges")),
        seccomp: field("seccomp").and_then(|field| seccomp(walk, field)),
        read_only: walk.boolean(field("read_only")),
        userns: walk
            .choice(
                field("userns"),
                &[("host", Userns::Host), ("auto", Userns::Auto)],
                &[("private", "auto"), ("pick", "auto"), ("yes", "auto"), ("none", "host"), ("no", "host")],
            )
            // The default.
            .filter(|userns| *userns != Userns::Host),
    }
}

fn capabilities(walk: &mut Walk, field: &Field) -> Option<Vec<String>> {
    const EXPECTED: &str = "an array of capability names, or \"docker\"";
    let items = match field.value.get_ref() {
        DeValue::String(_) => vec![field.value],
        DeValue::Array(_) => walk.items(field)?,
        _ => {
            walk.mismatch(field, EXPECTED, None);
            return None;
        }
    };
    let mut numbers = Vec::new();
    for value in items {
        let item = Field { value, ..field.clone() };
        let Some(word) = walk.word(&item, "a capability's name") else { continue };
        if let Some(mut more) = capability::expand(word) {
            numbers.append(&mut more);
            continue;
        }
        let upper = word.to_ascii_uppercase();
        let near = nearest(upper.strip_prefix("CAP_").unwrap_or(&upper), CAPABILITIES);
        let help = match upper.as_str() {
            "ALL" | "CAP_ALL" => Some("name the ones that are needed".to_owned()),
            _ => near.map(|name| format!("did you mean \"{name}\"?")),
        };
        walk.error(
            &item.at(),
            format!("unknown capability `{}` in `{}`, expected a name of capabilities(7)", quote(word), field.name),
            help,
        );
    }
    Some(capability::names(numbers))
}

fn seccomp(walk: &mut Walk, field: Field) -> Option<Seccomp> {
    const EXPECTED: &str = "\"default\", \"unconfined\" or the path of a profile like \"./web.json\"";
    let word = field.value.get_ref().as_str().unwrap_or_default();
    match word {
        "default" => return Some(Seccomp::Default),
        "unconfined" => return Some(Seccomp::Unconfined),
        path if is_profile_path(path) => {
            let path = walk.host_path(Some(field.clone()))?;
            walk.seccomp_at = Some(field.at().start);
            return Some(Seccomp::File(SeccompFile { path, contents: None, kernel: KernelVersion::default() }));
        }
        _ => {}
    }
    let meant = match word.to_ascii_lowercase().as_str() {
        "none" | "off" => Some("unconfined"),
        other => nearest(other, ["default", "unconfined"]),
    };
    walk.mismatch(&field, EXPECTED, meant.map(|word| format!("did you mean \"{word}\"?")));
    None
}

/// What is allowed and probably not meant.
fn warnings(walk: &mut Walk, top: &Table, unit: &Unit) {
    let place = |table: &str, key: &str| match top.map.get(table).map(|value| value.get_ref()) {
        Some(DeValue::Table(map)) => map.get_key_value(key).map(|(key, _)| key.span()),
        _ => None,
    };
    if let (Some(at), None) = (place("restart", "on_limit"), unit.restart.limit) {
        walk.warn(
            &at,
            "`on_limit` without `limit` means nothing",
            Some("write limit = { burst = 5, interval = \"1m\" }"),
        );
    }
    if let (Some(at), RestartPolicy::Never) = (place("restart", "limit"), unit.restart.policy) {
        walk.warn(&at, "`limit` means nothing where the policy is \"never\"", None);
    }
    if let Some(health) = &unit.health {
        health::warnings(walk, top, health);
    }
    if let Some(at) = place("update", "order") {
        update::warnings(walk, &at, unit);
    }
    if let Some(at) = place("security", "userns").filter(|_| unit.has_own_users() && !unit.devices.is_empty()) {
        walk.warn(
            &at,
            "a [[device]] keeps its owner of the host's, who is nobody inside: only what others may do with it is allowed",
            None,
        );
    }
    let root = unit.process.user.as_deref().is_none_or(|user| matches!(user.split(':').next(), Some("0" | "root")));
    let asked = unit.security.capabilities.as_ref().is_some_and(|list| !list.is_empty());
    if let Some(at) = place("security", "capabilities").filter(|_| asked && !root && unit.source.is_hardened()) {
        let help =
            "a program that is not root gets them only as process.capabilities.inheritable and .ambient in [oci]";
        walk.warn(
            &at,
            "these capabilities bound what a user other than root can gain, but do not give it anything",
            Some(help),
        );
    }
}
