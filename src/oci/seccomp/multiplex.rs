//! i386's multiplexed calls: `socketcall(2)` and `ipc(2)` carry what other ABIs have as calls of their own.

use super::lookup::Lookup;
use super::rules::{Condition, Test};

/// `__NR_socketcall` of i386.
pub(super) const SOCKETCALL: u32 = 102;
/// `__NR_ipc` of i386.
pub(super) const IPC: u32 = 117;

/// A call by its name, the multiplexer that also reaches it on i386, and its code there.
pub(super) type Call = (&'static str, u32, u64);

/// Finds a call by its name.
pub(super) fn lookup() -> Lookup<Call, impl Fn(&Call) -> &'static str> {
    Lookup::new(&CALLS, |call| call.0)
}

/// The condition on the multiplexer's arguments that picks a call out.
pub(super) fn condition((_, number, call): &Call) -> Condition {
    // ipc(2) keeps a version in the upper half of its first argument and ignores it for the choice.
    let test = if *number == IPC { Test::Masked { mask: 0xffff, value: *call } } else { Test::Equal(*call) };
    Condition { arg: 0, test, negated: false }
}

/// Numbers from linux/net.h (`SYS_SOCKET` and on) and linux/ipc.h (`SEMOP` and on), by name: each name of a profile is looked for.
static CALLS: [Call; 32] = [
    ("accept", SOCKETCALL, 5),
    ("accept4", SOCKETCALL, 18),
    ("bind", SOCKETCALL, 2),
    ("connect", SOCKETCALL, 3),
    ("getpeername", SOCKETCALL, 7),
    ("getsockname", SOCKETCALL, 6),
    ("getsockopt", SOCKETCALL, 15),
    ("listen", SOCKETCALL, 4),
    ("msgctl", IPC, 14),
    ("msgget", IPC, 13),
    ("msgrcv", IPC, 12),
    ("msgsnd", IPC, 11),
    ("recv", SOCKETCALL, 10),
    ("recvfrom", SOCKETCALL, 12),
    ("recvmmsg", SOCKETCALL, 19),
    ("recvmsg", SOCKETCALL, 17),
    ("semctl", IPC, 3),
    ("semget", IPC, 2),
    ("semop", IPC, 1),
    ("semtimedop", IPC, 4),
    ("send", SOCKETCALL, 9),
    ("sendmmsg", SOCKETCALL, 20),
    ("sendmsg", SOCKETCALL, 16),
    ("sendto", SOCKETCALL, 11),
    ("setsockopt", SOCKETCALL, 14),
    ("shmat", IPC, 21),
    ("shmctl", IPC, 24),
    ("shmdt", IPC, 22),
    ("shmget", IPC, 23),
    ("shutdown", SOCKETCALL, 13),
    ("socket", SOCKETCALL, 1),
    ("socketpair", SOCKETCALL, 8),
];

#[test]
fn calls_are_found_by_their_names() {
    assert!(CALLS.is_sorted_by_key(|(name, ..)| *name));
    assert!(CALLS.iter().all(|call| lookup().find(call.0) == Some(call)));
    assert_eq!((lookup().find("socket"), lookup().find("sock")), (Some(&("socket", SOCKETCALL, 1)), None));
}
