//! Works for a few seconds, then fails in one of several ways, so that there is something to supervise.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn main() {
    // Not println! and eprintln!, which panic when nobody listens.
    let say = |text: &str| drop(writeln!(std::io::stdout(), "{text}"));
    let complain = |text: &str| drop(writeln!(std::io::stderr(), "{text}"));
    let chance = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.subsec_nanos());
    for tick in 0..2 + chance % 4 {
        say(&format!("working, tick {tick}"));
        std::thread::sleep(Duration::from_secs(1));
    }
    match chance / 7 % 3 {
        0 => {
            complain("the moon is in the wrong place: giving up");
            std::process::exit(3)
        }
        1 => {
            complain("this cannot be: aborting");
            std::process::abort()
        }
        _ => say("enough for today"),
    }
}
