//! `[[socket]]`: no connection is refused, whatever becomes of the container and of those who hold its sockets; and what a program is passed.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use super::support::{install, is_alive, skip, wait_for};
use super::world::{FOREVER, Running, World};

/// Longest wait of a client for its page.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where somebody listens.
#[derive(Debug, Clone)]
enum Address {
    Tcp(u16),
    Unix(PathBuf),
}

impl Address {
    /// One that nobody has.
    fn tcp() -> Address {
        Address::Tcp(TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port())
    }

    fn unix(world: &World, name: &str) -> Address {
        Address::Unix(world.dir.join(name))
    }

    /// Whether this process has the listening socket.
    fn is_held_by(&self, pid: i32) -> bool {
        let field = |line: &str, at: usize| line.split_whitespace().nth(at).map(str::to_owned);
        let inode = match self {
            Address::Tcp(port) => {
                let listening = format!("0100007F:{port:04X} 00000000:0000 0A");
                let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
                sockets.lines().find(|line| line.contains(&listening)).and_then(|line| field(line, 9))
            }
            Address::Unix(path) => {
                let sockets = fs::read_to_string("/proc/net/unix").unwrap();
                // `__SO_ACCEPTCON`: not one of its connections.
                let is_it = |line: &&str| line.contains(" 00010000 ") && line.ends_with(path.to_str().unwrap());
                sockets.lines().find(is_it).and_then(|line| field(line, 6))
            }
        };
        let link = inode.map(|inode| PathBuf::from(format!("socket:[{inode}]")));
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        link.is_some() && fds.flat_map(|fd| fs::read_link(fd.path())).any(|to| Some(to) == link)
    }

    /// As a unit file has it.
    fn text(&self) -> String {
        match self {
            Address::Tcp(port) => format!("tcp://127.0.0.1:{port}"),
            Address::Unix(path) => format!("unix://{}", path.display()),
        }
    }

    fn table(&self) -> String {
        format!("[[socket]]\nlisten = \"{}\"\n", self.text())
    }

    /// Connects, and is answered or not.
    fn connect(&self) -> io::Result<()> {
        match self {
            Address::Tcp(port) => TcpStream::connect(("127.0.0.1", *port)).map(drop),
            Address::Unix(path) => UnixStream::connect(path).map(drop),
        }
    }

    /// The whole page.
    fn get(&self) -> io::Result<String> {
        let page = match self {
            Address::Tcp(port) => {
                let stream = TcpStream::connect(("127.0.0.1", *port))?;
                stream.set_read_timeout(Some(PATIENCE))?;
                page(stream)?
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                page(stream)?
            }
        };
        match page.starts_with("HTTP/1.1 200 OK\r\n") && page.ends_with('\n') {
            true => Ok(page),
            false => Err(io::Error::other(format!("half a page: {page:?}"))),
        }
    }
}

fn page(mut stream: impl Read + Write) -> io::Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Clients that ask for the page again and again.
struct Clients {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Clients {
    /// Two for each address.
    fn of(addresses: &[Address]) -> Clients {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = |address: &Address| {
            let (address, stop, served) = (address.clone(), Arc::clone(&stop), Arc::clone(&served));
            std::thread::spawn(move || {
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match address.get() {
                        Ok(_) => drop(served.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => failures.push(format!("{}: {error}", address.text())),
                    }
                }
                failures
            })
        };
        let threads = addresses.iter().flat_map(|address| [client(address), client(address)]).collect();
        Clients { stop, served, threads }
    }

    /// Waits until more was served than before.
    fn served_more(&self, why: &str) {
        let before = self.served.load(Ordering::Relaxed);
        wait_for(why, || (self.served.load(Ordering::Relaxed) > before + 4).then_some(()));
    }

    /// How many pages came; none was refused, reset or cut.
    fn end(self, why: &str) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let failures: Vec<String> = self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert!(failures.is_empty(), "{why}: {} failures, like {:?}", failures.len(), failures.first());
        self.served.load(Ordering::Relaxed)
    }
}

impl World {
    /// A copy of examples/http, which nobody else changes.
    pub fn http(&self) -> Option<String> {
        self.server(0, &[], "")?;
        Some(self.dir.join("http").display().to_string())
    }

    /// A server with these sockets; `n` only makes it differ. `None` (skipped) where examples/http is not built.
    fn server(&self, n: u32, addresses: &[Address], tables: &str) -> Option<String> {
        let built = Path::new(env!("CARGO_BIN_EXE_moored")).with_file_name("examples").join("http");
        if !built.exists() {
            skip("examples/http is not built: cargo build --example http");
            return None;
        }
        let http = self.dir.join("http");
        if !http.exists() {
            install(&built, &http);
        }
        let sockets: String = addresses.iter().map(Address::table).collect();
        Some(format!("executable = \"{}\"\n[process]\nenv = {{ N = {n} }}\n{tables}\n{sockets}", http.display()))
    }

    fn listens(&self, unit: &str) -> Vec<String> {
        let row = self.find(unit).unwrap();
        row["listens"].as_array().unwrap().iter().map(|listen| listen.as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn no_connection_is_refused_over_restarts_updates_and_deaths() {
    let Some(world) = World::start("sockets-all") else { return };
    let addresses = [Address::tcp(), Address::unix(&world, "web.sock")];
    let Some(text) = world.server(0, &addresses, "") else { return };
    world.unit("web", &text);
    let first = world.running("web");
    let descriptors = || {
        let pids = world.pids();
        [pids.keeper, pids.supervisor].map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count())
    };
    // One restart, after which all is made that stays.
    world.ok(&["restart", "web"]);
    let before = descriptors();
    let clients = Clients::of(&addresses);
    clients.served_more("the first pages");
    for _ in 0..50 {
        world.ok(&["restart", "web"]);
        // Until it does it may not have a handler for SIGTERM yet, and is killed in the middle of a page.
        clients.served_more("pages after a restart");
    }
    let mut now = world.replaced("web", &first);
    for n in 1..=20 {
        world.unit("web", &world.server(n, &addresses, "").unwrap());
        now = world.replaced("web", &now);
        clients.served_more("pages after an update");
    }
    wait_for("as many descriptors as before", || (descriptors() == before).then_some(()));
    for _ in 0..5 {
        world.kill9(world.pids().supervisor);
        world.kept("web", &now, "the supervisor died");
        clients.served_more("pages after the supervisor's death");
        let old = now.clone();
        world.ok(&["restart", "web"]);
        now = world.replaced("web", &old);
        clients.served_more("pages after another restart");
    }
    world.kill9(world.pids().keeper);
    world.kept("web", &now, "the keeper died");
    clients.served_more("pages after the keeper's death");
    // The one in its place is given the sockets: they outlive the next supervisor too.
    wait_for("the keeper in its place to have them", || {
        let keeper = world.pids().keeper;
        addresses.iter().all(|address| address.is_held_by(keeper)).then_some(())
    });
    world.kill9(world.pids().supervisor);
    world.kept("web", &now, "the supervisor died after the keeper");
    world.ok(&["restart", "web"]);
    world.replaced("web", &now);
    clients.served_more("pages of the last one");
    // A crash of the program: what it had accepted is lost, so nobody asks meanwhile.
    assert!(clients.end("restarts, updates and deaths") > 100);
    let now = world.running("web");
    world.ok(&["kill", "-s", "KILL", "web"]);
    world.replaced("web", &now);
    addresses.iter().for_each(|address| drop(address.get().unwrap()));
}

#[test]
fn an_update_that_starts_first_refuses_no_connection_be_it_good_or_bad() {
    let Some(world) = World::start("sockets-first") else { return };
    let addresses = [Address::tcp(), Address::unix(&world, "web.sock")];
    let first = "[update]\norder = \"start-first\"\nmin_healthy = \"200ms\"\n";
    let Some(text) = world.server(0, &addresses, first) else { return };
    world.unit("web", &text);
    let mut now = world.running("web");
    let clients = Clients::of(&addresses);
    for n in 1..=10 {
        world.unit("web", &world.server(n, &addresses, first).unwrap());
        let row = world.wait_unit("web", "taken over", |row| row["id"] != now.id.as_str() && row["beside"].is_null());
        now = Running::of(&row);
    }
    clients.served_more("pages after good updates");
    let bad =
        world.server(99, &addresses, first).unwrap().replace("[process]\n", "[process]\nargs = [\"/http\", \"x\"]\n");
    world.unit("web", &bad);
    world.wait_unit("web", "rolled back", |row| {
        row["drift"].as_str().is_some_and(|drift| drift.contains("rolled back"))
    });
    world.taken_back("web", &now);
    clients.served_more("pages after a bad update");
    clients.end("start-first updates");
}

impl World {
    /// It runs on, alone.
    fn taken_back(&self, unit: &str, old: &Running) {
        let row = self.wait_unit(unit, "alone", |row| row["beside"].is_null());
        assert_eq!(Running::of(&row), *old);
    }
}

#[test]
fn a_program_is_passed_its_sockets_as_systemd_passes_them() {
    let Some(world) = World::start("sockets-passed") else { return };
    let sockets = [Address::unix(&world, "a.sock"), Address::tcp(), Address::unix(&world, "b.sock")];
    let tables: String = sockets.iter().map(Address::table).collect();
    let tables = format!("{tables}name = \"last\"\n");
    let script = "[ $LISTEN_PID = $$ ] && echo pid; echo $LISTEN_FDS $LISTEN_FDNAMES; for fd in 3 4 5; do readlink /proc/$$/fd/$fd | cut -c1-7; done";
    for (name, init) in [("plain", ""), ("init", "init = true\n")] {
        // What config.json or [oci] say of it is of no account.
        let oci = "[oci]\nprocess.env = [\"PATH=/bin\", \"LISTEN_PID=1\", \"LISTEN_FDS=9\"]\n";
        let log = world.printed(name, script, &format!("{init}{tables}{oci}"));
        let names = format!("{name}:{name}:last");
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines, ["pid", &format!("3 {names}"), "socket:", "socket:", "socket:"], "{log}");
        world.remove_unit(name);
        world.wait_gone(name);
    }
    // What joins the container has none of it.
    world.script("joined", FOREVER, &tables);
    world.running("joined");
    assert_eq!(
        world.ok(&["exec", "joined", "--", "/bin/sh", "-c", "echo [$LISTEN_FDS$LISTEN_FDNAMES$LISTEN_PID]"]),
        "[]\n"
    );
    assert_eq!(fs::metadata(world.dir.join("a.sock")).unwrap().permissions().mode() & 0o777, 0o666);
}

/// What nobody accepts waits in the socket, over a restart and without a supervisor.
#[test]
fn datagrams_and_packets_wait_for_who_comes_next() {
    let Some(world) = World::start("sockets-packets") else { return };
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (udp, gram) = (format!("udp://127.0.0.1:{port}"), world.dir.join("gram"));
    let packets = world.dir.join("packets");
    let tables = format!(
        "[[socket]]\nlisten = \"{udp}\"\n[[socket]]\nlisten = \"unixgram://{}\"\nmode = \"0600\"\n[[socket]]\nlisten = \"seqpacket://{}\"\nname = \"p\"\n",
        gram.display(),
        packets.display()
    );
    // A datagram is what one read of it takes.
    let read = "dd bs=100 count=1 2>/dev/null";
    let script = format!("{read} <&3; echo; {read} <&4; echo; echo $LISTEN_FDNAMES; exec sleep 1000");
    world.script("web", &script, &tables);
    world.running("web");
    let send = |words: &str| {
        let from = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        from.send_to(words.as_bytes(), ("127.0.0.1", port)).unwrap();
        std::os::unix::net::UnixDatagram::unbound().unwrap().send_to(words.as_bytes(), &gram).unwrap();
    };
    send("one");
    wait_for("both", || world.log("web").contains("one\none\nweb:web:p\n").then_some(()));
    assert_eq!(fs::metadata(&gram).unwrap().permissions().mode() & 0o777, 0o600);
    // Nobody reads these before the next container does.
    send("two");
    world.next_supervisor();
    world.ok(&["restart", "web"]);
    wait_for("both again", || world.log("web").contains("two\ntwo\n").then_some(()));
    assert_eq!(world.listens("web").len(), 3);
    // Other options are asked of the socket that is open.
    world.script("web", &script, &tables.replace("0600", "0640"));
    wait_for("other permissions", || {
        (fs::metadata(&gram).unwrap().permissions().mode() & 0o777 == 0o640).then_some(())
    });
    world.ok(&["stop", "web"]);
    assert!(!gram.exists() && !packets.exists());
    assert_eq!(world.ok(&["ps"]).matches("listens at").count(), 0);
    world.ok(&["start", "web"]);
    assert!(gram.exists() && packets.exists());
}

#[test]
fn what_is_not_to_run_does_not_listen_and_what_is_to_run_does() {
    let Some(world) = World::start("sockets-stop") else { return };
    let addresses = [Address::tcp(), Address::unix(&world, "web.sock")];
    let path = world.dir.join("web.sock");
    let tables: String = addresses.iter().map(Address::table).collect();
    let open = || addresses.iter().map(|address| address.connect().is_ok()).collect::<Vec<_>>();
    world.script("web", FOREVER, &tables);
    world.running("web");
    assert_eq!((open(), world.listens("web").len()), (vec![true, true], 2));
    assert!(world.ok(&["ps"]).contains(&format!("listens at {}", addresses[0].text())));
    assert!(world.ok(&["status", "web"]).contains(&format!("Listens: {}", addresses[0].text())));
    // A stop is over when nobody listens.
    world.ok(&["stop", "web"]);
    assert_eq!((open(), path.exists(), world.listens("web").len()), (vec![false, false], false, 0));
    // Not even after a crash does it come back.
    world.kill9(world.pids().supervisor);
    world.wait_phase("web", &["stopped"]);
    assert_eq!(open(), [false, false]);
    world.ok(&["start", "web"]);
    assert_eq!(open(), [true, true]);
    // It ends again and again: who connects waits.
    world.script(
        "web",
        "exit 1",
        &format!("{tables}[restart]\ndelay = \"1h\"\nmax_delay = \"1h\"\n[update]\non_bad = \"retry\"\n"),
    );
    world.wait_phase("web", &["backoff"]);
    assert_eq!(open(), [true, true]);
    world.kill9(world.pids().supervisor);
    world.wait_phase("web", &["backoff"]);
    assert_eq!(open(), [true, true]);
    // It gives up.
    world.script("web", "exit 1", &format!("{tables}[restart]\npolicy = \"never\"\n[update]\non_bad = \"retry\"\n"));
    world.wait_phase("web", &["failed"]);
    wait_for("the sockets to be closed", || (open() == [false, false]).then_some(()));
    // Another text has other sockets; the one that is in both stays open.
    world.script("web", FOREVER, &addresses[0].table());
    let old = world.running("web");
    assert_eq!(open(), [true, false]);
    world.script("web", FOREVER, &tables);
    world.replaced("web", &old);
    assert_eq!(open(), [true, true]);
    // The file goes.
    world.remove_unit("web");
    world.wait_gone("web");
    assert_eq!((open(), path.exists()), (vec![false, false], false));
}

#[test]
fn an_address_in_use_is_a_start_that_fails_and_is_tried_again() {
    let Some(world) = World::start("sockets-used") else { return };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(taken.local_addr().unwrap().port());
    let tables = format!("{}[restart]\ndelay = \"10ms\"\nmax_delay = \"50ms\"\n", address.table());
    world.script("web", FOREVER, &tables);
    let words = format!("{} is in use by pid {} (", address.text(), std::process::id());
    world.wait_unit("web", "refused", |row| row["exit"].as_str().is_some_and(|exit| exit.contains(&words)));
    assert!(world.listens("web").is_empty());
    drop(taken);
    let running = world.running("web");
    // Another unit that wants it is told whose it is.
    world.script("api", FOREVER, &tables);
    let row = world.wait_phase("api", &["failed"]);
    let reason = format!("api.toml:6:10 `socket.listen` \"{}\" is taken by the unit web", address.text());
    assert!(row["reason"].as_str().unwrap().contains(&reason), "{row}");
    let (code, out, _) = world.says(&["check", &world.units().display().to_string()]);
    assert!(code == 1 && out.contains("is taken by the unit api"), "{out}");
    world.kept("web", &running, "it has the address");
    world.remove_unit("web");
    world.running("api");
    address.connect().unwrap();
    // A path that is a file is nobody's socket.
    let file = world.dir.join("file");
    fs::write(&file, "precious").unwrap();
    world.script("file", FOREVER, &Address::Unix(file.clone()).table());
    world.wait_unit("file", "refused", |row| {
        row["exit"].as_str().is_some_and(|exit| exit.contains("something else than a socket is there"))
    });
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn when_keeper_and_supervisor_die_the_container_goes_on_and_the_next_one_has_new_sockets() {
    let Some(world) = World::start("sockets-both") else { return };
    let addresses = [Address::tcp(), Address::unix(&world, "web.sock")];
    let Some(text) = world.server(0, &addresses, "") else { return };
    world.unit("web", &text);
    let old = world.running("web");
    let pids = world.pids();
    world.kill9(pids.keeper);
    world.kill9(pids.supervisor);
    wait_for("another supervisor", || world.run(&["ps"]).status.success().then_some(()));
    world.kept("web", &old, "keeper and supervisor died");
    assert!(is_alive(old.pid as i32));
    addresses.iter().for_each(|address| drop(address.get().unwrap()));
    world.ok(&["restart", "web"]);
    world.replaced("web", &old);
    addresses.iter().for_each(|address| drop(address.get().unwrap()));
    assert_eq!(world.listens("web").len(), 2);
}

#[test]
fn an_ordered_stop_leaves_no_path_behind() {
    let Some(mut world) = World::start("sockets-down") else { return };
    let address = Address::unix(&world, "web.sock");
    world.script("web", FOREVER, &address.table());
    world.running("web");
    assert!(world.supervisor.stop().success());
    assert!(!world.dir.join("web.sock").exists());
    // A stale one of an earlier life is replaced.
    drop(std::os::unix::net::UnixListener::bind(world.dir.join("web.sock")).unwrap());
    world.supervisor.up();
    world.running("web");
    address.connect().unwrap();
}

#[test]
fn whenever_the_supervisor_dies_in_a_start_or_a_stop_what_listens_is_what_should() {
    let Some(world) = World::start("sockets-killed") else { return };
    let addresses = [Address::tcp(), Address::unix(&world, "web.sock")];
    let tables: String = addresses.iter().map(Address::table).collect();
    world.script("web", FOREVER, &tables);
    world.running("web");
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", world.pids().keeper)).unwrap().count();
    let before = descriptors();
    for n in 0..24 {
        let order = ["stop", "start", "restart"][n as usize % 3];
        let mut client = world.moored(&[order, "web"]);
        let mut client = client.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(n * 2));
        world.kill9(world.pids().supervisor);
        client.wait().unwrap();
        // The order may have been lost with the connection: whichever it is, it is so as a whole.
        wait_for(&format!("what {order} {n} came to"), || {
            let rows: Vec<Value> = serde_json::from_slice(&world.run(&["ps", "--json"]).stdout).ok()?;
            let is_to_listen = match rows.first()?["phase"].as_str()? {
                "running" => true,
                "stopped" => false,
                _ => return None,
            };
            let open: Vec<bool> = addresses.iter().map(|address| address.connect().is_ok()).collect();
            (open == [is_to_listen; 2] && world.dir.join("web.sock").exists() == is_to_listen).then_some(())
        });
    }
    world.ok(&["start", "web"]);
    wait_for("the keeper to hold what it held", || (descriptors() == before).then_some(()));
}
