//! Hosts whose v1 hierarchies hold the controllers, with cgroup v2 mounted nowhere: everything works through a mount of it that no path
//! leads to (pure v2 is in `vm`; hybrid is where the other tests run). And what becomes of the root of the containers' cgroups.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::support::{Supervisor, TempDir, busybox_root, cgroup2, end_of, is_root, skip, tool, wait_for};

/// Where hybrid hosts mount v2.
const UNIFIED: &str = "/sys/fs/cgroup/unified";

/// The command in a mount namespace without cgroup v2, its output in a file.
fn without_unified(command: &Command, output: &Path) -> Command {
    let mut wrapped = Command::new("unshare");
    wrapped.args(["-m", "sh", "-c", "umount /sys/fs/cgroup/unified && exec \"$@\"", "sh"]);
    wrapped.arg(command.get_program()).args(command.get_args());
    let output = fs::File::options().create(true).append(true).open(output).unwrap();
    wrapped.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
    wrapped
}

fn is_hybrid() -> bool {
    let hybrid = cgroup2() == Path::new(UNIFIED);
    if !hybrid {
        skip("needs a host with cgroup v1 and v2");
    }
    hybrid
}

/// A file of the directory that v1's `controller` has at `path`.
fn legacy(controller: &str, path: &str, file: &str) -> String {
    let file = PathBuf::from(format!("/sys/fs/cgroup/{controller}{path}/{file}"));
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())).trim().to_owned()
}

#[test]
fn a_bundle_runs_where_v2_is_mounted_nowhere() {
    if tool("unshare").is_none() || !is_root() || !is_hybrid() {
        return;
    }
    let dir = TempDir::new("cgroup-oci");
    let Some(root) = busybox_root(&dir.0) else { return };
    let id = dir.0.file_name().unwrap().to_string_lossy().into_owned();
    let mut config: serde_json::Value = serde_json::from_str(moored::oci::template()).unwrap();
    config["root"]["path"] = serde_json::json!(root);
    config["process"]["terminal"] = serde_json::json!(false);
    let look = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max; grep -c . /proc/self/cgroup; exit 5";
    config["process"]["args"] = serde_json::json!(["/bin/sh", "-c", look]);
    config["linux"]["resources"]["memory"] = serde_json::json!({ "limit": 33_554_432 });
    config["linux"]["resources"]["pids"] = serde_json::json!({ "limit": 17 });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut run = Command::new(env!("CARGO_BIN_EXE_moored"));
    run.arg("oci").arg("--root").arg(dir.join("state")).args(["run", "--bundle"]).arg(&dir.0).arg(&id);
    let output = dir.join("output");
    let status = without_unified(&run, &output).status().unwrap();
    let output = fs::read_to_string(output).unwrap();
    assert_eq!(status.code(), Some(5), "{output}");
    assert!(output.starts_with("33554432\n17\n"), "{output}");
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let v2 = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
    assert!(!cgroup2().join(v2.trim_start_matches('/')).join(&id).exists(), "its cgroup is left");
}

#[test]
fn units_run_where_v2_is_mounted_nowhere() {
    if tool("unshare").is_none() || !is_root() || !is_hybrid() {
        return;
    }
    let supervisor = Supervisor::prepare("cgroup-up");
    let Some(root) = busybox_root(&supervisor.dir.0) else { return };
    let unit = format!(
        "rootfs = {root:?}\n[process]\nargs = [\"/bin/sleep\", \"1000\"]\n[resources]\nmemory = \"32M\"\ncpus = 0.5\npids = 17\n"
    );
    supervisor.unit("one", &unit);
    let up = supervisor.moored(&["up", "--units", &supervisor.units().display().to_string()]);
    let mut anchor = without_unified(&up, &supervisor.dir.join("up.log")).spawn().unwrap();
    wait_for("up to answer", || supervisor.run(&["ps"]).status.success().then_some(()));
    let row = supervisor.wait_phase("one", &["running"]);
    let path = format!("{}/{}", supervisor.cgroup_root, row["id"].as_str().unwrap());
    assert_eq!(legacy("memory", &path, "memory.limit_in_bytes"), "33554432");
    assert_eq!(legacy("cpu", &path, "cpu.cfs_quota_us"), "50000");
    assert_eq!(legacy("pids", &path, "pids.max"), "17");
    // Seen from where v2 is mounted it is the same cgroup.
    let here = supervisor.cgroup().join(row["id"].as_str().unwrap());
    assert_eq!(fs::read_to_string(here.join("cgroup.procs")).unwrap().trim(), row["pid"].to_string());
    assert_eq!(supervisor.run(&["exec", "one", "--", "/bin/sh", "-c", "exit 9"]).status.code(), Some(9));
    supervisor.ok(&["stop", "one"]);
    supervisor.wait_phase("one", &["stopped"]);
    assert!(!here.exists());
    supervisor.ok(&["down"]);
    assert!(
        end_of(&mut anchor, super::support::PATIENCE).is_some_and(|status| status.success()),
        "{}",
        supervisor.output()
    );
    for place in [supervisor.cgroup(), format!("/sys/fs/cgroup/memory{}", supervisor.cgroup_root).into()] {
        assert!(!place.exists(), "{} is left", place.display());
    }
}

#[test]
fn a_root_that_was_there_before_stays() {
    if !is_root() {
        return;
    }
    let mut supervisor = Supervisor::prepare("cgroup-root");
    fs::create_dir(supervisor.cgroup()).unwrap();
    supervisor.up();
    supervisor.ok(&["down"]);
    assert!(supervisor.cgroup().is_dir());
}
