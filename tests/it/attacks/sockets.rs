//! Who may talk to a supervisor and its keeper, what shape it may have, and state that somebody else wrote.

use std::fs;
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use moored::keeper::wire::{Request, Role, encode};
use rustix::fs::Mode;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, recv, sendmsg, socket_with,
};
use serde_json::json;

use super::{Stand, said};
use crate::support::{Supervisor, is_root};
use crate::world::World;

/// Nobody that the supervisor knows.
const SOMEBODY: u32 = 4242;

/// In a thread with another user's number: it is the kernel's word that counts, of the one who connects.
fn as_somebody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let user = rustix::thread::Uid::from_raw(SOMEBODY);
            rustix::thread::set_thread_res_uid(user, user, user).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

fn packets(path: &Path) -> Result<OwnedFd, rustix::io::Errno> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

fn hello() -> Request {
    Request::Hello { version: moored::keeper::VERSION, role: Role::Observer }
}

/// CVE-2020-15257: no abstract names, no loose directories, and who connects is asked for all the same.
#[test]
fn nobody_else_is_served_however_loose_the_directories_are() {
    let Some(world) = World::start("attack-peers") else { return };
    world.service("web", "one");
    let run = world.dir.join("run");
    let abstract_names = fs::read_to_string("/proc/net/unix").unwrap();
    let name = world.dir.0.file_name().unwrap().to_str().unwrap();
    assert!(!abstract_names.lines().any(|line| line.contains(" @") && line.contains(name)), "{abstract_names}");
    let sockets = ["control.sock", "keeper.sock"].map(|name| run.join(name));
    for path in &sockets {
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o600, "{}", path.display());
        assert!(as_somebody(|| UnixStream::connect(path).is_err() && packets(path).is_err()));
    }
    // Logs are for root's group as well.
    for (dir, others) in [("run", 0o077), ("state", 0o077), ("log", 0o027)] {
        assert_eq!(fs::metadata(world.dir.join(dir)).unwrap().mode() & others, 0, "{dir}");
    }
    // Somebody opened everything.
    for path in [&run, &sockets[0], &sockets[1], &world.dir.0] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let answer = as_somebody(|| {
        let mut stream = UnixStream::connect(&sockets[0]).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let _ = stream.write_all(b"{\"version\":1,\"request\":{\"do\":\"down\"}}\n");
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text
    });
    assert!(answer.contains(&format!("uid {SOMEBODY} may not control")), "{answer}");
    let packet = as_somebody(|| {
        let socket = packets(&sockets[1]).unwrap();
        rustix::net::sockopt::set_socket_timeout(
            &socket,
            rustix::net::sockopt::Timeout::Recv,
            Some(Duration::from_secs(30)),
        )
        .unwrap();
        for request in [hello(), Request::Stats, Request::Stop] {
            let _ = rustix::net::send(&socket, &encode(&request).unwrap(), SendFlags::NOSIGNAL);
        }
        let mut bytes = [0; 4096];
        let mut all = Vec::new();
        while let Ok((got, _)) = recv(&socket, &mut bytes[..], RecvFlags::empty()) {
            all.extend_from_slice(&bytes[..got]);
            if got == 0 {
                break;
            }
        }
        all
    });
    // At most that it is denied: no figures of anybody.
    assert!(packet.len() < 16, "{packet:?}");
    // The same from root is served: the bytes are requests.
    let mut stream = UnixStream::connect(&sockets[0]).unwrap();
    stream.write_all(b"{\"version\":1,\"request\":{\"do\":\"ps\",\"units\":[]}}\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains("\"web\""), "{text}");
    assert_eq!(world.find("web").unwrap()["phase"], "running");
}

/// Sends bytes with descriptors beside them.
fn send_with(socket: impl AsFd, bytes: &[u8], fds: usize) {
    let null = fs::File::open("/dev/null").unwrap();
    let all: Vec<_> = (0..fds).map(|_| null.as_fd()).collect();
    let mut space = vec![std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(fds == 0 || control.push(SendAncillaryMessage::ScmRights(&all)));
    let _ = sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
}

/// None of them holds up anybody else, and nothing that was sent along stays open.
#[test]
fn requests_of_any_shape_hold_up_nobody() {
    let Some(world) = World::start("attack-shapes") else { return };
    let web = world.service("web", "one");
    let before = world.pids();
    let fds = |pid: i32| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let settled = || (fds(before.keeper), fds(before.supervisor));
    let open_before = settled();
    let [control, keeper] = ["control.sock", "keeper.sock"].map(|name| world.dir.join("run").join(name));
    let deep = format!("{{\"version\":1,\"request\":{}", "[".repeat(60_000));
    let long = "x".repeat(80_000);
    let shapes: [&[u8]; 12] = [
        b"",
        b"\n",
        b"\0\0\0\n",
        b"{\n",
        b"\xff\xfe\n",
        b"{\"version\":1}\n",
        b"{\"version\":99999999999999999999,\"request\":{}}\n",
        b"{\"version\":1,\"request\":{\"do\":\"exec\",\"unit\":\"web\",\"args\":[],\"env\":[],\"cwd\":null,\"user\":null,\"tty\":false,\"size\":null}}\n",
        b"{\"version\":1,\"request\":{\"do\":\"exec\",\"unit\":\"web\",\"args\":[\"\\u0000\"],\"env\":[\"\\u0000\"],\"cwd\":\"\\u0000\",\"user\":\"\\u0000\",\"tty\":true,\"size\":[0,65535]}}\n",
        b"{\"version\":1,\"request\":{\"do\":\"kill\",\"units\":[\"../web\",\"web\"],\"signal\":0,\"all\":true}}\n",
        deep.as_bytes(),
        long.as_bytes(),
    ];
    // They stay open until the end, half of them without a whole request.
    let mut open = Vec::new();
    for shape in shapes {
        for fds in [0, 1, 200] {
            let stream = UnixStream::connect(&control).unwrap();
            send_with(&stream, shape, fds);
            open.push(stream);
        }
        assert_eq!(world.find("web").unwrap()["phase"], "running");
    }
    let packets_of: [&[u8]; 10] = [
        b"",
        b"\x00",
        b"\x00\x02\x00",
        b"\x00\x02\x01",
        b"\x00\xff\xff\x03\x02",
        b"\x01\x05web.1\x00\x00\xff\xff",
        b"\x03\x05web.1",
        b"\x0b\x00",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        &[0x41; 8192],
    ];
    for packet in packets_of {
        for fds in [0, 1, 80] {
            let Ok(socket) = packets(&keeper) else { continue };
            send_with(&socket, packet, fds);
            // After a Hello that is one as well.
            let Ok(socket) = packets(&keeper) else { continue };
            send_with(&socket, &encode(&hello()).unwrap(), 0);
            send_with(&socket, packet, fds);
        }
        assert_eq!(world.find("web").unwrap()["phase"], "running", "{packet:?}");
    }
    drop(open);
    assert_eq!(world.pids(), before, "nobody died of it\n{}", world.output());
    world.kept("web", &web, "requests of all shapes");
    let closed = || (settled().0 <= open_before.0 && settled().1 <= open_before.1 + 2).then_some(());
    crate::support::wait_for("what came along to be closed", closed);
}

/// A state root that another user made first holds a record whose hooks would run as root.
#[test]
fn state_of_somebody_else_is_not_believed() {
    let Some(stand) = Stand::new("attack-state") else { return };
    let touched = stand.canary.dir.join("hooked");
    let script = format!("touch {}", touched.display());
    stand.config(&["/bin/sleep", "1000"], |config| {
        let env = ["PATH=/bin:/usr/bin"];
        config["hooks"] = json!({"poststop": [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": env}]});
    });
    stand.ok("create {}");
    let state = stand.dir.join("moored.state");
    let own = state.join(stand.id());
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(own.join("state.json")).unwrap()).unwrap();
    stand.delete("moored");
    fs::remove_file(&touched).unwrap();
    // As somebody would write it: a container that has ended, with a hook for its end.
    record["process"] = json!(null);
    let plant = |path: &Path, owner: u32, mode: u32| {
        fs::create_dir_all(path).unwrap();
        fs::write(path.join("state.json"), record.to_string()).unwrap();
        fs::write(path.join("config.json"), "{}").unwrap();
        for file in [path.join("state.json"), path.join("config.json"), path.to_owned()] {
            std::os::unix::fs::chown(file, Some(owner), Some(owner)).unwrap();
        }
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let attempt = |words: &str| {
        let output = stand.run("moored", words);
        assert!(!touched.exists(), "{words}: somebody's hook ran");
        said(&output)
    };
    // The whole root is somebody's.
    let roots = [(SOMEBODY, 0o755), (0, 0o777)];
    for (owner, mode) in roots {
        plant(&own, 0, 0o700);
        std::os::unix::fs::chown(&state, Some(owner), Some(0)).unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(mode)).unwrap();
        for words in ["delete --force {}", "delete {}", "start {}", "kill {} KILL", "state {}", "create {}", "list"] {
            let text = attempt(words);
            assert!(text.contains("chown") || text.contains("chmod"), "{words}: {text}");
        }
        std::os::unix::fs::chown(&state, Some(0), Some(0)).unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o711)).unwrap();
        fs::remove_dir_all(&own).unwrap();
    }
    // One directory in it, as in a root with a sticky bit; or a link to one.
    fs::set_permissions(&state, fs::Permissions::from_mode(0o1777)).unwrap();
    for (owner, mode) in [(SOMEBODY, 0o700), (0, 0o777)] {
        plant(&own, owner, mode);
        for words in ["delete --force {}", "start {}", "state {}"] {
            let text = attempt(words);
            assert!(text.contains("chown") || text.contains("chmod"), "{words}: {text}");
        }
        assert_eq!(attempt("list --quiet"), "");
        fs::remove_dir_all(&own).unwrap();
    }
    let elsewhere = stand.dir.join("elsewhere");
    plant(&elsewhere, SOMEBODY, 0o700);
    symlink(&elsewhere, &own).unwrap();
    attempt("delete --force {}");
    assert!(elsewhere.join("state.json").exists());
    let _ = fs::remove_file(&own);
    stand.canary.assert_unharmed("state of somebody else");
    // Ours, it is believed: the record is one.
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    plant(&own, 0, 0o700);
    stand.run("moored", "delete --force {}");
    assert!(touched.exists(), "the hook of a record that is ours runs");
}

/// The directories of a supervisor: somebody's, or with something else in the place of a record.
#[test]
fn a_supervisor_does_not_work_in_somebodys_directories() {
    if !is_root() {
        return;
    }
    for place in ["run", "state"] {
        let supervisor = Supervisor::prepare("attack-dirs");
        let dir = supervisor.dir.join(place);
        fs::create_dir(&dir).unwrap();
        std::os::unix::fs::chown(&dir, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
        let units = supervisor.units().display().to_string();
        let mut up = supervisor.moored(&["up", "--units", &units]);
        let log = supervisor.dir.join("said");
        let mut child =
            up.stdout(fs::File::create(&log).unwrap()).stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
        let said = || fs::read_to_string(&log).unwrap();
        crate::support::wait_for("a word about it", || {
            (said().contains("4242") || child.try_wait().unwrap().is_some()).then_some(())
        });
        assert!(said().contains("uid 4242"), "{place}: {}", said());
        supervisor.run(&["down"]);
        let _ = child.kill();
        let _ = child.wait();
    }
    // Records that are a FIFO, a link, a directory, a device: put aside with a word, and the units run.
    let Some(mut world) = World::prepare("attack-records") else { return };
    for dir in ["run/records", "state/units", "state/stops", "state/good"] {
        let dir = world.dir.join(dir);
        fs::create_dir_all(&dir).unwrap();
        for ancestor in [dir.clone(), dir.parent().unwrap().to_owned()] {
            fs::set_permissions(ancestor, fs::Permissions::from_mode(0o700)).unwrap();
        }
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, dir.join("web.json"), fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        symlink("/dev/zero", dir.join("db.json")).unwrap();
        let _ = dir.ends_with("records") || fs::create_dir(dir.join("api.json")).is_ok();
        let zero = rustix::fs::makedev(1, 5);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.join("log.json"),
            rustix::fs::FileType::CharacterDevice,
            Mode::from_raw_mode(0o600),
            zero,
        )
        .unwrap();
    }
    world.supervisor.up();
    for unit in ["web", "db", "api", "log", "job"] {
        world.service(unit, "one");
    }
    let text = world.output();
    assert!(text.contains("put aside"), "{text}");
    world.ok(&["stop", "web"]);
    world.wait_phase("web", &["stopped"]);
}
