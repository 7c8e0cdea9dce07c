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

/// Numbers from linux/net.h (`SYS_SOCKET` and on) and linux/ipc.h (`SEMOP` and on).
fn code(name: &str) -> Option<(u32, u64)> {
    Some(match name {
        "socket" => (SOCKETCALL, 1),
        "bind" => (SOCKETCALL, 2),
        "connect" => (SOCKETCALL, 3),
        "listen" => (SOCKETCALL, 4),
        "accept" => (SOCKETCALL, 5),
        "getsockname" => (SOCKETCALL, 6),
        "getpeername" => (SOCKETCALL, 7),
        "socketpair" => (SOCKETCALL, 8),
        "send" => (SOCKETCALL, 9),
        "recv" => (SOCKETCALL, 10),
        "sendto" => (SOCKETCALL, 11),
        "recvfrom" => (SOCKETCALL, 12),
        "shutdown" => (SOCKETCALL, 13),
        "setsockopt" => (SOCKETCALL, 14),
        "getsockopt" => (SOCKETCALL, 15),
        "sendmsg" => (SOCKETCALL, 16),
        "recvmsg" => (SOCKETCALL, 17),
        "accept4" => (SOCKETCALL, 18),
        "recvmmsg" => (SOCKETCALL, 19),
        "sendmmsg" => (SOCKETCALL, 20),
        "semop" => (IPC, 1),
        "semget" => (IPC, 2),
        "semctl" => (IPC, 3),
        "semtimedop" => (IPC, 4),
        "msgsnd" => (IPC, 11),
        "msgrcv" => (IPC, 12),
        "msgget" => (IPC, 13),
        "msgctl" => (IPC, 14),
        "shmat" => (IPC, 21),
        "shmdt" => (IPC, 22),
        "shmget" => (IPC, 23),
        "shmctl" => (IPC, 24),
        _ => return None,
    })
}
