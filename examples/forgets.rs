//! For tests: an upgrade that goes wrong where nobody expects it. In the dry run it says that it can take over; executed, it has forgotten all
//! that it was handed, and is `/init` from its beginning.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Where an answer is expected (src/keeper/check.rs).
const ANSWER: &str = "/proc/self/fd/4";

fn main() -> io::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("upgrade-check") {
        return File::options().write(true).open(ANSWER)?.write_all(b"{\"moored\":\"forgets\",\"refusal\":null}");
    }
    let arguments = std::env::args_os().skip(1);
    Err(Command::new("/init").args(arguments).env_remove("MOORED_STATE").exec())
}
