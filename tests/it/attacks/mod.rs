//! The attacks of which other runtimes have fallen, each made against this one, with the [`canary`] for an oracle. An attack that nothing
//! falls to shows nothing: so each is made as well against something that does fall, Debian 12's runc 1.1.5 or crun 1.8.1 where they do, else the same
//! primitive against a naive stand-in that does what the runtime would do without the defence.
//!
//! | what went wrong elsewhere | attack | falls |
//! |---|---|---|
//! | CVE-2019-5736, the runtime's binary | [`processes`]: `nobody_overwrites_the_runtime…`, `the_runtime_is_not_…a_hook…`; `oci::the_binary_…` | a program executed from its file |
//! | CVE-2024-21626, a leaked descriptor as cwd | [`paths`]: `a_working_directory_…` | chroot with a descriptor left open |
//! | CVE-2025-31133, `/dev/null` that is another | [`paths`]: `a_mask_is_the_null_device…` | runc |
//! | CVE-2025-52565, a console that is another | [`paths`]: `a_console_that_is_a_link…` | — (needs a race in runc) |
//! | CVE-2019-19921, 2023-27561, 2025-52881, writes to procfs redirected | [`paths`]: `a_sysctl_goes_to_the_kernel…` | a write by path |
//! | CVE-2021-30465, 2024-45310, paths swapped | [`paths`]: `a_path_that_is_swapped…`, `targets_that_are_links…` | check, then make |
//! | CVE-2022-0492, 2023-25809, release_agent, cgroupfs | [`rights`]: `no_release_agent…` | a container without the defences |
//! | traversal in ids and cgroup paths | [`rights`]: `ids_and_cgroup_paths…`; `vm`'s `oci_cgroups_path_…` | a join of the two |
//! | CVE-2022-29162, inheritable capabilities | [`rights`]: `nothing_is_inheritable…` | a config.json that asks for it |
//! | CVE-2024-40635, 2022-2989, uid overflow, groups | [`rights`]: `users_out_of_range…`, `groups_of_the_caller…` | a cast; a caller that keeps them |
//! | CVE-2024-9676, passwd that is a FIFO, device, link, huge | [`rights`]: `account_files_…` | runc |
//! | annotations decide something on the host | [`words`]: `annotations_decide_nothing…` | crun |
//! | CVE-2020-15257, sockets that others reach | [`sockets`]: `nobody_else_is_served…` | a socket that asks nobody |
//! | oversized, half or empty requests | [`sockets`]: `requests_of_any_shape…` | — (the fuzzers `control` and `keeper`; `control::server::tests`) |
//! | log and terminal injection | [`words`]: `what_a_container_says_…`, `a_container_cannot_type…` | the log itself; a program without a session of its own |
//! | a pid file in the container trusted | [`words`]: `a_main_pid_…` | — (nothing reads one) |
//! | CVE-2016-9962, setup child ptraced | [`processes`]: `nobody_attaches_to_a_process_that_joins` | nsenter |
//! | overflows, huge arrays, deep JSON | `hostile`, the fuzzers `config`, `mounts`, `seccomp`, `units` | — |
//!
//! Beyond the table: state that somebody else wrote ([`sockets`]: `state_of_somebody_else…`).
//!
//! Attacks that need a program inside run this very test binary there, bound read-only: it is static, and a test that is a role does nothing where
//! nobody asked for it.

pub mod canary;
mod paths;
mod processes;
mod rights;
mod sockets;
mod words;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use moored::oci::capability::Capability;
use serde_json::{Value, json};

use super::support::{TempDir, busybox_root, end_of, is_root, tool};
use canary::Canary;

/// No command of an attack takes longer, unless it hangs. A loaded machine may be slow.
const HANGS: Duration = Duration::from_secs(60);
/// In the environment of a role: that it was asked for.
const ROLE: &str = "MOORED_TEST_ATTACK";
/// Where a container has this binary.
const INSIDE: &str = "/attacker";

/// A bundle, its canary, and runtimes to run it.
struct Stand {
    dir: TempDir,
    root: PathBuf,
    canary: Canary,
    /// A copy of the program, so that whoever destroys it destroys nothing else.
    moored: PathBuf,
}

impl Stand {
    /// `None` (skipped) where containers cannot be made.
    fn new(name: &str) -> Option<Stand> {
        let dir = TempDir::new(name);
        let root = busybox_root(&dir.0).filter(|_| is_root())?;
        let moored = dir.join("moored");
        fs::copy(env!("CARGO_BIN_EXE_moored"), &moored).unwrap();
        fs::create_dir(dir.join("b")).unwrap();
        let canary = Canary::new(&dir, &[&moored]);
        Some(Stand { dir, root, canary, moored })
    }

    fn id(&self) -> &str {
        self.dir.0.file_name().unwrap().to_str().unwrap()
    }

    /// The usual config.json with these changes.
    fn config(&self, args: &[&str], change: impl FnOnce(&mut Value)) {
        let mut config: Value = serde_json::from_str(moored::oci::template()).unwrap();
        config["ociVersion"] = json!("1.0.2");
        config["root"] = json!({"path": self.root, "readonly": false});
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(args);
        change(&mut config);
        fs::write(self.dir.join("b/config.json"), config.to_string()).unwrap();
    }

    /// The words after `runtime`, `{}` for the id.
    fn command(&self, runtime: &str, words: &str) -> Command {
        let mut command = match runtime {
            "moored" => {
                let mut command = Command::new(&self.moored);
                command.arg("oci");
                command
            }
            // It refuses hybrid hosts.
            "crun" => {
                let mut command = Command::new("unshare");
                let hide = "umount /sys/fs/cgroup/unified 2>/dev/null; exec crun \"$@\"";
                command.args(["-m", "sh", "-c", hide, "sh"]);
                command
            }
            other => Command::new(other),
        };
        command.arg("--root").arg(self.dir.join(runtime).with_extension("state"));
        command.args(words.split_whitespace().map(|word| word.replace("{}", self.id())));
        command.current_dir(self.dir.join("b")).stdin(Stdio::null());
        command
    }

    fn run(&self, runtime: &str, words: &str) -> Output {
        self.finish(&mut self.command(runtime, words))
    }

    /// Through files, as a container that goes on holds what it inherited; one that hangs is killed, and has no code.
    fn finish(&self, command: &mut Command) -> Output {
        let (out, err) = (self.dir.join("stdout"), self.dir.join("stderr"));
        command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&err).unwrap());
        let mut child = command.spawn().unwrap();
        let status = end_of(&mut child, HANGS).unwrap_or_else(|| {
            let _ = child.kill();
            child.wait().unwrap()
        });
        Output { status, stdout: fs::read(out).unwrap(), stderr: fs::read(err).unwrap() }
    }

    fn ok(&self, words: &str) -> String {
        let output = self.run("moored", words);
        assert!(output.status.success(), "{words}: {}", said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Takes the container away, whoever made it.
    fn delete(&self, runtime: &str) {
        let _ = self.command(runtime, "delete --force {}").stdout(Stdio::null()).stderr(Stdio::null()).status();
    }

    fn pid(&self) -> String {
        let state: Value = serde_json::from_str(&self.ok("state {}")).unwrap();
        state["pid"].to_string()
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        for runtime in ["moored", "runc", "crun"] {
            if self.dir.join(runtime).with_extension("state").is_dir() {
                self.delete(runtime);
            }
        }
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Whether a runtime that falls is there; said if not.
fn falls(runtime: &str) -> bool {
    tool(runtime).is_some()
}

/// This binary inside, and the words with which it plays a role there.
fn bind_role(config: &mut Value, role: &str, environment: &[String]) {
    let own = std::env::current_exe().unwrap();
    let mount = json!({"destination": INSIDE, "source": own, "type": "bind", "options": ["bind", "ro"]});
    config["mounts"].as_array_mut().unwrap().push(mount);
    config["process"]["args"] = json!(role_words(Path::new(INSIDE), role));
    let env = config["process"]["env"].as_array_mut().unwrap();
    env.push(json!(format!("{ROLE}=1")));
    env.extend(environment.iter().map(|entry| json!(entry)));
}

fn role_words(program: &Path, role: &str) -> Vec<String> {
    let name = format!("attacks::processes::{role}");
    [&program.display().to_string(), "--exact", &name, "--nocapture", "--test-threads=1"].map(str::to_owned).to_vec()
}

/// Every capability there is: the strongest container.
fn all_capabilities(config: &mut Value) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
    let bounding = u64::from_str_radix(bounding.trim(), 16).unwrap();
    let had = Capability::all().filter(|capability| bounding & 1 << capability.number() != 0);
    let names: Vec<String> = had.map(|capability| capability.to_string()).collect();
    for set in ["bounding", "effective", "permitted"] {
        config["process"]["capabilities"][set] = json!(names);
    }
}
