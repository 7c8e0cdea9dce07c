//! The seccomp profile of `rootfs` and `executable` units whose file does not say otherwise.
//!
//! An allow-list: what is not named does not exist (ENOSYS), so that a C library falls back as it does on an older
//! kernel. The list is what ordinary programs use: C libraries, Go, Java, databases, web servers, shells, a
//! distribution's tools. Calls which the kernel itself refuses without a capability, and which are small (`chroot`,
//! `sethostname`, setting clocks), are in it, so that a unit which is given the capability can use it.
//!
//! What is left out, and what a program sees instead:
//!
//! - ENOSYS for what a kernel may be too old for or built without, where programs have that path already: io_uring, bpf,
//!   userfaultfd, perf_event_open, the key rings, the new mount API with listmount and statmount, fanotify_init,
//!   process_madvise, pidfd_getfd, kcmp, moving other processes' pages, modify_ldt, vm86, and everything obsolete.
//!   `clone3` is among them: its flags lie in memory where no filter sees them, and C libraries then use `clone`.
//! - EPERM for what every kernel has and refuses to the unprivileged, where programs expect just that: mounting, ptrace
//!   and process_vm_*, setns, modules, kexec and reboot, swap, accounting, quota, I/O ports, the kernel's log,
//!   open_by_handle_at; namespaces through `clone` and `unshare` (browsers' sandboxes accept EPERM and abort on ENOSYS).
//! - EAFNOSUPPORT for sockets other than unix, inet, inet6, netlink and packet, as from a kernel without those families:
//!   no AF_ALG, no AF_VSOCK, no protocol modules loaded from inside. Audit's netlink gets EPROTONOSUPPORT: libaudit takes
//!   that for a kernel without audit, and su, sshd and useradd go on.
//! - Other personalities than Linux's own, with or without the 32-bit and 2.6 names: EPERM.
//! - `ioctl(TIOCSTI)` and `ioctl(TIOCLINUX)`, which type into a terminal (CVE-2017-5226): EPERM. The kernel looks at 32
//!   bits of the request, so comparing 64 is a hole (CVE-2019-10063), and OCI cannot say "the low half differs". What it
//!   can say is that one bit differs; the allowed requests are the union of those.
//!
//! 32-bit programs run; x32 ones are killed. On i386 `socketcall` hides the family of a new socket behind a pointer, so
//! there it makes none, and 32-bit x86 programs have sockets only if their C library uses `socket` itself (musl's does).
//!
//! Rules of one syscall are tried in their order here, and the last of some holds always.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
};

/// errno(3), the same numbers on every architecture that Linux runs containers on.
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const EPROTONOSUPPORT: u32 = 93;
const EAFNOSUPPORT: u32 = 97;

/// Whatever the arguments are.
const ALLOWED: &str = "\
    _llseek _newselect accept accept4 access adjtimex alarm arch_prctl arm_fadvise64_64 arm_sync_file_range bind \
    breakpoint brk cacheflush cachestat capget capset chdir chmod chown chown32 chroot clock_adjtime clock_adjtime64 \
    clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 clock_settime \
    clock_settime64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl \
    epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 \
    fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr \
    flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 \
    futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat get_mempolicy get_robust_list \
    get_thread_area get_tls getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 \
    getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid \
    getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid \
    getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy \
    io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioprio_get ioprio_set kill landlock_add_rule \
    landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listxattr listxattrat \
    llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack mbind membarrier memfd_create \
    memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify \
    mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget \
    msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat nice open openat openat2 pause \
    pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 \
    preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink \
    readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename \
    renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn \
    rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min \
    sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 \
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop \
    semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_mempolicy set_mempolicy_home_node \
    set_robust_list set_thread_area set_tid_address set_tls setdomainname setfsgid setfsgid32 setfsuid setfsuid32 setgid \
    setgid32 setgroups setgroups32 sethostname setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 \
    setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt settimeofday setuid setuid32 setxattr \
    setxattrat shmat shmctl shmdt shmget shutdown sigaction sigaltstack signal signalfd signalfd4 sigpending sigprocmask \
    sigreturn sigsuspend splice stat stat64 statfs statfs64 statx stime symlink symlinkat sync sync_file_range \
    sync_file_range2 syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime \
    timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime \
    timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat uprobe uretprobe utime \
    utimensat utimensat_time64 utimes vfork vhangup vmsplice wait4 waitid waitpid write writev";

/// Refused with EPERM; everything else that is refused has ENOSYS.
const DENIED: &str = "\
    acct delete_module finit_module init_module ioperm iopl kexec_file_load kexec_load mount open_by_handle_at \
    pivot_root process_vm_readv process_vm_writev ptrace quotactl reboot setns swapoff swapon syslog umount umount2";

/// linux/sched.h: every namespace that `clone` can make. (`CLONE_NEWTIME` is part of the exit signal there.)
const CLONE_NEW: u64 = 0x7e02_0000;
/// Makes a time namespace in `unshare`.
const CLONE_NEWTIME: u64 = 0x80;

/// linux/socket.h.
const AF_UNIX: u64 = 1;
const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;
const AF_NETLINK: u64 = 16;
const AF_PACKET: u64 = 17;
/// linux/netlink.h.
const NETLINK_AUDIT: u64 = 9;
/// linux/net.h: `SYS_SOCKET` and `SYS_SOCKETPAIR`, first arguments of `socketcall`.
const SOCKETCALLS: [u64; 2] = [1, 8];

/// linux/personality.h: PER_LINUX and PER_LINUX32, each also with UNAME26, and the question which one it is.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// asm-generic/ioctls.h. TIOCLINUX is 0x541c: it differs in bits 1 to 3.
const TIOCSTI: u64 = 0x5412;
/// The bits in which the two differ.
const TIOC_DIFFERENT: u64 = 0xe;
/// The six values of those bits that are neither's, as (mask, value).
const TIOC_NEITHER: [(u64, u64); 3] = [(0b1010, 0), (0b0110, 0b0110), (0b1100, 0b1000)];

/// The profile. The same on every architecture: names and architectures that a machine does not have change nothing.
pub fn profile() -> LinuxSeccomp {
    let mut rules = vec![allow(ALLOWED, Vec::new()), refuse(DENIED, EPERM, Vec::new())];
    rules.extend(namespace_rules("clone", CLONE_NEW));
    rules.extend(namespace_rules("unshare", CLONE_NEW | CLONE_NEWTIME));
    rules.extend(socket_rules());
    rules.extend(personality_rules());
    rules.extend(ioctl_rules());
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(LinuxSeccompAction::ScmpActErrno).set_default_errno_ret(Some(ENOSYS));
    profile.set_architectures(Some(vec![
        Arch::ScmpArchX86_64,
        Arch::ScmpArchX86,
        Arch::ScmpArchAarch64,
        Arch::ScmpArchArm,
    ]));
    profile.set_syscalls(Some(rules));
    profile
}

/// No new namespaces; every other flag.
fn namespace_rules(name: &str, flags: u64) -> impl Iterator<Item = LinuxSyscall> {
    let bits = (0..32).map(|bit| 1 << bit).filter(move |bit| flags & bit != 0);
    let refused = bits.map(move |bit| refuse(name, EPERM, vec![masked(0, bit, bit)]));
    std::iter::once(allow(name, vec![masked(0, flags, 0)])).chain(refused)
}

fn socket_rules() -> Vec<LinuxSyscall> {
    const BOTH: &str = "socket socketpair";
    let equal = |index, value| compare(index, LinuxSeccompOperator::ScmpCmpEq, value);
    let mut rules: Vec<_> = SOCKETCALLS.iter().map(|call| refuse("socketcall", EPERM, vec![equal(0, *call)])).collect();
    rules.extend([AF_UNIX, AF_INET, AF_INET6, AF_PACKET].map(|family| allow(BOTH, vec![equal(0, family)])));
    let not_audit = compare(2, LinuxSeccompOperator::ScmpCmpNe, NETLINK_AUDIT);
    rules.push(allow(BOTH, vec![equal(0, AF_NETLINK), not_audit]));
    rules.push(refuse(BOTH, EPROTONOSUPPORT, vec![equal(0, AF_NETLINK)]));
    rules.push(refuse(BOTH, EAFNOSUPPORT, vec![anything()]));
    rules
}

fn personality_rules() -> impl Iterator<Item = LinuxSyscall> {
    let equal = |value| compare(0, LinuxSeccompOperator::ScmpCmpEq, value);
    let allowed = PERSONALITIES.into_iter().map(move |value| allow("personality", vec![equal(value)]));
    allowed.chain(std::iter::once(refuse("personality", EPERM, vec![anything()])))
}

/// Allowed if any bit is not as in TIOCSTI and TIOCLINUX. Bit 0 first: it settles most requests that programs make.
fn ioctl_rules() -> impl Iterator<Item = LinuxSyscall> {
    let common = (0..32).map(|bit| 1 << bit).filter(|bit| TIOC_DIFFERENT & bit == 0);
    let differs = common.map(|bit| (bit, !TIOCSTI & bit));
    let allowed = differs.chain(TIOC_NEITHER).map(|(mask, value)| allow("ioctl", vec![masked(1, mask, value)]));
    allowed.chain(std::iter::once(refuse("ioctl", EPERM, vec![anything()])))
}

fn allow(names: &str, args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    rule(names, LinuxSeccompAction::ScmpActAllow, None, args)
}

fn refuse(names: &str, errno: u32, args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    rule(names, LinuxSeccompAction::ScmpActErrno, Some(errno), args)
}

/// `names` are separated by blanks. No `args` is no condition.
fn rule(names: &str, action: LinuxSeccompAction, errno: Option<u32>, args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.split_whitespace().map(str::to_owned).collect());
    rule.set_action(action).set_errno_ret(errno);
    rule.set_args(if args.is_empty() { None } else { Some(args) });
    rule
}

fn masked(index: usize, mask: u64, value: u64) -> LinuxSeccompArg {
    arg(index, LinuxSeccompOperator::ScmpCmpMaskedEq, mask, Some(value))
}

fn compare(index: usize, op: LinuxSeccompOperator, value: u64) -> LinuxSeccompArg {
    arg(index, op, value, None)
}

/// A condition that always holds: unlike a rule without conditions it does not go before the others.
fn anything() -> LinuxSeccompArg {
    compare(0, LinuxSeccompOperator::ScmpCmpGe, 0)
}

fn arg(index: usize, op: LinuxSeccompOperator, value: u64, two: Option<u64>) -> LinuxSeccompArg {
    let builder = LinuxSeccompArgBuilder::default().index(index).op(op).value(value);
    let builder = match two {
        Some(two) => builder.value_two(two),
        None => builder,
    };
    // The builder has a default for every field, so building cannot fail.
    builder.build().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted_and_do_not_overlap() {
        for list in [ALLOWED, DENIED] {
            let names: Vec<&str> = list.split_whitespace().collect();
            assert!(names.is_sorted_by(|one, other| one < other), "{list}");
        }
        let allowed: Vec<&str> = ALLOWED.split_whitespace().collect();
        let elsewhere =
            DENIED.split_whitespace().chain(["clone", "unshare", "socket", "socketpair", "ioctl", "clone3"]);
        assert_eq!(elsewhere.filter(|name| allowed.contains(name)).collect::<Vec<_>>(), Vec::<&str>::new());
    }

    #[test]
    fn what_is_dangerous_is_not_allowed() {
        for name in [
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_register",
            "bpf",
            "userfaultfd",
            "keyctl",
            "add_key",
            "request_key",
            "perf_event_open",
            "fsopen",
            "fsconfig",
            "fsmount",
            "fspick",
            "move_mount",
            "open_tree",
            "open_tree_attr",
            "mount_setattr",
            "mount",
            "umount2",
            "pivot_root",
            "ptrace",
            "process_vm_readv",
            "process_vm_writev",
            "kexec_load",
            "kexec_file_load",
            "init_module",
            "finit_module",
            "delete_module",
            "setns",
            "clone3",
            "pidfd_getfd",
            "socketcall",
        ] {
            assert!(!ALLOWED.split_whitespace().any(|allowed| allowed == name), "{name}");
        }
    }

    #[test]
    fn the_terminal_requests_are_the_only_ones_refused() {
        let rules: Vec<LinuxSyscall> = ioctl_rules().collect();
        let allowed = |request: u64| {
            rules.iter().filter(|rule| rule.action() == LinuxSeccompAction::ScmpActAllow).any(|rule| {
                let args = rule.args().as_ref().unwrap();
                args.iter().all(|arg| request & arg.value() == arg.value_two().unwrap())
            })
        };
        for request in 0..0x1_0000 {
            assert_eq!(allowed(request), request != 0x5412 && request != 0x541c, "{request:#x}");
            assert_eq!(allowed(request | 1 << 32), allowed(request), "{request:#x}");
        }
        assert!(allowed(0x8004_5412) && allowed(0xffff_ffff_8004_541c));
    }

    #[test]
    fn it_is_the_same_after_json() {
        let text = serde_json::to_string(&profile()).unwrap();
        assert_eq!(serde_json::from_str::<LinuxSeccomp>(&text).unwrap(), profile());
    }
}
