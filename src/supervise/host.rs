//! The host's name, which `%h` stands for: as it is when it is asked for first, and the same from then on. A name that comes later (from
//! DHCP) counts from the next start: nothing is replaced because a text is read once more.

use std::sync::OnceLock;

use crate::unit::{KernelVersion, Names, UnitName};

static NAME: OnceLock<String> = OnceLock::new();

/// What the specifiers in the texts of a unit stand for.
pub fn names(unit: &UnitName) -> Names<'_> {
    let host = NAME.get_or_init(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
    Names { unit, host }
}

/// The kernel's version: what a system call filter may depend on.
pub fn kernel() -> KernelVersion {
    KernelVersion::of_release(&rustix::system::uname().release().to_string_lossy()).unwrap_or_default()
}
