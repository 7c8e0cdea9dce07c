//! The README's first command.

use std::path::Path;
use std::process::{Command, Stdio};

use super::support::is_root;

/// Another server on this port would answer instead of the sample.
const PORT: u16 = 8080;

#[test]
fn the_samples_run_as_the_readme_says() {
    if !is_root() || std::net::TcpListener::bind(("127.0.0.1", PORT)).is_err() {
        return super::support::skip("needs root and port 8080");
    }
    let output = Command::new("sh")
        .args(["examples/run-samples", "--once", "--debug"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .env("MOORED_SAMPLES_CGROUP", format!("/moored-it-samples-{}", std::process::id()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}{err}", output.status);
    let row =
        |unit: &str| out.lines().find(|line| line.starts_with(unit)).unwrap_or_else(|| panic!("no {unit} in\n{out}"));
    assert!(row("hello ").contains("completed"), "{out}");
    assert!(row("web ").contains("running"), "{out}");
    assert!(row("flaky ").contains("running") || row("flaky ").contains("backoff"), "{out}");
    assert!(out.contains("hello from ") && out.contains(", page "), "{out}");
}
