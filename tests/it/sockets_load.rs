//! `[[socket]]` under a load generator of Debian's (ab, of apache2-utils): updates of replicas, good and bad, and upgrades of the program itself cost no
//! request. `MOORED_UPDATES` and `MOORED_UPGRADES` say how many; 100 and 20 are the whole.

use std::io::Read;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::support::{program, tool, wait_for};
use super::world::{Running, World};

const REPLICAS: usize = 3;

fn number_from(variable: &str, default: u32) -> u32 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// ab, which asks for the page until it is told to stop.
struct Load {
    ab: Child,
}

impl Load {
    fn on(port: u16, ab: &std::path::Path) -> Load {
        let mut command = Command::new(ab);
        // It ends at the first request that cannot be made, and counts those whose answer cannot be read. Pages differ in their length (-l).
        command.args(["-c", "4", "-t", "36000", "-n", "5000000", "-s", "60", "-l"]);
        command.arg(format!("http://127.0.0.1:{port}/"));
        let ab = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Load { ab }
    }

    fn goes_on(&mut self, when: &str) {
        if let Some(status) = self.ab.try_wait().unwrap() {
            let mut said = String::new();
            let _ = self.ab.stderr.take().map(|mut stderr| stderr.read_to_string(&mut said));
            panic!("{when}: ab gave up, {status}: {said}");
        }
    }

    /// So many requests were answered, and none failed.
    fn end(self) -> u64 {
        let pid = rustix::process::Pid::from_child(&self.ab);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let output = self.ab.wait_with_output().unwrap();
        let report = String::from_utf8(output.stdout).unwrap();
        let count = |what: &str| {
            let line = report.lines().find_map(|line| line.strip_prefix(what));
            line.map(|rest| rest.split_whitespace().next().unwrap().parse::<u64>().unwrap())
        };
        assert_eq!(count("Failed requests:"), Some(0), "{report}");
        assert_eq!(count("Non-2xx responses:"), None, "{report}");
        count("Complete requests:").unwrap_or_else(|| panic!("{report}"))
    }
}

/// Good ones and, each fifth, one that ends at once; all start-first, one replica after the other.
#[test]
fn no_request_of_a_load_generator_fails_over_updates_and_upgrades() {
    let Some(ab) = tool("ab") else { return };
    let Some(world) = World::start("sockets-load") else { return };
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let Some(http) = world.http() else { return };
    let text = |n: u32, args: &str| {
        format!(
            "replicas = {REPLICAS}\nexecutable = \"{http}\"\n[process]\n{args}env = {{ N = {n} }}\nnotify = \"systemd\"\n\
             [update]\norder = \"start-first\"\nmin_healthy = \"0s\"\ndeadline = \"60s\"\non_bad = \"rollback\"\n\
             [[socket]]\nlisten = \"tcp://127.0.0.1:{port}\"\nname = \"http\"\nbacklog = 1024\n"
        )
    };
    let all = |world: &World| -> Vec<Value> {
        (1..=REPLICAS).map(|n| world.wait_phase(&format!("web@{n}"), &["ready"])).collect()
    };
    world.unit("web", &text(0, ""));
    assert_eq!(world.says(&["sync", "web"]).0, 0);
    let mut now: Vec<Running> = all(&world).iter().map(Running::of).collect();
    let mut load = Load::on(port, &ab);
    let (updates, upgrades) = (number_from("MOORED_UPDATES", 6), number_from("MOORED_UPGRADES", 2));
    let mut upgraded = 0;
    for n in 1..=updates {
        let is_bad = n % 5 == 0;
        world.unit("web", &text(n, if is_bad { "args = [\"/http\", \"no port\"]\n" } else { "" }));
        let (code, out, err) = world.says(&["sync", "web"]);
        assert_eq!(code, if is_bad { 2 } else { 0 }, "update {n}: {out}{err}");
        let next: Vec<Running> = all(&world).iter().map(Running::of).collect();
        let kept = next.iter().zip(&now).filter(|(new, old)| new == old).count();
        assert_eq!(kept, if is_bad { REPLICAS } else { 0 }, "update {n}");
        now = next;
        load.goes_on(&format!("update {n}"));
        while upgraded * updates < n * upgrades {
            world.ok(&["upgrade", program().to_str().unwrap()]);
            upgraded += 1;
            load.goes_on(&format!("upgrade {upgraded}"));
        }
    }
    let again: Vec<Running> = all(&world).iter().map(Running::of).collect();
    assert_eq!(again, now, "an upgrade touches no container");
    let answered = load.end();
    println!("{answered} requests over {updates} updates of {REPLICAS} replicas and {upgrades} upgrades, none failed");
    assert!(answered > 50);
    world.ok(&["stop", "web"]);
    wait_for("nobody listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_err().then_some(()));
}
