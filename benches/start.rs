//! How long one container takes from the command to its end, beside other runtimes and beside util-linux' `unshare`, which makes the same
//! namespaces and nothing else: the floor. What is not installed is left out.
//!
//! `cargo bench --bench start [-- ROUNDS]`, as root. The contestants take turns, so that all have the same machine; the ratios count.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Tried before anything is timed.
const WARM_UP: usize = 3;

struct Contestant {
    name: &'static str,
    words: Vec<String>,
}

fn main() {
    let rounds = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(31);
    let dir = std::env::temp_dir().join(format!("moored-bench-start-{}", std::process::id()));
    let bundles = ["default", "lean"].map(|kind| (kind, bundle(&dir.join(kind), kind)));
    println!("{:8} {:8} {:>9} {:>9} {:>9} {:>12}", "bundle", "", "median ms", "p10", "p90", "unshare = 1");
    for (kind, bundle) in &bundles {
        compare(kind, &contestants(&dir, bundle, kind), rounds);
    }
    std::fs::remove_dir_all(dir).expect("the directory is ours");
}

/// runc's default config with a program that ends at once; lean has no network namespace.
fn bundle(dir: &Path, kind: &str) -> PathBuf {
    let busybox = installed("busybox").expect("apt-get install busybox-static");
    let root = dir.join("rootfs");
    for name in ["bin", "dev", "proc", "sys"] {
        std::fs::create_dir_all(root.join(name)).expect("a temporary directory");
    }
    std::fs::copy(busybox, root.join("bin/true")).expect("a temporary directory");
    let mut config: serde_json::Value = serde_json::from_str(moored::oci::template()).expect("it is ours");
    config["ociVersion"] = "1.0.2".into();
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = vec!["/bin/true"].into();
    config["root"]["path"] = root.display().to_string().into();
    if kind == "lean" {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("a list");
        namespaces.retain(|namespace| namespace["type"] != "network");
        let mounts = config["mounts"].as_array_mut().expect("a list");
        mounts.retain(|mount| mount["type"] != "cgroup");
    }
    std::fs::write(dir.join("config.json"), config.to_string()).expect("a temporary directory");
    dir.to_owned()
}

fn contestants(dir: &Path, bundle: &Path, kind: &str) -> Vec<Contestant> {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let net = if kind == "lean" { "" } else { " -n" };
    let floor = format!("unshare -m -p -i -u{net} -f -R {} /bin/true", bundle.join("rootfs").display());
    let run = |runtime: &str| {
        let state = dir.join("state");
        format!("{runtime} --root {} run --bundle {} bench-{}", state.display(), bundle.display(), std::process::id())
    };
    let mut all = vec![Contestant { name: "unshare", words: words(&floor) }];
    let ours = run(&format!("{} oci", env!("CARGO_BIN_EXE_moored")));
    all.push(Contestant { name: "moored", words: words(&ours) });
    if installed("runc").is_some() {
        all.push(Contestant { name: "runc", words: words(&run("runc")) });
    }
    if installed("crun").is_some() {
        // crun refuses hybrid hosts: it runs where the v2 hierarchy is out of sight, which costs the others nothing.
        let hide = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"";
        let inside = ["unshare", "-m", "sh", "-c", hide, "sh"].map(str::to_owned).to_vec();
        all.push(Contestant { name: "crun *", words: inside.into_iter().chain(words(&run("crun"))).collect() });
    }
    all
}

fn compare(kind: &str, contestants: &[Contestant], rounds: usize) {
    let mut times = vec![Vec::with_capacity(rounds); contestants.len()];
    for round in 0..rounds + WARM_UP {
        for (contestant, times) in contestants.iter().zip(&mut times) {
            let time = run(contestant);
            if round >= WARM_UP {
                times.push(time);
            }
        }
    }
    times.iter_mut().for_each(|times| times.sort());
    let floor = times[0][rounds / 2];
    for (contestant, times) in contestants.iter().zip(&times) {
        let at = |tenths: usize| times[rounds * tenths / 10].as_secs_f64() * 1000.0;
        let ratio = times[rounds / 2].as_secs_f64() / floor.as_secs_f64();
        println!("{kind:8} {:8} {:9.2} {:9.2} {:9.2} {ratio:12.2}", contestant.name, at(5), at(1), at(9));
    }
    if contestants.iter().any(|contestant| contestant.name.ends_with('*')) {
        println!("{:17} * includes the two programs that hide the v2 hierarchy from it", "");
    }
}

fn run(contestant: &Contestant) -> Duration {
    let [program, arguments @ ..] = contestant.words.as_slice() else { unreachable!("no contestant is empty") };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let start = Instant::now();
    let status = command.status().unwrap_or_else(|error| panic!("{program}: {error}"));
    let time = start.elapsed();
    assert!(status.success(), "{} ended with {status}", contestant.name);
    time
}

fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}
