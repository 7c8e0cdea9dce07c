//! What a disk may hold after a cut, from what was asked of the machine and what it acknowledged before.

use std::collections::BTreeMap;

/// What the machine is asked to do with a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// A new text, in force when acknowledged, whose copy in the state-dir follows.
    Edit { unit: usize, version: u32 },
    /// New texts of two units, all or none; in the state-dir when acknowledged.
    Set { texts: [(usize, u32); 2] },
    /// A text that is not valid.
    Spoil { unit: usize },
    /// A mark, in the state-dir when acknowledged.
    Stop { unit: usize },
    /// No mark, in the state-dir when acknowledged.
    Start { unit: usize },
    /// The same.
    Restart { unit: usize },
    /// Everything in memory to the disk.
    Sync,
}

/// One line of the journal.
#[derive(Debug, Clone)]
pub enum Entry {
    /// Before the machine hears of it.
    Asked { number: usize, ask: Ask },
    /// It said that it was done.
    Done { number: usize },
    /// It said that it was not.
    Refused { number: usize },
    /// A container of this generation ran.
    Ran { unit: usize, generation: u64 },
    /// What a real cut left: from here on nothing else is there.
    Left { unit: usize, version: Option<u32>, stopped: bool },
}

/// What may be found of one unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unit {
    /// The oldest text that may be the last good one; `None`: there may be none.
    pub oldest: Option<u32>,
    /// The newest that was asked for.
    pub newest: u32,
    /// Whether it may be marked as stopped.
    pub may_be_stopped: bool,
    /// Whether it may be not.
    pub may_be_free: bool,
    /// The highest that ran.
    pub generation: u64,
}

/// What may be found.
#[derive(Debug, Default)]
pub struct Model {
    pub units: BTreeMap<usize, Unit>,
    /// Texts that come together, by who asked.
    sets: BTreeMap<usize, [(usize, u32); 2]>,
}

impl Model {
    /// After this journal.
    pub fn of(journal: &[Entry]) -> Model {
        let mut model = Model::default();
        let mut asked = BTreeMap::new();
        for entry in journal {
            match entry {
                Entry::Asked { number, ask } => {
                    model.begin(*number, ask);
                    asked.insert(*number, ask);
                }
                Entry::Done { number } => model.end(asked[number]),
                Entry::Refused { number } => drop(model.sets.remove(number)),
                Entry::Ran { unit, generation } => {
                    let unit = model.unit(*unit);
                    unit.generation = unit.generation.max(*generation);
                }
                Entry::Left { unit, version, stopped } => {
                    model.sets.clear();
                    let unit = model.unit(*unit);
                    (unit.oldest, unit.may_be_stopped, unit.may_be_free) = (*version, *stopped, !stopped);
                }
            }
        }
        model
    }

    fn unit(&mut self, unit: usize) -> &mut Unit {
        self.units.entry(unit).or_insert(Unit { may_be_free: true, ..Unit::default() })
    }

    fn begin(&mut self, number: usize, ask: &Ask) {
        match ask {
            Ask::Edit { unit, version } => self.unit(*unit).newest = *version,
            Ask::Set { texts } => {
                texts.iter().for_each(|(unit, version)| self.unit(*unit).newest = *version);
                self.sets.insert(number, *texts);
            }
            Ask::Stop { unit } => self.unit(*unit).may_be_stopped = true,
            Ask::Start { unit } | Ask::Restart { unit } => self.unit(*unit).may_be_free = true,
            Ask::Spoil { .. } | Ask::Sync => {}
        }
    }

    fn end(&mut self, ask: &Ask) {
        match ask {
            Ask::Set { texts } => texts.iter().for_each(|(unit, version)| self.unit(*unit).oldest = Some(*version)),
            Ask::Stop { unit } => self.unit(*unit).may_be_free = false,
            Ask::Start { unit } | Ask::Restart { unit } => self.unit(*unit).may_be_stopped = false,
            Ask::Edit { .. } | Ask::Spoil { .. } | Ask::Sync => {}
        }
    }

    /// What is wrong with the last good texts that were found.
    pub fn texts(&self, found: &BTreeMap<usize, u32>) -> Vec<String> {
        let of_unit = |(unit, may): (&usize, &Unit)| {
            let version = found.get(unit).copied();
            let fits = version >= may.oldest && version.is_none_or(|version| version <= may.newest);
            (!fits).then(|| {
                format!("u{unit}: the last good text is {version:?}, expected {:?} to {}", may.oldest, may.newest)
            })
        };
        let of_set = |set: &[(usize, u32); 2]| {
            let [first, second] = set.map(|(unit, version)| found.get(&unit).is_some_and(|found| *found >= version));
            (first != second).then(|| format!("a half of the set {set:?} is there"))
        };
        self.units.iter().filter_map(of_unit).chain(self.sets.values().filter_map(of_set)).collect()
    }

    /// What is wrong with the stop marks that were found.
    pub fn stops(&self, found: &[usize]) -> Vec<String> {
        let wrong = |(unit, may): (&usize, &Unit)| match found.contains(unit) {
            true if !may.may_be_stopped => Some(format!("u{unit}: has a stop mark that was taken away")),
            false if !may.may_be_free => Some(format!("u{unit}: its stop mark is lost")),
            true | false => None,
        };
        self.units.iter().filter_map(wrong).collect()
    }
}

#[test]
fn what_was_acknowledged_must_be_there_and_what_was_asked_for_may() {
    let asked = |number, ask| Entry::Asked { number, ask };
    let mut journal = vec![
        asked(1, Ask::Set { texts: [(0, 1), (1, 2)] }),
        Entry::Done { number: 1 },
        asked(2, Ask::Edit { unit: 0, version: 3 }),
        asked(3, Ask::Stop { unit: 1 }),
    ];
    let model = Model::of(&journal);
    for (first, is_right) in [(None, false), (Some(1), true), (Some(3), true), (Some(4), false)] {
        let found = first.map(|first| (0, first)).into_iter().chain([(1, 2)]).collect();
        assert_eq!(model.texts(&found).is_empty(), is_right, "{first:?}");
    }
    assert!(model.stops(&[1]).is_empty() && model.stops(&[]).is_empty() && !model.stops(&[0]).is_empty());
    journal.push(Entry::Done { number: 3 });
    assert!(Model::of(&journal).stops(&[1]).is_empty() && !Model::of(&journal).stops(&[]).is_empty());
    let half = Model::of(&[asked(1, Ask::Set { texts: [(0, 1), (1, 2)] })]);
    assert!(half.texts(&BTreeMap::new()).is_empty() && half.texts(&[(0, 1), (1, 2)].into()).is_empty());
    assert_eq!(half.texts(&[(0, 1)].into()), ["a half of the set [(0, 1), (1, 2)] is there"]);
}
