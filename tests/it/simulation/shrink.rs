//! A history that goes wrong, made as short as it can be and told in words.
//!
//! Steps are left out, half of them first and then ever fewer at once, as long as the same invariant breaks; then what the units' texts have is. Each
//! try is a whole history, so their number is bounded: what is left is short, not the shortest.

use std::fmt::Write as _;
use std::sync::Arc;

use moored::plan::Want;
use moored::unit::{Order, Unit};

use super::History;
use super::steps::Plot;

/// A debug build takes some 20 ms for each.
const TRIES_MAX: usize = 800;

/// What a text can do without.
const PARTS: [fn(&mut Unit); 10] = [
    |unit| unit.depends_on.clear(),
    |unit| unit.on_failure.clear(),
    |unit| unit.conditions.clear(),
    |unit| unit.health = None,
    |unit| unit.network = None,
    |unit| unit.configs.clear(),
    |unit| unit.sockets.clear(),
    |unit| unit.schedule = None,
    |unit| unit.restart.limit = None,
    |unit| unit.update.order = Order::StopFirst,
];

/// The shortest that was found, and after how many tries.
pub fn shrunk(plot: &Plot, words: &str) -> (Plot, usize) {
    let (mut best, mut tries) = (plot.clone(), 0);
    let mut fails = |plot: &Plot| {
        tries += 1;
        tries <= TRIES_MAX && History::new(plot, false).run().is_err_and(|other| kind(&other) == kind(words))
    };
    // All that comes after the failure is no part of it.
    let mut chunk = best.steps.len().next_power_of_two() / 2;
    while chunk > 0 {
        let (mut at, before) = (0, best.steps.len());
        while at < best.steps.len() {
            let mut less = best.clone();
            less.steps.drain(at..(at + chunk).min(best.steps.len()));
            if fails(&less) { best = less } else { at += chunk }
        }
        // One that went may make others needless.
        chunk = if chunk == 1 && best.steps.len() < before { 1 } else { chunk / 2 };
    }
    for unit in plot.texts.keys() {
        for part in PARTS {
            let mut less = best.clone();
            less.texts.get_mut(unit).into_iter().flatten().for_each(|want| part(Arc::make_mut(&mut want.unit)));
            if less.texts != best.texts && fails(&less) {
                best = less;
            }
        }
    }
    (best, tries.min(TRIES_MAX))
}

/// Which invariant broke.
fn kind(words: &str) -> &str {
    words.split_once(':').map_or(words, |(kind, _)| kind)
}

/// A failure in words: what is wrong, the short history that shows it, and how to see it again.
pub fn told(plot: &Plot, words: &str) -> String {
    let (short, tries) = shrunk(plot, words);
    let mut history = History::new(&short, true);
    let end = history.run();
    let mut text = format!("seed {} breaks an invariant: {words}\n", plot.seed);
    let (all, left) = (plot.steps.len(), short.steps.len());
    let _ = writeln!(text, "of its {all} steps these {left} are enough ({tries} tries):\n");
    for (unit, pool) in &short.texts {
        if short.steps.iter().any(|step| step.what.to_string().contains(unit.as_str())) {
            for (number, want) in pool.iter().enumerate() {
                let _ = writeln!(text, "{unit}.toml, text {number}: {}", described(want));
            }
        }
    }
    let _ = writeln!(text, "\n{}", history.trace.unwrap_or_default().join("\n"));
    let _ = writeln!(text, "{}\n", end.err().unwrap_or_else(|| "no failure".to_owned()));
    let course = format!("{:?}", plot.course).to_lowercase();
    let _ = write!(text, "the whole history: MOORED_SEED={} cargo test --test it -- simulation::{course} ", plot.seed);
    text + "--nocapture"
}

/// What of a text matters here.
fn described(want: &Want) -> String {
    let unit = &want.unit;
    let mut words = vec![format!("{:?}", unit.kind).to_lowercase(), format!("restart {:?}", unit.restart.policy)];
    let restart = &unit.restart;
    words.push(format!("delay {:?} to {:?} after {:?}", restart.delay, restart.max_delay, restart.reset_after));
    words.extend((!unit.enabled).then(|| "not enabled".to_owned()));
    words.extend(restart.limit.map(|limit| format!("limit {} in {:?}", limit.burst, limit.interval)));
    let of = unit.depends_on.iter().map(|(name, on)| format!("needs {name} {} ({:?})", on.state.word(), on.on_loss));
    words.extend(of);
    words.extend(unit.on_failure.iter().map(|name| format!("on failure {name}")));
    words.extend((!unit.conditions.is_empty()).then(|| "needs the disk".to_owned()));
    words.extend(unit.network.as_ref().map(|network| format!("network {network:?}")));
    words.extend(unit.health.as_ref().map(|health| {
        let checks = [("startup", &health.startup), ("readiness", &health.readiness), ("liveness", &health.liveness)];
        let checks = checks.iter().filter(|(_, check)| check.is_some()).map(|(word, _)| *word);
        let words: Vec<&str> = checks.chain(health.notify.is_some().then_some("notify")).collect();
        format!("checks {words:?}")
    }));
    words.extend(unit.configs.first().map(|_| "config files".to_owned()));
    words.extend(unit.sockets.iter().map(|socket| format!("listens at {}", socket.listen)));
    words.extend(unit.schedule.as_ref().map(|schedule| {
        let (delay, longest) = (schedule.random_delay, schedule.max_runtime);
        let by = if schedule.wait_for_clock { "a clock that is set" } else { "any clock" };
        let after = if schedule.persistent { "persistent" } else { "not persistent" };
        format!("at {} by {by}, up to {delay:?} later, at most for {longest:?}, {after}", schedule.calendar)
    }));
    let update = &unit.update;
    words.push(format!("{:?}, on bad {:?}, well after {:?}", update.order, update.on_bad, update.min_healthy));
    words.push(format!("stop within {:?}", unit.stop.timeout));
    words.join(", ")
}
