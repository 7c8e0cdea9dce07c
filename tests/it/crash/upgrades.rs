//! `moored upgrade` under running containers: to other builds, of other state versions too, under load, and with a death at any moment.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::OnceLock;

use super::super::support::{Pids, install, skip, tool, wait_for};
use super::{NEVER, Trap, Victim, WAITS, World, generation, is_alive, name, signal, world};

/// What is before the number in the program's file.
const VERSION_TEXT: &[u8] = b"moored state version: ";

impl World {
    /// A build of its own, whose state has this version: a copy of the program with another number of the linker's.
    fn build(&self, name: &str, version: u32) -> PathBuf {
        let mut bytes = fs::read(env!("CARGO_BIN_EXE_moored")).unwrap();
        let (id, version_text) = places(&bytes);
        let other: Vec<u8> = name.bytes().cycle().take(id.len()).collect();
        bytes[id].copy_from_slice(&other);
        bytes[version_text].copy_from_slice(format!("{version:08}").as_bytes());
        let path = self.moored.dir.join(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// Anchor, keeper, supervisor, each by what it says of itself.
    fn builds(&self) -> [String; 3] {
        wait_for("all three to say what they are", || {
            let output = self.moored.run(&["status", "--json"]);
            let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
            let of = |name: &str| status["builds"][name].as_str().map(str::to_owned);
            Some([of("anchor")?, of("keeper")?, of("supervisor")?])
        })
    }

    fn upgrade(&self, program: &Path) -> String {
        self.moored.ok(&["upgrade", program.to_str().unwrap()])
    }

    /// Exit code and standard error of one that is refused.
    fn refused(&self, program: &Path) -> String {
        let output = self.moored.run(&["upgrade", program.to_str().unwrap()]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{error}");
        error
    }
}

/// Where in the program's file are the linker's number and that of the state's version.
fn places(program: &[u8]) -> (Range<usize>, Range<usize>) {
    static FOUND: OnceLock<(usize, usize, usize)> = OnceLock::new();
    let (id, id_bytes, version) = *FOUND.get_or_init(|| places_in(program));
    (id..id + id_bytes, version..version + 8)
}

/// The first, its length, and the second, of our program or a stripped copy of it.
pub fn places_in(program: &[u8]) -> (usize, usize, usize) {
    let file = fs::File::open(env!("CARGO_BIN_EXE_moored")).unwrap();
    let id = moored::sys::elf::build_id(file.as_fd()).expect("the linker numbers builds");
    let id: Vec<u8> = (0..id.len()).step_by(2).map(|at| u8::from_str_radix(&id[at..at + 2], 16).unwrap()).collect();
    let version = only(program, VERSION_TEXT) + VERSION_TEXT.len();
    (only(program, &id), id.len(), version)
}

/// Where it is, once.
fn only(bytes: &[u8], wanted: &[u8]) -> usize {
    let found: Vec<usize> =
        bytes.windows(wanted.len()).enumerate().filter(|(_, at)| *at == wanted).map(|(n, _)| n).collect();
    assert_eq!(found.len(), 1);
    found[0]
}

fn hex(name: &str) -> String {
    name.bytes().cycle().take(6).map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn all_three_are_replaced_and_no_container_notices() {
    let Some(mut world) = world("upgrade", &[]) else { return };
    world.units(3, |n| format!("trap 'exit {n}' TERM; while :; do sleep 1000 & wait; done"), NEVER);
    let (before, pids) = (world.running(3), world.pids());
    let first = world.builds();
    let said = world.upgrade(&world.build("two", 1));
    let two = format!("0.1.0 ({})", hex("two"));
    assert_eq!(said, format!("anchor, keeper and supervisor run {two}, before {}\n", first[0]));
    assert_eq!(world.builds(), [two.clone(), two.clone(), two.clone()]);
    let now = world.pids();
    assert_eq!((now.anchor, now.keeper), (pids.anchor, pids.keeper), "two of them in place");
    assert_ne!(now.supervisor, pids.supervisor);
    assert_eq!(world.running(3), before);
    // All of it works as before: exits, starts, stops, and the death of any of them.
    signal(before[&name(1)], rustix::process::Signal::TERM);
    assert_eq!(world.moored.wait_phase(&name(1), &["failed"])["exit"], "code 1");
    world.moored.ok(&["stop", &name(2)]);
    world.moored.ok(&["start", &name(2)]);
    world.kill(&[Victim::Supervisor]);
    world.kill(&[Victim::Keeper]);
    let after = world.running(2);
    assert_eq!(after[&name(0)], before[&name(0)]);
    // The anchor is the keeper now, and there is no other: it is replaced alone. Without a path it is what `up` was started from.
    let said = world.moored.ok(&["upgrade"]);
    assert_eq!(said, format!("anchor, keeper and supervisor run {}, before {two}\n", first[0]));
    assert_eq!(world.running(2), after);
    world.check_records();
    assert_eq!(world.moored.stop().code(), Some(0));
    assert!(world.cgroups().is_empty() && after.values().all(|pid| !is_alive(*pid)));
}

#[test]
fn a_state_of_a_newer_version_is_refused_in_the_dry_run() {
    let Some(world) = world("upgrade-versions", &[]) else { return };
    world.units(2, |_| WAITS.to_owned(), "");
    let before = world.running(2);
    let (one, two) = (world.build("one", 1), world.build("two", 2));
    world.upgrade(&two);
    let (builds, pids) = (world.builds(), world.pids());
    let error = world.refused(&one);
    let expected = format!(
        "moored: {}: moored 0.1.0 ({}) cannot go on from the state of what runs: it has version 2, and the newest that \
         this program reads is 1. Nothing was changed\n",
        one.display(),
        hex("one")
    );
    assert_eq!(error, expected);
    assert_eq!((world.builds(), world.pids()), (builds, pids), "the supervisor too is the one it was");
    // An older version is read.
    world.upgrade(&world.build("three", 3));
    assert_eq!(world.running(2), before);
    world.check_records();
}

/// An ELF program of these instructions.
#[cfg(target_arch = "x86_64")]
fn elf(code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    let mut image = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for word in [BASE + 120, 64, 0] {
        image.extend(u64::to_le_bytes(word));
    }
    image.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 64, 0, 0] {
        image.extend(half.to_le_bytes());
    }
    image.extend(1u32.to_le_bytes());
    image.extend(5u32.to_le_bytes());
    let size = 120 + code.len() as u64;
    for word in [0, BASE, BASE, size, size, 0x1000] {
        image.extend(u64::to_le_bytes(word));
    }
    image.extend(code);
    image
}

#[test]
#[cfg(target_arch = "x86_64")]
fn what_cannot_take_over_is_refused_and_nothing_has_changed() {
    let Some(world) = world("upgrade-refused", &[]) else { return };
    world.units(2, |_| WAITS.to_owned(), "");
    let (before, pids) = (world.running(2), world.pids());
    let no_answer = "it is not moored, or a version without `upgrade`";
    let programs: [(&str, Vec<u8>, u32, &str); 6] = [
        ("text", b"no program".to_vec(), 0o755, "it cannot be executed on this host"),
        ("crash", elf(b"\x0f\x0b"), 0o755, "signal 4 ended its dry run"),
        // pause(2) for ever.
        ("hang", elf(b"\xb8\x22\0\0\0\x0f\x05\xeb\xf7"), 0o755, "the dry run did not end in 10 s"),
        // exit(0), as anything might.
        ("zero", elf(b"\xb8\x3c\0\0\0\x31\xff\x0f\x05"), 0o755, no_answer),
        ("writable", fs::read(env!("CARGO_BIN_EXE_moored")).unwrap(), 0o777, "writable by everybody"),
        ("missing", Vec::new(), 0o755, "does not exist"),
    ];
    for (name, bytes, mode, why) in programs {
        let path = world.moored.dir.join(name);
        if name != "missing" {
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let error = world.refused(&path);
        assert!(error.contains(why), "{name}: {error}");
    }
    let error = world.refused(Path::new("/bin/true"));
    assert!(error.contains(no_answer), "{error}");
    // While one is judged there is no other.
    let two = world.build("two", 1);
    let mut waiting = world.moored.moored(&["upgrade", world.moored.dir.join("hang").to_str().unwrap()]);
    let mut waiting = waiting.stderr(Stdio::null()).spawn().unwrap();
    wait_for("the dry run", || super::child_of(pids.keeper, "upgrade-check"));
    let error = world.refused(&two);
    assert!(error.contains("another upgrade is under way"), "{error}");
    assert_eq!(waiting.wait().unwrap().code(), Some(1));
    assert_eq!((world.pids(), world.running(2)), (pids, before));
    world.check_records();
}

#[test]
fn an_anchor_that_came_later_is_replaced_too() {
    let Some(mut world) = world("upgrade-later", &[]) else { return };
    world.units(2, |_| WAITS.to_owned(), "");
    let (before, pids) = (world.running(2), world.pids());
    signal(pids.anchor.unwrap(), rustix::process::Signal::KILL);
    wait_for("its end", || (!is_alive(pids.anchor.unwrap()) && world.pids().anchor.is_none()).then_some(()));
    let said = world.upgrade(&world.build("red", 1));
    assert!(
        said.starts_with(&format!("keeper and supervisor run 0.1.0 ({}), and there is no anchor", hex("red"))),
        "{said}"
    );
    world.moored.up();
    // It is there before the keeper has said so to the supervisor.
    let anchor = Some(wait_for("the keeper to know it", || world.pids().anchor));
    world.upgrade(&world.build("green", 1));
    let green = format!("0.1.0 ({})", hex("green"));
    assert_eq!(world.builds(), [green.clone(), green.clone(), green]);
    assert_eq!((world.pids().anchor, world.pids().keeper), (anchor, pids.keeper));
    assert_eq!(world.running(2), before);
    assert_eq!(world.moored.stop().code(), Some(0));
    assert!(before.values().all(|pid| !is_alive(*pid)));
}

/// Descriptors of anchor and keeper, by what they are.
fn descriptors(world: &World) -> Vec<String> {
    let pids = world.pids();
    let of = |pid: i32| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let all = of(pids.anchor.unwrap()).chain(of(pids.keeper));
    let kind = |fd: fs::DirEntry| fs::read_link(fd.path()).unwrap_or_default().to_string_lossy().into_owned();
    let mut kinds: Vec<String> =
        all.map(kind).map(|kind| kind.split(':').next().unwrap_or_default().to_owned()).collect();
    kinds.sort();
    kinds
}

#[test]
fn an_upgrade_leaves_no_descriptor_behind() {
    let Some(world) = world("upgrade-descriptors", &[]) else { return };
    world.units(2, |_| WAITS.to_owned(), "");
    world.running(2);
    let before = descriptors(&world);
    let builds = [world.build("red", 1), world.build("green", 1)];
    for n in 0..4 {
        world.upgrade(&builds[n % 2]);
        world.refused(Path::new("/bin/true"));
    }
    wait_for("the same descriptors", || (descriptors(&world) == before).then_some(()));
    let zombies = |pid: i32| super::child_of(pid, "upgrade-check").is_some();
    assert!(!zombies(world.pids().keeper) && !zombies(world.pids().anchor.unwrap()));
}

#[test]
fn there_must_be_somebody_to_be_replaced() {
    let Some(mut world) = world("upgrade-nobody", &["--detach-on-exit"]) else { return };
    world.units(1, |_| WAITS.to_owned(), "");
    world.running(1);
    assert_eq!(world.moored.stop().code(), Some(0));
    let error = world.refused(&world.build("red", 1));
    assert!(
        error.contains("or runs on without a supervisor: there is nothing to upgrade. Nothing was changed"),
        "{error}"
    );
    world.moored.up();
    world.moored.ok(&["down"]);
    let output = world.moored.run(&["upgrade", "/bin/true"]);
    assert_eq!(output.status.code(), Some(69));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("no supervisor is running") && error.contains("`moored up`"), "{error}");
}

/// Ends with another code each time, and has it on disk before, as the only witness; at the end with 100.
fn ends(n: usize) -> String {
    format!(
        "[ -e /data/enough ] && exit 100; i=$(cat /data/{n} 2>/dev/null | wc -l); echo $i >> /data/{n}; sleep 0.2; \
         exit $((i % 90 + 1))"
    )
}

const OFTEN: &str = "[restart]\npolicy = \"always\"\ndelay = \"50ms\"\nmax_delay = \"100ms\"";
const KEEPS_ALL: &str = "[log]\nmax_size = \"64M\"\nmax_files = 1000";
const COUNTS: &str = "i=0; while [ ! -e /data/enough ]; do echo out $i; echo err $i >&2; i=$((i + 1)); \
                      [ $((i % 20)) = 0 ] && sleep 0.01; done; echo end $i";

/// Containers that end, print and wait, `upgrades` times the program of what runs them is replaced, to and fro.
fn upgrades_under_load(test: &str, upgrades: usize, ending: usize, counting: usize, waiting: usize) {
    let Some(world) = world(test, &[]) else { return };
    let tell = Path::new(env!("CARGO_BIN_EXE_moored")).with_file_name("examples").join("tell");
    if !tell.exists() {
        return skip("examples/tell is not built: cargo build --example tell");
    }
    install(&tell, &world.root.join("bin/tell"));
    let builds = [world.build("red", 1), world.build("green", 1)];
    (0..ending).for_each(|n| world.unit(&name(n), &ends(n), OFTEN));
    (0..counting).for_each(|n| world.unit(&format!("count{n}"), COUNTS, &format!("{NEVER}\n{KEEPS_ALL}")));
    (0..waiting).for_each(|n| world.unit(&format!("wait{n}"), WAITS, ""));
    // Says each thing once, when it is told to.
    let teller = world.unit_text(
        "tell READY=1; i=0; while :; do if [ -e /data/say$i ]; then tell STATUS=upgrade-$i-; i=$((i + 1)); else sleep 0.01; fi; done",
        "",
    );
    world.moored.unit("teller", &teller.replace("[process]\n", "[process]\nnotify = \"systemd\"\n"));
    let teller_pid = world.moored.wait_phase("teller", &["ready"])["pid"].clone();
    let steady = |world: &World| -> BTreeMap<String, i32> {
        let rows = world.rows().into_iter().map(|row| (super::text(&row, "unit"), row));
        let rows = rows.filter(|(unit, _)| unit.starts_with("wait") || unit.starts_with("count"));
        rows.filter_map(|(unit, row)| Some((unit, row["pid"].as_i64()? as i32))).collect()
    };
    wait_for("all to run", || (steady(&world).len() == counting + waiting).then_some(()));
    let (before, pids) = (steady(&world), world.pids());
    for n in 0..upgrades {
        world.touch(&format!("say{n}"));
        world.upgrade(&builds[n % 2]);
        world.moored.wait_unit("teller", "heard", |row| {
            row["reason"].as_str().is_some_and(|reason| reason.contains(&format!("upgrade-{n}-")))
        });
        let now = world.pids();
        assert_eq!((now.anchor, now.keeper), (pids.anchor, pids.keeper), "after upgrade {n}");
        assert_eq!(steady(&world), before, "after upgrade {n}");
    }
    world.touch("enough");
    for n in 0..ending {
        world.moored.wait_unit(&name(n), "at its last code", |row| row["exit"] == "code 100");
        world.moored.ok(&["stop", &name(n)]);
    }
    let exits = world.said("exited:");
    for n in 0..ending {
        let runs = world.lines(&n.to_string());
        let expected: Vec<String> = (0..runs.len()).map(|run| run.to_string()).collect();
        assert_eq!(runs, expected, "one run at a time, each counted");
        let of_unit = exits.iter().filter(|(id, _)| id.starts_with(&format!("{}.", name(n))));
        let mut by_generation: Vec<(u64, &str)> =
            of_unit.map(|(id, said)| (generation(id), said.first().unwrap().as_str())).collect();
        by_generation.sort_unstable();
        let codes: Vec<&str> = by_generation.iter().take(runs.len()).map(|(_, said)| *said).collect();
        let expected: Vec<String> = (0..runs.len()).map(|run| format!("exited: code {}", run % 90 + 1)).collect();
        assert_eq!(codes, expected, "{}\n{}", name(n), world.moored.output());
    }
    for n in 0..counting {
        let unit = format!("count{n}");
        assert_eq!(world.moored.wait_phase(&unit, &["completed", "failed"])["exit"], "code 0");
        let text = world.moored.log(&unit);
        let lines: usize =
            text.lines().find_map(|line| line.strip_prefix("end ")?.parse().ok()).expect("its last line");
        for stream in ["out", "err"] {
            let found = text.lines().filter(|line| line.starts_with(stream));
            assert!(
                found.eq((0..lines).map(|line| format!("{stream} {line}"))),
                "{unit}: {stream} is not what was written"
            );
        }
    }
    assert_eq!(world.moored.find("teller").unwrap()["pid"], teller_pid);
    world.check_records();
    println!("{upgrades} upgrades, {} exits", exits.len());
}

#[test]
fn nothing_is_lost_in_twenty_upgrades() {
    upgrades_under_load("upgrades", 20, 6, 2, 2);
}

/// With fifty containers: `MOORED_UPGRADES=1000`.
#[test]
fn nothing_is_lost_in_as_many_upgrades_as_the_environment_says() {
    let Some(upgrades) = std::env::var("MOORED_UPGRADES").ok().and_then(|count| count.parse().ok()) else { return };
    upgrades_under_load("upgrades-many", upgrades, 40, 4, 5);
}

/// A client that goes on.
struct Open {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Open {
    fn new(world: &World, arguments: &[&str]) -> Open {
        let mut command = world.moored.moored(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Open { child, input, output }
    }

    /// Reads lines up to one with this.
    fn until(&mut self, text: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "ended before {text:?}: {lines:?}");
            lines.push(line.trim_end().to_owned());
            if line.contains(text) {
                return lines;
            }
        }
    }

    fn code(mut self) -> Option<i32> {
        drop(self.input);
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        self.child.wait().unwrap().code()
    }
}

#[test]
fn open_sessions_go_on_over_upgrades() {
    let Some(world) = world("upgrade-sessions", &[]) else { return };
    let prints = "trap 'exit 0' TERM; while :; do if read line < /data/fifo; then echo $line; fi; done";
    world.unit("web", prints, "");
    world.unit("other", WAITS, "");
    let fifo = world.data.join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let before = world.running(2);
    let echoes = "echo begun; while read line; do echo got $line; done; exit 5";
    let mut terminal = Open::new(&world, &["exec", "-it", "web", "--", "sh", "-c", &format!("stty -echo; {echoes}")]);
    let mut streams = Open::new(&world, &["exec", "-i", "web", "--", "sh", "-c", echoes]);
    let mut ended = Open::new(&world, &["exec", "-i", "web", "--", "sh", "-c", "echo begun; read line; exit 6"]);
    let mut events = Open::new(&world, &["events", "-f", "--json"]);
    let mut logs = Open::new(&world, &["logs", "-f", "web"]);
    [&mut terminal, &mut streams, &mut ended].into_iter().for_each(|session| drop(session.until("begun")));
    let mut told = events.until("\"started\"");
    let builds = [world.build("red", 1), world.build("green", 1)];
    for n in 0..4 {
        if n == 2 {
            // Its end comes while there is nobody to tell it.
            let supervisor = world.pids().supervisor;
            super::freeze(supervisor);
            ended.input.write_all(b"go\n").unwrap();
        }
        world.upgrade(&builds[n % 2]);
        for session in [&mut terminal, &mut streams] {
            session.input.write_all(format!("line {n}\n").as_bytes()).unwrap();
            session.until(&format!("got line {n}"));
        }
        fs::write(&fifo, format!("printed {n}\n")).unwrap();
        logs.until(&format!("printed {n}"));
        told.extend(events.until("begins again"));
    }
    world.moored.ok(&["restart", "other"]);
    told.extend(events.until("stopping other"));
    let numbers: Vec<u64> = told
        .iter()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["number"].as_u64().unwrap())
        .collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "each event once, in order: {numbers:?}");
    assert_eq!(ended.code(), Some(6));
    assert_eq!(terminal.code(), Some(5));
    assert_eq!(streams.code(), Some(5));
    for mut follower in [events, logs] {
        assert!(follower.child.try_wait().unwrap().is_none());
        follower.child.kill().unwrap();
        follower.child.wait().unwrap();
    }
    assert_eq!(world.running(2)["web"], before["web"]);
    world.check_records();
}

#[test]
fn clients_that_ask_meanwhile_are_answered() {
    let Some(world) = world("upgrade-clients", &[]) else { return };
    world.units(3, |_| WAITS.to_owned(), "");
    world.running(3);
    let builds = [world.build("red", 1), world.build("green", 1)];
    let asking = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            [&["sync", "--timeout", "60s"][..], &["ps"], &["status", "--json"], &["start", "u00"], &["why", "u01"]]
                .into_iter()
                .map(|arguments| {
                    let (world, asking) = (&world, &asking);
                    scope.spawn(move || {
                        let mut asked = 0;
                        while asking.load(std::sync::atomic::Ordering::Relaxed) {
                            let output = world.moored.run(arguments);
                            let error = String::from_utf8_lossy(&output.stderr).into_owned();
                            assert!(output.status.success(), "{arguments:?}: {}: {error}", output.status);
                            asked += 1;
                        }
                        asked
                    })
                })
                .collect();
        for n in 0..6 {
            world.upgrade(&builds[n % 2]);
        }
        asking.store(false, std::sync::atomic::Ordering::Relaxed);
        assert!(threads.into_iter().all(|thread| thread.join().unwrap() > 0));
    });
    world.check_records();
}

/// One that dies at its `n`th system call from the beginning of an upgrade: what is left goes on, and can be upgraded.
fn upgrade_across_a_death(strace: &Path, victim: Victim, n: usize) {
    let Some(world) = world(&format!("upgrade-{victim:?}-{n}").to_lowercase(), &[]) else { return };
    world.units(2, |n| format!("trap 'exit {n}' TERM; while :; do sleep 1000 & wait; done"), NEVER);
    let (before, pids) = (world.running(2), world.pids());
    let Pids { anchor, keeper, supervisor } = pids;
    let traced = match victim {
        Victim::Anchor => anchor.unwrap(),
        Victim::Keeper => keeper,
        Victim::Supervisor => supervisor,
    };
    let build = world.build("red", 1);
    let trap = Trap::set(strace, traced, victim == Victim::Supervisor, n);
    let mut client = world.moored.moored(&["upgrade", build.to_str().unwrap()]);
    let mut client = client.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let died = wait_for("an answer or a death", || {
        (client.try_wait().unwrap().is_some() || !is_alive(traced)).then(|| !is_alive(traced))
    });
    drop(trap);
    wait_for("an answer", || client.try_wait().unwrap());
    assert_eq!(world.running(2), before, "at call {n} of the {victim:?}\n{}", world.moored.output());
    // Whatever builds there are now, they work together, and another upgrade makes them one.
    signal(before[&name(1)], rustix::process::Signal::TERM);
    assert_eq!(world.moored.wait_phase(&name(1), &["failed"])["exit"], "code 1", "at call {n} of the {victim:?}");
    let said = world.upgrade(&world.build("green", 1));
    assert!(said.contains(&format!("supervisor run 0.1.0 ({})", hex("green"))), "{said}");
    assert_eq!(world.running(1)[&name(0)], before[&name(0)], "at call {n} of the {victim:?}");
    world.check_records();
    println!("{victim:?} at call {n}: {}", if died { "died" } else { "was through" });
}

#[test]
fn an_upgrade_goes_on_whichever_call_the_keeper_dies_at() {
    let Some(strace) = tool("strace") else { return };
    for n in [1, 4, 9, 20, 40, 60, 80, 100, 120, 140, 160] {
        upgrade_across_a_death(&strace, Victim::Keeper, n);
    }
}

#[test]
fn an_upgrade_goes_on_whichever_call_the_anchor_dies_at() {
    let Some(strace) = tool("strace") else { return };
    for n in [1, 3, 8, 20, 40, 60, 80, 100] {
        upgrade_across_a_death(&strace, Victim::Anchor, n);
    }
}

#[test]
fn an_upgrade_goes_on_whichever_call_the_supervisor_dies_at() {
    let Some(strace) = tool("strace") else { return };
    for n in [1, 5, 20] {
        upgrade_across_a_death(&strace, Victim::Supervisor, n);
    }
}
