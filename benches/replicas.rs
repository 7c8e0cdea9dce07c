//! What many containers of one root cost: 300 replicas of a Debian root as a layer, on the disk, in time and in memory; and how long podman takes for
//! a tenth of them.
//!
//! `cargo bench --bench replicas [-- REPLICAS [PODMANS]]`, as root. `tests/run` makes the root (target/test-roots/debian). What podman's take is counted
//! for as many as ours; its runtime is runc, another one where `MOORED_PODMAN_RUNTIME` names it. `cargo test --bench replicas` is the same without optimisation.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_moored");
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-roots/debian");

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|word| word.parse().ok());
    let (replicas, podmans): (u32, u32) = (numbers.next().unwrap_or(300), numbers.next().unwrap_or(30));
    if !Path::new(ROOT).join("usr/bin/perl").exists() {
        return eprintln!("no Debian root in target/test-roots: tests/run makes it");
    }
    let ours = ours(replicas);
    if podmans == 0 || Command::new("podman").arg("--version").stdout(Stdio::null()).status().is_err() {
        return println!("podman is not asked");
    }
    let podman = podman(podmans);
    let ratio = f64::from(replicas) / f64::from(podmans);
    let whole = podman.as_secs_f64() * ratio;
    println!(
        "podman run, {podmans} one after the other: {:.2} s, so {whole:.1} s for {replicas}",
        podman.as_secs_f64()
    );
    println!("ours take {:.3} of that", ours.as_secs_f64() / whole);
}

struct Place {
    dir: PathBuf,
    up: Child,
}

impl Place {
    fn command(dir: &Path) -> Command {
        let mut command = Command::new(PROGRAM);
        for (option, below) in [("--run-dir", "run"), ("--state-dir", "state"), ("--log-dir", "log")] {
            command.arg(option).arg(dir.join(below));
        }
        command.arg("--cgroup-root").arg(format!("/moored-bench-{}", std::process::id()));
        command
    }

    fn new() -> Place {
        let dir = std::env::temp_dir().join(format!("moored-bench-replicas-{}", std::process::id()));
        fs::create_dir_all(dir.join("units")).expect("a temporary directory");
        let mut up = Place::command(&dir);
        up.arg("up").arg("--units").arg(dir.join("units")).stdout(Stdio::null()).stderr(Stdio::null());
        Place { up: up.spawn().expect("our own program"), dir }
    }

    fn run(&self, words: &[&str]) -> String {
        let output = Place::command(&self.dir).args(words).output().expect("our own program");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn scale(&self, replicas: u32) {
        let args = "[\"/bin/bash\", \"-c\", \"echo $$ %i >/mine; exec sleep infinity\"]";
        let text = format!(
            "replicas = {replicas}\nlayers = [{ROOT:?}]\n[process]\nargs = {args}\n[stop]\nsignal = \"SIGKILL\"\n"
        );
        fs::write(self.dir.join("units/web.toml"), text).expect("a temporary directory");
    }

    /// Proportional set size of anchor, keeper and supervisor.
    fn pss_kib(&self) -> u64 {
        let status: serde_json::Value = serde_json::from_str(&self.run(&["status", "--json"])).expect("JSON");
        let pids = ["anchor", "keeper", "supervisor"].map(|name| status[name].as_u64().unwrap_or(0));
        let pss = |pid: u64| {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
            line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        pids.into_iter().map(pss).sum()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.run(&["down"]);
        let _ = self.up.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// What `du` says of these, on one file system.
fn du_kib(path: &Path) -> u64 {
    let output = Command::new("du").args(["-sxk"]).arg(path).output().expect("du");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

fn ours(replicas: u32) -> Duration {
    let place = Place::new();
    while place.run(&["status", "--json"]).is_empty() {
        std::thread::sleep(Duration::from_millis(20));
    }
    place.scale(0);
    place.run(&["sync"]);
    let (root, before, pss) = (du_kib(Path::new(ROOT)), du_kib(&place.dir), place.pss_kib());
    let began = Instant::now();
    place.scale(replicas);
    let said = place.run(&["sync"]);
    let took = began.elapsed();
    let rows: Vec<serde_json::Value> = serde_json::from_str(&place.run(&["ps", "--json"])).expect("JSON");
    let running = rows.iter().filter(|row| row["phase"] == "running").count();
    println!("{running} of {replicas} replicas run {:.2} s after the edit{said}", took.as_secs_f64());
    // Memory that the rounds of the start needed is given back after a quiet second.
    std::thread::sleep(Duration::from_secs(3));
    let each = place.pss_kib().saturating_sub(pss) as f64 / f64::from(replicas);
    println!("anchor, keeper and supervisor: {pss} KiB with none, {each:.1} KiB more for each");
    let more = du_kib(&place.dir).saturating_sub(before);
    println!("the root has {} MiB; on the disk {more} KiB more for {replicas} replicas of it", root / 1024);
    took
}

/// So many, one after the other, on the same root as a lower directory (`:O`).
fn podman(count: u32) -> Duration {
    let names: Vec<String> = (0..count).map(|n| format!("moored-bench-{}-{n}", std::process::id())).collect();
    let runtime = std::env::var("MOORED_PODMAN_RUNTIME").unwrap_or_else(|_| "runc".to_owned());
    let began = Instant::now();
    for name in &names {
        let mut run = Command::new("podman");
        // Where CAP_SYS_RESOURCE is missing podman cannot raise these, as it wants to.
        run.args(["run", "-d", "--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]);
        run.args(["--runtime", &runtime, "--name", name, "--rootfs", &format!("{ROOT}:O")]);
        let status = run.args(["sleep", "infinity"]).stdout(Stdio::null()).status().expect("podman");
        assert!(status.success(), "podman run failed");
    }
    let took = began.elapsed();
    let remove = Command::new("podman").args(["rm", "-f", "-t", "0"]).args(&names).stdout(Stdio::null()).status();
    assert!(remove.is_ok_and(|status| status.success()), "podman rm failed");
    took
}
