//! `moored schema` in a validator of somebody else's (`jsonschema` from PyPI).

use std::io::Write;
use std::process::{Command, Stdio};

use super::support::{TempDir, skip};

const PACKAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/python");
const VALIDATE: &str = include_str!("schema/validate.py");
const WHOLE: &str = include_str!("../../src/unit/whole.toml");

/// What is below a valid beginning, and what the validator says of it: the key, and what it has against it.
const MISTAKES: [(&str, &str); 22] = [
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
];

#[test]
fn a_validator_takes_every_key_and_refuses_each_mistake_at_its_key() {
    let python = |script: &str| {
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", PACKAGES).args(["-c", script]);
        command
    };
    if !python("import jsonschema, tomllib").stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return skip("no jsonschema for python3 in target/python: tests/run puts it there");
    }
    let dir = TempDir::new("schema");
    let schema = Command::new(env!("CARGO_BIN_EXE_moored")).arg("schema").output().unwrap();
    assert!(schema.status.success());
    std::fs::write(dir.join("schema.json"), schema.stdout).unwrap();
    let bundle = |rest: &str| format!("bundle = \"/srv/b\"\n{rest}\n");
    let mut texts = vec![WHOLE.to_owned(), bundle(""), "executable = \"/x\"".to_owned()];
    texts.extend(["rootfs = \"/x\"".to_owned(), "description = \"no source\"".to_owned()]);
    texts.extend(MISTAKES.iter().map(|(text, _)| bundle(text)));
    let mut validator =
        python(VALIDATE).arg(dir.join("schema.json")).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    validator.stdin.take().unwrap().write_all(serde_json::to_string(&texts).unwrap().as_bytes()).unwrap();
    let output = validator.wait_with_output().unwrap();
    assert!(output.status.success());
    let found: Vec<Vec<String>> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found.len(), texts.len());
    let [whole, bundle, executable, rootfs, none, mistakes @ ..] = &found[..] else { panic!("{found:?}") };
    assert!(whole.is_empty() && bundle.is_empty() && executable.is_empty(), "{found:?}");
    assert!(rootfs[0].contains("'process' is a required property"), "{rootfs:?}");
    assert!(none[0].contains("is not valid under any of"), "{none:?}");
    for ((text, expected), found) in MISTAKES.iter().zip(mistakes) {
        assert!(found.iter().any(|error| error.contains(expected)), "{text}\n{found:?}");
    }
}
