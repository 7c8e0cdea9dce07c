//! The stores against real file systems, and against damage.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, UNIX_EPOCH};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::atomic::{Dir, Durability, Read};
use super::*;
use crate::unit::{LayerKind, LayerText, UnitName};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Says aloud that a test did not run, or fails where none may be left out.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        assert!(std::env::var_os("MOORED_NO_SKIP").is_none_or(|v| v != "1"), "may not be skipped: needs root");
        println!("SKIP needs root");
    }
    root
}

/// Removed at the end.
struct Temp(PathBuf);

impl Temp {
    fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("moored-store-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Temp(path)
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn unit(name: &str) -> UnitName {
    UnitName::new(name).unwrap()
}

fn good(text: &str, config: Option<&str>) -> Good {
    Good {
        layers: Vec::new(),
        text: text.to_owned(),
        config: config.map(|config| config.as_bytes().into()),
        variables: None,
        configs: Vec::new(),
        path: "/etc/moored/units/web.toml".into(),
        resolved: "/srv/current/web.toml".into(),
        source: "/srv/web-2".into(),
        roots: vec!["/srv/base".into(), "/srv/web-2".into()],
        directory: (1, 2),
        since_ms: 7,
        earlier: None,
        bad: None,
    }
}

fn mark(why: &str) -> StopMark {
    StopMark { who: "root".to_owned(), when_ms: 1, why: Some(why.to_owned()), until_ms: None }
}

fn open(dir: &Path) -> (StateStore, Loaded, Receiver<Fact>) {
    let (sender, facts) = channel();
    let (store, loaded) = StateStore::open(dir, move |fact| {
        let _ = sender.send(fact);
    })
    .unwrap();
    (store, loaded, facts)
}

/// Waits until the ticket, or a later one of the same key, is on the disk.
fn persisted(facts: &Receiver<Fact>, wanted: Ticket) {
    loop {
        match facts.recv_timeout(Duration::from_secs(5)).unwrap() {
            Fact::Persisted { ticket, .. } if ticket >= wanted => return,
            Fact::Persisted { .. } => {}
            Fact::Failed { error, .. } => panic!("{error}"),
        }
    }
}

#[test]
fn a_file_reads_back_and_its_temporary_ones_go() {
    let temp = Temp::new();
    let dir = Dir::open(&temp.0.join("a/b")).unwrap();
    assert_eq!(dir.read("x").unwrap(), Read::Missing);
    for durability in [Durability::Sync, Durability::NoSync] {
        for payload in [b"".as_slice(), b"one", &[0xff; 100_000]] {
            dir.write("x", payload, durability).unwrap();
            assert_eq!(dir.read("x").unwrap(), Read::Found(payload.to_vec()));
        }
    }
    fs::write(dir.path().join(".x.tmp"), "half").unwrap();
    let again = Dir::open(dir.path()).unwrap();
    assert!(!dir.path().join(".x.tmp").exists());
    assert_eq!(again.names().unwrap(), ["x"]);
    again.remove("x", Durability::Sync).unwrap();
    again.remove("x", Durability::Sync).unwrap();
    assert!(matches!(again.write("x", &vec![0; (2 << 20) + 1], Durability::Sync), Err(StoreError::TooBig { .. })));
    assert_eq!(again.names().unwrap(), Vec::<String>::new());
}

#[test]
fn a_file_torn_at_any_length_or_with_any_byte_flipped_is_put_aside() {
    let temp = Temp::new();
    let dir = Dir::open(&temp.0).unwrap();
    dir.write("x", b"what must survive", Durability::NoSync).unwrap();
    let whole = fs::read(temp.0.join("x")).unwrap();
    let mut damaged: Vec<Vec<u8>> = (0..whole.len()).map(|length| whole[..length].to_vec()).collect();
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            damaged.push(bytes);
        }
    }
    damaged.push([whole.as_slice(), b"!"].concat());
    for bytes in &damaged {
        fs::write(temp.0.join("x"), bytes).unwrap();
        let Read::PutAside(note) = dir.read("x").unwrap() else { panic!("trusted {bytes:?}") };
        assert!(note.to_string().contains("put aside as x.torn-"), "{note}");
        assert_eq!(dir.read("x").unwrap(), Read::Missing);
    }
    let left = fs::read_dir(&temp.0).unwrap().count();
    assert_eq!(left, 4, "the number kept is bounded");
    assert_eq!(dir.names().unwrap(), Vec::<String>::new());
    fs::write(temp.0.join("x"), &whole).unwrap();
    assert_eq!(dir.read("x").unwrap(), Read::Found(b"what must survive".to_vec()));
}

#[test]
fn links_directories_and_directories_of_others_are_not_used() {
    let temp = Temp::new();
    let dir = Dir::open(&temp.0.join("d")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", temp.0.join("d/link")).unwrap();
    assert!(matches!(dir.read("link").unwrap(), Read::PutAside(_)));
    fs::create_dir(temp.0.join("d/dir")).unwrap();
    assert!(matches!(dir.read("dir").unwrap(), Read::PutAside(_)));
    let _socket = std::os::unix::net::UnixListener::bind(temp.0.join("d/socket")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, temp.0.join("d/fifo"), rustix::fs::Mode::RUSR).unwrap();
    for name in ["socket", "fifo"] {
        let Read::PutAside(note) = dir.read(name).unwrap() else { panic!("{name} was read") };
        assert!(note.to_string().contains("not a regular file"), "{note}");
        assert_eq!(dir.read(name).unwrap(), Read::Missing);
    }
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(temp.0.join("d"), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(Dir::open(&temp.0.join("d")), Err(StoreError::NotOurs { .. })));
}

#[test]
fn run_records_last_for_one_boot() {
    let temp = Temp::new();
    let (run, notes) = RunStore::open(&temp.0, "boot-1").unwrap();
    assert_eq!(notes, []);
    run.save(&unit("web@1"), &vec![1, 2]).unwrap();
    run.save(&unit("db"), &vec![3]).unwrap();
    run.save(&unit("gone"), &vec![4]).unwrap();
    run.remove(&unit("gone")).unwrap();
    drop(run);
    let (run, notes) = RunStore::open(&temp.0, "boot-1").unwrap();
    assert_eq!(notes, []);
    let (records, notes) = run.load_all::<Vec<u32>>().unwrap();
    assert_eq!(records, [(unit("db"), vec![3]), (unit("web@1"), vec![1, 2])]);
    assert_eq!(notes, []);
    let (records, notes) = run.load_all::<String>().unwrap();
    assert_eq!((records.len(), notes.len()), (0, 2), "another type is put aside");
    run.save(&unit("db"), &vec![3]).unwrap();
    let (run, notes) = RunStore::open(&temp.0, "boot-2").unwrap();
    assert_eq!(notes.len(), 1);
    assert!(notes[0].text.contains("records of another boot discarded"), "{}", notes[0]);
    assert_eq!(run.load_all::<Vec<u32>>().unwrap(), (vec![], vec![]));
    assert_eq!(boot_id().len(), 36);
}

#[test]
fn generations_never_repeat() {
    let temp = Temp::new();
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let boot = |boot: &str, starts: usize| -> Vec<u64> {
        let (state, loaded, _facts) = open(&temp.0.join("state"));
        let (run, _) = RunStore::open(&temp.0.join("run"), boot).unwrap();
        let (mut generations, notes) = Generations::open(&run, &state, loaded.mark, now);
        assert_eq!(notes, []);
        let mut next = || {
            let number = generations.last() + 1;
            generations.used(number, &run, &state).map(|()| number)
        };
        (0..starts).map(|_| next().expect("tmpfs takes it")).collect()
    };
    let mut all = boot("a", 3);
    assert_eq!(all, [1, 2, 3], "a new host begins at one");
    all.extend(boot("a", 3));
    assert_eq!(all, [1, 2, 3, 4, 5, 6], "another supervisor of the same boot goes on");
    all.extend(boot("b", 2));
    assert_eq!(all[6..], [1001, 1002], "another boot begins above the block");
    all.extend(boot("c", 1700));
    all.extend(boot("d", 2));
    fs::remove_file(temp.0.join("state/generation")).unwrap();
    fs::write(temp.0.join("state/history"), "").unwrap();
    all.extend(boot("e", 2));
    assert_eq!(all[all.len() - 2], 1_800_000_001, "a lost mark: the wall clock");
    assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
}

#[test]
fn generations_go_on_without_a_disk() {
    let temp = Temp::new();
    fs::write(temp.0.join("file"), "").unwrap();
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let (state, loaded, _facts) = open(&temp.0.join("file/state"));
    assert_eq!(loaded.mark, Mark::Unknown);
    assert_eq!(loaded.notes.len(), 1);
    let (run, _) = RunStore::open(&temp.0.join("run"), "a").unwrap();
    let (mut generations, notes) = Generations::open(&run, &state, loaded.mark, now);
    assert_eq!(notes.len(), 1);
    let number = generations.last() + 1;
    let recorded = generations.used(number, &run, &state);
    assert_eq!((number, recorded), (1_800_000_001, Ok(())));
}

#[test]
fn state_survives_and_unused_contents_go() {
    let temp = Temp::new();
    let contents = || {
        let mut names: Vec<_> = fs::read_dir(temp.0.join("good")).unwrap().flatten().map(|e| e.file_name()).collect();
        names.sort();
        names.len()
    };
    let (store, loaded, facts) = open(&temp.0);
    assert_eq!((loaded.good.len(), loaded.stops.len(), loaded.notes.len()), (0, 0, 0));
    assert_eq!(loaded.mark, Mark::Never);
    for name in ["a", "b", "c@1"] {
        store.keep_good(unit(name), good(name, Some("{}")));
    }
    persisted(&facts, store.keep_good(unit("a"), good("a2", Some("{}"))));
    persisted(&facts, store.mark_stop(unit("b"), mark("maintenance")));
    store.mark_stop(unit("c@1"), mark("x"));
    store.clear_stop(unit("c@1"));
    store.add_history(&"first").unwrap();
    drop(store);
    assert_eq!(contents(), 4, "three texts and one config.json for all");
    let (store, loaded, facts) = open(&temp.0);
    assert_eq!(loaded.notes, []);
    let want = [("a", "a2"), ("b", "b"), ("c@1", "c@1")];
    let want: Vec<_> = want.iter().map(|(name, text)| (unit(name), good(text, Some("{}")))).collect();
    assert_eq!(loaded.good, want);
    assert_eq!(loaded.stops, [(unit("b"), mark("maintenance"))]);
    store.forget_good(unit("a"));
    store.forget_good(unit("b"));
    persisted(&facts, store.keep_good(unit("c@1"), good("c", None)));
    store.add_history(&"second").unwrap();
    drop(store);
    assert_eq!(contents(), 1);
    assert_eq!(read_history::<String>(&temp.0).unwrap(), (vec!["first".to_owned(), "second".to_owned()], vec![]));
}

#[test]
fn variables_and_config_files_are_kept_and_an_older_record_has_none() {
    let temp = Temp::new();
    let variables: BTreeMap<String, String> = [("A".to_owned(), "ä\n1".to_owned())].into();
    let with = Good {
        variables: Some(variables),
        configs: vec![("/app.conf".to_owned(), vec![0, 255])],
        ..good("with", None)
    };
    let (store, _, _) = open(&temp.0);
    store.keep_good(unit("with"), with.clone());
    store.keep_good(unit("old"), good("old", None));
    drop(store);
    let dir = Dir::open(&temp.0.join("units")).unwrap();
    let Ok(Read::Found(json)) = dir.read("old.json") else { panic!("no record") };
    let mut record: serde_json::Value = serde_json::from_slice(&json).unwrap();
    for key in ["variables", "configs"] {
        record.as_object_mut().unwrap().remove(key).expect("a key that older versions have not");
    }
    dir.write("old.json", record.to_string().as_bytes(), Durability::Sync).unwrap();
    let (_store, loaded, _) = open(&temp.0);
    assert_eq!(loaded.good, [(unit("old"), good("old", None)), (unit("with"), with)]);
}

#[test]
fn damaged_state_costs_the_unit_it_belongs_to_and_nothing_else() {
    let temp = Temp::new();
    let (store, _, _) = open(&temp.0);
    store.keep_good(unit("a"), good("text of a", None));
    store.keep_good(unit("b"), good("text of b", None));
    drop(store);
    let of_a = temp.0.join("good").join(format!("{:032x}", fnv128(b"text of a")));
    let whole = fs::read(&of_a).unwrap();
    fs::write(&of_a, &whole[..whole.len() - 1]).unwrap();
    let (_store, loaded, _) = open(&temp.0);
    assert_eq!(loaded.good, [(unit("b"), good("text of b", None))]);
    assert_eq!(loaded.notes.len(), 2, "{:?}", loaded.notes);
    // Paths need not be text.
    use std::os::unix::ffi::OsStringExt;
    let (store, _, _) = open(&temp.0);
    let odd = PathBuf::from(std::ffi::OsString::from_vec(b"/srv/\xff/web.toml".to_vec()));
    store.keep_good(unit("odd"), Good { resolved: odd.clone(), ..good("x", None) });
    drop(store);
    let (_store, loaded, _) = open(&temp.0);
    assert!(loaded.good.iter().any(|(_, good)| good.resolved == odd));
}

#[test]
fn what_is_merged_with_a_text_survives_and_goes_with_it() {
    let temp = Temp::new();
    let layer =
        |kind, text: &str| LayerText { kind, file: "/d/x.toml".into(), resolved: "/e".into(), text: text.into() };
    let layers = vec![layer(LayerKind::Defaults, "[defaults]"), layer(LayerKind::DropIn, "shared")];
    let with = |text: &str| Good { layers: layers.clone(), ..good(text, None) };
    let (store, loaded, _) = open(&temp.0);
    assert_eq!(loaded.defaults, None);
    store.keep_good(unit("a"), with("a"));
    store.keep_good(unit("b"), with("b"));
    store.keep_defaults(Some(layer(LayerKind::Defaults, "x")));
    drop(store);
    let contents = || fs::read_dir(temp.0.join("good")).unwrap().count();
    assert_eq!(contents(), 4, "what is the same is stored once");
    let (store, loaded, _) = open(&temp.0);
    assert_eq!(loaded.good, [(unit("a"), with("a")), (unit("b"), with("b"))]);
    assert_eq!(loaded.defaults, Some(layer(LayerKind::Defaults, "x")));
    store.forget_good(unit("a"));
    store.keep_good(unit("b"), good("b", None));
    store.keep_defaults(None);
    drop(store);
    assert_eq!(contents(), 1);
    let (_store, loaded, _) = open(&temp.0);
    assert_eq!((loaded.good, loaded.defaults), (vec![(unit("b"), good("b", None))], None));
    fs::write(temp.0.join("defaults.json"), "torn").unwrap();
    let (_store, loaded, _) = open(&temp.0);
    assert_eq!((loaded.defaults, loaded.notes.len()), (None, 1));
}

#[test]
fn the_latest_request_of_a_key_wins_and_covers_the_others() {
    let temp = Temp::new();
    let (store, _, facts) = open(&temp.0);
    let tickets: Vec<Ticket> = (0..200).map(|n| store.keep_good(unit("a"), good(&format!("text {n}"), None))).collect();
    persisted(&facts, tickets[199]);
    drop(store);
    assert!(facts.try_iter().count() < 200);
    assert_eq!(open(&temp.0).1.good[0].1.text, "text 199");
}

#[test]
fn history_is_bounded_and_survives_a_torn_line() {
    let temp = Temp::new();
    let line = "x".repeat(1000);
    for number in 0..700 {
        history::append(&temp.0, &[format!("\"{number} {line}\"")]).unwrap();
    }
    let (entries, notes) = read_history::<String>(&temp.0).unwrap();
    assert_eq!(notes, []);
    assert!(entries.len() < 600 && entries.len() > 256, "{}", entries.len());
    assert!(entries.last().unwrap().starts_with("699 "));
    let path = temp.0.join("history");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 10]).unwrap();
    history::append(&temp.0, &["\"after\"".to_owned()]).unwrap();
    let (again, notes) = read_history::<String>(&temp.0).unwrap();
    assert_eq!(again.len(), entries.len());
    assert_eq!(again.last().unwrap(), "after");
    assert_eq!(notes.len(), 1);
}

#[test]
fn a_unit_that_flaps_does_not_push_out_the_others() {
    let temp = Temp::new();
    let line = |unit: &str, number: usize| {
        format!("{{\"unit\":\"{unit}\",\"number\":{number},\"text\":\"{}\"}}", "x".repeat(200))
    };
    history::append(&temp.0, &[line("quiet", 0)]).unwrap();
    for batch in 0..40 {
        let lines: Vec<String> = (0..200).map(|number| line("flaps", 1 + batch * 200 + number)).collect();
        history::append(&temp.0, &lines).unwrap();
    }
    let (entries, notes) = read_history::<serde_json::Value>(&temp.0).unwrap();
    assert_eq!(notes, []);
    assert_eq!(entries[0]["unit"], "quiet");
    assert_eq!(entries.last().unwrap()["number"], 8000);
    let size = |name: &str| fs::metadata(temp.0.join(name)).unwrap().len();
    assert!(size("history.1") <= history::FILE_MAX_BYTES);
    assert!(size("history") <= history::FILE_MAX_BYTES + 64 * 1024);
}

#[test]
fn one_huge_batch_stays_within_bounds() {
    let temp = Temp::new();
    let lines: Vec<String> = (0..1024).map(|number| format!("\"{number} {}\"", "x".repeat(4000))).collect();
    for _ in 0..3 {
        history::append(&temp.0, &lines).unwrap();
    }
    let (entries, notes) = read_history::<String>(&temp.0).unwrap();
    assert_eq!(notes, []);
    assert!(entries.last().unwrap().starts_with("1023 "));
    assert!(fs::metadata(temp.0.join("history")).unwrap().len() < 3 * history::FILE_MAX_BYTES);
}

#[test]
fn a_crash_while_room_is_made_shows_no_line_twice() {
    let temp = Temp::new();
    history::append(&temp.0, &["\"one\"".to_owned(), "\"two\"".to_owned()]).unwrap();
    fs::copy(temp.0.join("history"), temp.0.join("history.1")).unwrap();
    assert_eq!(read_history::<String>(&temp.0).unwrap().0, ["one", "two"]);
}

#[test]
fn a_full_and_a_read_only_disk_are_facts_and_heal() {
    if !is_root() {
        return;
    }
    // A mount namespace of its own for this thread and those that it starts.
    let test = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let temp = Temp::new();
        mount(Some("none"), &temp.0, Some("tmpfs"), MsFlags::empty(), Some("mode=755,size=64k")).unwrap();
        let (store, loaded, facts) = open(&temp.0.join("state"));
        assert_eq!(loaded.notes, []);
        persisted(&facts, store.keep_good(unit("a"), good("small", None)));
        let big = "#".repeat(100_000);
        let ticket = store.keep_good(unit("a"), good(&big, None));
        let fact = facts.recv_timeout(Duration::from_secs(5)).unwrap();
        let Fact::Failed { key, ticket: of, error } = fact else { panic!("{fact:?}") };
        assert_eq!((key, of), (Key::Good(unit("a")), ticket));
        assert!(error.to_string().contains("No space left"), "{error}");
        // A small one of another unit goes through; the big one is tried again with it and fails in silence.
        persisted(&facts, store.mark_stop(unit("b"), mark("x")));
        assert_eq!(facts.try_iter().count(), 0);
        let remount = |flags, data: &str| {
            mount(None::<&str>, &temp.0, None::<&str>, MsFlags::MS_REMOUNT | flags, Some(data)).unwrap();
        };
        remount(MsFlags::MS_RDONLY, "size=64k");
        let ticket = store.mark_stop(unit("b"), mark("y"));
        let said: Vec<Fact> = (0..2).map(|_| facts.recv_timeout(Duration::from_secs(5)).unwrap()).collect();
        assert!(
            said.iter()
                .all(|fact| matches!(fact, Fact::Failed { error, .. } if error.to_string().contains("Read-only"))),
            "{said:?}"
        );
        let (_reader, loaded, _) = open(&temp.0.join("state"));
        assert_eq!(loaded.good, [(unit("a"), good("small", None))], "the old one is whole");
        remount(MsFlags::empty(), "size=1m");
        let next = store.clear_stop(unit("c"));
        assert!(next > ticket);
        persisted(&facts, next);
        drop(store);
        let (_store, loaded, _) = open(&temp.0.join("state"));
        assert_eq!(loaded.good, [(unit("a"), good(&big, None))]);
        assert_eq!(loaded.stops, [(unit("b"), mark("y"))]);
        umount2(&temp.0, MntFlags::MNT_DETACH).unwrap();
    });
    test.join().unwrap();
}

#[test]
fn a_history_that_cannot_be_written_is_told_once() {
    let temp = Temp::new();
    let (store, _, facts) = open(&temp.0.join("state"));
    fs::remove_dir_all(temp.0.join("state")).unwrap();
    store.add_history(&"first").unwrap();
    let fact = facts.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(matches!(fact, Fact::Failed { key: Key::History, .. }), "{fact:?}");
    // Each is tried at once; a mark that is refused after it says that it was.
    for round in 0..50 {
        store.add_history(&"the state cannot be written").unwrap();
        let ticket = store.mark_stop(unit("a"), mark(&round.to_string()));
        let fact = facts.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(matches!(&fact, Fact::Failed { key: Key::Stop(_), ticket: of, .. } if *of == ticket), "{fact:?}");
    }
    fs::create_dir(temp.0.join("state")).unwrap();
    persisted(&facts, store.add_history(&"last").unwrap());
}

#[test]
fn one_supervisor_for_each_run_dir() {
    let temp = Temp::new();
    let run = temp.0.join("run");
    let lock = RunLock::take(&run).unwrap();
    let refused = RunLock::take(&run).unwrap_err().to_string();
    let want = format!("another supervisor, pid {}, works here", std::process::id());
    assert!(refused.contains(&want), "{refused}");
    assert!(refused.contains("moored down"));
    drop(lock);
    RunLock::take(&run).unwrap();
}

/// It does not know yet that it is to end.
#[test]
fn a_supervisor_that_is_about_to_end_is_waited_for() {
    let temp = Temp::new();
    let path = temp.0.join("lock");
    let mut command = std::process::Command::new("flock");
    command.arg(&path).args(["sh", "-c", "echo; read _"]);
    let mut ending = command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Read::read_exact(ending.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    fs::write(&path, format!("{}\n", ending.id())).unwrap();
    std::thread::scope(|scope| {
        let taken = scope.spawn(|| RunLock::take(&temp.0));
        drop(ending.stdin.take());
        ending.wait().unwrap();
        assert!(taken.join().unwrap().is_ok());
    });
}

/// It has ended already and holds its lock still: that takes the kernel a moment.
#[test]
fn a_supervisor_that_dies_is_waited_for() {
    let temp = Temp::new();
    let path = temp.0.join("lock");
    let mut dying = std::process::Command::new("/bin/true").stdout(std::process::Stdio::piped()).spawn().unwrap();
    std::io::copy(&mut dying.stdout.take().unwrap(), &mut std::io::sink()).unwrap();
    fs::write(&path, format!("{}\n", dying.id())).unwrap();
    let held = fs::File::open(&path).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let inode = std::os::unix::fs::MetadataExt::ino(&held.metadata().unwrap());
    let waits = |line: &str| line.contains("->") && line.contains(&format!(":{inode} "));
    std::thread::scope(|scope| {
        let taken = scope.spawn(|| RunLock::take(&temp.0));
        while !fs::read_to_string("/proc/locks").unwrap().lines().any(waits) {
            assert!(!taken.is_finished(), "it did not wait");
            std::thread::yield_now();
        }
        drop(held);
        assert!(taken.join().unwrap().is_ok());
    });
    dying.wait().unwrap();
}
