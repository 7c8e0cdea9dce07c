//! What a round costs with ten thousand units in memory: merging their texts into what should run and planning it, all at once and after an
//! edit of one. The files are read apart; each has the size of DESIGN's example.
//!
//! `cargo bench --bench plan [-- UNITS ROUNDS]`

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use moored::plan::{Action, BootTime, Desired, Exit, Fact, HostPid, Now, Observed, Presence, WallTime, reconcile};
use moored::supervise::catalogue::{Catalogue, DirectoryId};
use moored::supervise::validate;
use moored::unit::{self, Source, SourceFacts, UnitName};

/// Bytes of DESIGN's example.
const TEXT_BYTES: usize = 4600;
/// Units that depend on the same one and share its root. (A look at a root goes through all units: ten thousand roots take minutes to read.)
const GROUP: usize = 10;

/// What is known of the units and of what runs.
struct World {
    catalogue: Catalogue,
    desired: Desired,
    observed: Observed,
    now: Now,
}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let (units, rounds) = (numbers.first().copied().unwrap_or(10_000), numbers.get(1).copied().unwrap_or(51));
    let files: Vec<(UnitName, PathBuf, String)> = (0..units).map(|n| file(n, 0)).collect();
    let parse =
        timed(|| files.iter().for_each(|(name, path, text)| drop(unit::parse(name, path, text).expect("valid"))));
    println!("{units} units of {} bytes, {rounds} rounds, medians", files[0].2.len());
    println!("{:40} {parse:>10.1?}", "apart: to parse them");

    let dir = Path::new("/bench/units");
    let mut world = World {
        catalogue: Catalogue::new(&[dir.to_owned()]),
        desired: Desired::default(),
        observed: Observed::default(),
        now: Now { boot: BootTime(1_000_000_000), wall: WallTime(1_000_000) },
    };
    let names = files.iter().map(|(name, _, _)| name.clone()).collect();
    let there = files.iter().map(|(name, _, _)| format!("{name}.toml").into()).collect();
    world.catalogue.directory_listed(
        dir,
        DirectoryId { device: 1, inode: 1, mount: 1 },
        &there,
        &BTreeSet::new(),
        world.now,
    );
    let read = timed(|| files.into_iter().for_each(|(name, path, text)| world.read(path, name, text)));
    let looked = timed(|| (0..units).step_by(GROUP).for_each(|n| world.looked(n)));
    println!("{:40} {:>10.1?}", "apart: to read and validate them", read + looked);

    let presence = Presence { exists: true, is_mount_point: true };
    world.observed.record(&Fact::Found { path: "/srv/web-data".into(), presence }, world.now);
    let all = median(rounds.min(11), |_| {
        let (mut desired, observed) = (Desired::default(), &world.observed);
        let took = timed(|| {
            world.catalogue.update(&mut desired, &names);
            let plan = reconcile(&desired, observed, world.now.boot);
            assert_eq!(plan.actions.len(), units.div_ceil(GROUP), "those that wait for nobody start first");
        });
        (desired, took)
    });
    println!("{:40} {all:>10.1?}   at most 100 ms", "merge and plan, nothing runs yet");

    world.run_all();
    let quiet = median(rounds, |_| ((), timed(|| assert!(world.plan().is_empty(), "all is as it should be"))));
    println!("{:40} {quiet:>10.1?}", "plan, all of them run");
    let edit = median(rounds, |round| {
        let (name, path, text) = file(round * 97 % units, round + 1);
        let took = timed(|| {
            world.read(path, name.clone(), text);
            let changes = world.catalogue.take_changes();
            world.catalogue.update(&mut world.desired, &changes);
            let actions = world.plan();
            assert!(matches!(&actions[..], [Action::Stop { id, .. }] if id.unit == name), "{actions:?}");
            assert!(
                actions.iter().all(|action| world.observed.begin(action, world.now)),
                "it was not asked for before"
            );
            assert!(world.plan().is_empty(), "it is asked for once");
        });
        (world.replace(&name), took)
    });
    println!("{:40} {edit:>10.1?}   at most 2 ms", "an edit: parse, validate, merge, plan");
    let follow =
        median(rounds, |_| ((), timed(|| drop((world.catalogue.sources(), world.catalogue.conditions().count())))));
    println!("{:40} {follow:>10.1?}", "what the texts name, to be followed");
}

/// The text of one unit; `version` makes another container of it.
fn file(n: usize, version: usize) -> (UnitName, PathBuf, String) {
    let name = format!("unit{n:05}");
    let leader = n / GROUP * GROUP;
    let depends =
        if n == leader { String::new() } else { format!("depends_on = {{ unit{leader:05} = \"started\" }}\n") };
    let mut text = format!(
        "description = \"Public web front\"\nrootfs = \"/bench/roots/unit{leader:05}\"\n{depends}on_failure = [\"alert@%p\"]\n\n\
         [process]\nargs = [\"/bin/web\", \"--id=%n\", \"--version={version}\"]\nenv = {{ PORT = 8080, LEVEL = \"info\" }}\n\
         user = \"1000:1000\"\n\n[restart]\npolicy = \"always\"\ndelay = \"100ms\"\nmax_delay = \"60s\"\nreset_after = \"60s\"\n\
         limit = {{ burst = 5, interval = \"1m\" }}\n\n[stop]\nsignal = \"SIGTERM\"\ntimeout = \"30s\"\n\n[resources]\nmemory = \"256M\"\n\
         cpus = 1.5\npids = 2048\nshm = \"64M\"\n\n[[mount]]\nsource = \"/srv/web-data\"\ntarget = \"/data\"\nread_only = false\n\
         require_mountpoint = true\n\n[[mount]]\ntype = \"tmpfs\"\ntarget = \"/run\"\n\n[log]\nmax_size = \"10M\"\nmax_files = 5\n\n\
         [security]\ncapabilities = []\nno_new_privileges = true\nseccomp = \"default\"\nread_only = true\n\n\
         [oci]\nlinux.sysctl = {{ \"net.core.somaxconn\" = \"1024\" }}\n"
    );
    while text.len() < TEXT_BYTES {
        text.push_str("# what a setting is for, in the words of whoever wrote it, as files in use have them\n");
    }
    let unit = UnitName::new(&name).expect("a unit's name");
    (unit, PathBuf::from(format!("/bench/units/{name}.toml")), text)
}

impl World {
    fn read(&mut self, path: PathBuf, name: UnitName, text: String) {
        self.catalogue.read(&path, name, text, path.clone(), validate, self.now.wall);
    }

    /// The source is there: the texts that name it are valid.
    fn looked(&mut self, n: usize) {
        let root = PathBuf::from(format!("/bench/roots/unit{n:05}"));
        let facts = SourceFacts { resolved: root.clone(), config_json: None };
        self.catalogue.looked(&Source::Rootfs(root), Ok(Arc::new(facts)), validate, self.now.wall);
    }

    fn plan(&self) -> Vec<Action> {
        reconcile(&self.desired, &self.observed, self.now.boot).actions
    }

    /// Starts whatever is to be started, until nothing is.
    fn run_all(&mut self) {
        let changes = self.catalogue.take_changes();
        self.catalogue.update(&mut self.desired, &changes);
        for _ in 0..10 {
            let actions = self.plan();
            for action in &actions {
                assert!(self.observed.begin(action, self.now), "it was not asked for before");
                if let Action::Start { id, .. } = action {
                    self.observed.record(&Fact::Started { id: id.clone(), pid: HostPid(4000) }, self.now);
                }
            }
        }
        assert!(self.plan().is_empty(), "all run");
    }

    /// The old container ends and the new one starts: what an edit leads to is over.
    fn replace(&mut self, name: &UnitName) {
        let id = self.observed.unit(name).and_then(|seen| seen.live.as_ref()).expect("it runs").id.clone();
        let exit = Exit::Code(0);
        for fact in [
            Fact::Exited { id: id.clone(), exit, oom: false, at: self.now.boot },
            Fact::CgroupEmpty { id: id.clone() },
            Fact::Drained { id: id.clone() },
        ] {
            self.observed.record(&fact, self.now);
        }
        let actions = self.plan();
        assert!(actions.iter().all(|action| self.observed.begin(action, self.now)), "it was not asked for before");
        self.observed.record(&Fact::Cleared { id }, self.now);
        self.run_all();
    }
}

/// CPU time of this thread: what else the machine does is left out.
fn timed(work: impl FnOnce()) -> Duration {
    let start = cpu_time();
    work();
    cpu_time() - start
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Of what each round says it took; what it made beside is dropped outside of that time.
fn median<T>(rounds: usize, mut round: impl FnMut(usize) -> (T, Duration)) -> Duration {
    let mut times: Vec<Duration> = (0..rounds).map(|n| round(n).1).collect();
    times.sort_unstable();
    times[times.len() / 2]
}
