//! `[health.startup]`, `[health.readiness]` and `[health.liveness]`: how a container is asked whether it is well.
//!
//! - `startup` is asked until it passes; the others begin then. Never passing is a failure of the start.
//! - `readiness` says whether others may use it (`depends_on … = "healthy"`, `moored start`, `moored sync`). It never restarts anything.
//! - `liveness` says whether it is to go on. Failing it takes a restart, with the backoff of any other failure.
//!
//! None of it makes another container: a change is taken over as the container runs.
//!
//! And what the container tells of itself without being asked (`told`).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeValue;

use super::diagnostic::quote;
use super::process;
use super::told::{self, Notify};
use super::variable::Given;
use super::walk::{Field, Table, Walk};
use crate::compact;

/// Programs that put variables in themselves.
const SHELLS: [&str; 6] = ["sh", "ash", "bash", "dash", "ksh", "zsh"];

/// How it is known whether the container is well: at least one check, or its own word.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// `[health.startup]`.
    pub startup: Option<Check>,
    /// `[health.readiness]`.
    pub readiness: Option<Check>,
    /// `[health.liveness]`.
    pub liveness: Option<Check>,
    /// `process.notify = "systemd"`.
    pub notify: Option<Notify>,
}

/// Which of the three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CheckKind {
    /// Has it come up?
    Startup,
    /// May others use it?
    Readiness,
    /// Is it to go on?
    Liveness,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is asked.
    pub probe: Probe,
    /// Whose network namespace `http` and `tcp` are asked from.
    pub from: From,
    /// From the end of one probe to the beginning of the next.
    pub interval: Duration,
    /// A probe that takes longer has failed.
    pub timeout: Duration,
    /// So many failures in a row are a verdict …
    pub failures: u32,
    /// … and so many passes.
    pub successes: u32,
}

/// What is asked. Passed is: code 0, a status from 200 to 399, a connection, a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// A program inside the container, as its own process is.
    Exec(Vec<String>),
    /// GET over HTTP/1.1.
    Http {
        /// As the unit has it.
        url: String,
        /// Tried in this order.
        addresses: Vec<SocketAddr>,
        /// `Host:`.
        host: String,
        /// With its leading slash.
        path: String,
    },
    /// A connection.
    Tcp {
        /// As the unit has it.
        address: String,
        /// Tried in this order.
        addresses: Vec<SocketAddr>,
    },
    /// Something at this path of the container's root.
    File {
        /// Absolute.
        path: PathBuf,
        /// Changed no longer ago than this.
        max_age: Option<Duration>,
    },
}

/// `from`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// The container's.
    Container,
    /// The host's.
    Host,
}

impl Health {
    /// The check of this kind.
    pub fn get(&self, kind: CheckKind) -> Option<&Check> {
        match kind {
            CheckKind::Startup => self.startup.as_ref(),
            CheckKind::Readiness => self.readiness.as_ref(),
            CheckKind::Liveness => self.liveness.as_ref(),
        }
    }

    /// Those that there are, in the order in which they are asked.
    pub fn checks(&self) -> impl Iterator<Item = (CheckKind, &Check)> {
        CheckKind::ALL.into_iter().filter_map(|kind| Some((kind, self.get(kind)?)))
    }

    /// Whether there is something to ask.
    pub fn has_checks(&self) -> bool {
        self.checks().next().is_some()
    }
}

impl CheckKind {
    /// All three.
    pub const ALL: [CheckKind; 3] = [CheckKind::Startup, CheckKind::Readiness, CheckKind::Liveness];

    /// The key in `[health]`.
    pub fn word(self) -> &'static str {
        match self {
            CheckKind::Startup => "startup",
            CheckKind::Readiness => "readiness",
            CheckKind::Liveness => "liveness",
        }
    }

    /// So often, where the unit does not say.
    pub(super) fn default_interval(self) -> Duration {
        match self {
            CheckKind::Startup => Duration::from_millis(250),
            CheckKind::Readiness | CheckKind::Liveness => Duration::from_secs(10),
        }
    }

    /// So many failures, where the unit does not say. A start has five minutes if it answers at once.
    pub(super) fn default_failures(self) -> u32 {
        match self {
            CheckKind::Startup => 1200,
            CheckKind::Readiness | CheckKind::Liveness => 3,
        }
    }
}

pub(super) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// A shorter pause is work for its own sake.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
const COUNT_MAX: u64 = 1_000_000;
/// A request is sent in one piece.
const URL_MAX: usize = 1024;

/// `[health]`, and what of `[process]` is about the same.
pub(crate) fn health(walk: &mut Walk, top: &Table) -> Option<Arc<Health>> {
    let health = Health { notify: told::notify(walk, top), ..checks(walk, top).unwrap_or_default() };
    (health != Health::default()).then(|| Arc::new(health))
}

fn checks(walk: &mut Walk, top: &Table) -> Option<Health> {
    let table = walk.table(top, "health", "health")?;
    let mut one = |kind: CheckKind| {
        let field = table.field(kind.word())?;
        check(walk, kind, &field)
    };
    let health = Health {
        startup: one(CheckKind::Startup),
        readiness: one(CheckKind::Readiness),
        liveness: one(CheckKind::Liveness),
        notify: None,
    };
    if table.is_regular() && CheckKind::ALL.iter().all(|kind| table.field(kind.word()).is_none()) {
        let help = "write [health.readiness] or [health.liveness], with `exec`, `http`, `tcp` or `file`";
        walk.absent(&table.span, "`health` has no check", Some(help));
    }
    Some(health)
}

fn check(walk: &mut Walk, kind: CheckKind, field: &Field) -> Option<Check> {
    let DeValue::Table(map) = field.value.get_ref() else {
        let help = format!("write [health.{}]", kind.word());
        walk.mismatch(field, "a table", Some(help));
        return None;
    };
    let table = walk.checked(Table { name: "health.*", span: field.key_span.clone(), map });
    let field =
        |key: &str| table.field(key).map(|field| Field { name: format!("health.{}.{key}", kind.word()), ..field });
    let sources = [("container", From::Container), ("host", From::Host)];
    let from = walk.choice(field("from"), &sources, &[("supervisor", "host"), ("inside", "container")]);
    let failures = walk.integer(field("failures"), 1..=COUNT_MAX).and_then(|n| u32::try_from(n).ok());
    let successes = walk.integer(field("successes"), 1..=COUNT_MAX).and_then(|n| u32::try_from(n).ok());
    let interval = walk.duration(field("interval"), INTERVAL_MIN);
    let timeout = walk.duration(field("timeout"), INTERVAL_MIN);
    let probe = probe(walk, kind, &table, field)?;
    if let (Some(at), Probe::Exec(_) | Probe::File { .. }) = (field("from"), &probe) {
        walk.warn(&at.key_span, "`from` means nothing for `exec` and `file`: they are inside", None);
    }
    Some(Check {
        probe,
        from: from.unwrap_or(From::Container),
        interval: interval.unwrap_or(kind.default_interval()),
        timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
        failures: failures.unwrap_or(kind.default_failures()),
        successes: successes.unwrap_or(1),
    })
}

/// Exactly one of four.
fn probe<'w>(
    walk: &mut Walk,
    kind: CheckKind,
    table: &Table<'w>,
    field: impl Fn(&str) -> Option<Field<'w>>,
) -> Option<Probe> {
    let mut given: Vec<(&str, Field)> =
        ["exec", "http", "tcp", "file"].into_iter().filter_map(|key| Some((key, field(key)?))).collect();
    compact::sort_by_key(&mut given, |(_, field)| field.key_span.start);
    let Some((key, first)) = given.first().cloned() else {
        if table.is_regular() {
            let message =
                format!("`health.{}` asks nothing, expected one of `exec`, `http`, `tcp`, `file`", kind.word());
            walk.absent(&table.span, &message, Some("write for example tcp = \"localhost:8080\""));
        }
        return None;
    };
    for (other, second) in given.iter().skip(1) {
        let message = format!("`{}` beside `{key}`, expected one of `exec`, `http`, `tcp`, `file`", second.name);
        walk.error(&second.key_span, message, Some(format!("keep one of them, or write another check for `{other}`")));
    }
    let max_age = field("max_age");
    if let (Some(at), true) = (&max_age, key != "file") {
        walk.error(&at.key_span, format!("`{}` is for `file` alone", at.name), None);
    }
    match key {
        "exec" => {
            // It has the variables in its environment; here they would be shown.
            let variables = std::mem::replace(&mut walk.variables, Given::None);
            let args = process::args(walk, &first);
            walk.variables = variables;
            let (args, _) = args?;
            if !matches!(variables, Given::None) {
                warn_of_variables(walk, &first, &args);
            }
            Some(Probe::Exec(args))
        }
        "http" => http(walk, &first),
        "tcp" => tcp(walk, &first),
        _ => {
            let max_age = walk.duration(max_age, Duration::from_millis(1));
            walk.inside_path(&first).map(|path| Probe::File { path: path.into(), max_age })
        }
    }
}

/// In a unit with an `env_file` a variable looks as if it stood for something here too. For a shell it does.
fn warn_of_variables(walk: &mut Walk, field: &Field, args: &[String]) {
    let is_shell = args.iter().any(|arg| SHELLS.contains(&arg.rsplit('/').next().unwrap_or_default()));
    if let Some(arg) = args.iter().find(|arg| arg.contains("${") && !is_shell) {
        let message = format!("`{}` holds \"{}\", which a check gets as it stands", field.name, quote(arg));
        let help = "a shell has the variables in its environment: [\"/bin/sh\", \"-c\", \"…\"]";
        walk.warn(&field.at(), &message, Some(help));
    }
}

fn tcp(walk: &mut Walk, field: &Field) -> Option<Probe> {
    const EXPECTED: &str = "an address like \"127.0.0.1:8080\", \"[::1]:8080\" or \"localhost:8080\"";
    let address = walk.text(field, EXPECTED)?;
    match authority(&address, None) {
        Some((_, addresses)) => Some(Probe::Tcp { address, addresses }),
        None => {
            walk.mismatch(field, EXPECTED, authority_help(&address));
            None
        }
    }
}

fn http(walk: &mut Walk, field: &Field) -> Option<Probe> {
    const EXPECTED: &str = "a URL like \"http://127.0.0.1:8080/ready\"";
    let url = walk.text(field, EXPECTED)?;
    let Some(rest) = url.strip_prefix("http://") else {
        let help = match url.split_once("://") {
            Some(("https", _)) => Some(
                "https is not built in this version: use `tcp`, or `exec` with a program of the container's".to_owned(),
            ),
            Some(_) => None,
            None => Some(format!("did you mean \"http://{}\"?", quote(&url))),
        };
        walk.mismatch(field, EXPECTED, help);
        return None;
    };
    let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(at);
    let path = path.split('#').next().unwrap_or_default();
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    if url.len() > URL_MAX || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
        let expected = format!("a URL of at most {URL_MAX} visible ASCII characters");
        walk.mismatch(field, &expected, Some("write others as %XX, a space as %20".to_owned()));
        return None;
    }
    match authority(host, Some(80)) {
        Some((_, addresses)) => {
            let host = host.to_owned();
            Some(Probe::Http { url, addresses, host, path })
        }
        None => {
            walk.mismatch(field, EXPECTED, authority_help(host));
            None
        }
    }
}

/// `HOST:PORT` without a look at any name server: a literal address, or `localhost`.
fn authority(text: &str, default_port: Option<u16>) -> Option<(u16, Vec<SocketAddr>)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => {
            let port = port.bytes().all(|b| b.is_ascii_digit()).then(|| port.parse::<u16>().ok()).flatten();
            (host, port.filter(|port| *port != 0)?)
        }
        _ => (text, default_port?),
    };
    let ips: Vec<IpAddr> = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => vec![IpAddr::V6(host.parse().ok()?)],
        None if host == "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        None => vec![IpAddr::V4(host.parse().ok()?)],
    };
    Some((port, ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()))
}

fn authority_help(text: &str) -> Option<String> {
    let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
    let is_name = host != "localhost" && host.bytes().any(|b| b.is_ascii_alphabetic()) && !host.contains(':');
    is_name.then(|| "names are not looked up: write an address, or localhost".to_owned())
}

/// What the warnings about a whole unit need: a check that cannot work.
pub(crate) fn warnings(walk: &mut Walk, top: &Table, health: &Health) {
    let startup = health.startup.as_ref().filter(|_| health.readiness.is_none() && health.liveness.is_none());
    let place = top.field("health").map(|field| field.key_span);
    if let (Some(_), Some(at)) = (startup, place) {
        let help = "write [health.readiness] or [health.liveness] for what comes after the start";
        walk.warn(&at, "`health.startup` alone is asked until it passes, then nothing is", Some(help));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::unit::{UnitName, parse};

    fn health_of(text: &str) -> Health {
        let name = UnitName::new("web").unwrap();
        let text = format!("bundle = \"/srv/web\"\n{text}");
        let parsed = parse(&name, Path::new("/etc/moored/units/web.toml"), &text);
        parsed.unwrap_or_else(|errors| panic!("{errors:?}")).unit.health.as_deref().cloned().unwrap_or_default()
    }

    fn errors(text: &str) -> Vec<String> {
        let name = UnitName::new("web").unwrap();
        let text = format!("bundle = \"/srv/web\"\n{text}");
        let errors = parse(&name, Path::new("/u/web.toml"), &text).unwrap_err();
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_kind_has_its_defaults() {
        let health = health_of("[health]\nstartup.tcp = \"localhost:80\"\nliveness.file = \"/run/beat\"\n");
        let startup = health.startup.unwrap();
        assert_eq!(
            (startup.interval, startup.timeout, startup.failures, startup.successes),
            (Duration::from_millis(250), Duration::from_secs(5), 1200, 1)
        );
        let liveness = health.liveness.unwrap();
        assert_eq!((liveness.interval, liveness.failures), (Duration::from_secs(10), 3));
        assert_eq!(liveness.probe, Probe::File { path: "/run/beat".into(), max_age: None });
        assert_eq!(health.readiness, None);
    }

    #[test]
    fn addresses_are_literal_or_localhost() {
        for (text, port, ips) in [
            ("127.0.0.1:80", 80, vec!["127.0.0.1"]),
            ("[::1]:8080", 8080, vec!["::1"]),
            ("localhost:1", 1, vec!["127.0.0.1", "::1"]),
        ] {
            let ips: Vec<SocketAddr> = ips.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), port)).collect();
            assert_eq!(authority(text, None), Some((port, ips)), "{text}");
        }
        for text in [
            "",
            ":80",
            "localhost",
            "127.0.0.1",
            "127.0.0.1:0",
            "127.0.0.1:65536",
            "127.0.0.1:+8",
            "::1:80",
            "[::1]",
            "[::1]80",
            "db:80",
            "[127.0.0.1]:80",
            "1.2.3:80",
            "localhost:80/",
        ] {
            assert_eq!(authority(text, None), None, "{text}");
        }
        assert_eq!(authority("[::1]", Some(80)).unwrap().0, 80);
    }

    #[test]
    fn a_url_is_taken_apart() {
        for (url, expected_host, expected_path) in [
            ("http://127.0.0.1", "127.0.0.1", "/"),
            ("http://localhost:8080/a?b=c#d", "localhost:8080", "/a?b=c"),
            ("http://[::1]:80?x", "[::1]:80", "/?x"),
        ] {
            let health = health_of(&format!("[health.readiness]\nhttp = \"{url}\"\n"));
            let Probe::Http { host, path, .. } = health.readiness.unwrap().probe else { panic!("{url}") };
            assert_eq!((host.as_str(), path.as_str()), (expected_host, expected_path));
        }
    }

    #[test]
    fn mistakes_are_told_at_their_place() {
        for (text, expected) in [
            (
                "[health]\n",
                "/u/web.toml:2:2 `health` has no check, write [health.readiness] or [health.liveness], with `exec`, `http`, `tcp` or `file`",
            ),
            (
                "[health.readiness]\ninterval = \"1s\"\n",
                "/u/web.toml:2:9 `health.readiness` asks nothing, expected one of `exec`, `http`, `tcp`, `file`, write for example tcp = \"localhost:8080\"",
            ),
            (
                "[health.liveness]\ntcp = \"localhost:80\"\nhttp = \"http://localhost\"\n",
                "/u/web.toml:4:1 `health.liveness.http` beside `tcp`, expected one of `exec`, `http`, `tcp`, `file`, keep one of them, or write another check for `http`",
            ),
            (
                "[health.readiness]\ntcp = \"db:80\"\n",
                "/u/web.toml:3:7 `health.readiness.tcp` is the string \"db:80\", expected an address like \"127.0.0.1:8080\", \"[::1]:8080\" or \"localhost:8080\", names are not looked up: write an address, or localhost",
            ),
            (
                "[health.readiness]\nhttp = \"https://localhost/\"\n",
                "/u/web.toml:3:8 `health.readiness.http` is the string \"https://localhost/\", expected a URL like \"http://127.0.0.1:8080/ready\", https is not built in this version: use `tcp`, or `exec` with a program of the container's",
            ),
            (
                "[health.readiness]\ntcp = \"localhost:80\"\nmax_age = \"1s\"\n",
                "/u/web.toml:4:1 `health.readiness.max_age` is for `file` alone",
            ),
            (
                "[health.readiness]\ntcp = \"localhost:80\"\nretries = 3\n",
                "/u/web.toml:4:1 unknown key `retries`, did you mean `failures`?",
            ),
        ] {
            assert_eq!(errors(text), [expected], "{text}");
        }
    }
}
