//! Units to play with.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use moored::plan::Want;
use moored::unit::{
    Check, Condition, ConfigFile, Dependency, FileContents, Fingerprint, From, Health, Kind, Log, Need, Network,
    Notify, OnBad, OnChange, OnLimit, OnLoss, Order, Probe, Process, Resources, Restart, RestartLimit, RestartPolicy,
    Security, Signal, Source, Stop, Unit, UnitName, Update, Upper,
};

use super::rng::Rng;

/// Some units wait for it to be mounted.
pub const DISK: &str = "/disk";

/// A service with every default of the unit file.
pub fn service(name: &UnitName) -> Unit {
    Unit {
        name: name.clone(),
        description: None,
        hostname: Some(name.to_string()),
        replicas: None,
        enabled: true,
        kind: Kind::Service,
        source: Source::Executable(PathBuf::from("/bin/true")),
        upper: Upper::default(),
        depends_on: BTreeMap::new(),
        on_failure: BTreeSet::new(),
        conditions: Vec::new(),
        process: Process::default(),
        restart: Restart {
            policy: RestartPolicy::Always,
            delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(60),
            reset_after: Duration::from_secs(60),
            limit: None,
            on_limit: OnLimit::StayFailed,
        },
        stop: Stop { signal: Signal(15), timeout: Duration::from_secs(30) },
        reload: None,
        schedule: None,
        hooks: None,
        health: None,
        update: Update::default(),
        resources: Resources::default(),
        network: None,
        mounts: Vec::new(),
        configs: Vec::new(),
        devices: Vec::new(),
        sockets: Vec::new(),
        log: Log { max_size_bytes: 10 << 20, max_files: 5 },
        security: Security::default(),
        oci: serde_json::Map::new(),
        hidden: BTreeSet::new(),
    }
}

/// Any text for `name`, the fingerprint made from `number`; it may share the network of one of `others`.
pub fn random(rng: &mut Rng, name: &UnitName, number: u8, others: &[UnitName]) -> Want {
    use RestartPolicy::{Always, Never, OnAbnormal, OnFailure, OnSuccess};
    let mut unit = service(name);
    unit.enabled = !rng.chance(15);
    unit.kind = if rng.chance(25) { Kind::Oneshot } else { Kind::Service };
    unit.restart.policy = *rng.pick(&[Always, Always, Always, OnSuccess, OnFailure, OnFailure, OnAbnormal, Never]);
    unit.restart.delay = Duration::from_millis(*rng.pick(&[0, 100, 1000]));
    unit.restart.max_delay = Duration::from_secs(*rng.pick(&[1, 5, 60]));
    unit.restart.reset_after = Duration::from_secs(*rng.pick(&[0, 1, 10]));
    let limit = RestartLimit { burst: 1 + rng.below(4) as u32, interval: Duration::from_secs(1 + rng.below(30)) };
    unit.restart.limit = rng.chance(30).then_some(limit);
    unit.stop.timeout = Duration::from_millis(*rng.pick(&[0, 500, 3000]));
    for other in others.iter().filter(|other| *other != name) {
        if rng.chance(12) {
            let state = *rng.pick(&[Need::Completed, Need::Completed, Need::Started, Need::Started, Need::Healthy]);
            let on_loss = *rng.pick(&[OnLoss::Keep, OnLoss::Keep, OnLoss::Stop, OnLoss::Restart]);
            unit.depends_on.insert(other.clone(), Dependency { state, optional: rng.chance(25), on_loss });
        }
        if rng.chance(5) {
            unit.on_failure.insert(other.clone());
        }
    }
    if rng.chance(10) {
        unit.conditions.push(Condition::MountPoint(PathBuf::from(DISK)));
    }
    if rng.chance(30) {
        let check = || {
            let probe = Probe::File { path: "/beat".into(), max_age: None };
            let (interval, timeout) = (Duration::from_secs(1), Duration::from_secs(1));
            Check { probe, from: From::Container, interval, timeout, failures: 2, successes: 1 }
        };
        let health = Health {
            startup: rng.chance(40).then(check),
            readiness: rng.chance(40).then(check),
            liveness: Some(check()),
            notify: None,
        };
        unit.health = Some(Arc::new(health));
    }
    if rng.chance(30) {
        let health = unit.health.as_deref().cloned().unwrap_or_default();
        // No watchdog: a world in which somebody says again and again that he is alive does not come to rest.
        unit.health = Some(Arc::new(Health { notify: Some(Notify { watchdog: None }), ..health }));
    }
    unit.network = rng.chance(25).then(|| Network::Unit(rng.pick(others).clone()));
    unit.update.min_healthy = Duration::from_millis(*rng.pick(&[0, 1000, 5000]));
    unit.update.deadline = Duration::from_secs(10);
    unit.update.on_bad = *rng.pick(&[None, None, Some(OnBad::StayFailed), Some(OnBad::Retry)]);
    Want { unit: Arc::new(unit), fingerprint: Fingerprint([number; 16]), trial: None, earlier: None }
}

/// Perhaps one whose old container runs on until the new one has done well.
pub fn with_order(rng: &mut Rng, want: Want) -> Want {
    let mut unit = want.unit.as_ref().clone();
    unit.update.order = if rng.chance(50) { Order::StartFirst } else { Order::StopFirst };
    Want { unit: Arc::new(unit), ..want }
}

/// Perhaps with files; perhaps instead the text before it, with perhaps other contents of its files.
pub fn with_files(rng: &mut Rng, fresh: Want, before: Option<&Want>) -> Want {
    let swapped = before.filter(|before| !before.unit.configs.is_empty() && rng.chance(60));
    let want = swapped.cloned().unwrap_or(fresh);
    if swapped.is_none() && !rng.chance(40) {
        return want;
    }
    let unit = Unit { configs: configs(rng), ..want.unit.as_ref().clone() };
    Want { unit: Arc::new(unit), fingerprint: want.fingerprint, trial: want.trial, earlier: want.earlier.clone() }
}

/// Two files that are swapped, each with one of few contents.
fn configs(rng: &mut Rng) -> Vec<ConfigFile> {
    let mut file = |target: &str, on_change| ConfigFile {
        source: PathBuf::from("/etc").join(target),
        target: format!("/{target}"),
        on_change,
        mode: None,
        secret: false,
        contents: Some(FileContents::new([rng.below(3) as u8][..].into())),
    };
    vec![file("a", OnChange::Reload), file("b", OnChange::None)]
}
