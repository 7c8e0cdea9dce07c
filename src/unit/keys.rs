//! Every key of a unit file as data: what it takes, its default, and whether a change of it takes a new container. `moored schema` and the
//! README's table are made from it; tests hold it against what the parser takes and what a change does.

/// What a change of a key does to a container that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It runs on.
    Live,
    /// It is replaced.
    Replace,
}

/// What a key takes.
enum Kind {
    Text,
    Flag,
    Path,
    Duration,
    Size {
        least: u64,
    },
    Whole {
        most: u64,
    },
    /// The same, and 0.
    Count {
        most: u64,
    },
    Number {
        least: f64,
        most: f64,
    },
    Word(&'static [&'static str]),
    Pattern(&'static str),
    Signal,
    Args,
    Env,
    Capabilities,
    /// One string or several.
    Texts,
    /// Several directories of the host's.
    Paths,
    /// Strings that match, each once.
    List(&'static str),
    /// Units with a state each, or a table.
    Dependencies,
    Object,
}

/// One key.
struct Key {
    /// With its tables: `restart.limit.burst`; `mount[].target` where there may be several.
    name: &'static str,
    kind: Kind,
    /// For people; where it differs between kinds of units, both.
    default: &'static str,
    class: Class,
    /// A value in TOML that is not the default.
    example: &'static str,
    about: &'static str,
}

use Class::{Live, Replace};

const fn key(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    class: Class,
    example: &'static str,
    about: &'static str,
) -> Key {
    Key { name, kind, default, class, example, about }
}

const PAGE: u64 = 4096;
/// How the keys of one dependency are named: the star is a unit's name.
const OF_DEPENDENCY: &str = "depends_on.*.";
/// And those of one hook: the star is `pre_start`, `post_start`, `pre_stop` or `post_stop`.
const OF_HOOK: &str = "hooks.*.";
/// And those of one check: the star is `startup`, `readiness` or `liveness`.
const OF_CHECK: &str = "health.*.";
const STATES: &[&str] = &["started", "healthy", "completed"];

const KEYS: &[Key] = &[
    key("description", Kind::Text, "", Live, "\"Public web front\"", "Free text for people."),
    key(
        "hostname",
        Kind::Pattern("^(%n|[A-Za-z0-9._-]{1,64})$"),
        "the unit's name",
        Replace,
        "\"front\"",
        "The container's host name.",
    ),
    key("enabled", Kind::Flag, "true", Live, "false", "Whether it runs without being started by hand."),
    key(
        "type",
        Kind::Word(&["service", "oneshot"]),
        "service",
        Live,
        "\"oneshot\"",
        "Whether it stays up or completes.",
    ),
    key(
        "instances",
        Kind::List("^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"),
        "[]",
        Live,
        "[\"a\", \"b\"]",
        "In a template NAME@.toml alone: the units NAME@a, NAME@b. A change adds and removes units, and changes none.",
    ),
    key(
        "replicas",
        Kind::Count { most: 1000 },
        "no number: one container",
        Live,
        "3",
        "As many containers of it, NAME@1, NAME@2 and so on. A change adds and removes some, and changes none; not in a template.",
    ),
    key(
        "bundle",
        Kind::Path,
        "",
        Replace,
        "\"/srv/bundles/web\"",
        "A directory with a config.json. Exactly one of bundle, rootfs, layers, executable.",
    ),
    key("rootfs", Kind::Path, "", Replace, "\"/srv/web\"", "A directory that becomes the container's root."),
    key(
        "layers",
        Kind::Paths,
        "",
        Replace,
        "[\"/srv/base\", \"/srv/app\"]",
        "Or directories whose union becomes the root, the lowest first; they are never written.",
    ),
    key("overlay", Kind::Flag, "false", Replace, "true", "Beside rootfs: it is the one layer."),
    key(
        "executable",
        Kind::Path,
        "",
        Replace,
        "\"/usr/local/bin/thing\"",
        "One static executable, alone in a root made around it.",
    ),
    key(
        "depends_on",
        Kind::Dependencies,
        "{}",
        Live,
        "{ db = \"started\" }",
        "Units that it waits for: started, healthy, completed, or a table of these:",
    ),
    key(
        "depends_on.*.state",
        Kind::Word(STATES),
        "started",
        Live,
        "\"completed\"",
        "What the other one is to have come to.",
    ),
    key("depends_on.*.optional", Kind::Flag, "false", Live, "true", "Waited for only while it is on its way."),
    key(
        "depends_on.*.on_loss",
        Kind::Word(&["keep", "stop", "restart"]),
        "keep",
        Live,
        "\"restart\"",
        "What happens to this one when the other one is lost.",
    ),
    key(
        "on_failure",
        Kind::Texts,
        "[]",
        Live,
        "[\"alert\"]",
        "Units started, once, when this one gives up or fails for good.",
    ),
    key("condition.path_exists", Kind::Texts, "[]", Live, "\"/dev/ttyUSB0\"", "Holds a start until it is there."),
    key(
        "condition.kernel_cmdline",
        Kind::Texts,
        "[]",
        Live,
        "\"role=db\"",
        "Holds a start unless the kernel was given this word.",
    ),
    key(
        "upper.persist",
        Kind::Flag,
        "false",
        Replace,
        "true",
        "Above layers: whether what the container writes is kept for the next one.",
    ),
    key(
        "upper.size",
        Kind::Size { least: PAGE },
        "64M",
        Replace,
        "\"256M\"",
        "If not: most that it writes, in memory of its own.",
    ),
    key(
        "upper.on_change",
        Kind::Word(&["refuse", "keep"]),
        "refuse",
        Live,
        "\"keep\"",
        "Whether what was kept is laid onto other layers than those it was made on.",
    ),
    key(
        "process.args",
        Kind::Args,
        "the executable",
        Replace,
        "[\"/bin/web\", \"8080\"]",
        "The program and its arguments.",
    ),
    key(
        "process.env",
        Kind::Env,
        "{}",
        Replace,
        "{ PORT = 8080 }",
        "Environment; numbers and booleans become strings.",
    ),
    key(
        "process.env_file",
        Kind::Texts,
        "[]",
        Replace,
        "[\"web.env\", \"-/etc/default/web\"]",
        "Files of NAME=VALUE lines; a leading - makes one optional.",
    ),
    key(
        "process.user",
        Kind::Text,
        "root",
        Replace,
        "\"1000:1000\"",
        "USER[:GROUP], numbers or names of the root's own.",
    ),
    key("process.cwd", Kind::Path, "/", Replace, "\"/srv\"", "Working directory."),
    key(
        "process.init",
        Kind::Flag,
        "false",
        Replace,
        "true",
        "A small init as process 1, which reaps and forwards signals.",
    ),
    key(
        "process.terminal",
        Kind::Flag,
        "false",
        Replace,
        "true",
        "A terminal of its own, which `moored attach` joins.",
    ),
    key(
        "process.notify",
        Kind::Word(&["none", "systemd"]),
        "none",
        Replace,
        "\"systemd\"",
        "Whether it says by sd_notify(3) when it is ready.",
    ),
    key(
        "process.watchdog",
        Kind::Duration,
        "no watchdog",
        Replace,
        "\"30s\"",
        "Restarted unless it says WATCHDOG=1 this often.",
    ),
    key(
        "restart.policy",
        Kind::Word(&["always", "on-success", "on-failure", "on-abnormal", "never"]),
        "always; oneshot: never",
        Live,
        "\"on-failure\"",
        "After which ends it is started again.",
    ),
    key(
        "restart.delay",
        Kind::Duration,
        "100ms",
        Live,
        "\"1s\"",
        "Before the second restart in a row; doubled each time.",
    ),
    key("restart.max_delay", Kind::Duration, "60s", Live, "\"2m\"", "The longest delay."),
    key(
        "restart.reset_after",
        Kind::Duration,
        "60s",
        Live,
        "\"10s\"",
        "A run of this length, once it is ready, starts the delays anew.",
    ),
    key("restart.limit.burst", Kind::Whole { most: 1000 }, "no limit", Live, "5", "So many starts …"),
    key("restart.limit.interval", Kind::Duration, "no limit", Live, "\"1m\"", "… in this time, then it stays failed."),
    key(
        "restart.on_limit",
        Kind::Word(&["stay-failed", "reboot"]),
        "stay-failed",
        Live,
        "\"reboot\"",
        "What happens at the limit.",
    ),
    key("stop.signal", Kind::Signal, "SIGTERM", Live, "\"SIGINT\"", "How it is asked to stop."),
    key("stop.timeout", Kind::Duration, "30s", Live, "\"5s\"", "Then all of it is killed."),
    key("reload.signal", Kind::Signal, "SIGHUP", Live, "\"SIGUSR1\"", "What `moored reload` sends."),
    key("reload.exec", Kind::Args, "", Live, "[\"/bin/web\", \"reload\"]", "Or what it runs inside instead."),
    key(
        "schedule.calendar",
        Kind::Text,
        "",
        Live,
        "\"Mon..Fri 02:30\"",
        "When it runs, in systemd's form; a unit with a schedule is a oneshot.",
    ),
    key(
        "schedule.time_zone",
        Kind::Pattern("^[A-Za-z0-9+_-]+(/[A-Za-z0-9+_-]+)*$"),
        "the host's",
        Live,
        "\"Europe/Berlin\"",
        "Whose time that is.",
    ),
    key(
        "schedule.persistent",
        Kind::Flag,
        "false",
        Live,
        "true",
        "Whether one run makes up for those missed while the host was off.",
    ),
    key("schedule.random_delay", Kind::Duration, "0s", Live, "\"10m\"", "Each run begins up to so much later."),
    key(
        "schedule.max_runtime",
        Kind::Duration,
        "no limit",
        Live,
        "\"1h\"",
        "A run that takes longer is stopped, and has failed.",
    ),
    key(
        "schedule.wait_for_clock",
        Kind::Flag,
        "true",
        Live,
        "false",
        "Whether a host without a clock of its own waits until somebody has set it.",
    ),
    key(
        "hooks.*.exec",
        Kind::Args,
        "",
        Replace,
        "[\"/bin/web\", \"drain\"]",
        "A program that runs at this point: pre_start, post_start, pre_stop, post_stop.",
    ),
    key("hooks.*.timeout", Kind::Duration, "30s", Replace, "\"5m\"", "Then it is killed, and has failed."),
    key(
        "hooks.*.on",
        Kind::Word(&["container", "host"]),
        "container",
        Replace,
        "\"host\"",
        "Where: as the container's own process, or as root on the host.",
    ),
    key("health.*.exec", Kind::Args, "", Live, "[\"/bin/web\", \"check\"]", "A program inside; code 0 is well."),
    key(
        "health.*.http",
        Kind::Pattern("^http://"),
        "",
        Live,
        "\"http://localhost:8080/ready\"",
        "Or a GET; 200 to 399 is well.",
    ),
    key("health.*.tcp", Kind::Pattern(":[0-9]+$"), "", Live, "\"127.0.0.1:8080\"", "Or a connection."),
    key("health.*.file", Kind::Path, "", Live, "\"/run/beat\"", "Or a file inside …"),
    key("health.*.max_age", Kind::Duration, "any age", Live, "\"30s\"", "… changed no longer ago than this."),
    key(
        "health.*.from",
        Kind::Word(&["container", "host"]),
        "container",
        Live,
        "\"host\"",
        "Whose network a GET or a connection starts in.",
    ),
    key("health.*.interval", Kind::Duration, "10s; startup: 250ms", Live, "\"2s\"", "From one probe to the next."),
    key("health.*.timeout", Kind::Duration, "5s", Live, "\"1s\"", "A probe that takes longer has failed."),
    key(
        "health.*.failures",
        Kind::Whole { most: 1_000_000 },
        "3; startup: 1200",
        Live,
        "5",
        "So many in a row are a verdict.",
    ),
    key("health.*.successes", Kind::Whole { most: 1_000_000 }, "1", Live, "2", "So many passes in a row take it back."),
    key(
        "update.order",
        Kind::Word(&["stop-first", "start-first"]),
        "stop-first",
        Live,
        "\"start-first\"",
        "When a change needs a new container: the old one stops first, or runs on until the new one has done well.",
    ),
    key(
        "update.min_healthy",
        Kind::Duration,
        "10s",
        Live,
        "\"30s\"",
        "A new text has done well when it was well for this long.",
    ),
    key("update.deadline", Kind::Duration, "5m", Live, "\"10m\"", "It is bad when it is not well by then."),
    key(
        "update.on_bad",
        Kind::Word(&["rollback", "stay-failed", "retry"]),
        "rollback; retry where it can write to a root or a bind mount",
        Live,
        "\"stay-failed\"",
        "What happens to a bad one.",
    ),
    key("resources.memory", Kind::Size { least: 1 << 20 }, "no limit", Live, "\"64M\"", "Memory."),
    key("resources.cpus", Kind::Number { least: 0.01, most: 8192.0 }, "no limit", Live, "1.5", "CPU time, in CPUs."),
    key(
        "resources.pids",
        Kind::Whole { most: 1 << 22 },
        "2048; bundle: config.json's; profile: no limit",
        Live,
        "100",
        "Processes and threads.",
    ),
    key(
        "resources.shm",
        Kind::Size { least: PAGE },
        "64M; bundle: config.json's",
        Replace,
        "\"16M\"",
        "Size of /dev/shm.",
    ),
    key(
        "network.mode",
        Kind::Pattern("^(none|host|unit:[A-Za-z0-9][A-Za-z0-9_@-]*)$"),
        "none; bundle: config.json's",
        Replace,
        "\"host\"",
        "A network of its own with loopback alone, the host's, or another unit's.",
    ),
    key("mount[].target", Kind::Path, "", Replace, "\"/data\"", "Where inside."),
    key("mount[].type", Kind::Word(&["bind", "tmpfs"]), "bind", Replace, "\"tmpfs\"", "What is mounted."),
    key("mount[].source", Kind::Path, "", Replace, "\"/srv/data\"", "Of a bind mount: what of the host."),
    key("mount[].read_only", Kind::Flag, "true; tmpfs: false", Replace, "false", "Whether it can be written to."),
    key(
        "mount[].idmap",
        Kind::Flag,
        "true beside userns = \"auto\"",
        Replace,
        "false",
        "Of a bind beside userns = \"auto\": whether its files have inside the owners that they have outside.",
    ),
    key(
        "mount[].require_mountpoint",
        Kind::Flag,
        "false",
        Live,
        "true",
        "Holds a start until something is mounted at the source.",
    ),
    key("mount[].size", Kind::Size { least: PAGE }, "half of the memory", Replace, "\"16M\"", "Of a tmpfs."),
    key("config[].source", Kind::Path, "", Live, "\"/etc/web/b.conf\"", "A file of the host's, whose contents it has."),
    key("config[].target", Kind::Path, "", Replace, "\"/app.conf\"", "Where inside."),
    key("config[].mode", Kind::Pattern("^0?[0-7]{3}$"), "0444", Replace, "\"0640\"", "Its permissions inside."),
    key(
        "config[].on_change",
        Kind::Word(&["restart", "reload", "none"]),
        "restart",
        Replace,
        "\"reload\"",
        "What a change of the contents does.",
    ),
    key("secret[].source", Kind::Path, "", Live, "\"/etc/web/b.pem\"", "As of a config, for the process's user alone."),
    key("secret[].target", Kind::Path, "", Replace, "\"/tls/key.pem\"", "Where inside."),
    key("secret[].mode", Kind::Pattern("^0?[0-7]{2}0$"), "0400", Replace, "\"0440\"", "Its permissions inside."),
    key(
        "secret[].on_change",
        Kind::Word(&["restart", "reload", "none"]),
        "restart",
        Replace,
        "\"reload\"",
        "What a change of the contents does.",
    ),
    key(
        "device[].path",
        Kind::Pattern("^/dev/."),
        "",
        Replace,
        "\"/dev/ttyUSB0\"",
        "A device node of the host's, made and allowed inside.",
    ),
    key(
        "socket[].listen",
        Kind::Pattern("^(tcp|udp|unix|seqpacket|unixgram)://."),
        "",
        Replace,
        "\"tcp://0.0.0.0:8080\"",
        "Where somebody listens for it, in the host's network: tcp://ADDRESS:PORT, udp://ADDRESS:PORT, unix:///PATH, seqpacket:///PATH or unixgram:///PATH. Passed as LISTEN_FDS.",
    ),
    key("socket[].name", Kind::Text, "the unit's name", Replace, "\"http\"", "What LISTEN_FDNAMES calls it."),
    key(
        "socket[].backlog",
        Kind::Whole { most: 65_535 },
        "65535",
        Replace,
        "128",
        "Connections that wait to be accepted; net.core.somaxconn bounds it.",
    ),
    key("socket[].mode", Kind::Pattern("^0?[0-7]{3}$"), "0666", Replace, "\"0660\"", "Permissions of its path."),
    key("socket[].user", Kind::Text, "root", Replace, "\"www-data\"", "Whose its path is: a user of the host's."),
    key("socket[].group", Kind::Text, "the user's", Replace, "\"www-data\"", "The group of its path."),
    key(
        "socket[].reuse_port",
        Kind::Flag,
        "false",
        Replace,
        "true",
        "Programs that moored does not run may listen at the address too (SO_REUSEPORT).",
    ),
    key("socket[].free_bind", Kind::Flag, "false", Replace, "true", "The address need not be there yet (IP_FREEBIND)."),
    key("log.max_size", Kind::Size { least: PAGE }, "10M", Live, "\"1M\"", "Of one file; then the next is begun."),
    key("log.max_files", Kind::Whole { most: 1000 }, "5", Live, "2", "Files kept."),
    key(
        "security.profile",
        Kind::Word(&["host"]),
        "",
        Replace,
        "\"host\"",
        "Instead of a source: a service of the host's, with its root, namespaces, devices and rights.",
    ),
    key(
        "security.capabilities",
        Kind::Capabilities,
        "none; bundle: config.json's; profile: all",
        Replace,
        "[\"NET_BIND_SERVICE\"]",
        "Names of capabilities, or \"docker\" for Docker's list.",
    ),
    key(
        "security.no_new_privileges",
        Kind::Flag,
        "true; bundle: config.json's; profile: false",
        Replace,
        "false",
        "No more rights by set-user-id programs.",
    ),
    key(
        "security.seccomp",
        Kind::Path,
        "default; bundle: config.json's; profile: unconfined",
        Replace,
        "\"unconfined\"",
        "The system call filter: \"default\", \"unconfined\", or a file with one, OCI's or Docker's. Its contents are part of it.",
    ),
    key(
        "security.userns",
        Kind::Word(&["host", "auto"]),
        "host; bundle: config.json's",
        Replace,
        "\"auto\"",
        "Whose ids its processes have: the host's, or 65,536 of its own.",
    ),
    key(
        "security.read_only",
        Kind::Flag,
        "true; bundle: config.json's",
        Replace,
        "false",
        "Whether the root is read-only.",
    ),
    key("oci", Kind::Object, "{}", Replace, "{ process.umask = 63 }", "Merged into config.json as it is."),
];

fn class(class: Class) -> &'static str {
    match class {
        Class::Live => "live",
        Class::Replace => "replace",
    }
}

/// The test that changes each key and looks at what that does.
const CLASS_TEST: &str = "each_key_has_the_class_that_the_table_says";

/// Keys that it leaves out, and what is to be said of them instead.
const NOT_IN_CLASS_TEST: [(&str, &str); 1] =
    [("instances", "is no setting of a unit: the test `it_stands_in_templates_alone_and_is_no_setting` shows that")];

/// The same in Markdown: which test shows the classes, then a row for each key.
pub fn markdown_table() -> String {
    let others: Vec<String> = NOT_IN_CLASS_TEST.iter().map(|(key, why)| format!("`{key}` {why}")).collect();
    let mut table = format!(
        "The class of each key is shown by the test `{CLASS_TEST}`, which changes it and compares settings and containers; {}.\n\n",
        others.join(", ")
    );
    table.push_str("| key | default | a change is | |\n|---|---|---|---|\n");
    for key in KEYS {
        let (name, default, class) = (key.name, key.default, class(key.class));
        let default = if default.is_empty() { "–" } else { default };
        table.push_str(&format!("| `{name}` | {default} | {class} | {} Like `{}`. |\n", key.about, key.example));
    }
    table
}

mod json;
#[cfg(test)]
mod tests;

pub use json::{SchemaOf, json_schema};
