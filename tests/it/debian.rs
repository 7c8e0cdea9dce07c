//! A whole distribution inside: a Debian root that `tests/run` made, read-only and shared by whoever runs in it.

use std::fs;
use std::path::{Path, PathBuf};

use super::support::{Supervisor, is_root, skip};

pub fn root() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-roots/debian");
    if !root.join("usr/bin/perl").exists() {
        skip("there is no Debian root in target/test-roots: tests/run makes it");
        return None;
    }
    is_root().then_some(root)
}

#[test]
fn a_distribution_has_what_its_programs_need() {
    let Some(root) = root() else { return };
    let supervisor = Supervisor::start("debian");
    let script = concat!(
        ". /etc/os-release; echo id $ID; ",
        "perl -e 'print scalar(getpwuid(33)), qq(\\n)'; ",
        "su -s /bin/sh www-data -c 'id -un; echo home $HOME'; ",
        "dpkg -s bash | grep Status; ",
        "mktemp >/dev/null && echo tmp is writable; : 2>/dev/null >/x || echo root is not; ",
        "echo {1..3} | tr ' ' +; ",
        "sleep 0.01 & wait $!; echo up; exec sleep infinity"
    );
    supervisor.unit(
        "distro",
        &format!(
            "rootfs = {root:?}\n[process]\nargs = [\"/bin/bash\", \"-c\", {script:?}]\ninit = true\nenv = {{ LANG = \"C.UTF-8\" }}\n[security]\ncapabilities = \"docker\"\n"
        ),
    );
    supervisor.wait_log("distro", "up\n");
    let expected = "id debian\nwww-data\nwww-data\nhome /var/www\nStatus: install ok installed\ntmp is writable\nroot is not\n1+2+3\nup\n";
    assert_eq!(supervisor.log("distro"), expected);
    let inside = supervisor.ok(&[
        "exec",
        "distro",
        "--",
        "bash",
        "-lc",
        "type -t test; head -1 /etc/passwd; apt-get --version | head -1",
    ]);
    assert!(inside.starts_with("builtin\nroot:x:0:0:root:") && inside.contains("apt "), "{inside}");
    supervisor.ok(&["stop", "distro"]);
    let row = supervisor.wait_phase("distro", &["stopped"]);
    // The tiny init forwards TERM, and ends as its program did.
    assert_eq!(row["exit"], "code 143", "{row}");
    assert!(!fs::exists(root.join("x")).unwrap());
}
