//! i386's multiplexed calls: `socketcall(2)` and `ipc(2)` carry what other ABIs have as calls of their own.

use super::rules::{Condition, Test};

/// `__NR_socketcall` of i386.
pub(super) const SOCKETCALL: u32 = 102;
/// `__NR_ipc` of i386.
pub(super) const IPC: u32 = 117;

/// The multiplexer that also reaches `name` on i386, and the condition on its arguments that picks `name` out.
pub(super) fn of(name: &str) -> Option<(u32, Condition)> {
    let (number, call) = code(name)?;
    // ipc(2) keeps a version in the upper half of its first argument and ignores it for the choice.
    let test = if number == IPC { Test::Masked { mask: 0xffff, value: call } } else { Test::Equal(call) };
    Some((number, Condition { arg: 0, test, negated: false }))
}

fn code(name: &str) -> Option<(u32, u64)> {
    let at = CALLS.binary_search_by(|(known, ..)| known.cmp(&name)).ok()?;
    CALLS.get(at).map(|(_, number, call)| (*number, *call))
}

/// Numbers from linux/net.h (`SYS_SOCKET` and on) and linux/ipc.h (`SEMOP` and on), by name: each name of a profile is looked for.
const CALLS: [(&str, u32, u64); 32] = [
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
    assert!(CALLS.iter().all(|(name, number, call)| code(name) == Some((*number, *call))));
    assert_eq!((code("socket"), code("shmctl"), code("sock")), (Some((SOCKETCALL, 1)), Some((IPC, 24)), None));
}
