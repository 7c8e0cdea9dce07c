//! A path of the host's that hangs: a file system whose server does not answer. Whoever looks at it waits, and the keeper does not for ever.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::{Value, json};

use super::oci::Place;
use super::support::{Supervisor, TempDir, skip};

/// A FUSE file system that nobody serves.
struct Hung {
    dir: TempDir,
    _server: OwnedFd,
}

impl Hung {
    fn new() -> Option<Hung> {
        let opened = fs::File::options().read(true).write(true).open("/dev/fuse");
        let Ok(server) = opened.map(OwnedFd::from) else {
            skip("needs /dev/fuse");
            return None;
        };
        let dir = TempDir::new("hung-fuse");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        let options = std::ffi::CString::new(options).unwrap();
        mount("nobody", &dir.0, "fuse", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str()).unwrap();
        Some(Hung { dir, _server: server })
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        let _ = unmount(&self.dir.0, UnmountFlags::DETACH);
    }
}

#[test]
fn a_bind_source_that_hangs_holds_the_keeper_for_a_time_and_no_longer() {
    // Its binds are copied by the keeper's helper.
    let Some(place) = Place::new("hung", |config| {
        super::namespaces::map_users(config);
        config["process"]["args"] = json!(["/bin/sleep", "1000"]);
    }) else {
        return;
    };
    let Some(hung) = Hung::new() else { return };
    let path = place.dir.join("b/config.json");
    let unit =
        |bundle: &str| format!("bundle = \"{}\"\n[restart]\npolicy = \"never\"\n", place.dir.join(bundle).display());
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let bind = json!({ "destination": "/data", "type": "bind", "source": hung.dir.join("x"), "options": ["bind"] });
    config["mounts"].as_array_mut().unwrap().push(bind);
    fs::create_dir(place.dir.join("b-hung")).unwrap();
    fs::write(place.dir.join("b-hung/config.json"), config.to_string()).unwrap();
    let mut supervisor = Supervisor::start("hung-s");
    supervisor.unit("hung", &unit("b-hung"));
    supervisor.wait_phase("hung", &["failed"]);
    let why = supervisor.ok(&["status", "hung"]);
    assert!(why.contains("was not done in 10 s and killed: a path of the host's may hang"), "{why}");
    supervisor.unit("web", &unit("b"));
    supervisor.wait_phase("web", &["running"]);
    supervisor.ok(&["exec", "web", "--", "true"]);
    assert!(supervisor.stop().success());
}
