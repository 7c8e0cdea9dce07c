//! Debian's podman and containerd with this binary as their runtime: `tests/clients` does with each what people do, some fifty steps, and
//! runs them with runc and crun as well when it is called by hand.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use super::oci::MOORED;
use super::support::{TempDir, is_root, tool};

/// As many must have passed: a script that stops early has not shown anything.
const STEPS: usize = 40;

fn run(client: &str, tools: &[&str]) {
    if !is_root() || tools.iter().chain(&["busybox", "script"]).any(|name| tool(name).is_none()) {
        return;
    }
    let dir = TempDir::new(&format!("clients-{client}"));
    // The name makes it runc's command line.
    let runtime = dir.join("moored-runc");
    symlink(MOORED, &runtime).unwrap();
    let out = fs::File::create(dir.join("out")).unwrap();
    let mut script = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients"));
    script.arg(client).arg(&runtime).stdin(Stdio::null()).stderr(out.try_clone().unwrap()).stdout(out);
    let status = script.status().unwrap();
    let said = fs::read_to_string(dir.join("out")).unwrap();
    let passed = said.lines().filter(|line| line.starts_with("ok ")).count();
    assert!(status.success() && passed >= STEPS, "{said}");
}

#[test]
fn podman_and_conmon_take_it_for_runc() {
    run("podman", &["podman", "conmon"]);
}

#[test]
fn containerd_and_ctr_take_it_for_runc() {
    run("ctr", &["containerd", "ctr"]);
}
