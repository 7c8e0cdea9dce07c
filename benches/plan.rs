//! What a round costs with ten thousand units in memory: merging their texts into what should run and planning it, all at once and after an
//! edit of one, by the same steps as in the supervisor's loop. The files are read apart; each has the size of DESIGN's example.
//!
//! `cargo bench --bench plan [-- UNITS ROUNDS]`

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use moored::plan::{
    Action, BootTime, Desired, Exit, Fact, HostPid, Now, Observed, Planner, Presence, WallTime, reconcile,
};
use moored::supervise::catalogue::{Catalogue, DirectoryId, Standing};
use moored::supervise::validate;
use moored::unit::{self, ContainerId, Source, SourceFacts, UnitName};

/// Bytes of DESIGN's example.
const TEXT_BYTES: usize = 4600;
/// Units that depend on the same one.
const GROUP: usize = 10;

/// What is known of the units and of what runs.
struct World {
    catalogue: Catalogue,
    desired: Desired,
    observed: Observed,
    planner: Planner,
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
        planner: Planner::default(),
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
    let looked = timed(|| (0..units).for_each(|n| world.looked(n)));
    println!("{:40} {:>10.1?}", "apart: to read and validate them", read + looked);

    let presence = Presence { exists: true, is_mount_point: true };
    world.record(&Fact::Found { path: "/srv/web-data".into(), presence });
    let all = median(rounds.min(11), |_| {
        let (mut desired, mut planner, observed) = (Desired::default(), Planner::default(), &world.observed);
        let took = timed(|| {
            world.catalogue.update(&mut desired, &names);
            let plan = planner.plan(&desired, observed, world.now.boot);
            assert_eq!(plan.actions.len(), units.div_ceil(GROUP), "those that wait for nobody start first");
        });
        ((desired, planner), took)
    });
    println!("{:40} {all:>10.1?}   at most 100 ms", "merge and plan, nothing runs yet");

    world.run_all();
    let quiet = median(rounds, |_| {
        let whole = || reconcile(&world.desired, &world.observed, world.now.boot);
        ((), timed(|| assert!(whole().actions.is_empty(), "all is as it should be")))
    });
    println!("{:40} {quiet:>10.1?}", "a look at everything, all of them run");
    let edit = median(rounds, |round| {
        let (name, path, text) = file(round * 97 % units, round + 1);
        let took = timed(|| {
            world.read(path, name.clone(), text);
            let actions = world.round();
            assert!(matches!(&actions[..], [Action::Stop { id, .. }] if id.unit == name), "{actions:?}");
        });
        (world.replace(&name), took)
    });
    println!("{:40} {edit:>10.1?}   at most 2 ms", "an edit: parse, validate, merge, plan");
    let parse_one = median(rounds, |round| {
        let (name, path, text) = file(round * 97 % units, round + 1);
        let mut unit = None;
        let took = timed(|| unit = unit::parse(&name, &path, &text).ok());
        (unit, took)
    });
    println!("{:40} {parse_one:>10.1?}", "    of which to parse the text once");
    let exit = median(rounds, |round| {
        let name = file(round * 89 % units, 0).0;
        let id = world.live(&name);
        let took = timed(|| {
            let fact = Fact::Exited { id, exit: Exit::Code(1), oom: false, at: world.now.boot };
            world.record(&fact);
            assert!(world.round().is_empty(), "what is left of it is waited for");
        });
        (world.clear(&name), took)
    });
    println!("{:40} {exit:>10.1?}", "an exit: record, plan");
    let more = median(rounds, |round| {
        let (name, path, text) = file(units + round * GROUP, 0);
        let took = timed(|| {
            world.read(path, name, text);
            assert!(world.round().is_empty(), "its source is being looked at");
            world.looked(units + round * GROUP);
            assert_eq!(world.round().len(), 1, "it starts");
        });
        ((), took)
    });
    println!("{:40} {more:>10.1?}", "a unit more: parse, look, merge, plan");
}

/// The text of one unit; `version` makes another container of it.
fn file(n: usize, version: usize) -> (UnitName, PathBuf, String) {
    let name = format!("unit{n:05}");
    let leader = n / GROUP * GROUP;
    let depends =
        if n == leader { String::new() } else { format!("depends_on = {{ unit{leader:05} = \"started\" }}\n") };
    let mut text = format!(
        "description = \"Public web front\"\nrootfs = \"/bench/roots/{name}\"\n{depends}on_failure = [\"alert@%p\"]\n\n\
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
        let facts = SourceFacts { resolved: root.clone(), config_json: None, layers: Vec::new() };
        self.catalogue.looked(&Source::Rootfs(root), Ok(Arc::new(facts)), validate, self.now.wall);
    }

    fn record(&mut self, fact: &Fact) {
        assert!(self.observed.record(fact, self.now), "{fact} is news");
        self.planner.recorded(fact);
    }

    /// What the loop does with what was read and recorded: follow, put in force, plan and begin until there is nothing left.
    fn round(&mut self) -> Vec<Action> {
        drop(self.catalogue.take_named());
        let changes = self.catalogue.take_changes();
        for name in &changes {
            self.catalogue.keep_earlier(name, Standing::of(self.observed.unit(name)));
            self.planner.changed(name);
        }
        self.catalogue.update(&mut self.desired, &changes);
        let mut begun = Vec::new();
        while self.planner.is_due(self.now.boot) {
            for action in self.planner.plan(&self.desired, &self.observed, self.now.boot).actions {
                assert!(self.observed.begin(&action, self.now), "it was not asked for before");
                self.planner.begun(&action);
                begun.push(action);
            }
        }
        begun
    }

    /// Starts whatever is to be started, until nothing is.
    fn run_all(&mut self) {
        loop {
            let begun = self.round();
            for action in &begun {
                if let Action::Start { id, .. } = action {
                    self.record(&Fact::Started { id: id.clone(), pid: HostPid(4000) });
                }
            }
            if begun.is_empty() {
                return;
            }
        }
    }

    fn live(&self, name: &UnitName) -> ContainerId {
        self.observed.unit(name).and_then(|seen| seen.live.as_ref()).expect("it runs").id.clone()
    }

    /// The old container ends and the new one starts: what an edit leads to is over.
    fn replace(&mut self, name: &UnitName) {
        let id = self.live(name);
        self.record(&Fact::Exited { id, exit: Exit::Code(0), oom: false, at: self.now.boot });
        self.clear(name);
    }

    /// What is left of an ended container goes, and it runs again.
    fn clear(&mut self, name: &UnitName) {
        let id = self.live(name);
        self.record(&Fact::CgroupEmpty { id: id.clone() });
        self.record(&Fact::Drained { id: id.clone() });
        self.round();
        self.record(&Fact::Cleared { id });
        self.now.boot = self.now.boot.after(Duration::from_secs(60));
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
