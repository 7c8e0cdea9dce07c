//! `moored attach`: what a unit prints from now on, without being anything to it.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use super::support::wait_for;
use super::world::World;

/// Says so when it begins and on USR1.
const TALKS: &str = "trap 'exit 0' TERM; trap 'echo poked' USR1; echo begun; sleep 1000 & while :; do wait; done";

/// One who looks, and what he has seen.
struct Client {
    child: Child,
    seen: PathBuf,
}

impl Client {
    fn of(world: &World, name: &str) -> Client {
        let seen = world.dir.join(name);
        let mut command = world.moored(&["attach", "web"]);
        let output = File::create(&seen).unwrap();
        let child = command.stdin(Stdio::null()).stdout(output).stderr(Stdio::null()).spawn().unwrap();
        Client { child, seen }
    }

    fn seen(&self) -> String {
        fs::read_to_string(&self.seen).unwrap()
    }

    fn count(&self, text: &str) -> usize {
        self.seen().matches(text).count()
    }

    /// Has the unit print until it is seen here: nothing says when somebody has begun to look.
    fn sees_more(&self, world: &World) {
        let before = self.count("poked");
        wait_for("a line to be seen", || {
            world.ok(&["kill", "-s", "USR1", "web"]);
            (self.count("poked") > before).then_some(())
        });
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn each_client_sees_what_comes_and_the_unit_does_not_notice() {
    let Some(world) = World::start("attach") else { return };
    world.script("web", TALKS, "");
    let running = world.running("web");
    world.wait_log("web", "begun");
    let mut one = Client::of(&world, "one");
    let other = Client::of(&world, "other");
    one.sees_more(&world);
    other.sees_more(&world);
    assert!(one.seen().lines().chain(other.seen().lines()).all(|line| line == "poked"), "not what was before");
    one.kill();
    other.sees_more(&world);
    assert_eq!(world.running("web"), running, "its end is nothing to the unit");

    world.next_supervisor();
    assert_eq!(world.running("web"), running);
    other.sees_more(&world);

    assert_eq!(other.count("begun"), 0);
    world.ok(&["restart", "web"]);
    wait_for("the next run to be seen", || (other.count("begun") == 1).then_some(()));
    world.running("web");
    other.sees_more(&world);
    // The log has every line that anybody saw.
    let seen = other.count("poked");
    let log = world.log("web");
    assert!(log.matches("poked").count() >= seen && log.ends_with('\n'), "{log}");
    assert_eq!(log.matches("begun").count(), 2, "{log}");
}

#[test]
fn what_does_not_run_and_what_is_not_there_are_refused() {
    let Some(mut world) = World::start("attach-refused") else { return };
    world.service("web", "one");
    let (code, _, err) = world.says(&["attach", "wbe"]);
    assert_eq!((code, err.as_str()), (1, "moored: no unit `wbe`, did you mean `web`?\n"));
    world.ok(&["stop", "web"]);
    world.wait_phase("web", &["stopped"]);
    let (code, _, err) = world.says(&["attach", "web"]);
    let expected = "moored: web is not running, it is stopped: `moored logs web` has what it printed, `moored start web` runs it\n";
    assert_eq!((code, err.as_str()), (1, expected));
    let (code, _, err) = world.says(&["attach"]);
    assert!(code == 64 && err.contains("required"), "{err}");
    world.supervisor.stop();
    let (code, _, err) = world.says(&["attach", "web"]);
    assert!(code == 69 && err.contains("moored up"), "{err}");
}
