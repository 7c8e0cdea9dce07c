//! Stop marks that are on their way to the state-dir: who stopped, started or restarted a unit is answered when the mark, or its absence,
//! is on the disk. A power cut behind the answer does not take it back.
//!
//! | the disk | the answer |
//! |---|---|
//! | has it | at once |
//! | refuses it | at once, and says so: the mark holds until the next boot, and is tried again |
//! | says nothing for [`PATIENCE`] | then, and says so: a disk that hangs must not hold who stops a unit |
//!
//! Lost with the supervisor, like the clients that wait.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::plan::BootTime;
use crate::store::{Fact, Key, Ticket};
use crate::unit::UnitName;

/// A disk that is busy writes a mark within a second.
const PATIENCE: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Marks(BTreeMap<UnitName, Asked>);

#[derive(Debug)]
struct Asked {
    ticket: Ticket,
    at: BootTime,
    refused: Option<String>,
}

/// How far a unit's mark is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Progress {
    /// As it was asked for.
    OnDisk,
    /// Until this time it is worth waiting for.
    Underway(BootTime),
    /// Not there, and nobody knows when: why.
    Lacking(String),
}

impl Marks {
    /// The unit's mark was given to the writer.
    pub fn ask(&mut self, unit: &UnitName, ticket: Ticket, at: BootTime) {
        self.0.insert(unit.clone(), Asked { ticket, at, refused: None });
    }

    /// What the writer says.
    pub fn hear(&mut self, fact: &Fact) {
        let (Fact::Persisted { key, ticket } | Fact::Failed { key, ticket, .. }) = fact;
        let Key::Stop(unit) = key else { return };
        let Some(asked) = self.0.get_mut(unit).filter(|asked| asked.ticket <= *ticket) else { return };
        match fact {
            Fact::Persisted { .. } => drop(self.0.remove(unit)),
            Fact::Failed { error, .. } => asked.refused = Some(error.to_string()),
        }
    }

    /// How far it is.
    pub fn progress(&self, unit: &UnitName, now: BootTime) -> Progress {
        let Some(asked) = self.0.get(unit) else { return Progress::OnDisk };
        let by = asked.at.after(PATIENCE);
        match &asked.refused {
            Some(error) => Progress::Lacking(error.clone()),
            None if now < by => Progress::Underway(by),
            None => Progress::Lacking(format!("the disk has not answered for {} s", PATIENCE.as_secs())),
        }
    }

    /// When the next of them is not worth waiting for any more.
    pub fn next_late(&self, now: BootTime) -> Option<BootTime> {
        let underway = self.0.values().filter(|asked| asked.refused.is_none());
        underway.map(|asked| asked.at.after(PATIENCE)).filter(|by| now < *by).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    fn unit() -> UnitName {
        UnitName::new("web").unwrap()
    }

    fn persisted(ticket: Ticket) -> Fact {
        Fact::Persisted { key: Key::Stop(unit()), ticket }
    }

    #[test]
    fn a_mark_is_there_when_the_disk_has_the_last_one_asked_for() {
        let mut marks = Marks::default();
        assert_eq!(marks.progress(&unit(), BootTime(0)), Progress::OnDisk);
        marks.ask(&unit(), 3, BootTime(0));
        marks.ask(&unit(), 5, BootTime(1));
        let by = BootTime(1).after(PATIENCE);
        marks.hear(&persisted(3));
        marks.hear(&Fact::Persisted { key: Key::Good(unit()), ticket: 9 });
        assert_eq!(marks.progress(&unit(), BootTime(2)), Progress::Underway(by));
        assert_eq!(marks.next_late(BootTime(2)), Some(by));
        marks.hear(&persisted(5));
        assert_eq!((marks.progress(&unit(), BootTime(2)), marks.next_late(BootTime(2))), (Progress::OnDisk, None));
    }

    #[test]
    fn a_disk_that_refuses_or_hangs_is_told_of() {
        let mut marks = Marks::default();
        marks.ask(&unit(), 1, BootTime(0));
        let late = BootTime(0).after(PATIENCE);
        assert_eq!(marks.progress(&unit(), late), Progress::Lacking("the disk has not answered for 10 s".to_owned()));
        assert_eq!(marks.next_late(late), None);
        let error = StoreError::Write { path: "/var/x".into(), errno: rustix::io::Errno::NOSPC };
        marks.hear(&Fact::Failed { key: Key::Stop(unit()), ticket: 1, error });
        let Progress::Lacking(why) = marks.progress(&unit(), BootTime(1)) else { panic!("{marks:?}") };
        assert!(why.starts_with("/var/x: cannot write: "), "{why}");
        marks.hear(&persisted(1));
        assert_eq!(marks.progress(&unit(), late), Progress::OnDisk);
    }
}
