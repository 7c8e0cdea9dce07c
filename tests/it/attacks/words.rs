//! What a container says, and what its image says about it.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::json;

use super::{Stand, falls, said};
use crate::support::{TempDir, install, tool};
use crate::world::World;

/// Annotations by which some runtime does something on the host. `{}` is a path there.
const ANNOTATIONS: [(&str, &str); 12] = [
    ("run.oci.hooks.stdout", "{}"),
    ("run.oci.hooks.stderr", "{}"),
    ("run.oci.handler", "krun"),
    ("run.oci.seccomp.receiver", "{}"),
    ("run.oci.seccomp_bpf_data", "AAAA"),
    ("run.oci.delegate-cgroup", "/"),
    ("run.oci.systemd.subgroup", "x"),
    ("run.oci.pidfd_receiver", "{}"),
    ("run.oci.mount_context_type", "rootcontext"),
    ("org.systemd.property.ExecStop", "'{}'"),
    ("org.criu.config", "{}"),
    ("io.katacontainers.config.hypervisor.path", "{}"),
];

#[test]
fn annotations_decide_nothing_on_the_host() {
    let Some(mut stand) = Stand::new("attack-annotations") else { return };
    let path = stand.canary.dir.join("setting").display().to_string();
    stand.config(&["/bin/true"], |config| {
        for (name, value) in ANNOTATIONS {
            config["annotations"][name] = json!(value.replace("{}", &path));
        }
        let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo from a hook; echo from a hook >&2"]}]);
        config["hooks"] = json!({"prestart": hook});
    });
    stand.ok("run {}");
    stand.canary.assert_unharmed("annotations");
    if falls("crun") {
        stand.config(&["/bin/true"], |config| {
            config["annotations"] = json!({"run.oci.hooks.stdout": path, "run.oci.hooks.stderr": path});
            let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo from a hook"]}]);
            config["hooks"] = json!({"prestart": hook});
        });
        let output = stand.run("crun", "run {}");
        stand.delete("crun");
        let fallen = fs::read_to_string(&path).unwrap().contains("from a hook");
        assert!(fallen, "crun 1.8.1 does not fall: the attack is none: {}", said(&output));
        stand.canary.forget();
    }
}

/// Colours, another title, a cleared screen, a line that looks like another's, in one and two bytes, and a text that runs backwards.
const ORDERS: &str = "\u{1b}[31m\u{1b}]0;title\u{7}\u{1b}[2J\u{9b}2J\rforged\u{8}\u{202e}";

/// What may reach a terminal: text and lines.
fn is_plain(text: &str) -> bool {
    text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\t')) && !text.contains('\u{202e}')
}

fn on_terminal(world: &World, words: &str) -> String {
    let mut script = std::process::Command::new("script");
    let moored = world.moored(&[]);
    let mut line: Vec<String> = vec![moored.get_program().to_str().unwrap().to_owned()];
    line.extend(moored.get_args().map(|word| word.to_str().unwrap().to_owned()));
    let line = format!("stty -opost; {} {words}", line.join(" "));
    script.args(["-qec", &line, "/dev/null"]).env("NO_COLOR", "1").stdin(Stdio::null());
    String::from_utf8_lossy(&script.output().unwrap().stdout).into_owned()
}

/// In its log, in what it tells by sd_notify(3), in the words of a health check that fails, in the name of a program that is not there.
#[test]
fn what_a_container_says_does_not_control_a_terminal() {
    let tell = Path::new(env!("CARGO_BIN_EXE_moored")).with_file_name("examples").join("tell");
    let Some(world) = World::start("attack-words") else { return };
    if tool("script").is_none() || !tell.exists() {
        return;
    }
    install(&tell, &world.root.join("bin/tell"));
    fs::write(world.root.join("orders"), format!("{ORDERS}\n")).unwrap();
    let say = "cat /orders; cat /orders >&2; tell \"STATUS=$(cat /orders)\" READY=1 ; touch /tmp/told; exec sleep 1000";
    world.script("told", say, "notify = \"systemd\"\n");
    let failing = "cat /orders; cat /orders >&2; exit 1";
    let probe =
        format!("[health.liveness]\nexec = [\"/bin/sh\", \"-c\", \"{failing}\"]\ninterval = \"1s\"\nfailures = 20\n");
    world.script("sick", "exec sleep 1000", &probe);
    let none =
        format!("args = [\"/no/{}\"]\n", ORDERS.chars().map(|c| format!("\\u{:04x}", c as u32)).collect::<String>());
    world.unit(
        "none",
        &format!("rootfs = \"{}\"\n[process]\n{none}[restart]\npolicy = \"never\"\n", world.root.display()),
    );
    world.wait_phase("told", &["ready"]);
    world.wait_phase("none", &["failed"]);
    world.wait_log("told", "forged");
    world.wait_unit("sick", "seen to be sick", |row| row.to_string().contains("sh"));
    for words in [
        "ps",
        "status told",
        "status sick",
        "status none",
        "events",
        "why none",
        "why told",
        "why sick",
        "logs told",
        "logs told --timestamps",
        "plan",
        "cat none",
    ] {
        let shown = on_terminal(&world, words);
        assert!(is_plain(&shown), "{words}: {shown:?}");
    }
    assert!(is_plain(&world.output()), "{:?}", world.output());
    // The log itself is what it wrote: who takes it as it is has it all.
    assert!(world.log("told").contains(ORDERS));
}

/// Of a bundle, by the command line of runc.
#[test]
fn what_a_bundle_says_does_not_control_a_terminal() {
    let Some(stand) = Stand::new("attack-bundle-words") else { return };
    let hostile = format!("{ORDERS}\nmoored: forged");
    let changes: [fn(&mut serde_json::Value, &str); 7] = [
        |config, text| config["process"]["args"] = json!([format!("/no/{text}")]),
        |config, text| config["process"]["cwd"] = json!(format!("/{text}\u{0}")),
        |config, text| config[text] = json!(1),
        |config, text| config["linux"]["namespaces"] = json!([{"type": text}]),
        |config, text| config["linux"]["sysctl"] = json!({text: text}),
        |config, text| {
            config["mounts"] = json!([{"destination": "/x", "type": text, "source": text, "options": [text]}])
        },
        |config, text| config["hooks"] = json!({"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", format!("printf '%s' '{text}'; exit 1")]}]}),
    ];
    for (at, change) in changes.into_iter().enumerate() {
        stand.config(&["/bin/true"], |config| change(config, &hostile));
        let output = stand.run("moored", "run {}");
        let text = said(&output);
        assert!(is_plain(&text), "{at}: {text:?}");
        // A hook may say several lines; a name may not.
        let forged = at != 6 && text.lines().any(|line| line == "moored: forged");
        assert!(!forged, "{at}: {text:?}");
        stand.delete("moored");
    }
}

/// It may be any number: who is a container's process is the kernel's to say.
#[test]
fn a_main_pid_that_a_container_tells_is_nobodys() {
    let tell = Path::new(env!("CARGO_BIN_EXE_moored")).with_file_name("examples").join("tell");
    let Some(world) = World::start("attack-main-pid") else { return };
    if !tell.exists() {
        return;
    }
    install(&tell, &world.root.join("bin/tell"));
    let bystander = TempDir::new("bystander");
    let mut other = std::process::Command::new("sleep").arg("1000").current_dir(&bystander.0).spawn().unwrap();
    let script =
        format!("echo {} >/tmp/pid; tell MAINPID={} PIDFILE=/tmp/pid READY=1; exec sleep 1000", other.id(), other.id());
    world.script("web", &script, "notify = \"systemd\"\n[stop]\ntimeout = \"100ms\"\n");
    let row = world.wait_phase("web", &["ready"]);
    assert_ne!(row["pid"].as_u64(), Some(u64::from(other.id())));
    world.ok(&["kill", "web", "--signal", "TERM"]);
    world.ok(&["stop", "web"]);
    world.wait_phase("web", &["stopped"]);
    assert!(other.try_wait().unwrap().is_none(), "the bystander was signalled");
    other.kill().unwrap();
    other.wait().unwrap();
}
