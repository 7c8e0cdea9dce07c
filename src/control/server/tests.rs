//! Clients of every kind against a server whose supervisor is this test.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::control::client::Client as Asker;
use crate::control::testing::TempDir;

struct World {
    dir: TempDir,
    posts: Receiver<Post>,
    server: Option<Server>,
}

const SOON: Duration = Duration::from_secs(20);

impl World {
    fn new() -> Self {
        let dir = TempDir::new("server");
        let listener = crate::control::socket::bind(dir.path()).unwrap();
        let (sender, posts) = channel();
        let server = Server::start(listener, move |post| drop(sender.send(post))).unwrap();
        Self { dir, posts, server: Some(server) }
    }

    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(self.dir.path().join(crate::control::SOCKET_NAME)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    }

    fn call(&self) -> Call {
        match self.posts.recv_timeout(SOON).unwrap() {
            Post::Call(call) => call,
            Post::Gone(id) => panic!("{id:?} is gone"),
        }
    }

    fn gone(&self) -> ClientId {
        match self.posts.recv_timeout(SOON).unwrap() {
            Post::Gone(id) => id,
            Post::Call(call) => panic!("a call: {:?}", call.request),
        }
    }

    fn answer(&self, text: &[u8]) -> String {
        let mut stream = self.raw();
        // The server may refuse and close before it has all.
        let _ = stream.write_all(text);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        if let Err(error) = stream.read_to_string(&mut answer) {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        answer
    }
}

fn line(n: usize) -> Response {
    Response::Done { lines: vec!["x".repeat(n)] }
}

fn ps() -> Request {
    Request::Ps { units: vec![] }
}

#[test]
fn a_request_gets_its_answers_and_the_end() {
    let world = World::new();
    let answers = Asker::connect(world.dir.path()).unwrap().call(&ps(), &[]).unwrap();
    let call = world.call();
    assert_eq!(call.request, ps());
    assert_eq!(call.peer.pid, std::process::id() as i32);
    assert!(call.reply.send(&line(3)) && call.reply.clone().send(&line(4)));
    assert!(call.reply.is_open());
    drop(call);
    assert_eq!(answers.map(Result::unwrap).collect::<Vec<_>>(), [line(3), line(4)]);
    assert!(world.posts.try_recv().is_err(), "a client whose reply was closed is not gone");
}

#[test]
fn a_closed_reply_takes_nothing_more() {
    let world = World::new();
    let answers = Asker::connect(world.dir.path()).unwrap().call(&ps(), &[]).unwrap();
    let call = world.call();
    call.reply.close();
    assert!(!call.reply.is_open() && !call.reply.send(&line(1)));
    assert_eq!(answers.count(), 0);
}

#[test]
fn a_client_that_leaves_is_gone_once() {
    let world = World::new();
    let answers = Asker::connect(world.dir.path()).unwrap().call(&ps(), &[]).unwrap();
    let call = world.call();
    drop(answers);
    assert_eq!(world.gone(), call.reply.id());
    assert!(!call.reply.is_open() && !call.reply.send(&line(1)));
    drop(call);
    assert!(world.posts.recv_timeout(Duration::from_millis(50)).is_err());
}

#[test]
fn a_client_that_only_stops_sending_is_answered() {
    let world = World::new();
    let mut stream = world.raw();
    stream.write_all(br#"{"version":1,"request":{"do":"down"}}"#).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let call = world.call();
    assert_eq!(call.request, Request::Down);
    call.reply.send(&line(1));
    drop(call);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "{\"is\":\"done\",\"lines\":[\"x\"]}\n");
}

#[test]
fn garbage_half_deep_and_foreign_requests_are_refused_in_words() {
    let world = World::new();
    let deep = format!("{{\"version\":1,\"request\":{}", "[".repeat(20_000));
    let long = [b'x'; MAX_REQUEST_BYTES + 1];
    for (text, word) in [
        (&b"\xff\xfe\x00\n"[..], "not a request: "),
        (b"{\"version\":1,\"request\":{\"do\":\"ps\",\"uni", "not a request: EOF"),
        (b"{\"version\":1,\"request\":{\"do\":\"dance\"}}\n", "unknown variant `dance`"),
        (b"{\"version\":7,\"request\":{\"do\":\"dance\"}}\n", "the client speaks version 7"),
        (b"{}\n", "missing field `version`"),
        (deep.as_bytes(), "not a request: "),
        (&long, "longer than 65536 bytes"),
    ] {
        let answer = world.answer(text);
        let Ok(Response::Error { message, code: 1 }) = serde_json::from_str(&answer) else { panic!("{answer}") };
        assert!(message.contains(word), "{message}");
    }
    assert_eq!(world.answer(b""), "");
    assert!(world.posts.try_recv().is_err(), "none of these is a call or gone");
}

#[test]
fn a_request_may_come_in_pieces() {
    let world = World::new();
    let mut stream = world.raw();
    for byte in b"{\"version\":1,\"request\":{\"do\":\"down\"}}\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    assert_eq!(world.call().request, Request::Down);
}

#[test]
fn descriptors_arrive_in_order() {
    let world = World::new();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let asker = Asker::connect(world.dir.path()).unwrap();
    let answers = asker.call(&ps(), &[null.as_fd(), theirs.as_fd()]).unwrap();
    drop(theirs);
    let call = world.call();
    assert_eq!(call.fds.len(), 2);
    let name = std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&call.fds[0]))).unwrap();
    assert_eq!(name.to_str(), Some("/dev/null"));
    UnixStream::from(call.fds.into_iter().nth(1).unwrap()).write_all(b"hello").unwrap();
    let mut text = String::new();
    (&ours).read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    drop(answers);
}

#[test]
fn more_descriptors_than_the_bound_are_closed() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage};
    let world = World::new();
    let mut stream = world.raw();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_REQUEST_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let many = [null.as_fd(); MAX_REQUEST_FDS];
    assert!(control.push(SendAncillaryMessage::ScmRights(&many)));
    rustix::net::sendmsg(&stream, &[io::IoSlice::new(b"{\"version\":1,")], &mut control, SendFlags::empty()).unwrap();
    control.clear();
    let one = [theirs.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&one)));
    rustix::net::sendmsg(&stream, &[io::IoSlice::new(b"\"request\":")], &mut control, SendFlags::empty()).unwrap();
    drop(theirs);
    stream.write_all(b"{\"do\":\"down\"}}\n").unwrap();
    assert_eq!(world.call().fds.len(), MAX_REQUEST_FDS);
    ours.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!((&ours).read(&mut [0]).unwrap(), 0, "the ninth was closed");
}

#[test]
fn a_client_that_does_not_read_is_cut_off_and_the_others_go_on() {
    let world = World::new();
    let _deaf = Asker::connect(world.dir.path()).unwrap().call(&ps(), &[]).unwrap();
    let deaf = world.call();
    let mut sent = 0;
    while deaf.reply.send(&line(1024 * 1024)) {
        sent += 1;
        assert!(sent < 100, "the queue is bounded");
    }
    assert_eq!(world.gone(), deaf.reply.id());
    let answers = Asker::connect(world.dir.path()).unwrap().call(&ps(), &[]).unwrap();
    world.call().reply.send(&line(1));
    assert_eq!(answers.count(), 1);
}

#[test]
fn a_slow_reader_gets_everything_in_order() {
    let world = World::new();
    let answers = Asker::connect(world.dir.path()).unwrap().call(&ps(), &[]).unwrap();
    let call = world.call();
    for n in 0..60_000 {
        assert!(call.reply.send(&Response::ExecStarted { pid: n, session: String::new() }));
    }
    drop(call);
    let mut next = 0;
    for answer in answers {
        assert_eq!(answer.unwrap(), Response::ExecStarted { pid: next, session: String::new() });
        next += 1;
        if next % 10_000 == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    assert_eq!(next, 60_000);
}

#[test]
fn a_thousand_waiting_clients_cost_no_turn_of_the_others_and_are_all_reached() {
    let soft = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    let wanted = 4096.min(soft.1);
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, wanted, soft.1).unwrap();
    let world = World::new();
    let silent: Vec<_> = (0..50).map(|_| world.raw()).collect();
    let waiting: Vec<_> = (0..1000)
        .map(|_| {
            let answers = Asker::connect(world.dir.path()).unwrap().call(&ps(), &[]).unwrap();
            (answers, world.call())
        })
        .collect();
    let answers = Asker::connect(world.dir.path()).unwrap().call(&ps(), &[]).unwrap();
    world.call().reply.send(&line(1));
    assert_eq!(answers.count(), 1);
    for (_, call) in &waiting {
        assert!(call.reply.send(&line(2)));
    }
    for (mut answers, call) in waiting {
        assert_eq!(answers.next().unwrap().unwrap(), line(2));
        drop(call);
        assert!(answers.next().is_none());
    }
    drop(silent);
}

#[test]
fn a_silent_client_is_told_and_let_go() {
    let world = World::new();
    let mut stream = world.raw();
    stream.write_all(b"{\"version\"").unwrap();
    let mut answer = String::new();
    let begin = Instant::now();
    let _ = stream.read_to_string(&mut answer);
    assert!(begin.elapsed() >= REQUEST_DEADLINE - Duration::from_millis(100), "{:?}", begin.elapsed());
    assert!(answer.contains("no complete request within 10 s"), "{answer}");
}

#[test]
fn dropping_the_server_flushes_first() {
    let mut world = World::new();
    let answers = Asker::connect(world.dir.path()).unwrap().call(&Request::Down, &[]).unwrap();
    let call = world.call();
    call.reply.send(&line(2_000_000));
    let reader = std::thread::spawn(move || answers.map(Result::unwrap).collect::<Vec<_>>());
    drop(world.server.take());
    assert_eq!(reader.join().unwrap(), [line(2_000_000)]);
    assert!(!call.reply.send(&line(1)));
}

#[test]
fn an_idle_server_does_not_wake_up() {
    let world = World::new();
    let _waiting = Asker::connect(world.dir.path()).unwrap().call(&ps(), &[]).unwrap();
    let _call = world.call();
    let switches = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let of = |name: &str, text: &str| text.lines().find_map(|l| l.strip_prefix(name).map(|v| v.trim().to_owned()));
        tasks
            .filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok())
            .filter(|text| of("Name:", text).as_deref() == Some("control"))
            .map(|text| of("voluntary_ctxt_switches:", &text).unwrap())
            .collect::<Vec<_>>()
    };
    // Other tests run servers in this process too: only that some server slept through is shown here.
    let before = switches();
    std::thread::sleep(Duration::from_millis(300));
    let after = switches();
    assert!(before.iter().any(|count| after.contains(count)));
}

#[test]
fn connecting_to_nothing_says_what_is_missing() {
    let dir = TempDir::new("nothing");
    let gone = dir.path().join("none");
    let words = |path: &std::path::Path| Asker::connect(path).unwrap_err().to_string();
    assert_eq!(
        words(&gone),
        format!(
            "no supervisor is running for {}: there is no such directory. Start one with `moored up`",
            gone.display()
        )
    );
    let run = dir.path().display().to_string();
    assert_eq!(
        words(dir.path()),
        format!("no supervisor is running for {run} ({run}/control.sock: no such file). Start one with `moored up`")
    );
    drop(crate::control::socket::bind(dir.path()).unwrap());
    assert!(words(dir.path()).contains("control.sock: connection refused"));
}

#[test]
fn a_restarting_supervisor_is_waited_for() {
    let dir = TempDir::new("restart");
    let _keeper = std::os::unix::net::UnixListener::bind(dir.path().join("keeper.sock")).unwrap();
    let path = dir.path().to_owned();
    let late = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        crate::control::socket::bind(&path).unwrap()
    });
    Asker::connect(dir.path()).unwrap();
    drop(late.join().unwrap());
}
