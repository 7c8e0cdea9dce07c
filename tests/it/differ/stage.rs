//! Where a case is played: a mount namespace with a tmpfs that nobody else sees, a fresh root for each run, namespaces to join, and what a
//! runtime was seen to do.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::{Value, json};

use super::case::Case;
use super::place::{inode, mounts_below, namespaces_to_join, propagate, unmount_below};
use crate::oracle::Runtime;
use crate::support::{Patience, TempDir, end_of};

/// In configs, for the directory of the stage and for the cgroup that holds those of its containers.
pub const STAGE: &str = "@stage";
pub const CGROUPS: &str = "@cgroups";

/// For one command of one runtime.
const PATIENCE: Duration = Duration::from_secs(20);

/// What one runtime made of a case.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// By section and key. `outcome` is there always.
    pub lines: BTreeMap<String, String>,
    /// What is left of it afterwards, which must be nothing.
    pub left: Vec<String>,
    /// Some command of it does not end.
    pub hangs: bool,
}

/// A thread has one: it changes the mount namespace of the thread that makes it.
pub struct Stage {
    dir: TempDir,
    id: String,
    /// With every hierarchy of cgroups, and without that of v2 where v1 has the controllers (crun refuses such hosts).
    whole: fs::File,
    bare: fs::File,
    own: BTreeMap<&'static str, u64>,
    joined: BTreeMap<&'static str, u64>,
    /// Holds the pid namespace that is joined.
    first: Child,
}

const KINDS: [&str; 7] = ["cgroup", "ipc", "net", "pid", "time", "user", "uts"];

impl Stage {
    pub fn new(look: &Path) -> Stage {
        let dir = TempDir::new("differ");
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
        propagate(Path::new("/"), MsFlags::MS_PRIVATE | MsFlags::MS_REC);
        mount(Some("tmpfs"), &dir.0, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
        propagate(&dir.0, MsFlags::MS_SHARED);
        fs::copy(look, dir.join("look")).unwrap();
        for path in ["b", "ns", "state", "src/dir/sub", "src/tree/below", "src/private"] {
            fs::create_dir_all(dir.join(path)).unwrap();
        }
        for (path, text) in
            [("src/file", "a file\n"), ("src/dir/one", "1\n"), ("src/dir/sub/two", "2\n"), ("src/empty", "")]
        {
            fs::write(dir.join(path), text).unwrap();
        }
        fs::set_permissions(dir.join("src/private"), fs::Permissions::from_mode(0o700)).unwrap();
        symlink("dir", dir.join("src/link")).unwrap();
        mount(Some("tmpfs"), &dir.join("src/tree/below"), Some("tmpfs"), MsFlags::MS_NODEV, Some("size=64k")).unwrap();
        fs::write(dir.join("src/tree/below/three"), "3\n").unwrap();
        let first = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "sleep", "100000"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let joined = namespaces_to_join(&dir, first.id());
        let own = KINDS.map(|kind| (kind, inode(&Path::new("/proc/thread-self/ns").join(kind)))).into();
        let current = || fs::File::open("/proc/thread-self/ns/mnt").unwrap();
        let whole = current();
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let unified = Path::new("/sys/fs/cgroup/unified");
        if unified.is_dir() {
            rustix::mount::unmount(unified, rustix::mount::UnmountFlags::DETACH).unwrap();
        }
        let id = dir.0.file_name().unwrap().to_str().unwrap().to_owned();
        Stage { id, whole, bare: current(), own, joined, first, dir }
    }

    /// The cgroup that holds those of containers: not their own name, which those without a path have at the top.
    fn holder(&self) -> String {
        format!("{}-all", self.id)
    }

    /// Where a container's cgroup is, or one of a container without a path.
    fn cgroup_dirs(&self) -> Vec<PathBuf> {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        let all = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]);
        all.flat_map(|top| [top.join(self.holder()).join(&self.id), top.join(&self.id)]).collect()
    }

    /// The texts of configs with what they stand for here.
    pub fn text(&self, value: &Value) -> String {
        let text = serde_json::to_string_pretty(value).unwrap();
        let cgroups = format!("/{}", self.holder());
        text.replace(STAGE, &self.dir.0.display().to_string()).replace(CGROUPS, &cgroups).replace("@id", &self.id)
    }

    /// Runs it, and looks.
    pub fn play(&self, case: &Case, runtime: &Runtime) -> Seen {
        let namespace = if runtime.hide_unified { &self.bare } else { &self.whole };
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNS).unwrap();
        self.fresh_root();
        let config = case.config();
        fs::write(self.dir.join("b/config.json"), self.text(&config)).unwrap();
        let mounts = mounts_below(&self.dir.0);
        let started = Instant::now();
        let mut seen = Seen::default();
        self.run(case, &config, runtime, &mut seen);
        if started.elapsed() > Duration::from_secs(5) {
            println!("seed {}: {} takes {:?}", case.seed, runtime.name, started.elapsed());
        }
        name_propagation(&config, &mut seen);
        self.made(&mut seen);
        self.left(runtime, &mounts, &mut seen);
        seen
    }

    fn fresh_root(&self) {
        let root = self.dir.join("root");
        unmount_below(&root);
        if let Err(error) = fs::remove_dir_all(&root) {
            assert!(error.kind() == std::io::ErrorKind::NotFound, "{}: {error}", root.display());
        }
        for path in ["bin", "dev", "etc", "proc", "sys", "tmp", "data/sub", "home", "closed"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        fs::hard_link(self.dir.join("look"), root.join("look")).unwrap();
        for (path, text) in [
            ("etc/passwd", "root:x:0:0::/root:/look\nuser:x:1000:1000::/home:/look\n"),
            ("etc/group", "root:x:0:\n"),
            ("data/file", "text\n"),
            ("data/sub/deep", "text\n"),
        ] {
            fs::write(root.join(path), text).unwrap();
        }
        for (path, to) in [
            ("bin/look", "../look"),
            ("data/link", "/etc"),
            ("data/up", "../../../../tmp"),
            ("data/none", "/nothing"),
            ("data/loop", "loop"),
        ] {
            symlink(to, root.join(path)).unwrap();
        }
        for (path, mode) in [("tmp", 0o1777), ("closed", 0o700)] {
            fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        std::os::unix::fs::chown(root.join("home"), Some(1000), Some(1000)).unwrap();
    }

    fn command(&self, runtime: &Runtime, words: &[&str]) -> Command {
        let words = runtime.words(&self.dir.join("state"), words);
        let mut command = Command::new(&words[0]);
        // Nothing of the tester's own shows.
        command.args(&words[1..]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir(&self.dir.0);
        command
    }

    fn run(&self, case: &Case, config: &Value, runtime: &Runtime, seen: &mut Seen) {
        let bundle = self.dir.join("b").display().to_string();
        let mut command = self.command(runtime, &["run", "--bundle", &bundle, &self.id]);
        let error = self.dir.join("stderr");
        let is_terminal = config["process"]["terminal"] == json!(true);
        let (output, mut input): (OwnedFd, Option<OwnedFd>);
        if is_terminal {
            let pty = nix::pty::openpty(None, None).unwrap();
            command.stdin(pty.slave.try_clone().unwrap()).stdout(pty.slave);
            (output, input) = (pty.master, None);
        } else {
            let (in_read, in_write) = std::io::pipe().unwrap();
            let (out_read, out_write) = std::io::pipe().unwrap();
            command.stdin(in_read).stdout(out_write);
            (output, input) = (out_read.into(), Some(in_write.into()));
        }
        // What the runtime says is apart from what the container's program does, also on a terminal.
        command.stderr(fs::File::create(&error).unwrap());
        let mut child = command.spawn().unwrap();
        drop(command);
        let mut text = read_until_end(&output);
        if text.contains("== end") && case.waits() {
            self.cgroup_files(seen);
            // A container that a failed poststart hook ends may be gone before anybody joins it.
            if let Some(process) = case.exec().filter(|_| !fails_after_start(config)) {
                self.exec(&process, runtime, seen);
            }
        }
        input.take();
        if is_terminal && case.waits() {
            // The end of what is typed.
            let _ = rustix::io::write(&output, b"\x04");
        }
        let status = end_of(&mut child, PATIENCE);
        if status.is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if is_terminal {
            text = text.replace('\r', "");
        }
        let mut said = fs::read_to_string(&error).unwrap_or_default();
        if is_terminal && said.is_empty() {
            // Whose standard error is the container's terminal already.
            said.clone_from(&text);
        }
        self.outcome(&text, &said, status, "", seen);
        self.hook_lines(seen);
    }

    fn outcome(&self, text: &str, said: &str, status: Option<ExitStatus>, prefix: &str, seen: &mut Seen) {
        let has_run = text.contains("== end");
        seen.hangs |= status.is_none();
        let code = status.map_or("does not end".to_owned(), |status| status.code().unwrap_or(-1).to_string());
        let said = said.replace(&self.dir.0.display().to_string(), STAGE).replace(&self.id, "@id");
        let is_warning = |line: &&str| line.contains("moored: warning:") || line.contains("level=warning");
        let said = said.lines().filter(|line| !is_warning(line)).collect::<Vec<_>>().join("\n");
        let outcome = match said.trim() {
            _ if has_run => "ran".to_owned(),
            // The program, before it said all.
            "" => format!("ended with {code}"),
            said => format!("refused: {said}"),
        };
        seen.lines.insert(format!("{prefix}outcome"), outcome);
        // A refusal has the runtime's own code: 1 as runc has it, or 126 and 127 of later ones.
        if has_run {
            seen.lines.insert(format!("{prefix}exit"), code);
            text.lines().for_each(|line| self.line(line, prefix, seen));
        }
    }

    fn line(&self, line: &str, prefix: &str, seen: &mut Seen) {
        let mut parts = line.splitn(3, '|');
        let (Some(section), Some(key), Some(value)) = (parts.next(), parts.next(), parts.next()) else { return };
        let value = value.replace(&self.dir.0.display().to_string(), STAGE).replace(&self.id, "@id");
        let value = match (section, key) {
            ("namespace", kind) => self.namespace(kind, &value),
            // Where there is no pid namespace, it is any number.
            // Of one that joins it is as many as came before it, some of them the runtime's.
            ("status", "Pid" | "PPid") if !prefix.is_empty() => return,
            ("status", "Pid" | "PPid") => {
                if value.len() > 2 {
                    "large".to_owned()
                } else {
                    value
                }
            }
            // What the tests' own caller ignored of the C library's two signals, which only a caller like this has.
            ("status", "SigIgn") => {
                let ignored = u64::from_str_radix(&value, 16).unwrap_or(u64::MAX);
                format!("{:016x}", ignored & !(0b11 << 31))
            }
            ("hook", key) if key.trim_end_matches('\'').ends_with(" state") => state(&value),
            ("hook", key) if value.contains(":[") => self.namespace(key.rsplit(' ').next().unwrap_or_default(), &value),
            _ => value,
        };
        let value = if value.is_empty() { "(empty)".to_owned() } else { value };
        let mut name = format!("{prefix}{section} {key}");
        while seen.lines.contains_key(&name) {
            name.push('\'');
        }
        // What a mount is, and then its parts, about which runtimes may differ one by one.
        if section == "mount" {
            const PARTS: [&str; 5] = ["source", "root", "flags", "propagation", "options"];
            let mut parts =
                value.split('|').map(|part| if part.is_empty() { "(empty)".to_owned() } else { part.to_owned() });
            seen.lines.extend(parts.next().map(|fstype| (name.clone(), fstype)));
            seen.lines.extend(PARTS.iter().zip(parts).map(|(part, value)| (format!("{name} {part}"), value)));
            return;
        }
        seen.lines.insert(name, value);
    }

    /// `net:[123]` by whose it is.
    fn namespace(&self, kind: &str, link: &str) -> String {
        let inode = link.split_once(":[").and_then(|(_, rest)| rest.trim_end_matches(']').parse::<u64>().ok());
        match inode {
            None => link.to_owned(),
            Some(_) if kind == "mnt" => "new".to_owned(),
            Some(inode) if self.own.get(kind) == Some(&inode) => "the caller's".to_owned(),
            Some(inode) if self.joined.get(kind) == Some(&inode) => "joined".to_owned(),
            Some(_) => "new".to_owned(),
        }
    }

    fn exec(&self, process: &Value, runtime: &Runtime, seen: &mut Seen) {
        let file = self.dir.join("process.json");
        fs::write(&file, self.text(process)).unwrap();
        let (out, err) = (self.dir.join("exec.out"), self.dir.join("exec.err"));
        let mut command = self.command(runtime, &["exec", "--process", &file.display().to_string(), &self.id]);
        // Not the host's null device: a runtime may give its streams to the user.
        let (input, _) = std::io::pipe().unwrap();
        command.stdin(input).stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&err).unwrap());
        let mut child = command.spawn().unwrap();
        let status = end_of(&mut child, PATIENCE);
        if status.is_none() {
            let _ = child.kill();
        }
        let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        self.outcome(&read(&out), &read(&err), status, "exec ", seen);
    }

    /// What the kernel took, on v1 and v2.
    fn cgroup_files(&self, seen: &mut Seen) {
        const FILES: [&str; 24] = [
            "memory/memory.limit_in_bytes",
            "memory/memory.soft_limit_in_bytes",
            "memory/memory.swappiness",
            "memory/memory.oom_control",
            "memory/memory.use_hierarchy",
            "cpu/cpu.shares",
            "cpu/cpu.cfs_quota_us",
            "cpu/cpu.cfs_period_us",
            "cpu/cpu.idle",
            "cpu/cpu.rt_runtime_us",
            "cpuset/cpuset.cpus",
            "cpuset/cpuset.mems",
            "pids/pids.max",
            "devices/devices.list",
            "blkio/blkio.bfq.weight",
            "blkio/blkio.throttle.read_bps_device",
            "blkio/blkio.throttle.write_iops_device",
            "memory.max",
            "memory.low",
            "memory.swap.max",
            "cpu.weight",
            "cpu.max",
            "pids.max",
            "cpuset.cpus",
        ];
        for file in FILES {
            let (controller, name) = file.split_once('/').unwrap_or(("", file));
            let place = Path::new("/sys/fs/cgroup").join(controller).join(self.holder()).join(&self.id).join(name);
            let Ok(text) = fs::read_to_string(place) else { continue };
            let mut lines: Vec<&str> =
                text.lines().filter(|line| !line.starts_with("oom_kill ") && !line.starts_with("under_oom")).collect();
            lines.sort_unstable();
            if name == "devices.list" {
                for line in lines {
                    seen.lines.insert(format!("device rule {line}"), "there".to_owned());
                }
            } else {
                seen.lines.insert(format!("limit {name}"), lines.join(", "));
            }
        }
    }

    /// What hooks wrote, of which some see the host's path and some the container's.
    fn hook_lines(&self, seen: &mut Seen) {
        let text = fs::read_to_string(self.dir.join("root/data/hooks")).unwrap_or_default();
        text.lines().for_each(|line| self.line(line, "", seen));
        let order: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("hook|")?.split_once(" state|").map(|(name, _)| name))
            .collect();
        if !order.is_empty() {
            seen.lines.insert("hooks".to_owned(), order.join(", "));
        }
    }

    /// What was made in the root, below the mounts.
    fn made(&self, seen: &mut Seen) {
        fn walk(root: &Path, dir: &Path, lines: &mut BTreeMap<String, String>) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                let Ok(found) = entry.metadata() else { continue };
                let name = path.strip_prefix(root).unwrap().display().to_string();
                lines.insert(
                    format!("made /{name}"),
                    format!("{:o} {}:{} {}", found.mode(), found.uid(), found.gid(), found.rdev()),
                );
                if found.is_dir() {
                    walk(root, &path, lines);
                }
            }
        }
        let root = self.dir.join("root");
        walk(&root, &root, &mut seen.lines);
    }

    /// Takes away what a runtime left, and says what that was.
    fn left(&self, runtime: &Runtime, mounts: &[PathBuf], seen: &mut Seen) {
        if self.dir.join("state").join(runtime.name).join(&self.id).exists() {
            seen.left.push("its directory of state".to_owned());
            let delete = self
                .command(runtime, &["delete", "--force", &self.id])
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .status();
            delete.unwrap();
        }
        for cgroup in self.cgroup_dirs().iter().filter(|cgroup| cgroup.is_dir()) {
            seen.left.push(format!("the cgroup {}", cgroup.display()).replace(&self.id, "@id"));
            let _ = fs::remove_dir(cgroup);
        }
        for mount in mounts_below(&self.dir.0).iter().filter(|mount| !mounts.contains(mount)) {
            seen.left.push(format!("the mount {}", mount.strip_prefix(&self.dir.0).unwrap().display()));
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.first.kill();
        let _ = self.first.wait();
        // crun, the last one, does not see all hierarchies.
        let _ = setns(self.whole.as_fd(), CloneFlags::CLONE_NEWNS);
        // Seen by this thread alone; the directory below it is everybody's.
        let _ = rustix::mount::unmount(&self.dir.0, rustix::mount::UnmountFlags::DETACH);
        for cgroup in self.cgroup_dirs() {
            let _ = fs::remove_dir(&cgroup);
            let Some(holder) = cgroup.parent().filter(|parent| parent.ends_with(self.holder())) else { continue };
            // What crun makes of a path with `..`.
            let _ = fs::remove_dir(holder.join("x"));
            let _ = fs::remove_dir(holder);
        }
    }
}

/// Until the program says that it is done, or all who could say so are gone.
fn read_until_end(output: &OwnedFd) -> String {
    let mut patience = Patience::of(PATIENCE);
    let mut file = fs::File::from(output.try_clone().unwrap());
    let mut bytes = Vec::new();
    loop {
        let timeout = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(output, PollFlags::IN)], Some(&timeout)).unwrap();
        if ready == 0 && patience.is_over() {
            break;
        }
        if ready == 0 {
            continue;
        }
        let mut chunk = [0; 65536];
        // A terminal whose other side is closed gives EIO.
        match file.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(length) => bytes.extend_from_slice(&chunk[..length]),
        }
        if bytes.windows(7).rev().take(16).any(|part| part == b"== end\n") || bytes.ends_with(b"== end\r\n") {
            break;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Where the root is to be shared, or without an `r`, runtimes mean different mounts of the host's by it: these lines are apart.
fn name_propagation(config: &Value, seen: &mut Seen) {
    let Some(root) = config["linux"]["rootfsPropagation"].as_str() else { return };
    if !["private", "unbindable", "slave", "shared", "rshared"].contains(&root) {
        return;
    }
    let lines = std::mem::take(&mut seen.lines).into_iter();
    let named = |key: String| if key.ends_with(" propagation") { format!("{key} ({root} root)") } else { key };
    seen.lines = lines.map(|(key, value)| (named(key), value)).collect();
}

/// Whether a poststart hook fails, or may not be there.
fn fails_after_start(config: &Value) -> bool {
    let hooks = config.pointer("/hooks/poststart").and_then(Value::as_array).into_iter().flatten();
    let mut texts = hooks.map(|hook| (hook["path"].to_string(), hook["args"].to_string()));
    texts.any(|(path, args)| args.contains("-fail") || !path.contains("look"))
}

/// The state that a hook gets, without what is the runtime's own affair.
fn state(text: &str) -> String {
    let Ok(Value::Object(mut state)) = serde_json::from_str::<Value>(text) else { return text.to_owned() };
    state.remove("ociVersion");
    let pid = state.get("pid").and_then(Value::as_u64).unwrap_or(0);
    state.insert("pid".to_owned(), json!(if pid > 0 { "a process" } else { "none" }));
    Value::Object(state).to_string()
}
