//! Units with a terminal of their own: what is on it is in the log, and it outlives everybody who holds it but the last.

use std::fs;

use super::leaks::settled;
use super::support::{program, wait_for};
use super::world::World;

/// On USR1 it says how often, and whether it still has its terminal; a hang-up is said too.
const TALKS: &str = "trap 'exit 0' TERM; trap 'echo hung-up' HUP; n=0; trap 'n=$((n+1)); test -t 0 && test -t 1 && echo poked $n' USR1; \
                     echo begun; while :; do sleep 1000 & wait; done";
const TERMINAL: &str = "terminal = true";

/// Has it say one more line, and waits until that is in the log.
fn poked(world: &World, unit: &str, times: u32) {
    world.ok(&["kill", "-s", "USR1", unit]);
    world.wait_log(unit, &format!("poked {times}\r\n"));
}

#[test]
fn a_program_is_on_a_terminal_and_all_of_it_is_in_the_log() {
    let Some(world) = World::start("terminals") else { return };
    let asks = "for n in 0 1 2; do test -t $n || echo not $n; done; echo $(tty) $TERM; echo to err >&2; echo console >/dev/console; \
                stat -c %%U:%%a $(tty); stty size; \
                i=0; while [ $i -lt 4000 ]; do i=$((i+1)); echo line $i of very many; done; echo the last";
    let printed =
        world.printed("all", asks, &format!("{TERMINAL}\n[oci]\nprocess.consoleSize = {{ height = 33, width = 99 }}"));
    let (first, rest) = printed.split_once("line 1 of").unwrap();
    assert_eq!(first, "/dev/pts/0 xterm\r\nto err\r\nconsole\r\nroot:620\r\n33 99\r\n");
    let expected: String = (2..=4000).map(|n| format!("line {n} of very many\r\n")).collect();
    assert_eq!(rest, format!(" very many\r\n{expected}the last\r\n"), "nothing is lost at the end");
    // Behind the small init too, and as somebody else, whose terminal it is.
    let asks = "echo $(tty) $(stat -c %%u $(tty)) $(id -u); echo mine >$(tty)";
    let printed = world.printed("init", asks, &format!("{TERMINAL}\ninit = true\nuser = \"1000:1000\""));
    assert_eq!(printed, "/dev/pts/0 1000 1000\r\nmine\r\n");
    // With ids of its own it is that user's, who has no rights outside.
    let asks = "tty; echo mine >$(tty); stat -c %%u $(tty); echo console >/dev/console";
    let printed = world.printed("users", asks, &format!("{TERMINAL}\n[security]\nuserns = \"auto\""));
    assert_eq!(printed, "/dev/pts/0\r\nmine\r\n0\r\nconsole\r\n");
    let row = world.printed("none", "test -t 0 || test -t 1 || echo none", "");
    assert_eq!(row, "none\n");
}

#[test]
fn a_bundle_has_the_terminal_that_its_config_json_asks_for() {
    let Some(world) = World::start("terminals-bundle") else { return };
    let bundle = world.dir.join("bundle");
    fs::create_dir(&bundle).unwrap();
    let spec = std::process::Command::new(program()).args(["oci", "spec"]).current_dir(&bundle).status();
    assert!(spec.unwrap().success());
    let path = bundle.join("config.json");
    let mut config: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(config["process"]["terminal"], true, "it is `runc spec`'s default");
    config["root"]["path"] = world.root.display().to_string().into();
    config["process"]["args"] = serde_json::json!(["/bin/sh", "-c", "tty; echo $TERM; stty size || true"]);
    config["process"]["consoleSize"] = serde_json::json!({ "height": 25, "width": 81 });
    fs::write(&path, config.to_string()).unwrap();
    let text = format!("bundle = \"{}\"\ntype = \"oneshot\"\n", bundle.display());
    assert_eq!(world.printed_by("web", &text), "/dev/pts/0\r\nxterm\r\n25 81\r\n");
    let printed = world.printed_by("not", &format!("{text}process.terminal = false\n"));
    assert!(printed.starts_with("not a tty\n"), "{printed}");
    assert!(!world.output().contains("not honoured"), "{}", world.output());
}

#[test]
fn it_outlives_supervisor_keeper_and_both_together() {
    let Some(world) = World::start("terminals-deaths") else { return };
    world.script("web", TALKS, TERMINAL);
    let running = world.running("web");
    world.wait_log("web", "begun");
    let kept = |times: u32, what: &str| {
        poked(&world, "web", times);
        assert_eq!(world.running("web"), running, "{what}");
    };
    kept(1, "at first");
    world.next_supervisor();
    kept(2, "a new supervisor");
    // What is said while there is no supervisor is read by the next one.
    let pids = world.pids();
    world.kill9(pids.supervisor);
    signal(running.pid);
    world.another(|now| now.supervisor != pids.supervisor);
    world.wait_log("web", "poked 3\r\n");
    let builds = world.ok(&["upgrade", program().to_str().unwrap()]);
    kept(4, &builds);
    // Both: only the anchor holds it.
    let pids = world.pids();
    world.kill9(pids.keeper);
    world.kill9(pids.supervisor);
    world.another(|now| now.supervisor != pids.supervisor && now.keeper != pids.keeper);
    kept(5, "the anchor in the place of the keeper, and a new supervisor");
    world.next_supervisor();
    kept(6, "another supervisor of the anchor's");
    let log = world.log("web");
    let said: Vec<String> = (1..=6).map(|n| format!("poked {n}\r\n")).collect();
    assert_eq!(log, format!("begun\r\n{}", said.concat()), "once each, and no hang-up");
    // Of the next run it is another.
    world.ok(&["restart", "web"]);
    let next = world.replaced("web", &running);
    running.ended();
    poked(&world, "web", 1);
    assert_ne!(next.id, running.id);
}

#[test]
fn keeper_or_anchor_alone_is_enough() {
    let Some(world) = World::start("terminals-alone") else { return };
    world.script("web", TALKS, TERMINAL);
    let running = world.running("web");
    world.wait_log("web", "begun");
    let pids = world.pids();
    world.kill9(pids.anchor.unwrap());
    world.next_supervisor();
    poked(&world, "web", 1);
    assert_eq!(world.running("web"), running, "only the keeper held it");
    drop(world);
    let Some(world) = World::start("terminals-keeper") else { return };
    world.script("web", TALKS, TERMINAL);
    let running = world.running("web");
    world.wait_log("web", "begun");
    let pids = world.pids();
    world.kill9(pids.keeper);
    world.another(|now| now.keeper != pids.keeper);
    poked(&world, "web", 1);
    world.next_supervisor();
    poked(&world, "web", 2);
    assert_eq!(world.running("web"), running, "the anchor is the keeper");
    assert!(!world.log("web").contains("hung-up"));
}

#[test]
fn an_end_while_nobody_supervises_is_read_to_the_last_byte() {
    let Some(world) = World::start("terminals-end") else { return };
    let script = "trap 'echo the last words; exit 3' USR1; echo begun; sleep 1000 & wait";
    world.script("web", script, &format!("{TERMINAL}\n[restart]\npolicy = \"never\""));
    for (round, both) in [false, true].into_iter().enumerate() {
        let running = world.running("web");
        wait_for("its beginning", || (world.log("web").matches("begun").count() > round).then_some(()));
        let pids = world.pids();
        if both {
            world.kill9(pids.keeper);
        }
        world.kill9(pids.supervisor);
        signal(running.pid);
        world.another(|now| now.supervisor != pids.supervisor);
        let row = world.wait_phase("web", &["failed"]);
        assert_eq!(row["exit"], "code 3", "{row}");
        assert_eq!(world.log("web"), "begun\r\nthe last words\r\n".repeat(round + 1));
        if round == 0 {
            world.ok(&["start", "web"]);
        }
    }
}

#[test]
fn a_terminal_that_nobody_has_open_can_be_opened_again() {
    let Some(world) = World::start("terminals-closed") else { return };
    let script = "trap 'exit 0' TERM; trap 'echo back >/dev/console' USR1; echo begun; exec <&- >&- 2>&-; \
                  while :; do sleep 1000 & wait; done";
    world.script("web", script, TERMINAL);
    let running = world.running("web");
    world.wait_log("web", "begun\r\n");
    for times in 1..=3 {
        world.ok(&["kill", "-s", "USR1", "web"]);
        wait_for("it to be back", || (world.log("web").matches("back\r\n").count() == times).then_some(()));
    }
    assert_eq!(world.running("web"), running);
}

#[test]
fn nothing_of_it_is_left_when_it_is_over() {
    let Some(world) = World::start("terminals-leaks") else { return };
    let once = |name: &str| {
        world.printed(name, "tty", TERMINAL);
        world.remove_unit(name);
        world.wait_gone(name);
    };
    once("warm");
    let before = settled(&world);
    for n in 0..10 {
        once(&format!("again{n}"));
    }
    // One that cannot be set up has made its ends all the same.
    world.unit("bad", &world.text("type = \"oneshot\"", "tty", &format!("{TERMINAL}\ncwd = \"/proc/version\"")));
    world.wait_phase("bad", &["failed"]);
    world.remove_unit("bad");
    world.wait_gone("bad");
    assert_eq!(settled(&world), before);
}

/// USR1, without the supervisor.
fn signal(pid: i64) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
}

#[test]
fn what_has_the_hosts_dev_has_none() {
    let Some(world) = World::prepare("terminals-refused") else { return };
    let check = |text: &str| {
        let path = world.dir.join("x.toml");
        fs::write(&path, text).unwrap();
        let (code, out, err) = world.says(&["check", path.to_str().unwrap()]);
        (code, out + &err)
    };
    let (code, said) = check("[process]\nargs = [\"/bin/x\"]\nterminal = true\n[security]\nprofile = \"host\"\n");
    assert!(code == 1 && said.contains("x.toml:3:1 `process.terminal` beside"), "{said}");
    let (code, said) = check("rootfs = \"/srv/x\"\n[process]\nargs = [\"/bin/x\"]\ntty = true\n");
    assert!(code == 1 && said.contains("unknown key `tty`, did you mean `terminal`?"), "{said}");
}
