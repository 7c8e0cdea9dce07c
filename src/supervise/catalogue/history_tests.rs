//! Random histories of a unit's texts, drop-ins and defaults, against a model that knows only what is on disk now.

use std::collections::BTreeMap;

use super::tests::{at, catalogue, valid, web};
use super::*;

const HISTORIES: u64 = 300;
const STEPS: usize = 60;

/// What a unit's stop timeout is without any text, in seconds.
const NOTHING_SAID: u64 = 30;

/// What is at a path.
#[derive(Debug, Clone, PartialEq)]
enum There {
    /// A text that says what the stop timeout is, or nothing.
    Says(Option<u64>),
    /// A text that is no TOML, or one that may not be read.
    Broken(bool),
    Mask,
}

/// xorshift64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }

    fn there(&mut self) -> Option<There> {
        match self.roll(8) {
            0 | 1 => None,
            2 => Some(There::Broken(true)),
            3 => Some(There::Broken(false)),
            4 => Some(There::Mask),
            5 => Some(There::Says(None)),
            _ => Some(There::Says(Some(1 + self.roll(3)))),
        }
    }
}

#[derive(Debug, Default)]
struct Disk {
    /// By path; the last directory's counts.
    mains: BTreeMap<&'static str, There>,
    /// By name and path: in the order in which they are merged, the last of a name counts.
    drop_ins: BTreeMap<(&'static str, &'static str), There>,
    /// The last valid ones.
    defaults: Option<u64>,
}

const MAINS: [&str; 2] = ["/u/web.toml", "/v/web.toml"];
const DROP_INS: [(&str, &str); 4] = [
    ("10", "/u/web.toml.d/10.toml"),
    ("10", "/v/web.toml.d/10.toml"),
    ("20", "/u/web.toml.d/20.toml"),
    ("20", "/v/web.toml.d/20.toml"),
];

fn text(says: Option<u64>) -> String {
    says.map_or_else(|| "# nothing\n".to_owned(), |seconds| format!("stop.timeout = \"{seconds}s\"\n"))
}

impl There {
    /// `Err`: whatever depends on it keeps what is in force.
    fn says(&self) -> Result<Option<u64>, ()> {
        match self {
            There::Says(says) => Ok(*says),
            There::Mask => Ok(None),
            There::Broken(_) => Err(()),
        }
    }
}

impl Disk {
    /// `Err`: what is in force stays.
    fn expected(&self) -> Result<Option<u64>, ()> {
        let main = match self.mains.values().next_back() {
            None | Some(There::Mask) => return Ok(None),
            Some(main) => main.says()?,
        };
        let last: BTreeMap<&str, &There> = self.drop_ins.iter().map(|((name, _), there)| (*name, there)).collect();
        let mut said = main.or(self.defaults);
        for drop_in in last.values() {
            said = drop_in.says()?.or(said);
        }
        Ok(Some(said.unwrap_or(NOTHING_SAID)))
    }
}

fn step(it: &mut Catalogue, disk: &mut Disk, dice: &mut Dice) {
    match dice.roll(8) {
        0 => defaults_step(it, disk, dice.there()),
        1 | 2 => main_step(it, disk, MAINS[dice.roll(2) as usize], dice.there()),
        _ => drop_in_step(it, disk, DROP_INS[dice.roll(4) as usize], dice.there()),
    }
}

fn defaults_step(it: &mut Catalogue, disk: &mut Disk, there: Option<There>) {
    let (file, now) = (Path::new("/moored.toml"), at(0));
    match &there {
        None => it.defaults_not_read(NoDefaults::Missing, valid, now),
        Some(There::Mask) => it.defaults_not_read(NoDefaults::Mask, valid, now),
        Some(There::Broken(true)) => it.defaults_read(file, "[zebra]", file.to_owned(), valid, now.wall),
        Some(There::Broken(false)) => it.defaults_not_read(NoDefaults::Refused("x".to_owned()), valid, now),
        Some(There::Says(says)) => {
            it.defaults_read(file, &format!("[defaults]\n{}", text(*says)), file.to_owned(), valid, now.wall);
        }
    }
    if let Ok(says) = there.map_or(Ok(None), |there| there.says()) {
        disk.defaults = says;
    }
}

fn main_step(it: &mut Catalogue, disk: &mut Disk, path: &'static str, there: Option<There>) {
    let (file, now) = (Path::new(path), WallTime(0));
    match &there {
        None => it.gone(file, &web(), valid, now),
        Some(There::Mask) => it.mask(file, web(), valid, now),
        Some(There::Broken(true)) => it.read(file, web(), "= 1".to_owned(), file.to_owned(), valid, now),
        Some(There::Broken(false)) => it.refuse(file, web(), "not trusted".to_owned(), valid, now),
        Some(There::Says(says)) => {
            let text = format!("rootfs = \"/r\"\nprocess.args = [\"/a\"]\n{}", text(*says));
            it.read(file, web(), text, file.to_owned(), valid, now);
        }
    }
    match there {
        Some(there) => drop(disk.mains.insert(path, there)),
        None => drop(disk.mains.remove(path)),
    }
}

fn drop_in_step(it: &mut Catalogue, disk: &mut Disk, at: (&'static str, &'static str), there: Option<There>) {
    let (file, now) = (Path::new(at.1), WallTime(0));
    match &there {
        None => it.drop_in_gone(file, valid, now),
        Some(There::Mask) => it.drop_in_refused(file, None, valid, now),
        Some(There::Broken(true)) => it.drop_in_read(file, "= 1".to_owned(), file.to_owned(), valid, now),
        Some(There::Broken(false)) => it.drop_in_refused(file, Some("not trusted".to_owned()), valid, now),
        Some(There::Says(says)) => it.drop_in_read(file, text(*says), file.to_owned(), valid, now),
    }
    match there {
        Some(there) => drop(disk.drop_ins.insert(at, there)),
        None => drop(disk.drop_ins.remove(&at)),
    }
}

#[test]
fn what_is_in_force_is_the_last_valid_merge_of_what_was_on_disk_together() {
    for seed in 1..=HISTORIES {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (mut it, mut disk, mut model) = (catalogue(), Disk::default(), None);
        for number in 0..STEPS {
            it.begin_batch();
            for _ in 0..=dice.roll(4) {
                step(&mut it, &mut disk, &mut dice);
                // A unit whose last file goes is gone, whatever comes behind it.
                model = model.filter(|_| !disk.mains.is_empty());
            }
            it.end_batch(valid, WallTime(0));
            let expected = disk.expected();
            model = expected.unwrap_or(model);
            let found = it.in_force(&web()).map(|good| good.unit.stop.timeout.as_secs());
            assert_eq!(found, model, "seed {seed}, step {number}: {disk:?}");
            assert_eq!(it.errors(&web()).is_empty(), expected.is_ok(), "seed {seed}, step {number}: {disk:?}");
        }
    }
}
