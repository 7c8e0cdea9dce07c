//! A system call that fails, at each call of an operation: no panic, no leak, nothing lost, and the rest goes on.
//!
//! Each call gets errors that it can have when the host lacks something: descriptors, memory, room on the disk, a disk that can be read. Calls
//! that cannot fail so are passed over (close, futex, a write to an eventfd), and so is the allocator's memory: a program that gets none ends, which is a kill point.
//!
//! A supervisor may give up where it cannot go on, if it says why: the keeper starts the next one. A keeper may not.
//! `MOORED_KILL_POINTS=all` takes every call, without it a few are a sample.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use rustix::process::Signal;

use super::super::support::wait_for;
use super::operations::{self, Operation};
use super::points::{MISSES, all_points, run};
use super::stand::Stand;
use super::tracer::{Blow, Order};

/// Of the errors of each call.
const VARIANTS: usize = 2;

/// What `call` may come back with; none: it is passed over.
pub fn errors_of(call: i64) -> Option<[i32; VARIANTS]> {
    use libc::{EAGAIN, EINTR, EIO, EMFILE, ENFILE, ENOMEM, ENOSPC};
    Some(match call {
        libc::SYS_openat | libc::SYS_openat2 | libc::SYS_open | libc::SYS_socket => [EMFILE, ENOMEM],
        libc::SYS_dup | libc::SYS_pipe2 | libc::SYS_memfd_create | libc::SYS_pidfd_open => [EMFILE, ENFILE],
        libc::SYS_accept4 | libc::SYS_epoll_create1 | libc::SYS_eventfd2 => [EMFILE, ENFILE],
        libc::SYS_mkdirat | libc::SYS_mkdir | libc::SYS_mknodat | libc::SYS_symlinkat => [ENOSPC, EIO],
        libc::SYS_rename | libc::SYS_renameat | libc::SYS_renameat2 | libc::SYS_fsync => [ENOSPC, EIO],
        libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_ftruncate => [ENOSPC, EIO],
        libc::SYS_clone | libc::SYS_clone3 => [EAGAIN, ENOMEM],
        libc::SYS_epoll_ctl => [ENOSPC, ENOMEM],
        libc::SYS_splice => [EAGAIN, EIO],
        libc::SYS_recvmsg | libc::SYS_sendmsg => [EINTR, ENOMEM],
        libc::SYS_epoll_wait | libc::SYS_poll | libc::SYS_ppoll => [EINTR, EINTR],
        libc::SYS_read | libc::SYS_pread64 => [EINTR, EIO],
        libc::SYS_unlinkat | libc::SYS_unlink | libc::SYS_rmdir => [EIO, ENOMEM],
        libc::SYS_getdents64 | libc::SYS_statx | libc::SYS_newfstatat => [EIO, ENOMEM],
        _ => return None,
    })
}

/// Open descriptors of keeper and supervisor.
fn descriptors(stand: &Stand) -> [usize; 2] {
    let stats = stand.quiet();
    let count = |pid: i32| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    [count(stats.keeper), count(stats.supervisor.unwrap_or(0))]
}

/// The lowest counts of a few looks: a client that was just answered leaves a socket behind for a moment.
fn settled_descriptors(stand: &Stand, wanted: [usize; 2]) -> [usize; 2] {
    let mut least = descriptors(stand);
    for _ in 0..100 {
        if least[0] <= wanted[0] && least[1] <= wanted[1] {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
        let now = descriptors(stand);
        least = [least[0].min(now[0]), least[1].min(now[1])];
    }
    least
}

fn try_faults(operation: &Operation) {
    let Some(mut stand) = Stand::new(&format!("faults-{}", operation.name)) else { return };
    run(&mut stand, operation, None);
    let undisturbed = run(&mut stand, operation, None);
    std::thread::sleep(std::time::Duration::from_millis(300));
    let wanted = descriptors(&stand);
    let mut wrongs: Vec<String> = Vec::new();
    let mut tried: BTreeMap<String, usize> = BTreeMap::new();
    let roles = undisturbed.seen.calls.keys().filter(|role| *role == "keeper" || role.starts_with("supervisor"));
    for role in roles {
        let (mut n, mut misses) = (1, 0);
        while misses < MISSES {
            let mut is_there = false;
            for variant in 0..VARIANTS {
                let before = stand.quiet();
                let order = Order { role: role.clone(), n, blow: Blow::Fail(variant), calls: None };
                let outcome = run(&mut stand, operation, Some(order));
                is_there |= outcome.seen.struck.is_some() || outcome.seen.passed;
                let Some((_, call)) = outcome.seen.struck else { break };
                *tried.entry(role.clone()).or_default() += 1;
                let error = errors_of(call).map_or(0, |errors| errors[variant]);
                let error = std::io::Error::from_raw_os_error(error);
                let mut found = outcome.wrongs;
                let after = stand.quiet();
                if after.keeper != before.keeper {
                    found.push("the keeper ended".to_owned());
                    stand.renew();
                }
                let now = settled_descriptors(&stand, wanted);
                if now[0] > wanted[0] || after.supervisor == before.supervisor && now[1] > wanted[1] {
                    found.push(format!("descriptors of keeper and supervisor: {now:?} instead of {wanted:?}"));
                    stand.renew();
                }
                let at = |found| format!("{}: {role}, call {n} ({call}): {error}: {found}", operation.name);
                for wrong in found.into_iter().map(at) {
                    println!("VIOLATION {wrong}");
                    wrongs.push(wrong);
                }
            }
            misses = if is_there { 0 } else { misses + 1 };
            n = if all_points() { n + 1 } else { n * 3 };
        }
    }
    println!("{} faults of {}: {tried:?}", tried.values().sum::<usize>(), operation.name);
    wrongs.extend(stand.account());
    assert!(wrongs.is_empty(), "{wrongs:#?}");
}

/// What is left in a cgroup is killed before the next generation starts, also where the cgroup could not be opened at adoption (EMFILE).
#[test]
fn a_cgroup_that_could_not_be_opened_is_not_an_empty_one() {
    let Some(mut stand) = Stand::new("unopened") else { return };
    for n in 1.. {
        let (blow, calls) = (Blow::Fail(0), Some(vec![libc::SYS_openat2]));
        let order = Order { role: "supervisor hands".to_owned(), n, blow, calls };
        let outcome = run(&mut stand, &operations::ADOPT, Some(order));
        assert_eq!(outcome.wrongs, Vec::<String>::new(), "at call {n}");
        if outcome.seen.struck.is_none() {
            assert!(n > 2, "no cgroup was opened");
            return;
        }
        let row = stand.row("alone").unwrap();
        let mut left = Command::new("sleep").arg("1000").spawn().unwrap();
        let cgroup = stand.world.moored.cgroup().join(row.id.unwrap());
        fs::write(cgroup.join("cgroup.procs"), left.id().to_string()).unwrap();
        let runs = stand.count("runs");
        stand.signal_alone(Signal::USR2);
        wait_for("what was left to be killed", || left.try_wait().unwrap());
        wait_for("the next run", || (stand.count("runs") > runs).then_some(()));
    }
}

#[test]
fn faults_in_a_start() {
    try_faults(&operations::START);
}

#[test]
fn faults_in_a_stop() {
    try_faults(&operations::STOP);
}

#[test]
fn faults_in_an_exec() {
    try_faults(&operations::EXEC);
}
