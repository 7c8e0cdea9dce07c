//! `moored schema` in a validator of somebody else's (`jsonschema` from PyPI).

use std::io::Write;
use std::process::{Command, Stdio};

use super::support::{TempDir, skip};

const PACKAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/python");
const VALIDATE: &str = include_str!("schema/validate.py");
const WHOLE: &str = include_str!("../../src/unit/whole.toml");

/// Of a unit file: what is below a valid beginning, and what the validator says of it: the key, and what it has against it.
const MISTAKES: [(&str, &str); 25] = [
    ("[process]\ncomand = [\"/x\"]", "process: 'comand' does not match any"),
    ("[proces]\ncwd = \"/\"", "'proces' does not match any"),
    ("enable = false", "'enable' does not match any"),
    ("enabled = \"yes\"", "enabled: 'yes' is not of type 'boolean'"),
    ("type = \"daemon\"", "type: 'daemon' is not one of"),
    ("hostname = \"a b\"", "hostname: 'a b' does not match"),
    ("rootfs = \"/srv/x\"", "is valid under each of"),
    ("[process]\nargs = \"/bin/web\"", "process.args: '/bin/web' is not of type 'array'"),
    ("[process]\nargs = []", "process.args: [] should be non-empty"),
    ("[process]\nenv = [\"A=1\"]", "process.env: ['A=1'] is not of type 'object'"),
    ("[process]\nenv = { A = [1] }", "process.env.A: [1] is not of type"),
    ("[restart]\npolicy = \"unless-stopped\"", "restart.policy: 'unless-stopped' is not one of"),
    ("[restart]\ndelay = 5", "restart.delay: 5 is not of type 'string'"),
    ("[restart]\nlimit = { burst = 5 }", "restart.limit: 'interval' is a required property"),
    ("[stop]\ntimeout = \"abc\"", "stop.timeout: 'abc' does not match"),
    ("[stop]\nsignal = \"SIGFOO\"", "stop.signal: 'SIGFOO' is not valid under any of"),
    ("[resources]\nmemory = \"256MB\"", "resources.memory: '256MB' is not valid under any of"),
    ("[resources]\nmemory = -1", "resources.memory: -1 is not valid under any of"),
    ("[network]\nmode = \"bridge\"", "network.mode: 'bridge' does not match"),
    ("[[mount]]\nsource = \"/x\"\ndestination = \"/y\"", "mount.0: 'destination' does not match any"),
    ("[security]\ncapabilities = [\"NET_ADMIM\"]", "security.capabilities: ['NET_ADMIM'] is not valid under any of"),
    ("[[device]]\npath = \"ttyS0\"", "device.0.path: 'ttyS0' does not match"),
    ("instances = [\"a b\"]", "instances.0: 'a b' does not match"),
    ("instances = [\"a\", \"a\"]", "instances: ['a', 'a'] has non-unique elements"),
    ("unset = [\"resources.memory\"]", "'unset' does not match any"),
];

/// Drop-ins: nothing is required but what names a table of an array.
const DROP_INS: [&str; 6] = [
    "",
    "x-mine = 1\nunset = [\"resources.memory\", \"mount./cache\"]\nprocess.env.LEVEL = \"debug\"",
    "[[mount]]\nsource = \"/x\"\ntarget = \"/data\"\n[[config]]\nsource = \"/x\"\ntarget = \"/app.conf\"",
    "rootfs = \"/srv/other\"",
    "restart.delay = \"3s\"\nprocess.user = \"5\"\ndepends_on.db.optional = true",
    "[health.liveness]\ntcp = \"localhost:1\"\n[reload]\nexec = [\"/x\"]",
];

/// The same, where what is missing comes from the unit that they are merged over.
const HALF_DROP_INS: [&str; 3] = [
    "[[mount]]\ntarget = \"/data\"\nread_only = false\n[[config]]\ntarget = \"/app.conf\"\non_change = \"reload\"",
    "restart.limit.burst = 3\nprocess.watchdog = \"5s\"",
    "health.liveness.interval = \"5s\"",
];

/// And what is wrong in one.
const DROP_IN_MISTAKES: [(&str, &str); 20] = [
    ("[process]\ncomand = [\"/x\"]", "process: 'comand' does not match any"),
    ("instances = [\"a\"]", "'instances' does not match any"),
    ("unset = \"resources.memory\"", "unset: 'resources.memory' is not of type 'array'"),
    ("unset = [\"\"]", "unset.0: '' should be non-empty"),
    ("unset = [\"instances\"]", "unset.0: 'instances' should not be valid under"),
    ("unset = [1]", "unset.0: 1 is not of type 'string'"),
    ("[process]\nunset = [\"args\"]", "process: 'unset' does not match any"),
    ("bundle = \"/b\"\nrootfs = \"/r\"", "should not be valid under"),
    ("[[mount]]\nsource = 1\ntarget = \"/x\"", "mount.0.source: 1 is not of type 'string'"),
    ("[[config]]\ntarget = \"/x\"\non_change = \"hup\"", "config.0.on_change: 'hup' is not one of"),
    ("[[device]]\npath = \"ttyS0\"", "device.0.path: 'ttyS0' does not match"),
    ("[mount]\ntarget = \"/data\"", "is not of type 'array'"),
    ("[health.liveness]\ntcp = \"localhost:1\"\nfile = \"/x\"", "health.liveness: {"),
    ("[health]\ninterval = \"5s\"", "health: 'interval' does not match any"),
    ("[reload]\nsignal = \"HUP\"\nexec = [\"/x\"]", "reload: {"),
    ("[resources]\nmemory = \"256MB\"", "resources.memory: '256MB' is not valid under any of"),
    ("[restart]\npolicy = \"no\"", "restart.policy: 'no' is not one of"),
    ("process.env = [\"A=1\"]", "process.env: ['A=1'] is not of type 'object'"),
    ("depends_on = [\"db\"]", "depends_on: ['db'] is not of type 'object'"),
    ("depends_on.db.on_loss = \"die\"", "depends_on.db: "),
];

/// moored.toml.
const CONFIGS: [&str; 4] = [
    "",
    "[defaults]",
    "x-mine = 1\n[defaults]\nx-too = 1\nprocess = { env = { TZ = \"UTC\" }, user = \"1000\", init = true }\nresources.memory = \"1G\"",
    "[defaults]\nrestart.limit.burst = 3\nstop.timeout = \"5s\"\nreload.signal = \"HUP\"\nupdate.on_bad = \"retry\"\n\
     network.mode = \"host\"\nlog.max_files = 2\nsecurity.read_only = false",
];

/// And what is wrong in one.
const CONFIG_MISTAKES: [(&str, &str); 20] = [
    ("[default]\nlog.max_files = 2", "'default' does not match any"),
    ("[stop]\ntimeout = \"5s\"", "'stop' does not match any"),
    ("defaults = 1", "defaults: 1 is not of type 'object'"),
    ("[[defaults]]\nlog.max_files = 2", "is not of type 'object'"),
    ("[defaults]\nrootfs = \"/srv/web\"", "defaults: 'rootfs' does not match any"),
    ("[defaults]\ndescription = \"web\"", "defaults: 'description' does not match any"),
    ("[defaults]\ndepends_on = { db = \"started\" }", "defaults: 'depends_on' does not match any"),
    ("[defaults]\nunset = [\"log\"]", "defaults: 'unset' does not match any"),
    ("[defaults]\ninstances = [\"a\"]", "defaults: 'instances' does not match any"),
    ("[[defaults.mount]]\ntarget = \"/data\"", "defaults: 'mount' does not match any"),
    ("[defaults.health.liveness]\ntcp = \"localhost:1\"", "defaults: 'health' does not match any"),
    ("[defaults.process]\nargs = [\"/x\"]", "defaults.process: 'args' does not match any"),
    ("[defaults.process]\nenv_file = \"x\"", "defaults.process: 'env_file' does not match any"),
    ("[defaults.process]\ncwd = \"/\"", "defaults.process: 'cwd' does not match any"),
    ("[defaults.log]\nmax_file = 2", "defaults.log: 'max_file' does not match any"),
    ("[defaults.log]\nmax_files = 0", "defaults.log.max_files: 0 is less than the minimum"),
    ("[defaults.stop]\ntimeout = 5", "defaults.stop.timeout: 5 is not of type 'string'"),
    ("[defaults.reload]\nsignal = \"HUP\"\nexec = [\"/x\"]", "defaults.reload: {"),
    ("[defaults.security]\ncapabilities = \"all\"", "defaults.security.capabilities: 'all' is not valid under any of"),
    ("[defaults.restart]\npolicy = \"sometimes\"", "defaults.restart.policy: 'sometimes' is not one of"),
];

fn python(script: &str) -> Command {
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", PACKAGES).args(["-c", script]);
    command
}

/// What the validator has against each text, by the schema that `moored schema OF` prints; `None` if it is not there.
fn found(of: &str, texts: &[String]) -> Option<Vec<Vec<String>>> {
    if !python("import jsonschema, tomllib").stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        skip("no jsonschema for python3 in target/python: tests/run puts it there");
        return None;
    }
    let dir = TempDir::new("schema");
    let schema = Command::new(env!("CARGO_BIN_EXE_moored")).args(["schema", of]).output().unwrap();
    assert!(schema.status.success());
    std::fs::write(dir.join("schema.json"), schema.stdout).unwrap();
    let mut validator =
        python(VALIDATE).arg(dir.join("schema.json")).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    validator.stdin.take().unwrap().write_all(serde_json::to_string(texts).unwrap().as_bytes()).unwrap();
    let output = validator.wait_with_output().unwrap();
    assert!(output.status.success());
    let found: Vec<Vec<String>> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found.len(), texts.len());
    Some(found)
}

/// Nothing is wrong with the valid texts, and each mistake is found at its key.
fn holds(of: &str, valid: &[&str], mistakes: &[(String, &str)]) {
    let texts = valid.iter().map(|text| (*text).to_owned()).chain(mistakes.iter().map(|(text, _)| text.clone()));
    let Some(found) = found(of, &texts.collect::<Vec<_>>()) else { return };
    for (text, found) in valid.iter().zip(&found) {
        assert!(found.is_empty(), "{text}\n{found:?}");
    }
    for ((text, expected), found) in mistakes.iter().zip(&found[valid.len()..]) {
        assert!(found.iter().any(|error| error.contains(expected)), "{text}\n{found:?}");
    }
}

#[test]
fn a_validator_takes_every_key_and_refuses_each_mistake_at_its_key() {
    let bundle = |rest: &str| format!("bundle = \"/srv/b\"\n{rest}\n");
    let (plain, template) = (bundle(""), bundle("instances = [\"a\", \"b-1\"]"));
    let without = [
        ("rootfs = \"/x\"".to_owned(), "'process' is a required property"),
        ("description = \"no source\"".to_owned(), "is not valid under any of"),
    ];
    let mistakes = MISTAKES.iter().map(|(text, expected)| (bundle(text), *expected));
    let mistakes: Vec<_> = without.into_iter().chain(mistakes).collect();
    holds("unit", &[WHOLE, &plain, "executable = \"/x\"", &template], &mistakes);
}

/// Whether `moored check` says the same of each as the validator.
fn agrees(says_valid: impl Fn(&str) -> bool, valid: &[&str], mistakes: &[(&str, &str)]) {
    valid.iter().for_each(|text| assert!(says_valid(text), "{text}"));
    mistakes.iter().for_each(|(text, _)| assert!(!says_valid(text), "{text}"));
}

fn check(dir: &TempDir, path: &str) -> bool {
    let mut check = Command::new(env!("CARGO_BIN_EXE_moored"));
    check.arg("--config").arg(dir.join("moored.toml")).arg("check").arg(dir.join(path));
    check.stdout(Stdio::null()).status().unwrap().success()
}

fn owned<'m>(mistakes: &[(&str, &'m str)]) -> Vec<(String, &'m str)> {
    mistakes.iter().map(|(text, expected)| ((*text).to_owned(), *expected)).collect()
}

#[test]
fn a_validator_takes_drop_ins_and_refuses_each_mistake_at_its_key() {
    let nameless = [("[[mount]]\nread_only = false".to_owned(), "mount.0: 'target' is a required property")];
    let mistakes: Vec<_> = owned(&DROP_IN_MISTAKES).into_iter().chain(nameless).collect();
    holds("drop-in", &[&DROP_INS[..], &HALF_DROP_INS].concat(), &mistakes);
    let dir = TempDir::new("schema-drop-ins");
    std::fs::create_dir(dir.join("web.toml.d")).unwrap();
    // Of a unit that is not there: its source and process are not missed.
    let says_valid = |text: &str| {
        std::fs::write(dir.join("web.toml.d/10.toml"), text).unwrap();
        check(&dir, "web.toml.d")
    };
    agrees(says_valid, &DROP_INS, &DROP_IN_MISTAKES);
}

#[test]
fn a_validator_takes_moored_toml_and_refuses_each_mistake_at_its_key() {
    holds("config", &CONFIGS, &owned(&CONFIG_MISTAKES));
    let dir = TempDir::new("schema-config");
    std::fs::create_dir(dir.join("units")).unwrap();
    let says_valid = |text: &str| {
        std::fs::write(dir.join("moored.toml"), text).unwrap();
        check(&dir, "units")
    };
    agrees(says_valid, &CONFIGS, &CONFIG_MISTAKES);
}
