//! Which functions the usual ways through the program take, and how they lie in it: the kernel maps 64 KiB of text at a fault, so functions
//! that are strewn over 4 MB cost a start one fault each, and memory besides.
//!
//! `CARGO_PROFILE_BENCH_STRIP=none cargo bench --bench order`, as root: of each role, how many functions it calls, and in how many stretches of
//! 64 KiB they are. With `MOORED_BLESS=1` it writes `.cargo/order.ld`, by which the linker puts them together (`.cargo/link.rs`). That is worth
//! doing when the ways have changed much; names that are gone do no harm.
//!
//! Every function of the program gets a breakpoint, which is taken away when it was hit once; a process that was forked gets all of them again.

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    println!("x86-64 only: breakpoints are");
}

#[cfg(target_arch = "x86_64")]
fn main() {
    let functions = functions::of(std::path::Path::new(env!("CARGO_BIN_EXE_moored")));
    let ways = ways::walk(&functions);
    for (role, called) in &ways {
        let bytes: u64 = called.iter().map(|at| functions.0[at].bytes).sum();
        let stretches: std::collections::BTreeSet<u64> = called.iter().map(|at| at >> 16).collect();
        println!(
            "{role:12} {:5} functions, {bytes:7} bytes, in {:3} stretches of 64 KiB",
            called.len(),
            stretches.len()
        );
    }
    if std::env::var_os("MOORED_BLESS").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/.cargo/order.ld"), functions::script(&functions, &ways))
            .expect("the repository");
    }
}

/// The program's functions, by nm(1).
#[cfg(target_arch = "x86_64")]
mod functions {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fmt::Write;
    use std::path::Path;
    use std::process::Command;

    pub struct Function {
        pub name: String,
        pub bytes: u64,
    }

    /// By address.
    pub struct Functions(pub BTreeMap<u64, Function>);

    pub fn of(program: &Path) -> Functions {
        let output = Command::new("nm").arg("--defined-only").arg(program).output().expect("nm of binutils");
        let text = String::from_utf8(output.stdout).expect("names in ASCII");
        let symbol = |line: &str| {
            let mut words = line.split(' ');
            let (at, kind) = (u64::from_str_radix(words.next()?, 16).ok()?, words.next()?);
            "tTwWi".contains(kind).then(|| (at, words.next().unwrap_or_default().to_owned()))
        };
        let names: BTreeMap<u64, String> = text.lines().filter_map(symbol).collect();
        assert!(names.len() > 1000, "CARGO_PROFILE_BENCH_STRIP=none leaves the names in the program");
        let ends = names.keys().skip(1).copied().collect::<Vec<_>>();
        let all = names.into_iter().zip(ends).map(|((at, name), end)| (at, Function { name, bytes: end - at }));
        Functions(all.collect())
    }

    /// What a linker calls a function in any build: what is made of crates' versions (`Cs`, a hash and `_`), and numbers that tell copies of one
    /// from each other, are left open.
    fn pattern(name: &str) -> String {
        let mut pattern = String::new();
        let mut rest = name.split(".llvm.").next().unwrap_or_default();
        while let Some(at) = rest.find("Cs") {
            let (before, hash) = rest.split_at(at);
            let end = hash.find(|letter: char| !letter.is_ascii_alphanumeric()).unwrap_or(hash.len());
            pattern.push_str(before);
            pattern.push_str(if hash[end..].starts_with('_') { "Cs*" } else { &hash[..end] });
            rest = &hash[end..];
        }
        pattern.push_str(rest);
        let copy = pattern.rfind('.').filter(|dot| pattern[dot + 1..].bytes().all(|byte| byte.is_ascii_digit()));
        if let Some(dot) = copy {
            pattern.replace_range(dot + 1.., "*");
        }
        pattern
    }

    /// Of functions of the C library, which are no sections of their own: the object that each is in.
    fn objects() -> BTreeMap<String, String> {
        let library = Command::new("cc").arg("-print-file-name=libc.a").output().expect("a C compiler").stdout;
        let library = String::from_utf8(library).expect("a path");
        let output =
            Command::new("nm").args(["-A", "--defined-only", library.trim()]).output().expect("nm of binutils");
        let symbol = |line: &str| {
            let (object, rest) = line.strip_prefix(library.trim())?.strip_prefix(':')?.split_once(':')?;
            let mut words = rest.split_whitespace().skip(1);
            let (kind, name) = (words.next()?, words.next()?);
            "tTwWi".contains(kind).then(|| (name.to_owned(), object.to_owned()))
        };
        String::from_utf8_lossy(&output.stdout).lines().filter_map(symbol).collect()
    }

    /// As much of a pattern as tells it from these.
    fn shortened(pattern: &str, others: &BTreeSet<&str>) -> String {
        let common = |other: &&str| pattern.bytes().zip(other.bytes()).take_while(|(one, two)| one == two).count();
        let near = [others.range(..pattern).next_back(), others.range(pattern..).next()];
        let most = near.into_iter().flatten().map(common).max().unwrap_or(0);
        pattern.get(..most + 1).map_or_else(|| pattern.to_owned(), |begin| format!("{begin}*"))
    }

    pub fn script(functions: &Functions, ways: &[(String, BTreeSet<u64>)]) -> String {
        let mut text = "/* The functions that the usual ways through the program call, next to each other. Written by benches/order.rs. */\n\
                        SECTIONS\n{\n  .text.usual : {\n"
            .to_owned();
        let (objects, mut written) = (objects(), BTreeSet::new());
        let patterns: BTreeMap<u64, String> =
            functions.0.iter().map(|(at, function)| (*at, pattern(&function.name))).collect();
        for (role, called) in ways {
            let _ = writeln!(text, "    /* {role} */");
            for object in called.iter().filter_map(|at| objects.get(&functions.0[at].name)) {
                if written.insert(object.as_str()) {
                    let _ = writeln!(text, "    *libc.a:{object}(.text .text.*)");
                }
            }
            let is_new = |pattern: &&str| pattern.starts_with("_R") && !written.contains(pattern);
            let new: BTreeSet<&str> = called.iter().map(|at| patterns[at].as_str()).filter(is_new).collect();
            let is_other = |pattern: &&str| !new.contains(pattern) && !written.contains(pattern);
            let others: BTreeSet<&str> = patterns.values().map(String::as_str).filter(is_other).collect();
            let sections: BTreeSet<String> = new.iter().map(|pattern| shortened(pattern, &others)).collect();
            for section in sections {
                let _ = writeln!(text, "    *(.text*{section})");
            }
            written.extend(new);
        }
        text + "  }\n}\nINSERT BEFORE .text;\n"
    }
}

#[cfg(target_arch = "x86_64")]
mod ways {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};

    use nix::sys::ptrace::{self, Options};
    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    use nix::unistd::Pid;

    use super::functions::Functions;

    const BREAKPOINT: u8 = 0xcc;
    /// How often the container is run.
    const RUNS: usize = 5;

    /// What each role called, those first whose starts are waited for most.
    const ROLES: [&str; 6] = ["set-up", "oci", "client", "keeper", "supervisor", "anchor"];

    struct Walk<'f> {
        functions: &'f Functions,
        /// From the first function to the last: as it is, and with a breakpoint in each.
        begin: u64,
        plain: Vec<u8>,
        broken: Vec<u8>,
        /// Of each thread its process and role.
        threads: BTreeMap<i32, (i32, &'static str)>,
        /// New ones that their parents have not told of yet.
        early: BTreeSet<i32>,
        called: BTreeMap<&'static str, BTreeSet<u64>>,
    }

    /// The usual ways: a container by the supervisor, its restarts, a question, an ordered end; and one by `moored oci run`.
    pub fn walk(functions: &Functions) -> Vec<(String, BTreeSet<u64>)> {
        let dir = std::env::temp_dir().join(format!("moored-order-{}", std::process::id()));
        let root = dir.join("rootfs");
        for name in ["bin", "dev", "proc", "sys", "tmp"] {
            fs::create_dir_all(root.join(name)).expect("a temporary directory");
        }
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        fs::copy(busybox.expect("apt-get install busybox-static"), root.join("bin/busybox"))
            .expect("a temporary directory");
        let mut walk = Walk::new(functions);
        walk.of_oci(&dir, &root);
        walk.of_supervisor(&dir, &root);
        fs::remove_dir_all(dir).expect("the directory is ours");
        let mut called = walk.called;
        ROLES.map(|role| (role.to_owned(), called.remove(role).unwrap_or_default())).to_vec()
    }

    impl Walk<'_> {
        fn new(functions: &Functions) -> Walk<'_> {
            let (begin, end) = (*functions.0.keys().next().unwrap(), *functions.0.keys().next_back().unwrap() + 1);
            Walk {
                functions,
                begin,
                plain: vec![0; (end - begin) as usize],
                broken: Vec::new(),
                threads: BTreeMap::new(),
                early: BTreeSet::new(),
                called: BTreeMap::new(),
            }
        }

        fn of_oci(&mut self, dir: &Path, root: &Path) {
            let mut config: serde_json::Value = serde_json::from_str(moored::oci::template()).expect("it is ours");
            config["process"]["terminal"] = false.into();
            config["process"]["args"] = vec!["/bin/busybox", "true"].into();
            config["root"]["path"] = root.display().to_string().into();
            fs::write(dir.join("config.json"), config.to_string()).expect("a temporary directory");
            let mut command = Command::new(env!("CARGO_BIN_EXE_moored"));
            command.args(["oci", "--root"]).arg(dir.join("oci")).args(["run", "--bundle"]).arg(dir).arg("order");
            self.begin_with(&command, "oci");
            self.until(|walk, _| walk.threads.is_empty());
        }

        fn of_supervisor(&mut self, dir: &Path, root: &Path) {
            let units = dir.join("units");
            fs::create_dir(&units).expect("a temporary directory");
            let unit = format!(
                "rootfs = \"{}\"\n[process]\nargs = [\"/bin/busybox\", \"sleep\", \"0.1\"]\n[restart]\npolicy = \"always\"\ndelay = \"50ms\"\n",
                root.display()
            );
            fs::write(units.join("web.toml"), unit).expect("a temporary directory");
            let places: Vec<PathBuf> = ["run", "state", "log"].iter().map(|name| dir.join(name)).collect();
            let moored = |word: &str| {
                let mut command = Command::new(env!("CARGO_BIN_EXE_moored"));
                command.arg(word).arg("--run-dir").arg(&places[0]);
                command
            };
            let mut up = moored("up");
            up.arg("--state-dir").arg(&places[1]).arg("--log-dir").arg(&places[2]).arg("--units").arg(&units);
            up.arg("--cgroup-root").arg(format!("/moored-order-{}", std::process::id()));
            up.arg("--config").arg(dir.join("moored.toml"));
            self.begin_with(&up, "anchor");
            let mut runs = 0;
            self.until(|_, executed| {
                runs += usize::from(executed);
                runs == RUNS
            });
            for word in ["ps", "down"] {
                self.begin_with(&moored(word), "client");
                self.until(|walk, _| !walk.threads.values().any(|(_, role)| *role == "client"));
            }
            self.until(|walk, _| walk.threads.is_empty());
        }

        #[allow(clippy::zombie_processes)]
        fn begin_with(&mut self, command: &Command, role: &'static str) {
            // It waits to be traced; `until` waits for it.
            let mut shell = Command::new("sh");
            shell.args(["-c", "kill -STOP $$; exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
            let shell = shell.stdout(Stdio::null()).spawn().expect("a shell");
            let pid = Pid::from_raw(shell.id().cast_signed());
            waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("its stop");
            let all = Options::PTRACE_O_TRACEFORK
                | Options::PTRACE_O_TRACEVFORK
                | Options::PTRACE_O_TRACECLONE
                | Options::PTRACE_O_TRACEEXEC
                | Options::PTRACE_O_EXITKILL;
            ptrace::seize(pid, all).expect("root may");
            self.threads.insert(pid.as_raw(), (pid.as_raw(), role));
            kill(pid, Signal::SIGCONT).expect("it is stopped");
        }

        /// Until that is so, which is looked at when a container's program was executed (`true`) and when a thread has ended.
        fn until(&mut self, mut is_over: impl FnMut(&Self, bool) -> bool) {
            while let Ok(status) = waitpid(None, Some(WaitPidFlag::__WALL)) {
                let executed = match status {
                    WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => {
                        self.threads.remove(&pid.as_raw());
                        false
                    }
                    WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_EXEC) if self.executed(pid) => true,
                    other => {
                        self.stopped(other);
                        continue;
                    }
                };
                if is_over(self, executed) {
                    return;
                }
            }
        }

        fn stopped(&mut self, status: WaitStatus) {
            match status {
                WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_EXEC) => {}
                // A new one begins with this, maybe before its parent has told of it.
                WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_STOP) => {
                    match self.threads.contains_key(&pid.as_raw()) {
                        true => go_on(pid, None),
                        false => drop(self.early.insert(pid.as_raw())),
                    }
                }
                WaitStatus::PtraceEvent(pid, _, event) => {
                    self.forked(pid, event);
                    go_on(pid, None);
                }
                WaitStatus::Stopped(pid, Signal::SIGTRAP) => self.hit(pid),
                WaitStatus::Stopped(pid, signal) => go_on(pid, Some(signal)),
                _ => {}
            }
        }

        /// Whether it is the program of a container; that one is let go.
        fn executed(&mut self, pid: Pid) -> bool {
            let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            let is_ours = exe.ends_with("moored") || exe.starts_with("/memfd:moored (deleted)");
            let was = self.threads.get(&pid.as_raw()).map(|(_, role)| *role);
            if !is_ours {
                self.threads.remove(&pid.as_raw());
                let _ = ptrace::detach(pid, None);
                return was == Some("set-up");
            }
            let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let word = cmdline.split(|byte| *byte == 0).nth(1).unwrap_or_default();
            let role = ROLES.into_iter().find(|role| role.as_bytes() == word).or(was).unwrap_or("anchor");
            self.threads.insert(pid.as_raw(), (pid.as_raw(), role));
            self.arm(pid.as_raw());
            go_on(pid, None);
            false
        }

        fn forked(&mut self, parent: Pid, event: i32) {
            let (Ok(child), Some((process, role))) =
                (ptrace::getevent(parent), self.threads.get(&parent.as_raw()).copied())
            else {
                return;
            };
            let child = Pid::from_raw(child as i32);
            let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
            let group = status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse::<i32>().ok());
            if group == Some(process) {
                self.threads.insert(child.as_raw(), (process, role));
            } else {
                let role = if role == "keeper" || role == "oci" { "set-up" } else { role };
                self.threads.insert(child.as_raw(), (child.as_raw(), role));
                // Memory that is shared has them.
                if event != libc::PTRACE_EVENT_VFORK {
                    self.arm(child.as_raw());
                }
            }
            if self.early.remove(&child.as_raw()) {
                go_on(child, None);
            }
        }

        fn arm(&mut self, pid: i32) {
            if self.broken.is_empty() {
                memory(pid)
                    .and_then(|memory| memory.read_exact_at(&mut self.plain, self.begin))
                    .expect("the first one");
                self.broken = self.plain.clone();
                for at in self.functions.0.keys() {
                    self.broken[(at - self.begin) as usize] = BREAKPOINT;
                }
            }
            let _ = memory(pid).and_then(|memory| memory.write_all_at(&self.broken, self.begin));
        }

        fn hit(&mut self, pid: Pid) {
            let Ok(mut registers) = ptrace::getregs(pid) else { return };
            let at = registers.rip.wrapping_sub(1);
            let known = self.threads.get(&pid.as_raw()).copied();
            if let (true, Some((process, role))) = (self.functions.0.contains_key(&at), known) {
                self.called.entry(role).or_default().insert(at);
                let plain = self.plain[(at - self.begin) as usize];
                let _ = memory(process).and_then(|memory| memory.write_all_at(&[plain], at));
                registers.rip = at;
                let _ = ptrace::setregs(pid, registers);
            }
            go_on(pid, None);
        }
    }

    fn go_on(pid: Pid, signal: Option<Signal>) {
        // It may have been killed meanwhile.
        let _ = ptrace::cont(pid, signal);
    }

    fn memory(pid: i32) -> std::io::Result<File> {
        File::options().read(true).write(true).open(format!("/proc/{pid}/mem"))
    }
}
