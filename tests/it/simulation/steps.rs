//! A history as data: the texts of its units and the steps that happen, all from one seed. What chance decides within a step is of that step's own
//! seed, so that one can be left out and the others stay what they are: that is what shrinking (`shrink`) lives on.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use moored::plan::Want;
use moored::unit::UnitName;

use super::host::millis;
use super::planted::Bug;
use super::rng::Rng;
use super::{UNITS, hooks, sample, schedules, sockets};

/// What a history is to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// Whatever happens, no invariant breaks at any step; then everything stops.
    Safety,
    /// Once nothing is in the way any more, what should run does, within bounded time, and stays so.
    Liveness,
}

/// All that a history is made of.
#[derive(Debug, Clone)]
pub struct Plot {
    pub seed: u64,
    pub course: Course,
    pub bug: Bug,
    /// Of each unit a few texts, between which edits go back and forth.
    pub texts: BTreeMap<UnitName, Vec<Want>>,
    pub steps: Vec<Step>,
}

/// One thing that happens.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Of all that chance decides while it happens.
    pub seed: u64,
    pub what: What,
    /// A supervisor that is gone is started again then.
    pub starts: bool,
}

/// What happens.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    Wait(Duration),
    /// Text number so and so is written to the unit's file.
    Edit(UnitName, usize),
    /// A text that is not valid is.
    Spoil(UnitName),
    Remove(UnitName),
    /// The watch says nothing of the next change of a file.
    Miss,
    /// The program ends by itself.
    Ends(UnitName),
    Client(UnitName, Wish),
    /// The supervisor dies after so many more of its steps.
    Fuse(u32),
    Crash,
    /// The supervisor is replaced in place: it ends between two rounds, and the next one reads what it wrote.
    Upgrade,
    /// The keeper dies, with the supervisor or not. If the anchor lives, it takes its place.
    KeeperDies {
        supervisor: bool,
    },
    AnchorDies,
    /// The host loses its power: what is left is what survives a reboot.
    PowerCut,
    Sleep(Duration),
    /// The wall clock is set forwards or back, in milliseconds.
    ClockJumps(i64),
    /// Somebody who knows the time sets it.
    ClockSet,
    Mount(bool),
    /// Records cannot be written, or can again.
    Full(bool),
}

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Start,
    Restart,
    Reload,
    Kill,
    /// Held for so long, or for ever.
    Stop(Option<Duration>),
}

/// Each history has so many.
pub const STEPS: usize = 200;
/// Texts of one unit.
const TEXTS: u8 = 3;
/// Ten years, in milliseconds: a clock that starts at 1970, and one whose battery is empty.
const TEN_YEARS_MS: i64 = 315_576_000_000;

impl Plot {
    pub fn new(seed: u64, course: Course, bug: Bug) -> Plot {
        let names: Vec<UnitName> = UNITS.iter().map(|name| UnitName::new(name).expect("a name")).collect();
        let texts = texts(seed, &names);
        let mut rng = Rng::new(seed ^ if course == Course::Safety { 0x57e9 } else { 0x11fe });
        let mut of_clock = Rng::new(seed ^ 0xc10c);
        let mut step = || {
            let step = Step::random(&mut rng, &names);
            // As often as it jumps.
            let is_set = of_clock.chance(2) && matches!(step.what, What::Wait(_));
            if is_set { Step { what: What::ClockSet, ..step } } else { step }
        };
        let steps = (0..STEPS).map(|_| step()).collect();
        Plot { seed, course, bug, texts, steps }
    }
}

/// What one thing that a text has is made from has a stream of its own: more of one changes nothing of another.
fn texts(seed: u64, names: &[UnitName]) -> BTreeMap<UnitName, Vec<Want>> {
    let [mut rng, mut files, mut order, mut of_sockets, mut of_hooks, mut of_schedules] =
        [0, 0x5eed, 0x0bde, 0x50c7, 0x400c, 0x5c4e].map(|stream| Rng::new(seed ^ stream));
    let mut texts = BTreeMap::new();
    for (index, name) in names.iter().enumerate() {
        let mut pool: Vec<Want> = Vec::new();
        for version in 0..TEXTS {
            let number = (index as u8) * 16 + version + 1;
            let fresh = sample::random(&mut rng, name, number, names);
            let fresh = sockets::with_sockets(&mut of_sockets, fresh);
            let fresh = hooks::with_hooks(&mut of_hooks, fresh);
            let text = sample::with_files(&mut files, fresh, pool.last());
            let text = sample::with_order(&mut order, text);
            pool.push(schedules::with_schedule(&mut of_schedules, text, pool.last()));
        }
        texts.insert(name.clone(), pool);
    }
    texts
}

impl Step {
    fn random(rng: &mut Rng, names: &[UnitName]) -> Step {
        let unit = rng.pick(names).clone();
        let what = match rng.below(1000) {
            0..340 => {
                let most = *rng.pick(&[1, 10, 100, 1000, 1000, 5000]);
                What::Wait(millis(rng.below(most) + 1))
            }
            340..490 => What::Edit(unit, rng.below(u64::from(TEXTS)) as usize),
            490..530 => What::Spoil(unit),
            530..565 => What::Remove(unit),
            565..580 => What::Miss,
            580..680 => What::Ends(unit),
            680..800 => What::Client(unit, Wish::random(rng)),
            800..875 => What::Fuse(rng.below(12) as u32),
            875..905 => What::Crash,
            905..915 => What::Upgrade,
            915..935 => What::KeeperDies { supervisor: true },
            935..945 => What::KeeperDies { supervisor: false },
            945..948 => What::AnchorDies,
            948..951 => What::PowerCut,
            951..966 => What::Sleep(millis(rng.below(100_000))),
            966..976 => {
                let most = *rng.pick(&[1_000, 60_000, TEN_YEARS_MS as u64]);
                let by = rng.below(most) as i64;
                What::ClockJumps(if rng.chance(50) { by } else { -by })
            }
            976..994 => What::Mount(rng.chance(60)),
            _ => What::Full(rng.chance(50)),
        };
        Step { seed: rng.next(), what, starts: rng.chance(40) }
    }
}

impl Wish {
    fn random(rng: &mut Rng) -> Wish {
        match rng.below(5) {
            0 => Wish::Start,
            1 => Wish::Restart,
            2 => Wish::Reload,
            3 => Wish::Kill,
            _ => Wish::Stop(rng.chance(60).then(|| millis(rng.below(20_000)))),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Wait(wait) => write!(f, "{wait:?} go by"),
            What::Edit(unit, text) => write!(f, "{unit}.toml is edited: text {text}"),
            What::Spoil(unit) => write!(f, "{unit}.toml is edited: it is not valid"),
            What::Remove(unit) => write!(f, "{unit}.toml is removed"),
            What::Miss => write!(f, "the watch will miss the next change of a file"),
            What::Ends(unit) => write!(f, "{unit} ends by itself"),
            What::Client(unit, wish) => match wish {
                Wish::Start => write!(f, "a client: start {unit}"),
                Wish::Restart => write!(f, "a client: restart {unit}"),
                Wish::Reload => write!(f, "a client: reload {unit}"),
                Wish::Kill => write!(f, "a client: kill {unit}"),
                Wish::Stop(None) => write!(f, "a client: stop {unit}"),
                Wish::Stop(Some(time)) => write!(f, "a client: stop {unit} for {time:?}"),
            },
            What::Fuse(steps) => write!(f, "the supervisor will die after {steps} steps"),
            What::Crash => write!(f, "the supervisor dies"),
            What::Upgrade => write!(f, "the supervisor is replaced in place"),
            What::KeeperDies { supervisor: true } => write!(f, "the keeper and the supervisor die"),
            What::KeeperDies { supervisor: false } => write!(f, "the keeper dies"),
            What::AnchorDies => write!(f, "the anchor dies"),
            What::PowerCut => write!(f, "the host loses its power"),
            What::Sleep(time) => write!(f, "the host sleeps for {time:?}"),
            What::ClockJumps(ms) => write!(f, "the wall clock jumps by {ms} ms"),
            What::ClockSet => write!(f, "the wall clock is set"),
            What::Mount(true) => write!(f, "the disk is mounted"),
            What::Mount(false) => write!(f, "the disk is unmounted"),
            What::Full(true) => write!(f, "no record can be written"),
            What::Full(false) => write!(f, "records can be written again"),
        }
    }
}
