//! What the supervisor writes down, and the watch it reads with.

use crate::control::protocol::Event;
use crate::plan::{Hold, Seen};
use crate::unit::UnitName;
use crate::watch::{Follow, Watch};

use super::catalogue::InForce;

/// A state file was written, or could not be.
#[derive(Debug)]
pub struct Stored;

/// The stores, and the watch.
pub struct Files {
    watch: Watch,
    followed: Vec<Follow>,
}

impl Files {
    /// Around a running watch.
    pub fn new(watch: Watch) -> Files {
        Files { watch, followed: Vec::new() }
    }

    /// Follows these; says whether they are others than before.
    pub fn follow(&mut self, wanted: Vec<Follow>) -> bool {
        if wanted == self.followed {
            return false;
        }
        self.watch.follow(wanted.clone());
        self.followed = wanted;
        true
    }

    /// Asks for everything on disk to be read now. `false`: too many ask already.
    pub fn sync(&self, token: u64) -> bool {
        self.watch.sync(token)
    }

    /// The unit's record under `/run`, or its removal.
    pub fn save(&mut self, _name: &UnitName, _seen: Option<&Seen>) {}

    /// Nothing of the unit is to survive.
    pub fn forget(&mut self, _name: &UnitName) {}

    /// The text in force survives a reboot.
    pub fn keep_good(&mut self, _good: &InForce) {}

    /// The unit was removed.
    pub fn drop_good(&mut self, _name: &UnitName) {}

    /// A stop mark survives a reboot.
    pub fn keep_mark(&mut self, _name: &UnitName, _hold: &Hold) {}

    /// It was lifted.
    pub fn drop_mark(&mut self, _name: &UnitName) {}

    /// Takes what the writer thread says; an event if people should know.
    pub fn stored(&mut self, _outcome: Stored) -> Option<Event> {
        None
    }
}
