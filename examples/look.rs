//! Says what a process sees of itself, a line each: `section|key|value`. The payload of the differential tests of OCI runtimes, which compare
//! these lines.
//!
//! `look WORD...` with the words `stat=PATH` (a node), `ls=PATH` (a directory), `open=PATH` (for writing), `read=PATH`, `sysctl=NAME`,
//! `wait` (until standard input ends), `exit=CODE`. `look hook NAME FILE` appends what a hook sees to a file. It is one process with one
//! thread, so that limits and filters may be narrow.

use std::fmt::{Display, Write as _};
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{CWD, Mode};
use rustix::net::{AddressFamily, SocketType};

/// Of a file that is read, this much counts.
const READ_MAX: usize = 64;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [first, name, file] = words.as_slice()
        && first == "hook"
    {
        return hook(name, Path::new(file));
    }
    let mut look = Look(String::new());
    look.all(&words);
    look.0.push_str("== end\n");
    let _ = io::stdout().write_all(look.0.as_bytes());
    let has = |word: &str| words.iter().any(|given| given == word);
    if has("wait") {
        let _ = io::stdin().read_to_end(&mut Vec::new());
    }
    let code = words.iter().find_map(|word| word.strip_prefix("exit=")?.parse().ok());
    std::process::exit(code.unwrap_or(0));
}

/// The lines so far.
struct Look(String);

impl Look {
    fn say(&mut self, section: &str, key: impl Display, value: impl Display) {
        let _ = writeln!(self.0, "{section}|{key}|{value}");
    }

    fn all(&mut self, words: &[String]) {
        self.fields("status", "/proc/self/status", |line| {
            let (name, value) = line.split_once(':')?;
            const WANTED: [&str; 18] = [
                "Uid",
                "Gid",
                "Groups",
                "Umask",
                "CapInh",
                "CapPrm",
                "CapEff",
                "CapBnd",
                "CapAmb",
                "NoNewPrivs",
                "Seccomp",
                "SigBlk",
                "SigCgt",
                "SigIgn",
                "ShdPnd",
                "Pid",
                "PPid",
                "Cpus_allowed_list",
            ];
            WANTED.contains(&name).then(|| (name.to_owned(), value.trim().to_owned()))
        });
        self.fields("limits", "/proc/self/limits", |line| {
            let (name, value) = line.split_at_checked(26)?;
            Some((name.trim().to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" ")))
        });
        self.fields("cgroup", "/proc/self/cgroup", |line| {
            let (name, path) = line.split_once(':')?.1.split_once(':')?;
            Some((name.to_owned(), path.to_owned()))
        });
        for file in ["oom_score_adj", "uid_map", "gid_map", "setgroups", "timens_offsets", "personality"] {
            let text = fs::read_to_string(Path::new("/proc/self").join(file));
            let text = text.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
            self.say("process", file, shown(text));
        }
        self.process();
        self.environment();
        self.namespaces();
        self.mounts();
        self.nodes(words);
        self.calls();
    }

    fn fields(&mut self, section: &str, path: &str, parse: impl Fn(&str) -> Option<(String, String)>) {
        match fs::read_to_string(path) {
            Ok(text) => text.lines().filter_map(parse).for_each(|(key, value)| self.say(section, key, value)),
            Err(error) => self.say(section, "file", named(&error)),
        }
    }

    fn process(&mut self) {
        let uname = rustix::system::uname();
        self.say("process", "hostname", uname.nodename().to_string_lossy());
        self.say("process", "domainname", uname.domainname().to_string_lossy());
        self.say("process", "machine", uname.machine().to_string_lossy());
        self.say("process", "cwd", shown(std::env::current_dir().map(|dir| dir.display().to_string())));
        let argv0 = std::env::args().next().unwrap_or_default();
        self.say("process", "argv0", argv0);
        // One that is not in this pid namespace is 0, which rustix has no number for.
        let own = nix::unistd::getpid();
        self.say("process", "session leader", nix::unistd::getsid(None) == Ok(own));
        self.say("process", "group leader", nix::unistd::getpgid(None) == Ok(own));
        self.say("process", "nice", shown_errno(rustix::process::getpriority_process(None)));
        self.say("process", "dumpable", shown_errno(rustix::process::dumpable_behavior().map(|it| format!("{it:?}"))));
        self.say("process", "subreaper", shown_errno(rustix::process::child_subreaper().map(|it| it.is_some())));
        self.say(
            "process",
            "pdeathsig",
            shown_errno(rustix::process::parent_process_death_signal().map(|it| it.is_some())),
        );
        self.say("process", "keep caps", shown_errno(rustix::thread::get_keep_capabilities()));
        self.say("process", "securebits", shown_errno(rustix::thread::capabilities_secure_bits().map(|it| it.bits())));
        for (number, fd) in
            [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()].into_iter().enumerate()
        {
            self.terminal(number, fd);
        }
        let open: Vec<String> = fs::read_dir("/proc/self/fd")
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        // The last one is the directory's own.
        self.say("process", "descriptors", open.len().saturating_sub(1));
        let tty = OpenOptions::new().read(true).write(true).open("/dev/tty").map(|_| "opened");
        self.say("process", "/dev/tty", shown(tty));
    }

    fn terminal(&mut self, number: usize, fd: BorrowedFd<'_>) {
        if !rustix::termios::isatty(fd) {
            return self.say("terminal", number, "none");
        }
        let name = rustix::termios::ttyname(fd, Vec::new()).map(|name| name.to_string_lossy().into_owned());
        let size = rustix::termios::tcgetwinsize(fd).map(|size| format!("{}x{}", size.ws_row, size.ws_col));
        let owner = rustix::fs::fstat(fd).map(|stat| format!("{}:{} {:o}", stat.st_uid, stat.st_gid, stat.st_mode));
        self.say("terminal", number, format!("{} {} {}", shown_errno(name), shown_errno(size), shown_errno(owner)));
    }

    fn environment(&mut self) {
        let mut variables: Vec<_> = std::env::vars_os().collect();
        variables.sort();
        for (name, value) in variables {
            self.say("env", name.display(), value.display());
        }
    }

    fn namespaces(&mut self) {
        for name in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
            let link = fs::read_link(Path::new("/proc/self/ns").join(name)).map(|link| link.display().to_string());
            self.say("namespace", name, shown(link));
        }
        self.fields("network", "/proc/net/dev", |line| {
            let name = line.split_once(':')?.0.trim().to_owned();
            let state =
                fs::read_to_string(format!("/sys/class/net/{name}/flags")).unwrap_or_else(|error| named(&error));
            Some((name, state.trim().to_owned()))
        });
    }

    /// A target that is there twice has two lines, the lower one first.
    fn mounts(&mut self) {
        let sorted = |options: &str| {
            let mut options: Vec<&str> = options.split(',').collect();
            options.sort_unstable();
            options.join(",")
        };
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let rows: Vec<(Vec<&str>, Vec<&str>)> = text
            .lines()
            .filter_map(|line| line.split_once(" - "))
            .map(|(left, right)| (left.split(' ').collect(), right.split(' ').collect()))
            .collect();
        let find = |id: &str| rows.iter().find(|(left, _)| left[0] == id);
        // How many lie below it at the same place: numbers and lines come in the order of their making.
        let depth = |row: &(Vec<&str>, Vec<&str>)| {
            let below = |row: &&(Vec<&str>, Vec<&str>)| find(row.0[1]).filter(|parent| parent.0[4] == row.0[4]);
            std::iter::successors(Some(row), below).take(rows.len()).count()
        };
        let mut order: Vec<_> = rows.iter().collect();
        order.sort_by_key(|row| (row.0[4], depth(row)));
        for (left, right) in order {
            // The numbers of peer groups are nobody's business.
            let tags: Vec<&str> = left[6..].iter().map(|tag| tag.split(':').next().unwrap_or(tag)).collect();
            let (options, of_all) = (sorted(left[5]), sorted(right[2]));
            let value = [right[0], right[1], left[3], &options, &tags.join(" "), &of_all].join("|");
            self.say("mount", left[4], value);
        }
    }

    fn nodes(&mut self, words: &[String]) {
        for word in words {
            let Some((what, argument)) = word.split_once('=') else { continue };
            let path = Path::new(argument);
            match what {
                "stat" => self.say("stat", argument, node(path)),
                "ls" => {
                    self.say("stat", argument, node(path));
                    let names = fs::read_dir(path).map(|entries| {
                        let mut nodes: Vec<String> = entries
                            .flatten()
                            .map(|entry| format!("{} {}", entry.file_name().display(), node(&entry.path())))
                            .collect();
                        nodes.sort();
                        nodes
                    });
                    match names {
                        Ok(nodes) => nodes.iter().for_each(|line| {
                            let (name, node) = line.split_once(' ').unwrap_or((line, ""));
                            self.say("stat", path.join(name).display(), node);
                        }),
                        Err(error) => self.say("ls", argument, named(&error)),
                    }
                }
                "open" => self.say("open", argument, shown(opened(path))),
                "read" => self.say("read", argument, shown(read(path))),
                "sysctl" => {
                    let text = fs::read_to_string(Path::new("/proc/sys").join(argument.replace('.', "/")));
                    let text = text.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
                    self.say("sysctl", argument, shown(text));
                }
                _ => {}
            }
        }
    }

    /// Calls without an effect that a filter may answer.
    fn calls(&mut self) {
        let nothing = Path::new("/not/there");
        let made = |family, kind| rustix::net::socket(family, kind, None).map(|_| ());
        let rows: [(&str, rustix::io::Result<()>); 13] = [
            ("mkdirat", rustix::fs::mkdirat(CWD, nothing, Mode::RWXU)),
            ("mknodat", rustix::fs::mknodat(CWD, nothing, rustix::fs::FileType::Fifo, Mode::RWXU, 0)),
            ("symlinkat", rustix::fs::symlinkat(nothing, CWD, nothing)),
            ("linkat", rustix::fs::linkat(CWD, nothing, CWD, nothing, rustix::fs::AtFlags::empty())),
            ("fchownat", rustix::fs::chownat(CWD, nothing, None, None, rustix::fs::AtFlags::empty())),
            ("socket unix stream", made(AddressFamily::UNIX, SocketType::STREAM)),
            ("socket unix dgram", made(AddressFamily::UNIX, SocketType::DGRAM)),
            ("socket inet stream", made(AddressFamily::INET, SocketType::STREAM)),
            ("socket inet raw", made(AddressFamily::INET, SocketType::RAW)),
            ("socket netlink raw", made(AddressFamily::NETLINK, SocketType::RAW)),
            // Too long, and refused later than a right that is missing.
            ("sethostname", rustix::system::sethostname(&[b'x'; 65])),
            ("setpriority", rustix::process::setpriority_process(None, 19)),
            ("getpriority", rustix::process::getpriority_process(None).map(|_| ())),
        ];
        for (name, result) in rows {
            self.say("call", name, shown_errno(result.map(|()| "done")));
        }
        let chroot = rustix::process::chroot("/");
        self.say("call", "chroot", shown_errno(chroot.map(|()| "done")));
    }
}

fn named(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |errno| format!("{:?}", nix::errno::Errno::from_raw(errno)))
}

fn shown<T: Display>(result: io::Result<T>) -> String {
    result.map_or_else(|error| named(&error), |value| value.to_string())
}

fn shown_errno<T: Display>(result: rustix::io::Result<T>) -> String {
    shown(result.map_err(io::Error::from))
}

/// Kind, mode, owner, and numbers or target.
fn node(path: &Path) -> String {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) => return named(&error),
    };
    let kind = found.file_type();
    let (mode, owner) = (found.mode() & 0o7777, format!("{}:{}", found.uid(), found.gid()));
    let device = || format!("{}:{}", rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
    let rest = match kind {
        kind if kind.is_symlink() => {
            return format!("link {}", shown(fs::read_link(path).map(|to| to.display().to_string())));
        }
        kind if kind.is_dir() => "directory".to_owned(),
        kind if kind.is_file() => format!("file of {}", found.len().min(READ_MAX as u64)),
        kind if kind.is_char_device() => format!("char {}", device()),
        kind if kind.is_block_device() => format!("block {}", device()),
        kind if kind.is_fifo() => "fifo".to_owned(),
        _ => "other".to_owned(),
    };
    format!("{rest} {mode:04o} {owner}")
}

/// Whether it can be written to. Of a directory, whether a file can be made in it.
fn opened(path: &Path) -> io::Result<&'static str> {
    if path.is_dir() {
        let probe = path.join(".probe");
        OpenOptions::new().write(true).create_new(true).open(&probe)?;
        return fs::remove_file(probe).map(|()| "made");
    }
    // A terminal must not become the controlling one, a fifo has no reader.
    let flags = rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::NONBLOCK;
    OpenOptions::new().write(true).custom_flags(flags.bits() as i32).open(path).map(|_| "opened")
}

/// The length of what is read, and how many entries a directory has.
fn read(path: &Path) -> io::Result<String> {
    if path.is_dir() {
        return fs::read_dir(path).map(|entries| format!("{} entries", entries.count().min(READ_MAX)));
    }
    let flags = rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::NONBLOCK;
    let mut file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)?;
    let mut start = [0; READ_MAX];
    file.read(&mut start).map(|length| if length == 0 { "empty".to_owned() } else { "something".to_owned() })
}

/// What a hook sees: the state on its standard input, its directory, environment and namespaces.
fn hook(name: &str, file: &Path) {
    let mut state = String::new();
    let _ = io::stdin().read_to_string(&mut state);
    let mut look = Look(String::new());
    // Pretty or not, and in whatever order: whoever compares parses it.
    look.say("hook", format_args!("{name} state"), state.replace('\n', " "));
    look.say("hook", format_args!("{name} cwd"), shown(std::env::current_dir().map(|dir| dir.display().to_string())));
    let mut variables: Vec<String> =
        std::env::vars_os().map(|(name, value)| format!("{}={}", name.display(), value.display())).collect();
    variables.sort();
    look.say("hook", format_args!("{name} env"), variables.join(" "));
    look.say("hook", format_args!("{name} argv0"), std::env::args().next().unwrap_or_default());
    for namespace in ["mnt", "net", "pid", "uts"] {
        let link = fs::read_link(Path::new("/proc/self/ns").join(namespace)).map(|link| link.display().to_string());
        look.say("hook", format_args!("{name} {namespace}"), shown(link));
    }
    let log = OpenOptions::new().append(true).create(true).open(file);
    let _ = log.and_then(|mut log| log.write_all(look.0.as_bytes()));
    if name.contains("fail") {
        std::process::exit(1);
    }
}
