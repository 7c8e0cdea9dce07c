//! What typical mistakes are answered with, word for word.

use std::path::Path;

use super::diagnostic::Diagnostic;
use super::{Parsed, UnitName, parse};

/// A text, and all that is said about it.
const MISTAKES: &[(&str, &str)] = &[
    // an empty file
    (
        r#""#,
        r#"web.toml:1:1 no source, expected exactly one of `bundle`, `rootfs`, `layers`, `executable`, write for example rootfs = "/srv/roots/web" above the first [table]; for a service of the host itself profile = "host" in [security]"#,
    ),
    // a slip in a key
    (
        r#"# the web front
bundle = "/srv/bundles/web"

[process]
  # its program

  comand = ["/bin/web"]
"#,
        r#"web.toml:7:3 unknown key `comand`, did you mean `args`?"#,
    ),
    // two sources
    (
        r#"bundle = "/srv/a"
rootfs = "/srv/b"
process.args = ["/x"]
"#,
        r#"web.toml:2:1 `rootfs` beside `bundle` (line 1), expected exactly one source, keep one of them"#,
    ),
    // numbers out of range and of the wrong type
    (
        r#"rootfs = "/srv/web"
process.args = ["/bin/web"]
[resources]
memory = -5
cpus = "two"
pids = 0
shm = "64MB"
"#,
        r#"web.toml:4:10 `resources.memory` is the integer -5, expected a size like "256M" or a number of bytes
web.toml:5:8 `resources.cpus` is the string "two", expected a number of CPUs from 0.01 to 8192, like 1.5
web.toml:6:8 `resources.pids` is the integer 0, expected a whole number from 1 to 4194304
web.toml:7:7 `resources.shm` is the string "64MB", expected a size like "256M" or a number of bytes, did you mean "64M"?"#,
    ),
    // durations and signals
    (
        r#"rootfs = "/srv/web"
process.args = ["/bin/web"]
[stop]
timeout = "abc"
signal = "SIGTREM"
[restart]
delay = 30
max_delay="1.5s"
"#,
        r#"web.toml:4:11 `stop.timeout` is the string "abc", expected a duration like "250ms" or "1m30s"
web.toml:5:10 `stop.signal` is the string "SIGTREM", expected a signal like "SIGTERM", did you mean "SIGTERM"?
web.toml:7:9 `restart.delay` is the integer 30, expected a duration like "250ms" or "1m30s", did you mean "30s"?
web.toml:8:11 `restart.max_delay` is the string "1.5s", expected a duration like "250ms" or "1m30s", did you mean "1s500ms"?"#,
    ),
    // capabilities, and a filter
    (
        r#"rootfs = "/srv/web"
process.args = ["/bin/web"]
[security]
capabilities = ["NET_BIND", "NET_ADMIM", "ALL"]
seccomp = "of"
"#,
        r#"web.toml:4:17 unknown capability `NET_BIND` in `security.capabilities`, expected a name of capabilities(7), did you mean "NET_BIND_SERVICE"?
web.toml:4:29 unknown capability `NET_ADMIM` in `security.capabilities`, expected a name of capabilities(7), did you mean "NET_ADMIN"?
web.toml:4:42 unknown capability `ALL` in `security.capabilities`, expected a name of capabilities(7), name the ones that are needed
web.toml:5:11 `security.seccomp` is the string "of", expected "default", "unconfined" or the path of a profile like "./web.json""#,
    ),
    // keys that TOML put into the table above them
    (
        r#"rootfs = "/srv/web"
process.args = ["/bin/web"]
[restart]
policy = "no"
enabled = false
memory = "1G"
"#,
        r#"web.toml:4:10 `restart.policy` is the string "no", expected "always", "on-success", "on-failure", "on-abnormal" or "never", did you mean "never"?
web.toml:5:1 unknown key `enabled`, it belongs to the top level, but stands in [restart]: move it above the first [table]
web.toml:6:1 unknown key `memory`, it belongs to [resources]"#,
    ),
    // a command line as one string, a user as a number
    (
        r#"rootfs = "/srv/web"
[process]
args = "/bin/web --port 80"
user = 1000
"#,
        r#"web.toml:3:8 `process.args` is the string "/bin/web --port 80", expected an array of strings, write ["/bin/web", "--port", "80"]
web.toml:4:8 `process.user` is the integer 1000, expected a user like "1000:1000" or "web", write "1000""#,
    ),
    // words of OCI in a mount
    (
        r#"rootfs = "/srv/web"
process.args = ["/bin/web"]
[[mount]]
src = "/srv/d"
destination = "/data"
"#,
        r#"web.toml:4:1 unknown key `src`, did you mean `source`?
web.toml:5:1 unknown key `destination`, did you mean `target`?"#,
    ),
    // what is designed but not built
    (
        r#"rootfs = "/srv/web"
process.args = ["/bin/web"]
depends_on = { db = "healthy" }
image = "nginx"
replicas = 3
[[socket]]
listen = "vsock://2:53"
backlog = 9
[network]
mode = "bridge"
"#,
        r#"web.toml:4:1 `image` is known but not built in this version, unpack it into a directory (docker export … | tar x) and use `rootfs`
web.toml:7:10 `socket.listen` "vsock" is known but not built in this version, tcp://, udp://, unix://, seqpacket:// and unixgram:// are
web.toml:10:8 `network.mode` "bridge" is known but not built in this version, use "none", "host" or "unit:NAME""#,
    ),
    // values without quotes, and the mistakes after them
    (
        r#"rootfs = /srv/web
[process]
args = ["/bin/web" "--x"]
[restart]
policy = always
delay="x"
"#,
        r#"web.toml:1:10 `/srv/web` is not a TOML value, put a string into double quotes
web.toml:3:20 missing comma between array elements, expected `,`
web.toml:5:10 `always` is not a TOML value, put a string into double quotes
web.toml:6:7 `restart.delay` is the string "x", expected a duration like "250ms" or "1m30s""#,
    ),
    // keys and tables that are there twice
    (
        r#"rootfs = "/a"
rootfs = "/b"
[process]
args=["/x"]
[process]
cwd="x"
"#,
        r#"web.toml:2:1 the key `rootfs` is there twice, keep one of them
web.toml:5:2 the key `process` is there twice, keep one of them"#,
    ),
    // single and double brackets
    (
        r#"rootfs = "/srv/web"
process.args = ["/bin/web"]
[mount]
source="/a"
target="/b"
[[restart]]
policy="never"
"#,
        r#"web.toml:3:1 `mount` is a table, expected an array of tables, write [[mount]]
web.toml:6:1 `restart` is an array of tables, expected one table, write [restart] once, with single brackets"#,
    ),
    // targets of mounts
    (
        r#"rootfs = "/srv/web"
process.args = ["/bin/web"]
[[mount]]
source="/a"
target="data"
[[mount]]
source="/a"
target="/proc/x"
[[mount]]
source="/a"
target="/d"
[[mount]]
source="/b"
target="/d/"
[[mount]]
target="/e"
"#,
        r#"web.toml:5:8 `mount.target` is the string "data", expected an absolute path inside the container, write "/data"
web.toml:8:8 `mount.target` is the string "/proc/x", expected another target, /proc is the container's own and stays whole
web.toml:14:8 `mount.target` "/d" is taken by the mount of line 11, one mount for each target
web.toml:15:1 [[mount]] without `source`, or write type = "tmpfs" for an empty one in memory"#,
    ),
    // an executable unit that runs something else
    (
        r#"executable = "/opt/thing"
[process]
args=["--port","80"]
user="web"
"#,
        r#"web.toml:3:6 `process.args` runs `--port`, but the container holds `/thing` alone, write "/thing" first, then its arguments
web.toml:4:6 `process.user` is the string "web", expected numbers like "1000:1000", write numbers: an `executable` unit knows only root and nobody by name"#,
    ),
    // a network shared with itself
    (
        r#"rootfs = "/srv/web"
process.args = ["/bin/web"]
[network]
mode="unit:web"
"#,
        r#"web.toml:4:6 `network.mode` is the string "unit:web", expected another unit than this one"#,
    ),
    // a table's main key for the table
    (
        r#"rootfs = "/srv/web"
process.args = ["/bin/web"]
restart = "always"
network = "host"
"#,
        r#"web.toml:3:11 `restart` is the string "always", expected a table, write restart.policy = "always"
web.toml:4:11 `network` is the string "host", expected a table, write network.mode = "host""#,
    ),
    // a variable's name
    (
        r#"rootfs = "/srv/web"
process.args = ["/bin/web"]
[process.env]
"A=B" = 1
"#,
        r#"web.toml:4:1 `process.env.A=B` is not a variable's name, expected a non-empty one without `=` and NUL"#,
    ),
    // a specifier, and Compose's list of variables
    (
        r#"rootfs="/srv/web"
[process]
args=["/x","%i"]
env = ["A=b"]
"#,
        r#"web.toml:3:12 `process.args[1]` holds the specifier `%i`, but this unit is no instance, name the file NAME@INSTANCE.toml, or write `%%i` for `%i` itself
web.toml:4:7 `process.env` is an array, expected a table of names and values, write { NAME = "value" }"#,
    ),
    // dependencies and conditions
    (
        r#"rootfs = "/srv/web"
process.args = ["/bin/web"]
on_failure = ["web", "a b"]
[depends_on]
web = "started"
db = "service_healthy"
"x y" = "started"
cache = { condition = "started", on_loss = "kill" }
[condition]
path_exists = ["!/etc/flag", ""]
kernel_cmdline = "a b"
[[mount]]
type = "tmpfs"
target = "/x"
require_mountpoint = true
"#,
        r#"web.toml:3:15 `on_failure[0]` is the string "web", expected another unit than this one
web.toml:3:22 `on_failure`: `a b` is not a unit name: expected 1 to 64 of A-Z a-z 0-9 _ - beginning with a letter or digit, and at most one @INSTANCE of the same letters
web.toml:5:1 `depends_on.web` is this unit, expected another one
web.toml:6:6 `depends_on.db` is the string "service_healthy", expected "started", "healthy" or "completed", did you mean "healthy"?
web.toml:7:1 `depends_on`: `x y` is not a unit name: expected 1 to 64 of A-Z a-z 0-9 _ - beginning with a letter or digit, and at most one @INSTANCE of the same letters
web.toml:8:11 unknown key `condition`, did you mean `state`?
web.toml:8:44 `depends_on.cache.on_loss` is the string "kill", expected "keep", "stop" or "restart"
web.toml:10:16 `condition.path_exists[0]` is the string "!/etc/flag", expected a path, that something is absent is no condition in this version
web.toml:10:30 `condition.path_exists[1]` is the string "", expected a path of 1 to 4095 bytes
web.toml:11:18 `condition.kernel_cmdline` is the string "a b", expected a word like "debug" or "role=db"
web.toml:15:1 a tmpfs has no `source` that could be a mount point"#,
    ),
    // health checks
    (
        r#"rootfs = "/srv/web"
process.args = ["/bin/web"]
healthcheck = "x"
[health.startup]
exec = "/bin/check"
[health.readiness]
tcp = "db:80"
retries = 3
[health.liveness]
tcp = "localhost:80"
http = "127.0.0.1:8080"
interval = "1ms"
"#,
        r#"web.toml:3:1 unknown key `healthcheck`, did you mean [health.liveness]?
web.toml:5:8 `health.startup.exec` is the string "/bin/check", expected an array of strings, write ["/bin/check"]
web.toml:7:7 `health.readiness.tcp` is the string "db:80", expected an address like "127.0.0.1:8080", "[::1]:8080" or "localhost:8080", names are not looked up: write an address, or localhost
web.toml:8:1 unknown key `retries`, did you mean `failures`?
web.toml:11:1 `health.liveness.http` beside `tcp`, expected one of `exec`, `http`, `tcp`, `file`, keep one of them, or write another check for `http`
web.toml:12:12 `health.liveness.interval` is the string "1ms", expected at least "10ms""#,
    ),
    // Compose's list of dependencies
    (
        r#"rootfs = "/srv/web"
process.args = ["/bin/web"]
depends_on = ["db"]
condition = "x"
"#,
        r#"web.toml:3:14 `depends_on` is an array, expected a table of units, write depends_on = { db = "started" }
web.toml:4:13 `condition` is the string "x", expected a table"#,
    ),
    // the wrong types, and what is not to be set, in [oci]
    (
        r#"rootfs = "/srv/web"
process.args = ["/bin/web"]
[oci]
linux.resources.memory.limit = "1G"
process.terminal = true
process.rlimits=[{type="RLIMIT_NOFILE", hard="x", soft=1}]
linux.cgroupsPath="/x"
"#,
        r#"web.toml:4:32 `oci.linux.resources.memory.limit`: invalid type: string "1G", expected i64
web.toml:5:20 `oci.process.terminal` cannot be set, it is a key of a unit's own: `terminal` in [process]
web.toml:6:46 `oci.process.rlimits[0].hard`: invalid type: string "x", expected u64
web.toml:7:19 `oci.linux.cgroupsPath` cannot be set, a unit's cgroup is placed by the supervisor: see --cgroup-root"#,
    ),
    // a rootfs and nothing to run
    (
        r#"rootfs = "/srv/web"
"#,
        r#"web.toml:1:1 nothing to run: a `rootfs` unit needs `args` in [process], write [process] and args = ["/bin/web"] below"#,
    ),
    // an unclosed string and an unclosed header
    (
        r#"rootfs = "/srv/web
[process
args = ["/bin/web"]
"#,
        r#"web.toml:1:19 invalid basic string, expected `"`, close the string on its line
web.toml:2:9 unclosed table, expected `]`"#,
    ),
    // half a limit
    (
        r#"rootfs = "/srv/web"
process.args = ["/bin/web"]
[restart]
limit = { burst = 5 }
on_limit="reboot"
"#,
        r#"web.toml:4:1 `restart.limit` has no `interval`, expected both, write limit = { burst = 5, interval = "1m" }"#,
    ),
    // YAML
    (
        r#"rootfs: /srv/web
process:
  args: [a]
"#,
        r#"web.toml:1:9 key with no value, expected `=`, TOML is written key = value
web.toml:2:9 key with no value, expected `=`, TOML is written key = value
web.toml:3:9 key with no value, expected `=`, TOML is written key = value"#,
    ),
    // JSON
    (r#"{"rootfs": "/x"}"#, r#"web.toml:1:1 invalid key-value pair, expected key"#),
    // a systemd unit
    (
        r#"[Service]
ExecStart=/bin/web
Restart=always
"#,
        r#"web.toml:1:2 unknown key `Service`, did you mean [process]?
web.toml:2:11 `/bin/web` is not a TOML value, put a string into double quotes
web.toml:3:9 `always` is not a TOML value, put a string into double quotes"#,
    ),
    // megabytes without a unit
    (
        r#"rootfs = "/srv/web"
process.args = ["/bin/web"]
[resources]
memory = 256
"#,
        r#"web.toml:4:10 `resources.memory` is the integer 256, expected at least "1M", did you mean "256M"? A bare number is bytes"#,
    ),
    // a user that does not exist, a relative directory
    (
        r#"rootfs = "/srv/web"
process.args = ["/bin/web"]
process.user="4294967295"
process.cwd="srv"
"#,
        r#"web.toml:3:14 `process.user` is the string "4294967295", expected a user like "1000:1000" or "web", numbers go up to 4294967294
web.toml:4:13 `process.cwd` is the string "srv", expected an absolute path inside the container, write "/srv""#,
    ),
    // a path for a shell
    (
        r#"rootfs="~/web"
"#,
        r#"web.toml:1:8 `rootfs` is the string "~/web", expected a path, write the path out: `~` and variables are not expanded, `./` in front takes them literally"#,
    ),
    // devices
    (
        r#"rootfs = "/srv/web"
process.args = ["/bin/web"]
[[device]]
path="ttyUSB0"
[[device]]
path="/etc/x"
[[device]]
"#,
        r#"web.toml:4:6 `device.path` is the string "ttyUSB0", expected a path like "/dev/ttyUSB0"
web.toml:6:6 `device.path` is the string "/etc/x", expected a path like "/dev/ttyUSB0"
web.toml:7:1 [[device]] without `path`, write path = "/dev/…""#,
    ),
    // a relative path without quotes
    (
        r#"rootfs = ../web
"#,
        r#"web.toml:1:10 `../web` is not a TOML value, put a string into double quotes"#,
    ),
    // an unclosed array
    (
        r#"rootfs = "/srv/web"
[process]
args = ["/bin/web",
env = { A = 1 }
[stop]
timeout = 5
"#,
        r#"web.toml:4:5 unexpected `=` in array, expected value, `]`
web.toml:5:1 missing comma between array elements, expected `,`
web.toml:6:1 missing comma between array elements, expected `,`"#,
    ),
    // typographic quotes
    (
        r#"rootfs = “/srv/web”
"#,
        r#"web.toml:1:10 `“/srv/web”` is not a TOML value, put a string into double quotes"#,
    ),
    // words for the wrong type
    (
        r#"rootfs = "/srv/web"
process.args = ["/bin/web"]
enabled = "yes"
type="daemon"
hostname="my host"
"#,
        r#"web.toml:3:11 `enabled` is the string "yes", expected true or false, write true, without quotes
web.toml:4:6 `type` is the string "daemon", expected "service" or "oneshot", did you mean "service"?
web.toml:5:10 `hostname` is the string "my host", expected 1 to 64 of A-Z a-z 0-9 - _ ."#,
    ),
];

pub(super) fn read(text: &str) -> Result<Parsed, Vec<Diagnostic>> {
    parse(&UnitName::new("web").unwrap(), Path::new("web.toml"), text)
}

/// The answers to a text, one line each.
fn answers(text: &str) -> String {
    let lines = |errors: Vec<Diagnostic>| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    read(text).map_or_else(lines, |_| String::new())
}

#[test]
fn typical_mistakes_are_answered_with_what_was_found_what_was_expected_and_the_cure() {
    for (text, expected) in MISTAKES {
        assert_eq!(answers(text), *expected, "\n{text}");
    }
}

#[test]
fn a_file_that_is_too_large_is_not_looked_at() {
    let text = "#".repeat(1024 * 1024 + 1);
    assert_eq!(answers(&text), "web.toml:1:1 the file has 1048577 bytes, expected at most 1048576 (1M)");
}

#[test]
fn a_flood_of_mistakes_is_counted() {
    let text = (0..300).map(|n| format!("zzz{n} = 1\n")).collect::<String>();
    let errors = read(&text).unwrap_err();
    assert_eq!(errors.len(), 102, "100, no source, and the rest in one");
    assert_eq!(errors.last().unwrap().message, "and 200 more mistakes");
}

#[test]
fn a_specifier_that_stands_for_nothing_is_placed() {
    let text = "rootfs = \"/srv/%i\"\nhostname = \"%H\"\n[process]\nargs = [\"/bin/date\", \"+%s\"]\n";
    let expected = "web.toml:1:10 `rootfs` holds the specifier `%i`, but this unit is no instance, name the file NAME@INSTANCE.toml, \
        or write `%%i` for `%i` itself\n\
        web.toml:2:12 `hostname` holds the unknown specifier `%H`, expected `%n`, `%p`, `%i`, `%h` or `%%`, write `%%H` for `%H` itself\n\
        web.toml:4:22 `process.args[1]` holds the unknown specifier `%s`, expected `%n`, `%p`, `%i`, `%h` or `%%`, write `%%s` for `%s` itself";
    assert_eq!(answers(text), expected);
}

#[test]
fn text_that_is_not_utf_8_is_placed() {
    let error = super::text_of(Path::new("web.toml"), b"a = 1\n\xc3\xa4 = \xff\n").unwrap_err();
    assert_eq!(error.to_string(), "web.toml:2:5 a byte that is not UTF-8, save the file as UTF-8");
}
