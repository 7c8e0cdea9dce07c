//! Compiled filters in the kernel, and the default profile's answers.
//!
//! A filter cannot be taken off again, so each case runs in a process of its own: this test binary, started again with
//! its test's name alone.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use moored::oci::seccomp::interpret::{Data, interpret, verify};
use moored::oci::seccomp::{Filter, compile, knows, native};
use moored::sys::seccomp::load;
use moored::unit::seccomp_default;
use oci_spec::runtime::LinuxSeccomp;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};
use serde_json::{Value, json};

use super::oci::Place;
use super::support::wait_for;

/// Set in the process that a case has for itself.
const ALONE: &str = "MOORED_TEST_SECCOMP_ALONE";
const SIGSYS: i32 = 31;

fn load_compiled(profile: &LinuxSeccomp) {
    let filter = compile(profile, native().unwrap()).unwrap();
    rustix::thread::set_no_new_privs(true).unwrap();
    load(&raw(&filter), filter.flags.bits()).unwrap();
}

fn raw(filter: &Filter) -> Vec<libc::sock_filter> {
    let convert =
        |i: &moored::oci::seccomp::Instruction| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k };
    filter.program.iter().map(convert).collect()
}

/// In the process of its own: runs `case`, and `None`. Else starts that process for `test`, and what came of it.
fn alone(test: &str, case: fn()) -> Option<(ExitStatus, String)> {
    if std::env::var_os(ALONE).is_some() {
        case();
        println!("case ran");
        return None;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("seccomp::{test}"), "--nocapture", "--test-threads=1"]).env(ALONE, "1");
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    Some((output.status, String::from_utf8_lossy(&text).into_owned()))
}

fn assert_passes_alone(test: &str, case: fn()) {
    if let Some((status, output)) = alone(test, case) {
        assert!(status.success() && output.contains("case ran"), "{test}: {status}\n{output}");
    }
}

fn profile(rules: &str) -> LinuxSeccomp {
    let text = format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rules}]}}"#);
    serde_json::from_str(&text).unwrap()
}

fn kill_case() {
    load_compiled(&profile(r#"{"names": ["sync"], "action": "SCMP_ACT_KILL_PROCESS"}"#));
    rustix::fs::sync();
}

fn errno_case() {
    load_compiled(&profile(
        r#"{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77},
           {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 78,
            "args": [{"index": 1, "value": 0, "op": "SCMP_CMP_EQ"}]}"#,
    ));
    let refused = std::fs::create_dir("/tmp/never").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(77));
    let own = rustix::process::getpid();
    assert_eq!(rustix::process::test_kill_process(own).unwrap_err().raw_os_error(), 78);
    rustix::process::kill_process(own, rustix::process::Signal::CONT).unwrap();
}

/// What ordinary programs do works, threads and children included; what is refused says so as they expect.
fn default_case() {
    load_compiled(&seccomp_default::profile());
    let socket = |family| rustix::net::socket(AddressFamily::from_raw(family), SocketType::STREAM, None).map(drop);
    assert_eq!([1, 2].map(socket), [Ok(()), Ok(())]);
    assert_eq!([38, 40, 30].map(socket), [Err(Errno::AFNOSUPPORT); 3]);
    let audit = rustix::net::netlink::AUDIT;
    let netlink = |protocol| rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, protocol).map(drop);
    assert_eq!([netlink(None), netlink(Some(audit))], [Ok(()), Err(Errno::PROTONOSUPPORT)]);
    let namespace = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER);
    assert_eq!(namespace, Err(nix::errno::Errno::EPERM));
    assert_eq!(nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS), Ok(()));
    assert_eq!(rustix::mount::unmount("/", rustix::mount::UnmountFlags::DETACH), Err(Errno::PERM));
    let new = rustix::mount::fsopen("tmpfs", rustix::mount::FsOpenFlags::empty()).map(drop);
    assert_eq!(new, Err(Errno::NOSYS));
    assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
    let shell =
        "set -e; echo one | tr a-z A-Z; d=$(mktemp -d); date > $d/f; ls -la $d /proc/self >/dev/null; rm -r $d; id >&2";
    let output = Command::new("/bin/sh").args(["-c", shell]).output().unwrap();
    assert!(output.status.success() && output.stdout == b"ONE\n", "{output:?}");
}

#[test]
fn errno_and_allow_really_happen() {
    assert_passes_alone("errno_and_allow_really_happen", errno_case);
}

#[test]
fn kill_really_happens() {
    if let Some((status, output)) = alone("kill_really_happens", kill_case) {
        assert_eq!(status.signal(), Some(SIGSYS), "{output}");
    }
}

#[test]
fn the_default_profile_runs_ordinary_programs() {
    assert_passes_alone("the_default_profile_runs_ordinary_programs", default_case);
}

#[test]
fn a_program_that_the_kernel_cannot_take_is_refused() {
    assert_eq!(load(&[], 0).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    let listener = u32::try_from(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER).unwrap();
    assert_eq!(load(&[], listener).unwrap_err().raw_os_error(), Some(libc::EINVAL));
}

/// The filter is compiled while the container's process sets itself up: whichever of the two loads it, and whoever makes the process.
#[test]
fn a_filter_reaches_the_process_however_it_is_made() {
    const SAYS: &str = "grep Seccomp: /proc/self/status; mkdir /dev/d 2>&1; true";
    let refuses = |config: &mut Value| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7 }],
        });
        config["process"]["args"] = json!(["/bin/sh", "-c", SAYS]);
    };
    let change = |name: &str, config: &mut Value| match name {
        "itself" => config["process"]["noNewPrivileges"] = json!(false),
        // Without a trampoline.
        "sealed" => config["hooks"] = json!({ "createContainer": [{ "path": "/bin/true" }] }),
        "somebody else" => super::namespaces::map_users(config),
        _ => {}
    };
    for name in ["the trampoline", "itself", "sealed", "somebody else"] {
        let place = Place::new("filter", |config| {
            refuses(config);
            change(name, config);
        });
        let Some(place) = place else { return };
        let said = place.ok("run {}");
        assert!(said.starts_with("Seccomp:\t2\n") && said.contains("Argument list too long"), "{name}: {said}");
        place.ok("create {}");
        place.ok("start {}");
        wait_for("it to end", || (place.state()["status"] == "stopped").then_some(()));
        place.ok("delete {}");
    }
}

#[test]
fn a_filter_that_gets_too_long_leaves_no_container() {
    let rule = |n: u64| {
        let condition = |index: u64| json!({ "index": index % 6, "value": n * 0x1_0001_0001, "op": "SCMP_CMP_GT" });
        json!({ "names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "args": [condition(n), condition(n + 1)] })
    };
    let place = Place::new("long", |config| {
        let rules: Vec<Value> = (1..900).map(rule).collect();
        config["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules });
    });
    let Some(place) = place else { return };
    for command in ["run {}", "create {}"] {
        let failed = place.run(command);
        let said = String::from_utf8_lossy(&failed.stderr);
        assert!(!failed.status.success() && said.contains("linux.seccomp: the profile needs at least"), "{said}");
        place.assert_gone(command);
    }
}

#[test]
fn the_default_profile_names_only_known_calls() {
    let profile = seccomp_default::profile();
    let names = profile.syscalls().iter().flatten().flat_map(|rule| rule.names().iter());
    assert_eq!(names.filter(|name| !knows(name)).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn the_default_profile_answers_as_it_says() {
    const ALLOW: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;
    const ENOSYS: u32 = 0x0005_0026;
    let filter = compile(&seccomp_default::profile(), oci_spec::runtime::Arch::ScmpArchX86_64).unwrap();
    verify(&filter.program);
    assert!(filter.program.len() < 1000, "{}", filter.program.len());
    let native = |nr: u32, args: [u64; 2]| answer(&filter, 0xc000_003e, nr, args);
    let ioctl = |request| native(16, [0, request]);
    assert_eq!([0x5412, 0x541c, 0x1_0000_5412, 0xffff_ffff_0000_541c].map(ioctl), [EPERM; 4]);
    assert_eq!([0x5401, 0x5413, 0x541b, 0x5421, 0x8004_5412, 0xffff_ffff_8008_5800].map(ioctl), [ALLOW; 6]);
    assert_eq!([0, 8, 0xffff_ffff].map(|persona| native(135, [persona, 0])), [ALLOW; 3]);
    assert_eq!(native(135, [0x40_0000, 0]), EPERM);
    assert_eq!([0x11, 0x3d_0f00].map(|flags| native(56, [flags, 0])), [ALLOW; 2]);
    assert_eq!([0x1000_0000, 0x6c02_0011].map(|flags| native(56, [flags, 0])), [EPERM; 2]);
    assert_eq!([435, 425, 321, 323, 250, 298, 428, 430, 457, 4000].map(|nr| native(nr, [0; 2])), [ENOSYS; 10]);
    assert_eq!([101, 165, 310, 246, 175, 308].map(|nr| native(nr, [0; 2])), [EPERM; 6]);
    assert_eq!([0, 1, 59, 231, 202, 449, 462].map(|nr| native(nr, [0; 2])), [ALLOW; 7]);
    assert_eq!(native(0x4000_0000, [0; 2]), 0, "x32 is killed");
    assert_eq!(native(41, [0x1_0000_0026, 0]), 0x0005_0061, "upper halves do not matter");
    let socketcall = |call| answer(&filter, 0x4000_0003, 102, [call, 0]);
    assert_eq!([1, 8, 2, 16].map(socketcall), [EPERM, EPERM, ALLOW, ALLOW]);
}

fn answer(filter: &Filter, arch: u32, nr: u32, args: [u64; 2]) -> u32 {
    interpret(&filter.program, &Data { nr, arch, args: [args[0], args[1], 0, 0, 0, 0] }).0
}
