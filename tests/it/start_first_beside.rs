//! What two generations of one unit have to do with each other while both run: a port, a log, a network.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::start_first::AT_ONCE;
use super::support::{install, skip, wait_for};
use super::world::{FOREVER, Running, World};

/// So many clients ask all the time.
const CLIENTS: usize = 3;
/// Asked in peace, before and after the updates.
const IN_PEACE: usize = 50;

fn server() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_BIN_EXE_moored")).with_file_name("examples").join("http");
    if !built.exists() {
        skip("examples/http is not built: cargo build --example http");
    }
    built.exists().then_some(built)
}

/// The host name of who answered.
fn ask(port: u16) -> io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let body = text.strip_prefix("HTTP/1.1 200 OK\r\n").and_then(|text| Some(text.split_once("\r\n\r\n")?.1));
    let host = body.and_then(|body| body.strip_prefix("hello from ")?.split_once(','));
    Ok(host.ok_or(io::ErrorKind::UnexpectedEof)?.0.to_owned())
}

/// What an update comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Update {
    Good,
    /// It ends before it listens.
    NeverListens,
    /// It listens and answers, and is not well in time: it is stopped as any other.
    NeverWell,
    /// It listens and answers, and falls.
    Falls,
}

/// One by one: nine of them answer on the same port.
const UPDATES: [Update; 10] = [
    Update::Good,
    Update::NeverListens,
    Update::Good,
    Update::NeverWell,
    Update::Falls,
    Update::Good,
    Update::NeverWell,
    Update::NeverListens,
    Update::Good,
    Update::Good,
];

impl Update {
    fn text(self, world: &World, port: u16, host: &str) -> String {
        let (args, health) = match self {
            Update::Good => (format!("[\"/bin/http\", \"{port}\"]"), ""),
            Update::NeverListens => ("[\"/bin/http\", \"nowhere\"]".to_owned(), ""),
            Update::NeverWell => {
                (format!("[\"/bin/http\", \"{port}\"]"), "[health.readiness]\nfile = \"/never\"\ninterval = \"50ms\"\n")
            }
            Update::Falls => (format!("[\"/bin/sh\", \"-c\", \"/bin/http {port} & sleep 0.3; exit 3\"]"), ""),
        };
        // A shell's child may not speak for it, and this one is not asked.
        let notify = if self == Update::Falls { "none" } else { "systemd" };
        let (min_healthy, deadline) = if self == Update::Falls { ("10s", "20s") } else { ("0s", "1s") };
        format!(
            "rootfs = \"{}\"\nhostname = \"{host}\"\nnetwork.mode = \"host\"\n\
             process.args = {args}\nprocess.notify = \"{notify}\"\n{health}\n\
             [update]\norder = \"start-first\"\nmin_healthy = \"{min_healthy}\"\ndeadline = \"{deadline}\"\non_bad = \"rollback\"\n",
            world.root.display()
        )
    }
}

/// What clients saw, by the number of the update that was under way.
#[derive(Default)]
struct Seen {
    answers: BTreeMap<(usize, String), usize>,
    failures: Vec<(usize, io::Error)>,
}

/// An HTTP server on a port of the host's, which both generations listen on (SO_REUSEPORT), under ten updates.
///
/// From when the new one listens the kernel gives each connection to either. The old one gets its stop signal when the new one has taken
/// over, accepts what waits, answers it, and ends. So no request may fail, but for
/// - one whose connection is made between the last accept and the close of a listener that ends: the kernel resets it. That is a moment of
///   each generation that ends, and net.ipv4.tcp_migrate_req would move them;
/// - those that a new one had accepted, or that waited for it, when it fell.
#[test]
fn a_server_answers_while_updates_good_and_bad_go_through() {
    let (Some(server), Some(world)) = (server(), World::start("first-http")) else { return };
    install(&server, &world.root.join("bin/http"));
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    world.unit("web", &Update::Good.text(&world, port, "gen0"));
    world.wait_phase("web", &["ready"]);

    let (seen, at, over) = (Mutex::new(Seen::default()), AtomicUsize::new(0), AtomicBool::new(false));
    let count = || seen.lock().unwrap().answers.values().sum::<usize>();
    let in_peace = || {
        let before = count();
        wait_for("answers", || (count() >= before + IN_PEACE).then_some(()));
    };
    std::thread::scope(|scope| {
        let _over = SetAtEnd(&over);
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let (begun, answer) = (at.load(Ordering::Relaxed), ask(port));
                    let mut seen = seen.lock().unwrap();
                    match answer {
                        Ok(host) => *seen.answers.entry((begun, host)).or_default() += 1,
                        Err(error) => seen.failures.push((begun, error)),
                    }
                }
            });
        }
        let mut current = Running::of(&world.find("web").unwrap());
        in_peace();
        for (number, update) in (1..).zip(UPDATES) {
            at.store(number, Ordering::Relaxed);
            world.unit("web", &update.text(&world, port, &format!("gen{number}")));
            let (code, said, _) = world.says(&["sync", "web"]);
            assert_eq!(code, if update == Update::Good { 0 } else { 2 }, "{number} {update:?}: {said}");
            let row = world.wait_unit("web", "alone", |row| row["beside"].is_null());
            match update {
                Update::Good => assert_ne!(Running::of(&row), current, "{row}"),
                _ => assert_eq!(Running::of(&row), current, "{number} {update:?} never touches it: {row}"),
            }
            current = Running::of(&row);
            in_peace();
        }
        at.store(UPDATES.len() + 1, Ordering::Relaxed);
        in_peace();
    });

    let seen = seen.into_inner().unwrap();
    println!("{} answers; failures: {:?}", seen.answers.values().sum::<usize>(), seen.failures);
    let mut good = 0;
    for (number, update) in (1..).zip(UPDATES) {
        let hosts: Vec<&str> =
            seen.answers.keys().filter(|(at, _)| *at == number).map(|(_, host)| host.as_str()).collect();
        let mut expected = vec![format!("gen{good}"), format!("gen{number}")];
        expected.retain(|host| update != Update::NeverListens || *host != format!("gen{number}"));
        assert!(hosts.iter().all(|host| expected.iter().any(|other| other == host)), "{number}: {hosts:?}");
        good = if update == Update::Good { number } else { good };
        let failed: Vec<_> = seen.failures.iter().filter(|(at, _)| *at == number).map(|(_, error)| error).collect();
        let is_cut = |error: &&io::Error| {
            // While it is made, while it is written to, and while it is read from.
            matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof
            )
        };
        let bound = match update {
            // Nobody ends who had listened.
            Update::NeverListens => 0,
            Update::Good | Update::NeverWell => CLIENTS,
            Update::Falls => 2 * CLIENTS,
        };
        assert!(failed.iter().all(is_cut) && failed.len() <= bound, "{number} {update:?}: {failed:?}");
    }
    let last = format!("gen{good}");
    let at_last: Vec<_> =
        seen.answers.keys().filter(|(at, _)| *at > UPDATES.len()).map(|(_, host)| host.clone()).collect();
    assert_eq!(at_last, [last], "and only the last one is left");
}

/// Also when a check fails, so that the clients end.
struct SetAtEnd<'f>(&'f AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Both write to the unit's log, each line in two pieces: no line is torn, none is lost, and each one's are in its order.
#[test]
fn lines_of_two_generations_are_whole_and_in_their_order() {
    let Some(world) = World::start("first-log") else { return };
    let script = |name: &str| {
        format!(
            "touch /shared/up-{name}; trap 'on=' TERM; on=1; n=0; while [ $on ]; do n=$((n+1)); printf '{name} '; printf $n; \
             [ $((n % 7)) = 0 ] && usleep 1000; echo \" to $n\"; echo \"{name} err $n\" >&2; done; echo \"{name} ended after $n\""
        )
    };
    let update = format!("{AT_ONCE}\n[log]\nmax_size = \"500M\"");
    world.start_first("web", &script("old"), Some("up-old"), &update);
    let old = Running::of(&world.wait_phase("web", &["ready"]));
    world.start_first("web", &script("new"), Some("well"), &update);
    let new = world.beside("web");
    // Both are shown while both run.
    wait_for("lines of both", || {
        let tail = world.ok(&["logs", "web", "-n", "2000"]);
        (tail.contains("old ") && tail.contains("new ")).then_some(())
    });
    fs::write(world.shared().join("well"), "").unwrap();
    world.taken_over("web", &new);
    old.ended();
    world.ok(&["stop", "web"]);
    let log = world.log("web");
    for (name, id) in [("old", &old.id), ("new", &new.id)] {
        let of = |prefix: &str| log.lines().filter(|line| line.starts_with(prefix)).count();
        let last =
            log.lines().find_map(|line| line.strip_prefix(&format!("{name} ended after "))?.parse::<usize>().ok());
        let last =
            last.unwrap_or_else(|| panic!("{id} did not say how it ended: {}", &log[log.len().saturating_sub(500)..]));
        let mut expected = (1..=last).map(|n| format!("{name} {n} to {n}"));
        let out = log.lines().filter(|line| line.starts_with(name) && line.contains(" to "));
        out.for_each(|line| assert_eq!(Some(line), expected.next().as_deref()));
        assert_eq!(expected.next(), None, "the rest of {last} lines");
        let mut expected = (1..=last).map(|n| format!("{name} err {n}"));
        log.lines()
            .filter(|line| line.starts_with(&format!("{name} err ")))
            .for_each(|line| assert_eq!(Some(line), expected.next().as_deref()));
        assert_eq!(expected.next(), None, "the rest of {last} lines of stderr");
        assert_eq!(of(name), 2 * last + 1);
    }
    let torn = log.lines().find(|line| !line.starts_with("old ") && !line.starts_with("new "));
    assert_eq!(torn, None);
    let apart = log.lines().position(|line| line.starts_with("new ")).unwrap();
    assert!(log.lines().skip(apart).any(|line| line.starts_with("old ")), "they wrote at once");
}

/// Which network a process is in.
fn network(running: &Running) -> PathBuf {
    fs::read_link(format!("/proc/{}/ns/net", running.pid)).unwrap()
}

/// Who shares the network is in that of the old one until the new one takes over; then it gets another container, in that of the new one.
#[test]
fn who_shares_the_network_follows_when_the_other_takes_over() {
    let Some(world) = World::start("first-net") else { return };
    let serve = |name: &str| super::start_first::serving(name);
    world.start_first("web", &serve("old"), None, AT_ONCE);
    let old = world.running("web");
    world.script("side", FOREVER, "[network]\nmode = \"unit:web\"\n");
    let side = world.running("side");
    assert_eq!(network(&side), network(&old));

    // One that does badly: nobody notices.
    world.start_first(
        "web",
        "sleep 0.2; exit 3",
        None,
        "min_healthy = \"1h\"\ndeadline = \"1h\"\non_bad = \"rollback\"",
    );
    world.wait_unit("web", "rolled back", |row| {
        row["drift"].as_str().is_some_and(|drift| drift.contains("rolled back")) && row["beside"].is_null()
    });
    world.kept("side", &side, "the old one was never touched");
    assert_eq!((world.running("web"), network(&side)), (old.clone(), network(&old)));

    world.start_first("web", &serve("new"), Some("well"), AT_ONCE);
    let new = world.beside("web");
    assert_ne!(network(&new), network(&old));
    world.kept("side", &side, "the new one has not taken over");
    fs::write(world.shared().join("well"), "").unwrap();
    let after = world.replaced("side", &side);
    world.taken_over("web", &new);
    assert_eq!(network(&after), network(&new));
    let reason = world.happened("side");
    assert!(reason.iter().any(|(what, text)| what == "stopping" && text.contains("web")), "{reason:?}");
    assert_eq!(world.find("side").unwrap()["restarts"], 0, "it did not fall");
}
