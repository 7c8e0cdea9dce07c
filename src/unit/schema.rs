//! Which keys exist, which are designed but not built, and what somebody who wrote another one meant.

/// Keys by table; "" is the top level.
const KEYS: [(&str, &[&str]); 24] = [
    (
        "",
        &[
            "description",
            "hostname",
            "enabled",
            "type",
            "instances",
            "replicas",
            "bundle",
            "rootfs",
            "layers",
            "overlay",
            "executable",
            "depends_on",
            "on_failure",
            "condition",
            "upper",
            "process",
            "restart",
            "stop",
            "reload",
            "schedule",
            "hooks",
            "health",
            "update",
            "resources",
            "network",
            "mount",
            "config",
            "secret",
            "device",
            "socket",
            "log",
            "security",
            "oci",
        ],
    ),
    ("depends_on.*", &["state", "optional", "on_loss"]),
    ("condition", &["path_exists", "kernel_cmdline"]),
    ("upper", &["persist", "size", "on_change"]),
    ("process", &["args", "env", "env_file", "user", "cwd", "init", "terminal", "notify", "watchdog"]),
    ("restart", &["policy", "delay", "max_delay", "reset_after", "limit", "on_limit"]),
    ("restart.limit", &["burst", "interval"]),
    ("stop", &["signal", "timeout"]),
    ("reload", &["signal", "exec"]),
    ("schedule", &["calendar", "time_zone", "persistent", "random_delay", "max_runtime", "wait_for_clock"]),
    ("hooks", &["pre_start", "post_start", "pre_stop", "post_stop"]),
    ("hooks.*", &["exec", "timeout", "on"]),
    ("health", &["startup", "readiness", "liveness"]),
    ("health.*", &["exec", "http", "tcp", "file", "max_age", "from", "interval", "timeout", "failures", "successes"]),
    ("update", &["order", "min_healthy", "deadline", "on_bad"]),
    ("resources", &["memory", "cpus", "pids", "shm"]),
    ("network", &["mode"]),
    ("mount", &["type", "source", "target", "read_only", "idmap", "require_mountpoint", "size"]),
    ("config", &["source", "target", "mode", "on_change"]),
    ("secret", &["source", "target", "mode", "on_change"]),
    ("device", &["path"]),
    ("socket", &["listen", "name", "backlog", "mode", "user", "group", "reuse_port", "free_bind"]),
    ("log", &["max_size", "max_files"]),
    ("security", &["profile", "capabilities", "no_new_privileges", "seccomp", "userns", "read_only"]),
];

/// Keys of the top level that hold a table.
const TABLES: [&str; 20] = [
    "condition",
    "upper",
    "process",
    "restart",
    "stop",
    "reload",
    "schedule",
    "hooks",
    "health",
    "update",
    "resources",
    "network",
    "mount",
    "config",
    "secret",
    "device",
    "socket",
    "log",
    "security",
    "oci",
];

/// What the design names and this version does not have, with a way to do without where there is one.
const LATER: [(&str, &str, Option<&str>); 3] = [
    ("", "image", Some("unpack it into a directory (docker export … | tar x) and use `rootfs`")),
    ("network", "bridge", None),
    ("network", "ports", None),
];

/// What to answer to a word.
enum Cure {
    /// The key of ours that means it.
    Key(&'static str, &'static str),
    /// There is no such key; this is what to do.
    Say(&'static str),
}
use crate::words::{distance, tolerance};
use Cure::{Key, Say};

/// Words of OCI, systemd, Compose and docker run, in lower case without `_` and `-`.
const SYNONYMS: [(&str, Cure); 179] = [
    ("unset", Say("it belongs to the top level of a drop-in, NAME.toml.d/*.toml")),
    ("cmd", Key("process", "args")),
    ("command", Key("process", "args")),
    ("entrypoint", Key("process", "args")),
    ("exec", Key("process", "args")),
    ("execstart", Key("process", "args")),
    ("execstartpre", Key("hooks", "pre_start")),
    ("execstartpost", Key("hooks", "post_start")),
    ("execstoppost", Key("hooks", "post_stop")),
    ("prestart", Key("hooks", "pre_start")),
    ("poststart", Key("hooks", "post_start")),
    ("prestop", Key("hooks", "pre_stop")),
    ("poststop", Key("hooks", "post_stop")),
    ("lifecycle", Say("did you mean [hooks.pre_stop] or [hooks.post_start]?")),
    ("hook", Say("did you mean [hooks.pre_start], [hooks.post_start], [hooks.pre_stop] or [hooks.post_stop]?")),
    (
        "runtimedirectory",
        Say("did you mean `args = [\"/bin/sh\", \"-ec\", \"mkdir -p /run/x; exec program\"]` in [process]?"),
    ),
    ("limitnofile", Say("did you mean `process.rlimits` in [oci]?")),
    ("oomscoreadjust", Say("did you mean `process.oomScoreAdj` in [oci]?")),
    ("argv", Key("process", "args")),
    ("arguments", Key("process", "args")),
    ("run", Key("process", "args")),
    ("environment", Key("process", "env")),
    ("envs", Key("process", "env")),
    ("vars", Key("process", "env")),
    ("envfile", Key("process", "env_file")),
    ("environmentfile", Key("process", "env_file")),
    ("uid", Key("process", "user")),
    ("gid", Say("did you mean `user = \"UID:GID\"` in [process]?")),
    ("group", Say("did you mean `user = \"USER:GROUP\"` in [process]?")),
    ("workdir", Key("process", "cwd")),
    ("workingdir", Key("process", "cwd")),
    ("workingdirectory", Key("process", "cwd")),
    ("chdir", Key("process", "cwd")),
    ("tini", Key("process", "init")),
    ("sdnotify", Key("process", "notify")),
    ("watchdogsec", Key("process", "watchdog")),
    ("notifyaccess", Say("any process of the container may tell: did you mean `notify` in [process]?")),
    (
        "timeoutstartsec",
        Say("a start is given 90s with `notify`, and more by EXTEND_TIMEOUT_USEC=; else write [health.startup]"),
    ),
    ("tty", Key("process", "terminal")),
    ("stdinopen", Key("process", "terminal")),
    ("destination", Key("mount", "target")),
    ("dst", Key("mount", "target")),
    ("dest", Key("mount", "target")),
    ("mountpoint", Key("mount", "target")),
    ("to", Key("mount", "target")),
    ("src", Key("mount", "source")),
    ("from", Key("mount", "source")),
    ("ro", Key("mount", "read_only")),
    ("rw", Say("did you mean `read_only = false`?")),
    ("writable", Say("did you mean `read_only = false`?")),
    ("options", Say("a mount is read-only unless it says `read_only = false`; other options go into [oci]")),
    ("volume", Say("did you mean [[mount]] with `source` and `target`?")),
    ("volumes", Say("did you mean [[mount]] with `source` and `target`?")),
    ("binds", Say("did you mean [[mount]] with `source` and `target`?")),
    ("mounts", Say("did you mean [[mount]], one table for each?")),
    ("tmpfs", Say("did you mean [[mount]] with `type = \"tmpfs\"`?")),
    ("devices", Say("did you mean [[device]], one table for each?")),
    ("ports", Say("published ports are not built in this version: use `mode = \"host\"` in [network]")),
    ("publish", Say("published ports are not built in this version: use `mode = \"host\"` in [network]")),
    ("expose", Say("published ports are not built in this version: use `mode = \"host\"` in [network]")),
    ("listenstream", Key("socket", "listen")),
    ("listendatagram", Say("did you mean `listen = \"udp://…\"` or \"unixgram://…\" in [[socket]]?")),
    ("listensequentialpacket", Say("did you mean `listen = \"seqpacket://…\"` in [[socket]]?")),
    ("socketmode", Key("socket", "mode")),
    ("socketuser", Key("socket", "user")),
    ("socketgroup", Key("socket", "group")),
    ("owner", Say("did you mean `user` in [[socket]]?")),
    ("reuseport", Key("socket", "reuse_port")),
    ("freebind", Key("socket", "free_bind")),
    ("accept", Say("one program serves all that connect: it is passed the socket itself")),
    ("bindipv6only", Say("[::] takes IPv4 too: listen at two addresses instead")),
    ("nodelay", Say("the program sets it on its connections")),
    ("keepalive", Say("the program sets it on its connections")),
    ("passcredentials", Say("the program sets it on its socket")),
    ("receivebuffer", Say("the program sets it on its socket")),
    ("sendbuffer", Say("the program sets it on its socket")),
    ("bindtodevice", Say("listen at an address of that device")),
    ("removeonstop", Say("a path goes when nobody listens there any more")),
    ("address", Key("socket", "listen")),
    ("bind", Key("socket", "listen")),
    ("filedescriptorname", Key("socket", "name")),
    ("fdname", Key("socket", "name")),
    ("sockets", Say("did you mean [[socket]], one table for each?")),
    ("networkmode", Key("network", "mode")),
    ("net", Key("network", "mode")),
    ("restartpolicy", Key("restart", "policy")),
    ("restartsec", Key("restart", "delay")),
    ("backoff", Key("restart", "delay")),
    ("maxbackoff", Key("restart", "max_delay")),
    ("startlimitburst", Say("did you mean `limit = { burst = 5, interval = \"1m\" }` in [restart]?")),
    ("startlimitinterval", Say("did you mean `limit = { burst = 5, interval = \"1m\" }` in [restart]?")),
    ("maxretries", Say("did you mean `limit = { burst = 5, interval = \"1m\" }` in [restart]?")),
    ("stopsignal", Key("stop", "signal")),
    ("killsignal", Key("stop", "signal")),
    ("stoptimeout", Key("stop", "timeout")),
    ("stopgraceperiod", Key("stop", "timeout")),
    ("timeoutstopsec", Key("stop", "timeout")),
    ("killmode", Say("the first process gets the signal, and what is left when it has ended is killed")),
    ("execstop", Key("hooks", "pre_stop")),
    ("execreload", Key("reload", "exec")),
    ("healthcheck", Say("did you mean [health.liveness]?")),
    ("livenessprobe", Say("did you mean [health.liveness]?")),
    ("readinessprobe", Say("did you mean [health.readiness]?")),
    ("startupprobe", Say("did you mean [health.startup]?")),
    ("oncalendar", Key("schedule", "calendar")),
    ("cron", Key("schedule", "calendar")),
    ("timezone", Key("schedule", "time_zone")),
    ("tz", Key("schedule", "time_zone")),
    ("randomizeddelaysec", Key("schedule", "random_delay")),
    ("runtimemaxsec", Key("schedule", "max_runtime")),
    ("timer", Say("did you mean [schedule] with `calendar`?")),
    ("startperiod", Say("did you mean [health.startup]? The others begin when it has passed")),
    ("initialdelayseconds", Say("did you mean [health.startup]? The others begin when it has passed")),
    ("test", Key("health.*", "exec")),
    ("httpget", Key("health.*", "http")),
    ("url", Key("health.*", "http")),
    ("tcpsocket", Key("health.*", "tcp")),
    ("retries", Key("health.*", "failures")),
    ("failurethreshold", Key("health.*", "failures")),
    ("successthreshold", Key("health.*", "successes")),
    ("periodseconds", Key("health.*", "interval")),
    ("period", Key("health.*", "interval")),
    ("timeoutseconds", Key("health.*", "timeout")),
    ("scale", Key("", "replicas")),
    ("numreplicas", Key("", "replicas")),
    ("updateconfig", Say("did you mean [update]?")),
    ("deploy", Say("did you mean [update]?")),
    ("autorevert", Key("update", "on_bad")),
    ("failureaction", Key("update", "on_bad")),
    ("minhealthytime", Key("update", "min_healthy")),
    ("monitor", Key("update", "min_healthy")),
    ("healthydeadline", Key("update", "deadline")),
    ("progressdeadline", Key("update", "deadline")),
    ("memorylimit", Key("resources", "memory")),
    ("memlimit", Key("resources", "memory")),
    ("memorymax", Key("resources", "memory")),
    ("mem", Key("resources", "memory")),
    ("cpu", Key("resources", "cpus")),
    ("cpuquota", Key("resources", "cpus")),
    ("pidslimit", Key("resources", "pids")),
    ("tasksmax", Key("resources", "pids")),
    ("shmsize", Key("resources", "shm")),
    ("capadd", Key("security", "capabilities")),
    ("caps", Key("security", "capabilities")),
    ("capabilityboundingset", Key("security", "capabilities")),
    ("capdrop", Say("all capabilities are dropped unless `capabilities` in [security] names them")),
    (
        "privileged",
        Say(
            "name what is needed in [security] `capabilities` and [[device]]; a service of the host itself has `profile = \"host\"`",
        ),
    ),
    ("usernsmode", Key("security", "userns")),
    ("privateusers", Key("security", "userns")),
    ("usernsremap", Key("security", "userns")),
    ("securityopt", Say("did you mean [security]?")),
    ("readonlyrootfs", Key("security", "read_only")),
    ("nnp", Key("security", "no_new_privileges")),
    ("after", Key("", "depends_on")),
    ("requires", Key("", "depends_on")),
    ("dependencies", Key("", "depends_on")),
    ("wants", Say("did you mean `depends_on = { NAME = { optional = true } }`?")),
    ("bindsto", Say("did you mean `depends_on = { NAME = { on_loss = \"stop\" } }`?")),
    ("partof", Say("did you mean `depends_on = { NAME = { on_loss = \"restart\" } }`?")),
    ("required", Say("did you mean `optional`? A dependency is required unless it is true")),
    ("status", Key("depends_on.*", "state")),
    ("conditionpathexists", Key("condition", "path_exists")),
    ("conditionkernelcommandline", Key("condition", "kernel_cmdline")),
    ("kernelcommandline", Key("condition", "kernel_cmdline")),
    ("cmdline", Key("condition", "kernel_cmdline")),
    ("conditionpathismountpoint", Say("did you mean `require_mountpoint` in [[mount]]?")),
    ("requiresmountsfor", Say("did you mean `require_mountpoint` in [[mount]]?")),
    ("conditions", Say("did you mean [condition]?")),
    ("alert", Key("", "on_failure")),
    ("root", Key("", "rootfs")),
    ("lowerdir", Key("", "layers")),
    ("upperdir", Say("did you mean `persist = true` in [upper]?")),
    ("persistent", Key("upper", "persist")),
    ("service", Say("did you mean [process]?")),
    ("services", Say("every unit has a file of its own, named after it")),
    ("unit", Say("its keys belong to the top level")),
    ("install", Say("a unit runs unless it says `enabled = false`")),
    ("container", Say("its keys belong to the top level")),
    ("sysctls", Say("did you mean `linux.sysctl` in [oci]?")),
];

/// Every key with its table.
#[cfg(test)]
pub(crate) fn all_keys() -> impl Iterator<Item = (&'static str, &'static str)> {
    KEYS.iter().flat_map(|(table, keys)| keys.iter().map(move |key| (*table, *key)))
}

/// Whether a table has a key.
pub(crate) fn is_key(table: &str, key: &str) -> bool {
    keys(table).contains(&key)
}

/// Where a key comes among those of its table.
pub(crate) fn position(table: &str, key: &str) -> Option<usize> {
    keys(table).iter().position(|known| *known == key)
}

fn keys(table: &str) -> &'static [&'static str] {
    KEYS.iter().find(|(name, _)| *name == table).map_or(&[], |(_, keys)| keys)
}

/// The first key on a dotted path that no unit has, with its table. What is named by the user (variables, dependencies, mounts) is not
/// looked at.
pub(crate) fn strange(path: &str) -> Option<(&'static str, &str)> {
    let mut table = "";
    for key in path.split('.') {
        if key.starts_with("x-") {
            return None;
        }
        if !is_key(table, key) {
            return Some((table, key));
        }
        let below = if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
        let any = format!("{table}.*");
        let single = |name: &&str| (*name == below || *name == any) && super::overlay::named_by(name).is_none();
        table = KEYS.iter().map(|(name, _)| *name).find(|name| single(name))?;
    }
    None
}

/// Whether a key is designed but not built; if so, perhaps with a way to do without.
pub(crate) fn later(table: &str, key: &str) -> Option<Option<&'static str>> {
    let here = LATER.iter().find(|(at, name, _)| *at == table && *name == key);
    let elsewhere = || LATER.iter().find(|(_, name, _)| *name == key);
    // A word that means something here, or that is a key of another table, is not taken for the other thing.
    let strange = || !KEYS.iter().any(|(_, keys)| keys.contains(&key)) && synonym(&squeeze(key)).is_none();
    here.or_else(|| strange().then(elsewhere).flatten()).map(|(_, _, help)| *help)
}

/// `[process]`, `[[mount]]`, "the top level": how a table is written.
pub(crate) fn header(table: &str) -> String {
    match table {
        "" => "the top level".to_owned(),
        "mount" | "config" | "secret" | "device" | "socket" => format!("[[{table}]]"),
        "health.*" => "[health.readiness]".to_owned(),
        "hooks.*" => "[hooks.pre_start]".to_owned(),
        _ => format!("[{table}]"),
    }
}

/// What somebody who wrote an unknown key in a table may have meant.
pub(crate) fn suggest(table: &str, key: &str) -> Option<String> {
    let snake = snake_case(key);
    if is_key(table, &snake) {
        return Some(format!("did you mean `{snake}`?"));
    }
    // Compose's word for it, and a table of ours.
    if (table, snake.as_str()) == ("depends_on.*", "condition") {
        return Some("did you mean `state`?".to_owned());
    }
    // systemd's ExecStop, which runs before the signal.
    if (table, snake.as_str()) == ("stop", "exec") {
        return Some("did you mean [hooks.pre_stop] with `exec`? It runs before the stop signal".to_owned());
    }
    if let Some(place) = elsewhere(table, &snake) {
        return Some(place);
    }
    let squeezed = squeeze(key);
    if let Some(cure) = synonym(&squeezed) {
        return Some(say(table, cure));
    }
    let near = |word: &str| distance(&squeezed, &squeeze(word)).filter(|d| *d <= tolerance(&squeezed));
    let here = keys(table).iter().map(|word| (near(word), Meaning::Known(table, word)));
    let words = SYNONYMS.iter().map(|(word, cure)| (near(word), Meaning::Cure(cure)));
    let other = KEYS.iter().flat_map(|(t, keys)| keys.iter().map(move |k| (near(k), Meaning::Known(t, k))));
    let best = here.chain(words).chain(other).filter_map(|(d, what)| d.map(|d| (d, what))).min_by_key(|(d, _)| *d);
    best.map(|(_, what)| match what {
        Meaning::Known(at, word) => did_you_mean(table, at, word),
        Meaning::Cure(cure) => say(table, cure),
    })
}

enum Meaning<'a> {
    Known(&'a str, &'a str),
    Cure(&'a Cure),
}

/// The key exists, but not in this table: TOML puts a key into the table above it.
fn elsewhere(table: &str, key: &str) -> Option<String> {
    let homes: Vec<&str> = KEYS.iter().filter(|(_, keys)| keys.contains(&key)).map(|(at, _)| *at).collect();
    if homes.contains(&"") {
        if TABLES.contains(&key) {
            return Some(format!("{0} is a table of its own: write {0}", header(key)));
        }
        return Some(format!(
            "it belongs to the top level, but stands in {}: move it above the first [table]",
            header(table)
        ));
    }
    let shown: Vec<String> = homes.iter().map(|home| header(home)).collect();
    (!shown.is_empty()).then(|| format!("it belongs to {}", shown.join(" or ")))
}

fn synonym(squeezed: &str) -> Option<&'static Cure> {
    SYNONYMS.iter().find(|(word, _)| *word == squeezed).map(|(_, cure)| cure)
}

fn say(table: &str, cure: &Cure) -> String {
    match cure {
        // Several tables may have it.
        Key(_, key) if is_key(table, key) => did_you_mean(table, table, key),
        Key(at, key) => did_you_mean(table, at, key),
        Say(text) => (*text).to_owned(),
    }
}

fn did_you_mean(table: &str, at: &str, key: &str) -> String {
    match at {
        at if at == table => format!("did you mean `{key}`?"),
        "" if TABLES.contains(&key) => format!("did you mean {}?", header(key)),
        "" => format!("did you mean `{key}` at the top level?"),
        at => format!("did you mean `{key}` in {}?", header(at)),
    }
}

/// `maxDelay`, `max-delay`, `MaxDelay`: `max_delay`.
fn snake_case(key: &str) -> String {
    let mut snake = String::with_capacity(key.len() + 4);
    let mut after_lower = false;
    for c in key.chars() {
        if c.is_ascii_uppercase() && after_lower {
            snake.push('_');
        }
        after_lower = c.is_ascii_lowercase() || c.is_ascii_digit();
        snake.push(if c == '-' { '_' } else { c.to_ascii_lowercase() });
    }
    snake
}

fn squeeze(key: &str) -> String {
    key.chars().filter(|c| !matches!(c, '_' | '-')).map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_synonyms_and_misplaced_keys_get_their_cure() {
        for (table, key, expected) in [
            ("process", "comand", "did you mean `args`?"),
            ("process", "agrs", "did you mean `args`?"),
            ("process", "ExecStart", "did you mean `args`?"),
            ("", "cmd", "did you mean `args` in [process]?"),
            ("restart", "maxDelay", "did you mean `max_delay`?"),
            ("restart", "max-delay", "did you mean `max_delay`?"),
            (
                "restart",
                "enabled",
                "it belongs to the top level, but stands in [restart]: move it above the first [table]",
            ),
            ("process", "memory", "it belongs to [resources]"),
            ("process", "signal", "it belongs to [stop] or [reload]"),
            ("stop", "exec", "did you mean [hooks.pre_stop] with `exec`? It runs before the stop signal"),
            ("stop", "ExecStop", "did you mean `pre_stop` in [hooks]?"),
            ("process", "stop", "[stop] is a table of its own: write [stop]"),
            ("mount", "destination", "did you mean `target`?"),
            ("config", "destination", "did you mean `target`?"),
            ("", "Restart", "did you mean `restart`?"),
            ("", "volumes", "did you mean [[mount]] with `source` and `target`?"),
            ("", "memory_limit", "did you mean `memory` in [resources]?"),
            ("", "resorces", "did you mean `resources`?"),
            ("process", "rootfss", "did you mean `rootfs` at the top level?"),
            ("process", "resorces", "did you mean [resources]?"),
        ] {
            assert_eq!(suggest(table, key).as_deref(), Some(expected), "{table}.{key}");
        }
        assert_eq!(suggest("", "zebra"), None);
        assert_eq!(suggest("", &"args".repeat(1000)), None);
    }

    #[test]
    fn what_is_designed_but_not_built_is_known() {
        assert!(later("", "image").is_some());
        assert!(later("network", "bridge").is_some());
        assert!(later("process", "image").is_some());
        assert!(later("mount", "exec").is_none(), "`exec` is a key of [reload]");
        assert!(later("", "ports").is_none(), "a synonym says more");
        assert!(later("", "args").is_none());
    }

    #[test]
    fn synonyms_are_squeezed_and_point_at_keys() {
        for (word, cure) in &SYNONYMS {
            assert_eq!(squeeze(word), *word);
            if let Key(table, key) = cure {
                assert!(is_key(table, key), "{word}");
            }
        }
    }
}
