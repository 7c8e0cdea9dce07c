//! Hooks of bundles, with `moored oci` and under the supervisor, and against runc and crun.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::support::{Supervisor, TempDir, busybox_root, cgroup2, is_root, tool, wait_for};

/// Says which hook it is, what it was told, and where it runs; ends as it is asked to.
const HOOK: &str = r#"
state=$(cat | tr -d ' \n\t')
of() { echo "$state" | sed -n "s/.*\"$1\":\"*\([^\",}]*\).*/\1/p"; }
where() { test "$(readlink /proc/self/ns/$1)" = "$2" && echo runtime || echo container; }
pid=$(of pid); pid=${pid:-0}
test "$pid" -gt 0 && pid=pid
echo "$KIND status=$(of status) $pid mnt=$(where mnt $MNT) net=$(where net $NET) id=$(of id) note=$(of note)" >>$LOG
echo "said by $KIND" >&2
exit $CODE
"#;

const KINDS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

struct Place {
    dir: TempDir,
    root: PathBuf,
}

fn id(place: &Place) -> String {
    place.dir.0.file_name().unwrap().to_str().unwrap().to_owned()
}

fn namespace(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().to_str().unwrap().to_owned()
}

impl Place {
    fn new(name: &str) -> Option<Place> {
        let dir = TempDir::new(name);
        let root = busybox_root(&dir.0).filter(|_| is_root())?;
        fs::create_dir(dir.join("b")).unwrap();
        Some(Place { dir, root })
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// One that ends with this code. startContainer writes where the others do: the directory is mounted.
    fn hook(&self, kind: &str, code: u8) -> Value {
        let env = [
            format!("KIND={kind}"),
            format!("LOG={}", self.log().display()),
            format!("CODE={code}"),
            format!("MNT={}", namespace("mnt")),
            format!("NET={}", namespace("net")),
            "PATH=/bin:/usr/bin".to_owned(),
        ];
        json!([{"path": "/bin/sh", "args": ["sh", "-c", HOOK], "env": env, "timeout": 60}])
    }

    fn write(&self, change: impl FnOnce(&mut Value)) {
        let mut config: Value = serde_json::from_str(moored::oci::template()).unwrap();
        config["ociVersion"] = json!("1.0.2");
        config["root"] = json!({"path": self.root, "readonly": false});
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["/bin/sleep", "1000"]);
        config["annotations"] = json!({"note": "n1"});
        for kind in KINDS {
            config["hooks"][kind] = self.hook(kind, 0);
        }
        let own = json!({"destination": self.dir.0, "source": self.dir.0, "type": "bind", "options": ["bind", "rw"]});
        config["mounts"].as_array_mut().unwrap().push(own);
        change(&mut config);
        fs::write(self.dir.join("b/config.json"), config.to_string()).unwrap();
    }

    fn command(&self, runtime: &str, words: &str) -> Command {
        let mut line: Vec<String> = match runtime {
            "moored" => vec![env!("CARGO_BIN_EXE_moored").to_owned(), "oci".to_owned()],
            other => vec![tool(other).unwrap().display().to_string()],
        };
        line.extend(["--root".to_owned(), self.dir.join(runtime).display().to_string()]);
        line.extend(words.split_whitespace().map(|word| word.replace("{}", &id(self))));
        let mut command = Command::new("unshare");
        // crun refuses hybrid hosts.
        let hide =
            if runtime == "crun" { "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"" } else { "exec \"$@\"" };
        match runtime {
            "crun" => command.args(["-m", "sh", "-c", hide, "sh"]).args(line),
            _ => {
                command = Command::new(line.remove(0));
                command.args(line)
            }
        };
        command.current_dir(self.dir.join("b")).stdin(Stdio::null());
        command
    }

    fn run_by(&self, runtime: &str, words: &str) -> Output {
        let (out, err) = (self.dir.join("stdout"), self.dir.join("stderr"));
        let mut command = self.command(runtime, words);
        command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&err).unwrap());
        let status = command.status().unwrap();
        Output { status, stdout: fs::read(out).unwrap(), stderr: fs::read(err).unwrap() }
    }

    fn ok(&self, words: &str) {
        let output = self.run_by("moored", words);
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn fails(&self, words: &str) -> String {
        let output = self.run_by("moored", words);
        assert!(!output.status.success(), "{words} succeeded");
        String::from_utf8_lossy(&output.stderr).trim().to_owned()
    }

    fn logged(&self) -> Vec<String> {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let _ = fs::remove_file(self.log());
        text.lines().map(str::to_owned).collect()
    }

    fn kinds(&self) -> Vec<String> {
        self.logged().iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    }

    fn is_gone(&self) -> bool {
        let mut hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
        !self.dir.join("moored").join(id(self)).exists()
            && !hierarchies.any(|hierarchy| hierarchy.join(id(self)).exists())
            && !cgroup2().join(id(self)).exists()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.command("moored", "delete --force {}").stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

#[test]
fn hooks_run_at_their_time_in_their_place_with_the_state() {
    let Some(place) = Place::new("hooks") else { return };
    place.write(|_| ());
    let line = |kind: &str, status: &str, pid: &str, at: &str| {
        format!("{kind} status={status} {pid} mnt={at} net={at} id={} note=n1", id(&place))
    };
    place.ok("create {}");
    let created = [
        line("prestart", "creating", "pid", "runtime"),
        line("createRuntime", "creating", "pid", "runtime"),
        line("createContainer", "creating", "pid", "container"),
    ];
    assert_eq!(place.logged(), created);
    place.ok("start {}");
    assert_eq!(
        place.logged(),
        [line("startContainer", "created", "pid", "container"), line("poststart", "running", "pid", "runtime")]
    );
    place.ok("delete --force {}");
    assert_eq!(place.logged(), [line("poststop", "stopped", "0", "runtime")]);
    assert!(place.is_gone());
}

#[test]
fn run_has_all_of_them_too() {
    let Some(place) = Place::new("hooks-run") else { return };
    place.write(|config| config["process"]["args"] = json!(["/bin/true"]));
    place.ok("run {}");
    assert_eq!(place.kinds(), KINDS);
    assert!(place.is_gone());
}

#[test]
fn a_container_in_a_user_namespace_has_its_hooks() {
    let Some(place) = Place::new("hooks-userns") else { return };
    // Root of the container is nobody in the directory of the log.
    let everybody = fs::Permissions::from_mode(0o777);
    fs::set_permissions(&place.dir.0, everybody.clone()).unwrap();
    // And makes no directories in its root.
    fs::create_dir_all(place.root.join(place.dir.0.strip_prefix("/").unwrap())).unwrap();
    fs::write(place.log(), "").unwrap();
    fs::set_permissions(place.log(), fs::Permissions::from_mode(0o666)).unwrap();
    place.write(|config| {
        let maps = json!([{ "containerID": 0, "hostID": 700_000, "size": 65_536 }]);
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
        (config["linux"]["uidMappings"], config["linux"]["gidMappings"]) = (maps.clone(), maps);
    });
    place.ok("create {}");
    let kinds = || {
        let text = fs::read_to_string(place.log()).unwrap();
        text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(kinds(), KINDS[..3]);
    place.ok("start {}");
    assert_eq!(kinds(), KINDS[..5]);
    place.ok("delete --force {}");
    assert_eq!(kinds(), KINDS);
    assert!(place.is_gone());
}

#[test]
fn one_without_env_has_that_of_the_runtime_and_inside_that_of_the_process() {
    let Some(place) = Place::new("hooks-env") else { return };
    place.write(|config| {
        config["process"]["args"] = json!(["/bin/true"]);
        config["process"]["env"] = json!(["PATH=/bin", "OF=process"]);
        for (kind, hook) in config["hooks"].as_object_mut().unwrap() {
            let script = format!("echo {kind} $OF $HOME >>{}", place.log().display());
            *hook = json!([
                { "path": "/bin/sh", "args": ["sh", "-c", script] },
                { "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["OF=hook"] },
                { "path": "/bin/sh", "args": ["sh", "-c", script], "env": [] },
            ]);
        }
    });
    let mut run = place.command("moored", "run {}");
    assert!(run.env("OF", "runtime").env("HOME", "/of-runtime").status().unwrap().success());
    let expected = KINDS.iter().flat_map(|kind| {
        let inherited = if *kind == "startContainer" { "process /" } else { "runtime /of-runtime" };
        [format!("{kind} {inherited}"), format!("{kind} hook"), kind.to_string()]
    });
    assert_eq!(place.logged(), expected.collect::<Vec<_>>());
}

#[test]
fn one_that_fails_undoes_the_container_and_is_named() {
    let Some(place) = Place::new("hooks-fail") else { return };
    for (at, kind) in KINDS.iter().enumerate().take(5) {
        place.write(|config| config["hooks"][*kind] = place.hook(kind, 7));
        let created = ["prestart", "createRuntime", "createContainer"].contains(kind);
        if !created {
            place.ok("create {}");
        }
        let error = place.fails(if created { "create {}" } else { "start {}" });
        let expected = format!("hooks.{kind}[0]: /bin/sh: exited with 7: said by {kind}");
        assert!(error.contains(&expected), "{error}");
        let mut ran: Vec<&str> = KINDS.into_iter().take(at + 1).collect();
        ran.push("poststop");
        assert_eq!(place.kinds(), ran, "{kind}");
        assert!(place.is_gone(), "{kind}");
        // With `run` as well.
        assert!(place.fails("run {}").contains(&expected));
        assert_eq!(place.kinds(), ran, "{kind}");
        assert!(place.is_gone(), "{kind}");
    }
    place.write(|config| {
        let [first, second] = [7, 0].map(|code| place.hook("poststop", code)[0].clone());
        config["hooks"] = json!({"poststop": [first, second]});
    });
    place.ok("create {}");
    let output = place.run_by("moored", "delete --force {}");
    assert!(output.status.success() && place.is_gone());
    assert_eq!(place.kinds(), ["poststop", "poststop"]);
}

#[test]
fn one_that_takes_too_long_is_killed() {
    let Some(place) = Place::new("hooks-slow") else { return };
    for kind in ["createRuntime", "createContainer", "startContainer", "poststart"] {
        place.write(|config| {
            let slow =
                json!([{"path": "/bin/sh", "args": ["sh", "-c", "sleep 1000"], "env": ["PATH=/bin"], "timeout": 1}]);
            config["hooks"] = json!({kind: slow});
        });
        let error = place.fails("run {}");
        let expected = format!("hooks.{kind}[0]: /bin/sh: not done after 1 s, its timeout, and killed");
        assert!(error.contains(&expected), "{error}");
        assert!(place.is_gone(), "{kind}");
    }
}

/// What a hook mounts on the root from outside, by the path that config.json gives, is there inside: so do the hooks of GPU vendors.
#[test]
fn what_hooks_mount_below_the_root_is_in_the_container() {
    let Some(place) = Place::new("hooks-mount") else { return };
    let (from, root) = (place.dir.join("given"), place.root.display().to_string());
    fs::create_dir_all(&from).unwrap();
    fs::write(from.join("file"), "given by a hook").unwrap();
    fs::create_dir_all(place.root.join("got")).unwrap();
    fs::create_dir_all(place.root.join("got2")).unwrap();
    let mount = |target: &str| format!("mount --bind {} {root}/{target}", from.display());
    let inside =
        format!("pid=$(tr -d ' ' | sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); nsenter -t $pid -m {}", mount("got"));
    let hook =
        |script: String| json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}]);
    place.write(|config| {
        config["hooks"] = json!({"createContainer": hook(mount("got2")), "createRuntime": hook(inside)});
        config["process"]["args"] = json!(["/bin/sh", "-c", "cat /got/file /got2/file"]);
    });
    let output = place.run_by("moored", "run {}");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!((out.as_ref(), err.as_ref()), ("given by a hookgiven by a hook", ""));
    assert_eq!(fs::read_dir(place.root.join("got")).unwrap().count(), 0, "the host sees nothing of it");
}

/// What each kind of hook is told and where it runs, for two peers.
#[test]
fn hooks_are_told_what_runc_and_crun_tell_them() {
    let Some(place) = Place::new("hooks-peers") else { return };
    if tool("runc").is_none() || tool("crun").is_none() {
        return;
    }
    place.write(|_| ());
    let mut all = Vec::new();
    for runtime in ["moored", "runc", "crun"] {
        for words in ["create {}", "start {}", "delete --force {}"] {
            let output = place.run_by(runtime, words);
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{runtime} {words}: {text}");
        }
        let mut lines = place.logged();
        lines.sort();
        all.push(lines);
    }
    let [ours, runc, crun] = &all[..] else { panic!() };
    // crun has other words for the status, tells no pid inside, and runs in a mount namespace of its own here.
    let common = |lines: &[String]| -> Vec<String> {
        let keep = |word: &&str| word.contains('=') && !word.starts_with("status=") && !word.starts_with("mnt=");
        let words = |line: &String| {
            let (kind, rest) = line.split_once(' ').unwrap();
            std::iter::once(kind).chain(rest.split(' ').filter(keep)).collect::<Vec<_>>().join(" ")
        };
        lines.iter().map(words).collect()
    };
    // Where they differ: runc runs poststart when it creates.
    let at_create: Vec<String> =
        ours.iter().map(|line| line.replace("poststart status=running", "poststart status=created")).collect();
    assert_eq!(&at_create, runc);
    assert_eq!(common(ours), common(crun));
}

/// A unit whose bundle is the place's, with these words for the key `restart`.
fn unit(place: &Place, restart: &str) -> String {
    format!("bundle = {:?}\n[restart]\npolicy = {restart:?}\ndelay = \"60s\"\n", place.dir.join("b"))
}

#[test]
fn hooks_of_a_bundle_run_under_the_supervisor() {
    let Some(place) = Place::new("hooks-unit") else { return };
    place.write(|_| ());
    let mut supervisor = Supervisor::start("hooks-unit-s");
    supervisor.unit("web", &unit(&place, "never"));
    supervisor.wait_phase("web", &["running"]);
    // Running is after poststart.
    let lines = place.logged();
    let line =
        |kind: &str, status: &str, at: &str| format!("{kind} status={status} pid mnt={at} net={at} id=web.1 note=n1");
    let expected = [
        line("prestart", "creating", "runtime"),
        line("createRuntime", "creating", "runtime"),
        line("createContainer", "creating", "container"),
        line("startContainer", "created", "container"),
        line("poststart", "running", "runtime"),
    ];
    assert_eq!(lines, expected);
    supervisor.ok(&["stop", "web"]);
    supervisor.wait_phase("web", &["stopped"]);
    assert_eq!(place.logged(), ["poststop status=stopped 0 mnt=runtime net=runtime id=web.1 note=n1"]);
    assert!(supervisor.stop().success());
}

#[test]
fn a_hook_of_a_unit_that_fails_is_its_failure() {
    let Some(place) = Place::new("hooks-unit-fail") else { return };
    let mut supervisor = Supervisor::start("hooks-unit-fail-s");
    for kind in ["createRuntime", "startContainer", "poststart"] {
        place.write(|config| {
            config["hooks"] = json!({kind: place.hook(kind, 7), "poststop": place.hook("poststop", 7)});
        });
        let name = kind.to_lowercase();
        supervisor.unit(&name, &unit(&place, "never"));
        supervisor.wait_phase(&name, &["failed"]);
        let why = supervisor.ok(&["status", &name]);
        assert!(why.contains(&format!("hooks.{kind}[0]: /bin/sh: exited with 7: said by {kind}")), "{why}");
        wait_for("poststop", || {
            fs::read_to_string(place.log()).is_ok_and(|text| text.contains("poststop")).then_some(())
        });
        assert_eq!(place.kinds(), [kind, "poststop"]);
        supervisor.remove_unit(&name);
        supervisor.wait_gone(&name);
    }
    assert!(supervisor.output().contains("hooks.poststop[0]: /bin/sh: exited with 7: said by poststop"));
    assert!(supervisor.stop().success());
}

#[test]
fn a_hook_that_others_could_have_written_does_not_run_for_a_unit() {
    let Some(place) = Place::new("hooks-owner") else { return };
    let hook = place.dir.join("hook");
    fs::write(&hook, "#!/bin/sh\n").unwrap();
    std::os::unix::fs::chown(&hook, Some(1234), None).unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    place.write(|config| config["hooks"] = json!({"poststop": [{"path": hook}]}));
    let mut supervisor = Supervisor::start("hooks-owner-s");
    supervisor.unit("web", &unit(&place, "never"));
    supervisor.wait_phase("web", &["failed"]);
    let why = supervisor.ok(&["status", "web"]);
    assert!(why.contains("hooks.poststop[0]: ") && why.contains("chown root"), "{why}");
    assert!(supervisor.stop().success());
}

/// The supervisor dies while poststop runs: the next one runs it again.
#[test]
fn poststop_is_run_at_least_once() {
    let Some(place) = Place::new("hooks-killed") else { return };
    let (ran, go) = (place.dir.join("ran"), place.dir.join("go"));
    place.write(|config| {
        let script = format!("echo ran >>{}; while ! test -e {}; do sleep 0.05; done", ran.display(), go.display());
        config["hooks"] =
            json!({"poststop": [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}]});
        config["process"]["args"] = json!(["/bin/true"]);
    });
    let mut supervisor = Supervisor::start("hooks-killed-s");
    supervisor.unit("job", &unit(&place, "never"));
    let times = || fs::read_to_string(&ran).unwrap_or_default().lines().count();
    wait_for("poststop", || (times() == 1).then_some(()));
    // Others are served meanwhile.
    assert_eq!(supervisor.find("job").unwrap()["unit"], "job");
    supervisor.kill9(supervisor.pids().supervisor);
    wait_for("poststop again", || (times() == 2).then_some(()));
    fs::write(&go, "").unwrap();
    wait_for("the end of it", || fs::read_dir(supervisor.dir.join("run/c")).unwrap().next().is_none().then_some(()));
    assert_eq!(times(), 2);
    assert!(supervisor.stop().success());
}
