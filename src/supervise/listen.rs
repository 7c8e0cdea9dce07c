//! The sockets of `[[socket]]`: made here, held by the keeper, passed to every container of their unit. Replicas have those of their group in
//! common: who connects is accepted by any of them.
//!
//! | what | by whom it is held | what becomes of the socket |
//! |---|---|---|
//! | a restart, an update, a crash of the container | keeper and supervisor | it stays open; who connects waits in its backlog |
//! | the supervisor dies | the keeper | the next one is given it |
//! | the keeper dies | the supervisor | the next keeper is given it |
//! | both die | the container, if it runs | that goes on; its next start makes another one, before which connections are refused |
//! | the anchor dies | both | nothing |
//!
//! With keeper and supervisor both dead, a start beside the container that runs (`start-first`) finds the address in use, by that container.
//!
//! # Order of effects and records
//!
//! The loop has written down that a socket may be open before the start that makes it comes here. Made: bind, listen, hold. A crash before
//! the keeper holds it closes it, and leaves at most the path of a unix socket at which nobody listens; that is replaced by the next start and
//! removed by the next close. Closed: shut down, so that nobody who still has it accepts anything; the path removed; let go. A crash in
//! between leaves one that is shut down and held: it is let go when it is met.
//!
//! # Rules
//!
//! - They are made in the host's network namespace: that is where the supervisor is.
//! - A name with the keeper is `socket UNIT ADDRESS`. Two units may have one address for a moment, when it moves from one to the other while
//!   the first one's container is still being stopped: then both have the same socket, and only the last one closes it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{Shutdown, shutdown};

use super::hands::Hands;
use super::socket::{NotOpen, apply, listens, open, take_away_own};
use crate::compact;
use crate::plan::Fact;
use crate::unit::{ContainerId, Listen, Socket, SocketOptions, Unit, UnitName};

/// Begins the name of a socket with the keeper.
const HELD: &str = "socket";

/// All that are open, and who they are for.
#[derive(Default)]
pub(super) struct Listeners {
    open: BTreeMap<(UnitName, Listen), Open>,
}

struct Open {
    socket: OwnedFd,
    /// What was asked of it last in this life.
    options: Option<SocketOptions>,
    /// The keeper that is there now has it.
    held: bool,
}

impl Hands {
    /// What a container of this unit is passed, in its order; what is not open yet is made.
    pub(super) fn listen(&mut self, unit: &Unit) -> Result<Vec<OwnedFd>, String> {
        if unit.sockets.is_empty() {
            return Ok(Vec::new());
        }
        let made = unit.sockets.iter().map(|socket| self.listener(unit, socket)).collect();
        let owner = unit.declared();
        let sockets = self.listeners.of(&owner);
        if !sockets.is_empty() {
            self.fact(Fact::Listening { unit: owner, sockets });
        }
        made
    }

    fn listener(&mut self, unit: &Unit, Socket { listen, options, .. }: &Socket) -> Result<OwnedFd, String> {
        let key = (unit.declared(), listen.clone());
        if !self.listeners.open.contains_key(&key) {
            let socket = match self.listeners.anybodys(listen) {
                Some(socket) => copy(socket.as_fd())?,
                None => open(listen, options).map_err(|why| self.listeners.in_words(listen, &why))?,
            };
            self.ask(self.keeper.hold(&held_name(&key), socket.as_fd()));
            self.listeners.open.insert(key.clone(), Open { socket, options: Some(options.clone()), held: true });
        }
        let open = self.listeners.open.get_mut(&key).ok_or("it is not open")?;
        if open.options.as_ref() != Some(options) {
            apply(open.socket.as_fd(), listen, options)
                .map_err(|why| format!("{listen} cannot be as it is to: {why}"))?;
            open.options = Some(options.clone());
        }
        let is_its =
            |id: &ContainerId| id.unit == key.0 || unit.replicas.is_some() && id.unit.prefix() == key.0.as_str();
        let alone = !self.handles.iter().any(|(id, handle)| is_its(id) && !handle.ended);
        if alone {
            // Whoever had it before may have changed that, and it is common to all who have it (fcntl(2)).
            let _ = rustix::io::ioctl_fionbio(&open.socket, false);
        }
        copy(open.socket.as_fd())
    }

    /// From here on nobody listens there, whoever still has the socket.
    pub(super) fn close(&mut self, unit: UnitName, sockets: BTreeSet<Listen>) {
        for listen in &sockets {
            let key = (unit.clone(), listen.clone());
            let own = self.listeners.open.remove(&key);
            if self.listeners.anybodys(listen).is_none() {
                if let Some(own) = &own {
                    // ENOTCONN: it did not listen any more.
                    let _ = shutdown(&own.socket, Shutdown::Both);
                }
                if let Some(path) = listen.path()
                    && let Err(why) = take_away_own(listen, path)
                {
                    tracing::warn!("{listen} of {unit} is closed; its path stays: {why}");
                }
            }
            if own.is_some() {
                self.ask(self.keeper.unhold(&held_name(&key)));
            }
        }
        self.fact(Fact::Closed { unit, sockets });
    }

    // ---- the keeper ----

    /// A keeper is met; what it has it will say.
    pub(super) fn forget_held(&mut self) {
        self.listeners.open.values_mut().for_each(|open| open.held = false);
    }

    /// It has this one; `false`: that is none of these.
    pub(super) fn held(&mut self, name: &str, socket: OwnedFd) -> bool {
        let Some(key) = key_of(name) else { return false };
        if let Some(open) = self.listeners.open.get_mut(&key) {
            open.held = true;
        } else if listens(socket.as_fd()) {
            self.listeners.open.insert(key, Open { socket, options: None, held: true });
        } else {
            self.ask(self.keeper.unhold(name));
        }
        true
    }

    /// It has said all: the rest is given to it. Says what is open.
    pub(super) fn hold_again(&mut self) -> Vec<(UnitName, BTreeSet<Listen>)> {
        for (key, open) in self.listeners.open.iter_mut().filter(|(_, open)| !open.held) {
            match self.keeper.hold(&held_name(key), open.socket.as_fd()) {
                Ok(()) => open.held = true,
                Err(error) => tracing::warn!("keeper: {error}"),
            }
        }
        let units = compact::set(self.listeners.open.keys().map(|(unit, _)| unit.clone()));
        units.into_iter().map(|unit| (unit.clone(), self.listeners.of(&unit))).collect()
    }
}

impl Listeners {
    fn of(&self, unit: &UnitName) -> BTreeSet<Listen> {
        compact::set(self.open.keys().filter(|(name, _)| name == unit).map(|(_, listen)| listen.clone()))
    }

    /// The one at this address, whose ever.
    fn anybodys(&self, listen: &Listen) -> Option<&OwnedFd> {
        self.open.iter().find(|((_, other), _)| other == listen).map(|(_, open)| &open.socket)
    }

    /// Why it cannot be made; who has the address, if that is known.
    fn in_words(&self, listen: &Listen, why: &NotOpen) -> String {
        let ours = self.open.keys().find(|(_, other)| other.excludes(listen));
        match (why, ours) {
            (NotOpen::InUse(_), Some((unit, other))) => format!("{listen} is in use: {unit} still listens at {other}"),
            (NotOpen::InUse(_), None) => format!("{listen} is {why}"),
            (NotOpen::NoSocket | NotOpen::NoAccount { .. } | NotOpen::Call { .. }, _) => {
                format!("{listen} cannot be listened at: {why}")
            }
        }
    }
}

fn held_name((unit, listen): &(UnitName, Listen)) -> String {
    format!("{HELD} {unit} {listen}")
}

fn key_of(name: &str) -> Option<(UnitName, Listen)> {
    let (unit, listen) = name.strip_prefix(HELD)?.strip_prefix(' ')?.split_once(' ')?;
    Some((UnitName::new(unit).ok()?, Listen::parse(listen).ok()?))
}

fn copy(socket: BorrowedFd<'_>) -> Result<OwnedFd, String> {
    socket.try_clone_to_owned().map_err(|error| format!("copying a socket: {error}"))
}

/// For the keeper's refusals.
pub(super) fn is_held_name(name: &str) -> bool {
    key_of(name).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper;

    #[test]
    fn an_address_of_ours_names_the_unit_that_has_it() {
        let listen = Listen::parse("tcp://127.0.0.1:40916").unwrap();
        let mut all = Listeners::default();
        let socket = open(&listen, &SocketOptions::default()).unwrap();
        let web = UnitName::new("web").unwrap();
        all.open.insert((web, listen), Open { socket, options: None, held: true });
        let other = Listen::parse("tcp://0.0.0.0:40916").unwrap();
        let words = all.in_words(&other, &open(&other, &SocketOptions::default()).unwrap_err());
        assert_eq!(words, "tcp://0.0.0.0:40916 is in use: web still listens at tcp://127.0.0.1:40916");
    }

    #[test]
    fn names_with_the_keeper_are_read_back() {
        let long = UnitName::new(&format!("{}@{}", "a".repeat(64), "b".repeat(64))).unwrap();
        let path = Listen::parse(&format!("unix:///{}", "c d".repeat(35))).unwrap();
        let key = (long, path);
        assert!(held_name(&key).len() <= keeper::ID_BYTES_MAX, "{}", held_name(&key).len());
        assert_eq!(key_of(&held_name(&key)), Some(key));
        for other in ["socket", "socket web", "socket web x", "sockets web tcp://1.2.3.4:5", "web.1"] {
            assert_eq!(key_of(other), None);
        }
    }
}
