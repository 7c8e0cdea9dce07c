//! `SCMP_ACT_NOTIFY`: an agent that answers calls of containers, and what he is told of them.

use std::fs;
use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketType, bind, listen,
    recvmsg, socket,
};
use serde_json::{Value, json};

use super::oci::Place;
use super::support::{Supervisor, tool, wait_for};

/// What mkdir(2) gets: EBADFD, which no file system says.
const ANSWER: i32 = 77;

/// `struct seccomp_notif` (linux/seccomp.h), of which only the id is looked at.
#[repr(C)]
struct Asked {
    id: u64,
    rest: [u64; 9],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Answer {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

fn receive_call(listener: &OwnedFd) -> Result<Asked, Errno> {
    const RECEIVE: rustix::ioctl::Opcode = rustix::ioctl::opcode::read_write::<Asked>(b'!', 0);
    let mut asked = Asked { id: 0, rest: [0; 9] };
    // SAFETY: SECCOMP_IOCTL_NOTIF_RECV fills a seccomp_notif of 80 bytes, all zeroes before.
    unsafe { rustix::ioctl::ioctl(listener, rustix::ioctl::Updater::<RECEIVE, _>::new(&mut asked)) }?;
    assert!(asked.rest.len() == 9);
    Ok(asked)
}

fn refuse_call(listener: &OwnedFd, asked: &Asked) -> Result<(), Errno> {
    const SEND: rustix::ioctl::Opcode = rustix::ioctl::opcode::read_write::<Answer>(b'!', 1);
    let mut answer = Answer { id: asked.id, value: 0, error: -ANSWER, flags: 0 };
    // SAFETY: SECCOMP_IOCTL_NOTIF_SEND reads a seccomp_notif_resp of 24 bytes.
    unsafe { rustix::ioctl::ioctl(listener, rustix::ioctl::Updater::<SEND, _>::new(&mut answer)) }
}

/// One message: text, and one descriptor.
fn receive_listener(stream: &UnixStream) -> (Value, OwnedFd) {
    let mut text = vec![0; 1 << 16];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got =
        recvmsg(stream, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC).expect("a message");
    let mut fds: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    assert_eq!(fds.len(), 1);
    (serde_json::from_slice(&text[..got.bytes]).expect("JSON"), fds.remove(0))
}

/// An agent who takes this many listeners, and refuses every call until nobody is left to make one.
fn agent(path: &Path, listeners: usize) -> Receiver<Value> {
    let socket = UnixListener::bind(path).unwrap();
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for _ in 0..listeners {
            let (stream, _) = socket.accept().unwrap();
            let (said, listener) = receive_listener(&stream);
            let _ = tell.send(said);
            std::thread::spawn(move || {
                loop {
                    let mut watched = [PollFd::new(&listener, PollFlags::IN)];
                    poll(&mut watched, None).unwrap();
                    if !watched[0].revents().contains(PollFlags::IN) {
                        return;
                    }
                    // Whoever asked may be gone by now (ENOENT).
                    let _ = receive_call(&listener).and_then(|asked| refuse_call(&listener, &asked));
                }
            });
        }
    });
    told
}

/// A socket that has as many connections waiting as it may have.
fn busy(path: &Path) -> (OwnedFd, UnixStream) {
    let listening = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    bind(&listening, &SocketAddrUnix::new(path).unwrap()).unwrap();
    listen(&listening, 0).unwrap();
    (listening, UnixStream::connect(path).unwrap())
}

fn asks(config: &mut Value, socket: &Path) {
    config["annotations"] = json!({ "a.b": "c" });
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": socket, "listenerMetadata": "of the test",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY" }],
    });
}

const MKDIR: &str = "mkdir /tmp/d 2>&1; exec sleep 1000";
const REFUSED: &str = "File descriptor in bad state";

#[test]
fn an_agent_answers_a_container_and_who_joins_it() {
    let Some(place) = Place::new("notify", |config| {
        let socket = Path::new(config["root"]["path"].as_str().unwrap()).with_file_name("agent");
        asks(config, &socket);
        config["process"]["args"] = json!(["/bin/sh", "-c", MKDIR]);
        config["mounts"].as_array_mut().unwrap().push(json!({ "destination": "/tmp", "type": "tmpfs", "source": "t" }));
    }) else {
        return;
    };
    let told = agent(&place.dir.join("agent"), 3);
    place.ok("create {}");
    let said = told.recv().unwrap();
    let pid = place.state()["pid"].clone();
    let state = json!({ "ociVersion": said["ociVersion"], "id": place.id, "status": "creating", "pid": pid,
        "bundle": place.dir.join("b"), "annotations": { "a.b": "c" } });
    let whole = json!({ "ociVersion": said["ociVersion"], "fds": ["seccompFd"], "pid": pid, "metadata": "of the test", "state": state });
    assert_eq!(said, whole);
    // Who joins while it waits for its start.
    let joined = place.run("exec {} mkdir /tmp/e");
    assert!(String::from_utf8_lossy(&joined.stderr).contains(REFUSED), "{joined:?}");
    let said = told.recv().unwrap();
    assert_eq!((&said["state"]["status"], &said["state"]["pid"]), (&json!("created"), &pid));
    assert!(said["pid"].as_u64().is_some_and(|joined| Some(joined) != pid.as_u64()), "{said}");
    place.ok("start {}");
    wait_for("it to run", || (place.state()["status"] == "running").then_some(()));
    let joined = place.run("exec {} mkdir /tmp/f");
    assert!(String::from_utf8_lossy(&joined.stderr).contains(REFUSED), "{joined:?}");
    assert_eq!(told.recv().unwrap()["state"]["status"], "running");
    place.ok("delete --force {}");
}

/// The socket is root's alone, and its process, without no_new_privs, is under the filter long before the program runs.
#[test]
fn an_agent_is_found_from_a_user_namespace() {
    let Some(place) = Place::new("notify-user", |config| {
        let socket = Path::new(config["root"]["path"].as_str().unwrap()).with_file_name("agent");
        asks(config, &socket);
        super::namespaces::map_users(config);
        config["process"]["noNewPrivileges"] = json!(false);
        config["linux"]["seccomp"]["flags"] =
            json!(["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]);
        config["process"]["args"] = json!(["/bin/sh", "-c", "mkdir /dev/d 2>&1; cat /proc/self/uid_map"]);
    }) else {
        return;
    };
    let told = agent(&place.dir.join("agent"), 1);
    let said = place.ok("run {}");
    assert!(said.contains(REFUSED) && said.contains("700000"), "{said}");
    assert_eq!(told.recv().unwrap()["state"]["status"], "creating");
}

#[test]
fn without_an_agent_there_is_no_container_and_nobody_waits() {
    let Some(place) = Place::new("notify-none", |config| {
        let socket = Path::new(config["root"]["path"].as_str().unwrap()).with_file_name("agent");
        asks(config, &socket);
    }) else {
        return;
    };
    let path = place.dir.join("agent");
    let failure = || {
        let failed = place.run("run {}");
        place.assert_gone("after a failure");
        assert!(!failed.status.success());
        String::from_utf8(failed.stderr).unwrap()
    };
    let said = failure();
    assert!(
        said.contains(&format!("linux.seccomp.listenerPath: connect to {}: no such file", path.display())),
        "{said}"
    );
    fs::File::create(&path).unwrap().write_all(b"x").unwrap();
    let said = failure();
    assert!(said.contains(&format!("linux.seccomp.listenerPath: connect to {}: connection refused", path.display())));
    fs::remove_file(&path).unwrap();
    let _busy = busy(&path);
    let said = failure();
    assert!(
        said.contains("linux.seccomp.listenerPath")
            && said.contains("as many processes wait for the agent as may wait"),
        "{said}"
    );
}

/// Agents of units: one that is busy, one that never answers.
#[test]
fn an_agent_of_a_unit_holds_up_that_unit_alone() {
    let Some(place) = Place::new("notify-unit", |config| {
        config["process"]["args"] = json!(["/bin/sh", "-c", "mkdir /tmp/d; echo on"]);
    }) else {
        return;
    };
    let bundle = |name: &str| {
        let mut config: Value = serde_json::from_slice(&fs::read(place.dir.join("b/config.json")).unwrap()).unwrap();
        asks(&mut config, &place.dir.join(name));
        let bundle = place.dir.join(&format!("b-{name}"));
        fs::create_dir(&bundle).unwrap();
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        format!("bundle = \"{}\"\n[restart]\npolicy = \"never\"\n", bundle.display())
    };
    let _busy = busy(&place.dir.join("busy"));
    // Takes connections and never reads.
    let deaf = UnixListener::bind(place.dir.join("deaf")).unwrap();
    let mut supervisor = Supervisor::start("notify-units");
    supervisor.unit("busy", &bundle("busy"));
    supervisor.unit("deaf", &bundle("deaf"));
    supervisor.wait_phase("busy", &["failed"]);
    let why = supervisor.ok(&["status", "busy"]);
    assert!(why.contains("linux.seccomp.listenerPath"), "{why}");
    let (stream, _) = deaf.accept().unwrap();
    supervisor.wait_phase("deaf", &["running"]);
    // Nobody answers, and all else goes on.
    assert_eq!(supervisor.find("busy").unwrap()["phase"], "failed");
    supervisor.ok(&["stop", "deaf"]);
    supervisor.wait_phase("deaf", &["stopped"]);
    let (said, _) = receive_listener(&stream);
    assert_eq!(said["state"]["id"], "deaf.1");
    assert!(supervisor.stop().success());
}

/// The same text as runc's, but for the version: runc says which one it follows, we say which one the container does.
#[test]
fn runc_tells_an_agent_the_same() {
    let Some(runc) = tool("runc") else { return };
    let Some(place) = Place::new("notify-runc", |config| {
        let socket = Path::new(config["root"]["path"].as_str().unwrap()).with_file_name("agent");
        asks(config, &socket);
        config["process"]["args"] = json!(["/bin/true"]);
        config["ociVersion"] = json!("1.0.2-dev");
    }) else {
        return;
    };
    let told = agent(&place.dir.join("agent"), 2);
    place.ok("run {}");
    let mut other = std::process::Command::new(runc);
    other.arg("--root").arg(place.dir.join("runc")).args(["run", &place.id]).current_dir(place.dir.join("b"));
    let output = other.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = [told.recv().unwrap(), told.recv().unwrap()].map(|mut said| {
        assert!(said["pid"].is_u64() && said["pid"] == said["state"]["pid"], "{said}");
        (said["pid"], said["state"]["pid"]) = (json!(0), json!(0));
        said
    });
    assert_eq!(said[0], said[1]);
}

/// Only that descriptors of this kind are what the rest takes them for.
#[test]
fn the_kernel_gives_a_listener_for_a_filter_that_notifies() {
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}"#;
    let profile = serde_json::from_str(text).unwrap();
    let filter = moored::oci::seccomp::compile(&profile, moored::oci::seccomp::native().unwrap()).unwrap();
    let program: Vec<libc::sock_filter> =
        filter.program.iter().map(|i| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect();
    // A thread of its own: the filter stays with it.
    let load = move || {
        rustix::thread::set_no_new_privs(true).unwrap();
        let first = moored::sys::seccomp::load_listening(&program, filter.flags.bits()).unwrap();
        let second = moored::sys::seccomp::load_listening(&program, filter.flags.bits());
        let refused = moored::sys::seccomp::load(&program, filter.flags.bits()).unwrap_err();
        (rustix::fs::fstat(first.as_fd()).is_ok(), second.map(drop).unwrap_err().raw_os_error(), refused.raw_os_error())
    };
    let (is_open, second, without) = std::thread::spawn(load).join().unwrap();
    assert_eq!((is_open, second, without), (true, Some(libc::EBUSY), Some(libc::EINVAL)));
}
