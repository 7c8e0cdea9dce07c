//! `moored oci` beyond what the oracles show: the walk-through, terminals, signals, descriptors, deaths in between.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::support::{TempDir, busybox_root, cgroup2, end_of, install, is_root, tool, wait_for};

pub const MOORED: &str = env!("CARGO_BIN_EXE_moored");

/// A state root, a bundle with a busybox root, and an id that no other test has.
pub struct Place {
    pub dir: TempDir,
    pub id: String,
}

impl Place {
    /// `None` (skipped) where containers cannot be made.
    pub fn new(name: &str, change: impl FnOnce(&mut Value)) -> Option<Place> {
        let dir = TempDir::new(name);
        let root = busybox_root(&dir.0).filter(|_| is_root())?;
        let mut config: Value = serde_json::from_str(moored::oci::template()).unwrap();
        config["root"]["path"] = json!(root);
        config["process"]["terminal"] = json!(false);
        change(&mut config);
        fs::create_dir(dir.join("b")).unwrap();
        fs::write(dir.join("b/config.json"), config.to_string()).unwrap();
        let id = dir.0.file_name().unwrap().to_str().unwrap().to_owned();
        Some(Place { dir, id })
    }

    pub fn shell(name: &str, script: &str) -> Option<Place> {
        Place::new(name, |config| config["process"]["args"] = json!(["/bin/sh", "-c", script]))
    }

    /// Once more, of what the config.json says by now.
    pub fn change(&self, change: impl FnOnce(&mut Value)) {
        let file = self.dir.join("b/config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        change(&mut config);
        fs::write(file, config.to_string()).unwrap();
    }

    /// The words after the globals, `{}` for the id.
    pub fn command(&self, words: &str) -> Command {
        let mut command = Command::new(MOORED);
        command.arg("oci").arg("--root").arg(self.dir.join("state")).stdin(Stdio::null());
        command.args(words.split_whitespace().map(|word| word.replace("{}", &self.id)));
        command.current_dir(self.dir.join("b"));
        command
    }

    /// Through files: a container that goes on holds what it inherited open, and writes there while others run.
    pub fn run(&self, words: &str) -> Output {
        let (out, err) = (self.dir.join("stdout"), self.dir.join("stderr"));
        [&out, &err].into_iter().for_each(|file| drop(fs::remove_file(file)));
        let mut command = self.command(words);
        command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&err).unwrap());
        let status = command.status().unwrap();
        Output { status, stdout: fs::read(out).unwrap(), stderr: fs::read(err).unwrap() }
    }

    pub fn ok(&self, words: &str) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn state(&self) -> Value {
        serde_json::from_str(&self.ok("state {}")).unwrap()
    }

    /// Nothing of the container is left anywhere.
    pub fn assert_gone(&self, when: &str) {
        assert!(!self.dir.join("state").join(&self.id).exists(), "{when}: its directory is left");
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
        for hierarchy in hierarchies.chain([cgroup2()]) {
            assert!(!hierarchy.join(&self.id).exists(), "{when}: {} is left", hierarchy.join(&self.id).display());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.command("delete --force {}").stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

fn example(name: &str) -> PathBuf {
    Path::new(MOORED).with_file_name("examples").join(name)
}

#[test]
fn the_walk_through_works_word_for_word() {
    if !is_root() || tool("sed").is_none() {
        return;
    }
    let dir = TempDir::new("walk");
    symlink(MOORED, dir.join("runc")).unwrap();
    install(&example("hello"), &dir.join("printme"));
    let script = r#"set -e
        mkdir my_container && cd my_container
        runc spec
        grep -q '"hostname": "runc"' config.json
        mkdir rootfs && cp ../printme rootfs/
        sed -i 's/"sh"/"\/printme"/; s/"terminal": true/"terminal": false/; s/"hostname": "runc"/"hostname": "HAL-9000"/' config.json
        runc create mycont1 >../out
        test ! -s ../out
        runc state mycont1 | grep -q '"status": "created"'
        runc start mycont1
        until runc state mycont1 | grep -q '"status": "stopped"'; do sleep 0.01; done
        cat ../out
        runc delete mycont1
        runc list -q"#;
    let path = format!("{}:{}", dir.0.display(), std::env::var("PATH").unwrap());
    let output = Command::new("sh")
        .args(["-c", script])
        .current_dir(&dir.0)
        .env("PATH", path)
        .env("MOORED_RUN_DIR", dir.join("run"))
        .output();
    let output = output.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && err.is_empty(), "{out}{err}");
    assert_eq!(out, "hello from HAL-9000, process 1\n");
}

#[test]
fn run_gives_a_shell_on_a_terminal_of_its_own() {
    let Some(place) = Place::new("tty", |config| config["process"]["terminal"] = json!(true)) else { return };
    if tool("script").is_none() {
        return;
    }
    let words =
        format!("stty rows 33 cols 77; {MOORED} oci --root {} run {}", place.dir.join("state").display(), place.id);
    let mut script = Command::new("script")
        .args(["-qec", &words, "/dev/null"])
        .current_dir(place.dir.join("b"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    script.stdin.as_mut().unwrap().write_all(b"hostname; tty; stty size; exit 5\n").unwrap();
    let output = script.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    for line in ["\nrunc\n", "\n/dev/pts/0\n", "\n33 77\n"] {
        assert!(text.contains(line), "no {line:?} in {text}");
    }
    assert_eq!(output.status.code(), Some(5));
    place.assert_gone("after its end");
}

#[test]
fn a_detached_terminal_goes_to_the_console_socket() {
    let Some(place) = Place::new("console", |config| {
        config["process"]["terminal"] = json!(true);
        config["process"]["args"] = json!(["/bin/sh", "-c", "test -t 0 && test -t 2 && echo terminal; cat"]);
    }) else {
        return;
    };
    let without = place.run("create {}");
    assert_eq!(without.status.code(), Some(1));
    let words = String::from_utf8_lossy(&without.stderr).into_owned();
    assert!(words.contains("cannot allocate tty if runc will detach without setting console socket"), "{words}");
    let listener = UnixListener::bind(place.dir.join("console.sock")).unwrap();
    let socket = place.dir.join("console.sock").display().to_string();
    place.ok(&format!("create --console-socket {socket} --pid-file {} {{}}", place.dir.join("pid").display()));
    let (socket, _) = listener.accept().unwrap();
    let mut master = receive(&socket);
    let pid = fs::read_to_string(place.dir.join("pid")).unwrap();
    assert_eq!(place.state()["pid"].to_string(), pid);
    place.ok("start {}");
    master.write_all(b"ping\n").unwrap();
    let mut seen = String::new();
    // The echo of the terminal, and the program.
    while seen.matches("ping\r\n").count() < 2 {
        let mut chunk = [0u8; 256];
        let length = std::io::Read::read(&mut master, &mut chunk).unwrap();
        seen.push_str(&String::from_utf8_lossy(&chunk[..length]));
    }
    assert!(seen.contains("terminal\r\n"), "{seen}");
}

pub fn receive(socket: &std::os::unix::net::UnixStream) -> fs::File {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0u8; 64];
    let mut parts = [std::io::IoSliceMut::new(&mut name)];
    rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let fds = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fds.expect("a descriptor").into()
}

#[test]
fn run_forwards_signals_and_ends_as_the_program_ended() {
    let Some(place) = Place::shell("signals", "trap 'exit 21' TERM; echo up; while :; do sleep 0.05; done") else {
        return;
    };
    for (signal, code) in [(rustix::process::Signal::TERM, 21), (rustix::process::Signal::KILL, 137)] {
        let out = place.dir.join("out");
        let mut run = place.command("run {}").stdout(fs::File::create(&out).unwrap()).spawn().unwrap();
        wait_for("it to be up", || fs::read_to_string(&out).unwrap().contains("up").then_some(()));
        match signal {
            rustix::process::Signal::KILL => drop(place.ok("kill {} KILL")),
            signal => rustix::process::kill_process(rustix::process::Pid::from_child(&run), signal).unwrap(),
        }
        let status = end_of(&mut run, super::support::PATIENCE).expect("it ends");
        assert_eq!(status.code(), Some(code));
        place.assert_gone("after its end");
    }
}

#[test]
fn only_the_descriptors_asked_for_are_passed_on() {
    let Some(place) = Place::shell("fds", "cat <&3; ls /proc/self/fd | wc -l; ls -l /proc/self/fd >&2") else { return };
    fs::write(place.dir.join("three"), "third\n").unwrap();
    let with = |count: u32| {
        let words = format!(
            "exec 3<{} 4<{}; exec {MOORED} oci --root {} run --preserve-fds {count} {}",
            place.dir.join("three").display(),
            MOORED,
            place.dir.join("state").display(),
            place.id
        );
        Command::new("sh").args(["-c", &words]).current_dir(place.dir.join("b")).stdin(Stdio::null()).output().unwrap()
    };
    let passed = with(1);
    // 0, 1, 2, 3, and the directory that ls reads.
    assert_eq!(String::from_utf8_lossy(&passed.stdout), "third\n5\n", "{}", String::from_utf8_lossy(&passed.stderr));
    let none = with(0);
    assert_eq!(String::from_utf8_lossy(&none.stdout), "4\n", "{}", String::from_utf8_lossy(&none.stderr));
}

#[test]
fn exec_joins_everything_and_passes_codes_and_streams_on() {
    let Some(place) = Place::shell(
        "exec",
        "for ns in /proc/self/ns/*; do readlink $ns; done; trap 'exit 0' TERM; while :; do sleep 0.05; done",
    ) else {
        return;
    };
    let out = place.dir.join("out");
    let mut run = place.command("run {}").stdout(fs::File::create(&out).unwrap()).spawn().unwrap();
    // net, pid twice, mnt, ipc, uts, cgroup, user, time twice.
    wait_for("its namespaces", || (fs::read_to_string(&out).unwrap().lines().count() >= 10).then_some(()));
    let mut exec = place.command("exec {} /bin/sh -c");
    let inside = exec
        .arg("for ns in /proc/self/ns/*; do readlink $ns; done; cat; echo err >&2; exit 9")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    inside.stdin.as_ref().unwrap().write_all(b"through\n").unwrap();
    let inside = inside.wait_with_output().unwrap();
    let own = fs::read_to_string(&out).unwrap();
    assert_eq!(String::from_utf8_lossy(&inside.stdout), own + "through\n");
    assert_eq!((inside.status.code(), inside.stderr.as_slice()), (Some(9), b"err\n".as_slice()));
    let identity =
        place.ok("exec --user 12:13 -g 14 --cwd /tmp -e A=b --cap CAP_CHOWN --no-new-privs {} sh -c id;pwd;echo$IFS$A");
    assert!(identity.contains("uid=12 gid=13 groups=14") && identity.contains("/tmp\nb\n"), "{identity}");
    let process = place.dir.join("process.json");
    fs::write(&process, json!({ "args": ["/bin/sh", "-c", "echo $X"], "cwd": "/", "env": ["X=from-file", "PATH=/bin"], "user": { "uid": 0, "gid": 0 } }).to_string()).unwrap();
    assert_eq!(place.ok(&format!("exec --process {} {{}}", process.display())), "from-file\n");
    let rights = |process: Value| {
        let mut whole = json!({ "args": ["/bin/sed", "-n", "s/^CapEff:.//p", "/proc/self/status"], "cwd": "/", "user": { "uid": 0, "gid": 0 } });
        whole.as_object_mut().unwrap().extend(process.as_object().unwrap().clone());
        fs::write(place.dir.join("process.json"), whole.to_string()).unwrap();
        place.ok(&format!("exec --process {} {{}}", place.dir.join("process.json").display()))
    };
    assert_eq!(rights(json!({})), "0000000020000420\n", "those of the container");
    assert_eq!(rights(json!({ "capabilities": {} })), "0000000000000000\n");
    for (words, code) in [("exec {} no-such", 255), ("exec {} /bin/sh -c exit$IFS$((3+4))", 7), ("exec {}", 255)] {
        assert_eq!(place.run(words).status.code(), Some(code), "{words}");
    }
    place.ok("kill {}");
    assert_eq!(end_of(&mut run, super::support::PATIENCE).and_then(|status| status.code()), Some(0));
}

#[test]
fn mistakes_in_a_config_are_all_named_with_their_paths() {
    let Some(place) = Place::new("mistakes", |config| {
        config["process"]["cwd"] = json!("relative");
        config["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 9, "hard": 1 }]);
        config["hooks"] = json!({ "prestart": [{ "path": "x" }] });
        config["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "user" }]);
    }) else {
        return;
    };
    let output = place.run("--log log.json --log-format json run {}");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    let file = place.dir.join("b/config.json");
    for part in [
        "process.cwd: \"relative\" is out of range, expected an absolute path",
        "process.rlimits[0]: the soft limit is above the hard limit",
        "hooks.prestart[0].path: \"x\" is out of range, expected an absolute path",
        "linux.uidMappings: is missing, expected the ids of the new user namespace",
        "hostname: needs a uts namespace",
    ] {
        assert!(said.contains(&format!("moored: {}: {part}", file.display())), "no {part:?} in {said}");
    }
    let log: Value = serde_json::from_str(fs::read_to_string(place.dir.join("b/log.json")).unwrap().trim()).unwrap();
    assert!(log["level"] == "error" && log["msg"].as_str().unwrap().contains("process.cwd") && log["time"].is_string());
    place.assert_gone("after mistakes");
    let nowhere = place.run("run --bundle /nowhere {}");
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("/nowhere: No such file or directory"));
}

#[test]
fn the_binary_cannot_be_written_through_its_processes() {
    let sealed = |pid: &str| {
        let error = fs::File::options().write(true).open(format!("/proc/{pid}/exe")).unwrap_err();
        // Not "text file busy", which is over when the process is.
        let expected = [rustix::io::Errno::ROFS, rustix::io::Errno::PERM].map(|errno| Some(errno.raw_os_error()));
        assert!(expected.contains(&error.raw_os_error()), "{error}");
    };
    // Waiting at its gate, where `exec` may join it.
    let Some(place) = Place::shell("seal", "true") else { return };
    place.ok("create {}");
    sealed(&place.state()["pid"].to_string());
    place.ok("delete --force {}");
    // Where the container sees every process of the host.
    let Some(place) = Place::new("seal-host", |config| {
        config["process"]["args"] = json!(["/bin/sh", "-c", "echo up; while :; do sleep 0.05; done"]);
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
    }) else {
        return;
    };
    let out = place.dir.join("out");
    let mut run = place.command("run {}").stdout(fs::File::create(&out).unwrap()).spawn().unwrap();
    wait_for("it to be up", || fs::read_to_string(&out).unwrap().contains("up").then_some(()));
    sealed(&run.id().to_string());
    place.ok("kill {} KILL");
    end_of(&mut run, super::support::PATIENCE).expect("it ends");
}

/// The program of the container names the process that looks for it: `run` is executed from the host's file, which must not be what is found.
#[test]
fn the_binary_is_not_what_a_program_called_proc_self_exe_finds() {
    for (name, args) in [
        ("self", json!(["/proc/self/exe", "--version"])),
        ("self-link", json!(["/bin/link", "--version"])),
        ("self-script", json!(["/bin/script", "--version"])),
    ] {
        let Some(place) = Place::new(name, |config| {
            config["process"]["args"] = args;
            let root = PathBuf::from(config["root"]["path"].as_str().unwrap());
            let _ = symlink("/proc/self/exe", root.join("bin/link"));
            fs::write(root.join("bin/script"), "#!/proc/self/exe\n").unwrap();
            fs::set_permissions(root.join("bin/script"), fs::Permissions::from_mode(0o755)).unwrap();
        }) else {
            return;
        };
        for words in ["run {}", "run --detach {}"] {
            let output = place.run(words);
            let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            assert!(!said.contains("moored"), "{name}: {words}: {said}");
            place.run("delete --force {}");
        }
    }
}

/// The program may run, and be heard of, before the command that made it has written down its process.
#[test]
fn a_container_whose_process_is_not_recorded_yet_is_waited_for() {
    let Some(place) = Place::shell("early", "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done") else {
        return;
    };
    let Some(strace) = tool("strace") else { return };
    let out = place.dir.join("out");
    // The second time the record takes its place is when it names the process.
    let delay = ["-e", "trace=/^rename", "-e", "inject=/^rename:delay_enter=700000:when=2"];
    let mut run = Command::new(strace);
    run.args(["-qq", "-o", "/dev/null"]).args(delay).args([MOORED, "oci", "--root"]).arg(place.dir.join("state"));
    run.args(["run", &place.id]).current_dir(place.dir.join("b")).stdin(Stdio::null());
    let mut run = run.stdout(fs::File::create(&out).unwrap()).spawn().unwrap();
    wait_for("it to be up", || fs::read_to_string(&out).unwrap().contains("up").then_some(()));
    assert_eq!(place.state()["status"], "running");
    place.ok("kill {} TERM");
    assert_eq!(end_of(&mut run, super::support::PATIENCE).expect("it ends").code(), Some(7));
}

/// What fails only when the kernel looks at the program is told as what fails before.
#[test]
fn a_program_that_the_kernel_does_not_take_is_told_and_leaves_nothing() {
    for (name, text, said) in [
        ("garbage", "garbage", "moored: exec /bin/odd: exec format error"),
        ("no-interpreter", "#!/no/such", "moored: exec /bin/odd: no such file or directory"),
    ] {
        let Some(place) = Place::new(name, |config| {
            config["process"]["args"] = json!(["/bin/odd"]);
            let odd = PathBuf::from(config["root"]["path"].as_str().unwrap()).join("bin/odd");
            fs::write(&odd, text).unwrap();
            fs::set_permissions(odd, fs::Permissions::from_mode(0o755)).unwrap();
        }) else {
            return;
        };
        let output = place.run("run {}");
        assert_eq!(String::from_utf8_lossy(&output.stderr).trim_end(), said);
        assert_eq!(output.status.code(), Some(1));
        place.assert_gone(name);
    }
}

/// The filter is the last thing before the program: it need not allow what moored does on the way.
#[test]
fn a_filter_need_not_allow_more_than_the_program_wants() {
    let Some(place) = Place::new("strict", |config| {
        let root = PathBuf::from(config["root"]["path"].as_str().unwrap());
        install(&example("hello"), &root.join("hello"));
        config["process"]["args"] = json!(["/hello"]);
        config["process"]["noNewPrivileges"] = json!(true);
        let denied = [
            "fcntl",
            "dup",
            "dup2",
            "close_range",
            "prctl",
            "openat2",
            "memfd_create",
            "execveat",
            "faccessat2",
            "seccomp",
        ];
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": denied, "action": "SCMP_ACT_KILL_PROCESS" }],
        });
    }) else {
        return;
    };
    assert!(!place.ok("run {}").is_empty());
}

/// `create` killed before each of its system calls (a sample of them by default): whatever there is by then, `delete --force` removes it.
#[test]
fn a_create_that_is_killed_anywhere_leaves_what_delete_removes() {
    let Some(place) = Place::shell("killed", "exec sleep 1000") else { return };
    if tool("strace").is_none() {
        return;
    }
    let every: usize = std::env::var("MOORED_EVERY").ok().and_then(|text| text.parse().ok()).unwrap_or(9);
    let trace = place.dir.join("trace");
    let strace = |inject: &[&str]| {
        let mut strace = Command::new("strace");
        strace
            .arg("-qq")
            .arg("-o")
            .arg(&trace)
            .args(inject)
            .args([MOORED, "oci", "--root"])
            .arg(place.dir.join("state"));
        strace.args(["create", &place.id]).current_dir(place.dir.join("b"));
        strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap()
    };
    assert!(strace(&[]).success());
    place.ok("delete --force {}");
    // strace counts each kind of call for itself.
    let mut counts = std::collections::BTreeMap::new();
    let mut points = Vec::new();
    for line in fs::read_to_string(&trace).unwrap().lines() {
        let Some((name, _)) = line.split_once('(').filter(|(name, _)| !name.contains(' ') && *name != "execve") else {
            continue;
        };
        let count = counts.entry(name.to_owned()).or_insert(0);
        *count += 1;
        points.push(format!("inject={name}:signal=KILL:when={count}"));
    }
    assert!(points.len() > 100, "{points:?}");
    let points: Vec<&String> = points.iter().step_by(every).collect();
    let mut survived: Vec<&String> = Vec::new();
    for point in &points {
        // How often it reads a file of /proc depends on what else the host does.
        survived.extend(strace(&["-e", point]).success().then_some(*point));
        place.ok("delete --force {}");
        place.assert_gone(point);
    }
    assert!(survived.len() <= points.len() / 10, "these did not kill it: {survived:?}");
}
