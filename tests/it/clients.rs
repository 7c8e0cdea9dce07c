//! Debian's podman and containerd with this binary as their runtime: `tests/clients` does with each what people do, some fifty steps, and
//! runs them with runc and crun as well when it is called by hand.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use super::oci::MOORED;
use super::support::{TempDir, is_root, skip, tool};

/// Installed by `tests/run`.
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/python");

fn run(client: &str, tools: &[&str], steps: usize) {
    if !is_root() || tools.iter().chain(&["busybox", "script"]).any(|name| tool(name).is_none()) {
        return;
    }
    let dir = TempDir::new(&format!("clients-{client}"));
    // The name makes it runc's command line.
    let runtime = dir.join("moored-runc");
    symlink(MOORED, &runtime).unwrap();
    let out = fs::File::create(dir.join("out")).unwrap();
    let mut script = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients"));
    script
        .env("PYTHONPATH", PYTHON)
        .arg(client)
        .arg(&runtime)
        .stdin(Stdio::null())
        .stderr(out.try_clone().unwrap())
        .stdout(out);
    let status = script.status().unwrap();
    let said = fs::read_to_string(dir.join("out")).unwrap();
    let passed = said.lines().filter(|line| line.starts_with("ok ")).count();
    // As many must have passed: a script that stops early has not shown anything.
    assert!(status.success() && passed >= steps, "{said}");
}

#[test]
fn podman_and_conmon_take_it_for_runc() {
    run("podman", &["podman", "conmon"], 60);
}

#[test]
fn containerd_and_ctr_take_it_for_runc() {
    run("ctr", &["containerd", "ctr"], 45);
}

/// As the kubelet does: pods of several containers, on a network of CNI plugins.
#[test]
fn a_client_of_the_cri_gets_its_pods() {
    let has_grpc = Command::new("python3").args(["-c", "import grpc"]).env("PYTHONPATH", PYTHON).output();
    if !has_grpc.is_ok_and(|output| output.status.success()) {
        skip("no grpcio for python3 in target/python: tests/run puts it there");
        return;
    }
    if !Path::new("/usr/lib/cni/bridge").exists() {
        skip("no CNI plugins in /usr/lib/cni");
        return;
    }
    run("cri", &["containerd", "ctr", "nsenter"], 40);
}
