//! The boot-loop guard over several starts of `moored init`, each in a pid namespace of its own: one that is killed takes all with it, as a power
//! cut does, and what is in the run-dir is lost.

use std::fs::{self, File};
use std::process::Child;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::process1::{process_1, unshared};
use super::support::{Supervisor, end_of, is_root, tool, wait_for};

const SLEEPS: &str =
    "executable = \"/bin/busybox\"\nprocess.args = [\"/busybox\", \"sleep\", \"100000\"]\nstop.timeout = \"1s\"\n";
const FAILS: &str = "executable = \"/bin/busybox\"\nprocess.args = [\"/busybox\", \"false\"]\n";

struct Machine {
    moored: Supervisor,
    unshare: Option<Child>,
}

impl Machine {
    fn boot(&mut self) {
        let units = self.moored.units().display().to_string();
        let words = ["init", "--units", &units, "--boot-loop-guard", "2", "--good-after", "1s"];
        let log = File::options().create(true).append(true).open(self.moored.dir.join("up.log")).unwrap();
        let mut command = unshared(&self.moored, &["--mount-proc"], &words);
        self.unshare = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        wait_for("it answers", || self.moored.run(&["ps"]).status.success().then_some(()));
    }

    fn signal(&mut self, signal: Signal) {
        let mut unshare = self.unshare.take().unwrap();
        kill_process(Pid::from_raw(process_1(&unshare)).unwrap(), signal).unwrap();
        assert!(end_of(&mut unshare, Duration::from_secs(20)).is_some(), "{}", self.moored.output());
        fs::remove_dir_all(self.moored.dir.join("run")).unwrap();
    }

    /// As a power cut.
    fn cut(&mut self) {
        self.signal(Signal::KILL);
    }

    fn is_good(&self) {
        wait_for("a good boot", || {
            let record = fs::read(self.moored.dir.join("state/boots.json")).ok()?;
            String::from_utf8_lossy(&record).contains("\"good\"").then_some(())
        });
    }

    fn notes(&self) -> String {
        String::from_utf8_lossy(&self.moored.run(&["status"]).stdout).into_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut unshare) = self.unshare.take() {
            let _ = kill_process(Pid::from_child(&unshare), Signal::KILL);
            let _ = unshare.wait();
        }
    }
}

#[test]
fn bad_boots_in_a_row_lead_back_to_the_set_that_was_good() {
    if !is_root() || tool("unshare").is_none() || tool("busybox").is_none() {
        return;
    }
    let mut machine = Machine { moored: Supervisor::prepare("boot-loop"), unshare: None };
    machine.moored.unit("web", SLEEPS);
    machine.moored.unit("db", SLEEPS);
    machine.boot();
    machine.is_good();
    machine.moored.unit("web", FAILS);
    machine.moored.unit("new", SLEEPS);
    machine.moored.wait_phase("web", &["backoff", "failed"]);
    machine.moored.wait_phase("new", &["running"]);
    machine.cut();
    // It was a good one all the same: that is said of units that did well for long enough. The next ones never are.
    for _ in 0..2 {
        machine.boot();
        machine.moored.wait_phase("web", &["backoff", "failed"]);
        assert!(!machine.notes().contains("boot-loop guard"), "{}", machine.notes());
        // One that somebody ends is neither good nor bad.
        machine.signal(Signal::TERM);
        machine.boot();
        machine.moored.wait_phase("web", &["backoff", "failed"]);
        machine.cut();
    }
    machine.boot();
    machine.moored.wait_phase("web", &["running"]);
    let notes = machine.notes();
    for words in [
        "Note: boot-loop guard: 2 boots in a row were not good; this one runs the last good set instead of what is on disk",
        "Back to their earlier text until their files change: web.",
        "Stopped until `moored start`, as they are new: new",
    ] {
        assert!(notes.contains(words), "no {words:?} in\n{notes}");
    }
    machine.moored.wait_phase("new", &["stopped"]);
    let row = machine.moored.ok(&["ps", "web", "--json"]);
    assert!(row.contains("rolled back: 2 boots in a row were not good"), "{row}");
    assert_eq!(fs::read_to_string(machine.moored.units().join("web.toml")).unwrap(), FAILS, "the file is the user's");
    // This one is good: the count and the set are its own.
    machine.is_good();
    machine.cut();
    machine.boot();
    machine.moored.wait_phase("web", &["running"]);
    assert!(!machine.notes().contains("boot-loop guard"), "{}", machine.notes());
    // The ways out: a file that changes, and an order.
    machine.moored.ok(&["start", "new"]);
    machine.moored.unit("web", &format!("description = \"mended\"\n{SLEEPS}"));
    machine.moored.wait_phase("new", &["running"]);
    wait_for("the text on disk is in force", || {
        let row = machine.moored.ok(&["ps", "web", "--json"]);
        (!row.contains("rolled back")).then_some(())
    });
    machine.signal(Signal::TERM);
}
