//! What the anchor holds for the case that keeper and supervisor die together: the terminals of containers.
//!
//! A FIFO is opened again by its name; the master of a pty has none, and when its last holder is gone the terminal hangs up, and the program
//! on it gets a SIGHUP. So a container with a terminal has one descriptor more, at [`HELD_TERMINAL`]: a socket in whose queue the master
//! lies from the moment it was made (`supervise::terminal`). Its holders:
//!
//! | who | since | until |
//! |---|---|---|
//! | the supervisor | it made it | the container is cleared away |
//! | the keeper | `Spawn`, or `Adopt` | `Ack` |
//! | the anchor | the keeper has told it ([`Message::Held`]), in the turn of its loop that forks | [`Message::Unheld`], behind `Ack` |
//!
//! Any one of them is enough. In a keeper's place the anchor has its copies as held names, and tells a supervisor of them before it tells of
//! orphans; `Adopt` brings the supervisor's, and `AdoptionDone` lets go of the names.
//!
//! As everything that is told it is level-triggered: one bit per child, and the names of those that are over. To a new anchor all is said
//! again. One that does not read keeps a copy too long, which costs it a descriptor; one that does not know the messages holds nothing.

use std::os::fd::{AsFd, OwnedFd};

use super::child::Child;
use super::link::{Link, Sent};
use super::run::Keeper;
use super::wire::{Message, Role};
use super::{HELD_MAX, HELD_TERMINAL};

/// Begins the name of one.
const PREFIX: &str = "terminal ";

/// What the socket of this container's terminal is called.
fn name_of(id: &str) -> String {
    format!("{PREFIX}{id}")
}

/// Whose terminal has this name; `None`: it is no terminal's.
pub(crate) fn owner_of(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX)
}

/// What an anchor holds.
#[derive(Debug, Default)]
pub(crate) struct Spares(pub Vec<(String, OwnedFd)>);

impl Spares {
    /// The keeper gives one; in the place of one of the same name.
    pub fn hold(&mut self, name: String, fd: OwnedFd) {
        if owner_of(&name).is_none() {
            return;
        }
        self.drop_one(&name);
        if self.0.len() < HELD_MAX {
            self.0.push((name, fd));
        }
    }

    /// It is over.
    pub fn drop_one(&mut self, name: &str) {
        self.0.retain(|(held, _)| held != name);
    }
}

impl Keeper<'_> {
    /// An anchor connects: it is told everything.
    pub(super) fn spare_again(&mut self) {
        self.spares_over.clear();
        self.children.iter_mut().for_each(|child| child.spare_untold = is_at(&child.held));
    }

    /// This child is forgotten.
    pub(super) fn no_more_spare(&mut self, child: &Child) {
        // Without an anchor there is nobody to be told; one that has not read so much has it until it ends.
        if is_at(&child.held)
            && self.links.iter().any(|link| link.is(Role::Anchor))
            && self.spares_over.len() < HELD_MAX
        {
            self.spares_over.push(child.id.clone());
        }
    }

    pub(super) fn tell_spares(&mut self, link: &mut Link) -> Sent {
        if !link.is(Role::Anchor) {
            return Sent::Yes;
        }
        while let Some(id) = self.spares_over.last() {
            match link.send(&Message::Unheld { name: name_of(id) }, &[]) {
                Sent::Yes => drop(self.spares_over.pop()),
                other => return other,
            }
        }
        for child in self.children.iter_mut().filter(|child| child.spare_untold) {
            let Some(terminal) = child.held.get(HELD_TERMINAL).and_then(Option::as_ref) else { continue };
            match link.send(&Message::Held { name: name_of(&child.id) }, &[terminal.as_fd()]) {
                Sent::Yes => child.spare_untold = false,
                other => return other,
            }
        }
        Sent::Yes
    }
}

/// Whether a terminal is among what is held for a child.
pub(super) fn is_at(held: &[Option<OwnedFd>]) -> bool {
    held.get(HELD_TERMINAL).is_some_and(Option::is_some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> (OwnedFd, OwnedFd) {
        rustix::pipe::pipe().unwrap()
    }

    fn is_closed(read: &OwnedFd) -> bool {
        rustix::io::ioctl_fionbio(read, true).unwrap();
        rustix::io::read(read, &mut [0; 1]) == Ok(0)
    }

    #[test]
    fn names_lead_back_to_their_containers() {
        assert_eq!(owner_of(&name_of("web@1.7")), Some("web@1.7"));
        assert_eq!(owner_of("socket web tcp://1.2.3.4:5"), None);
    }

    #[test]
    fn an_anchor_holds_one_of_each_name_and_nothing_else() {
        let mut spares = Spares::default();
        let ((first, one), (second, other), (third, stranger)) = (pipe(), pipe(), pipe());
        spares.hold(name_of("web.1"), one);
        spares.hold("socket web tcp://1.2.3.4:5".to_owned(), stranger);
        assert!(is_closed(&third) && !is_closed(&first), "only terminals");
        spares.hold(name_of("web.1"), other);
        assert!(is_closed(&first), "replaced");
        spares.drop_one(&name_of("web.2"));
        assert_eq!(spares.0.len(), 1);
        spares.drop_one(&name_of("web.1"));
        assert!(is_closed(&second) && spares.0.is_empty());
    }
}
