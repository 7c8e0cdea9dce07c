//! What a seccomp filter costs to compile, to load, and at each call: ours, and the same profile as a list of
//! comparisons (what libseccomp writes unless told otherwise). Medians, and their ratios.
//!
//! `cargo bench --bench seccomp`

use std::time::{Duration, Instant};

use moored::oci::seccomp::{Filter, compile, native};
use moored::sys::seccomp::load;
use moored::unit::seccomp_default;
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction};

const ROUNDS: usize = 300;
const CALLS: u32 = 100_000;

fn main() {
    let native = native().expect("an architecture that filters are compiled for");
    let default = seccomp_default::profile();
    let names = unconditional(&default);
    let compile_names = median(|| timed(|| compile(&names, native).unwrap()));
    let compile_default = median(|| timed(|| compile(&default, native).unwrap()));
    let tree = compile(&names, native).unwrap();
    let whole = compile(&default, native).unwrap();
    let linear = linear(&tree);
    println!("compile, {} names: {compile_names:?}", count(&names));
    println!("compile, default profile: {compile_default:?} ({} instructions)", whole.program.len());
    let default_load = median(|| in_thread(&raw(&whole), 0).0);
    println!("load, default profile: {default_load:?}");
    let (tree, linear) = (raw(&tree), linear);
    let loads = (median(|| in_thread(&tree, 0).0), median(|| in_thread(&linear, 0).0));
    println!("load, tree of {}: {:?}", tree.len(), loads.0);
    println!("load, list of {}: {:?}  ratio {:.2}", linear.len(), loads.1, ratio(loads.0, loads.1));
    let calls = (in_thread(&tree, CALLS).1, in_thread(&linear, CALLS).1);
    println!(
        "getppid, tree: {:?}; list: {:?}; none: {:?}",
        calls.0 / CALLS,
        calls.1 / CALLS,
        calls_take(CALLS) / CALLS
    );
}

/// The part of the profile that is a plain list of names.
fn unconditional(profile: &LinuxSeccomp) -> LinuxSeccomp {
    let mut plain = profile.clone();
    let allowed = |rule: &&oci_spec::runtime::LinuxSyscall| {
        rule.args().is_none() && rule.action() == LinuxSeccompAction::ScmpActAllow
    };
    let mut rules: Vec<_> = profile.syscalls().iter().flatten().filter(allowed).cloned().collect();
    // The benchmark's own threads need these, whatever their arguments.
    for rule in &mut rules {
        let mut names = rule.names().clone();
        names.extend(["clone", "socket", "socketpair", "ioctl", "personality", "unshare"].map(str::to_owned));
        rule.set_names(names);
    }
    plain.set_syscalls(Some(rules)).set_architectures(None);
    plain
}

fn count(profile: &LinuxSeccomp) -> usize {
    profile.syscalls().iter().flatten().map(|rule| rule.names().len()).sum()
}

/// The same answers as a list: one comparison and one return per allowed number.
fn linear(tree: &Filter) -> Vec<libc::sock_filter> {
    use moored::oci::seccomp::interpret::{Data, interpret};
    let arch = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
    let answer = |nr| interpret(&tree.program, &Data { nr, arch, args: [0; 6] }).0;
    let of = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut code = vec![of(0x20, 0, 0, 4), of(0x15, 1, 0, arch), of(0x06, 0, 0, 0), of(0x20, 0, 0, 0)];
    for nr in (0..1024).filter(|nr| answer(*nr) == 0x7fff_0000) {
        code.extend([of(0x15, 0, 1, nr), of(0x06, 0, 0, 0x7fff_0000)]);
    }
    code.push(of(0x06, 0, 0, 0x0005_0026));
    code
}

fn raw(filter: &Filter) -> Vec<libc::sock_filter> {
    let convert =
        |i: &moored::oci::seccomp::Instruction| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k };
    filter.program.iter().map(convert).collect()
}

/// How long a new thread takes to load the filter, and then for its calls.
fn in_thread(program: &[libc::sock_filter], calls: u32) -> (Duration, Duration) {
    let filtered = || {
        rustix::thread::set_no_new_privs(true).expect("no_new_privs needs nothing");
        let start = Instant::now();
        load(program, 4).expect("the kernel takes the filter");
        (start.elapsed(), calls_take(calls))
    };
    std::thread::scope(|scope| scope.spawn(filtered).join().expect("the filter lets the thread live"))
}

fn calls_take(calls: u32) -> Duration {
    let start = Instant::now();
    for _ in 0..calls {
        std::hint::black_box(rustix::process::getppid());
    }
    start.elapsed()
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    std::hint::black_box(work());
    start.elapsed()
}

fn median(mut one: impl FnMut() -> Duration) -> Duration {
    let mut all: Vec<Duration> = (0..ROUNDS).map(|_| one()).collect();
    all.sort_unstable();
    all[ROUNDS / 2]
}

fn ratio(one: Duration, other: Duration) -> f64 {
    one.as_secs_f64() / other.as_secs_f64()
}
