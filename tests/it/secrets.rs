//! `[[secret]]`: who can read it, what a change does, and that its bytes are on no disk and in nothing that is shown.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::support::{Supervisor, TempDir, busybox_root, is_root, skip, wait_for};
use super::world::{FOREVER, World, quoted};

/// Says in capitals what it reads, and again at each SIGHUP, with the number of these.
const TELLS: &str = "n=0; show() { echo \"seen $n $(tr a-z A-Z </tls/key)\"; }; trap 'n=$((n+1)); show' HUP; \
                     trap 'exit 0' TERM; show; while :; do sleep 1000 & wait; done";

/// A supervisor whose places are all in memory, and a root for its units elsewhere.
pub struct Shm {
    pub world: World,
    _root: TempDir,
}

impl std::ops::Deref for Shm {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

pub fn start(name: &str) -> Option<Shm> {
    if !is_root() {
        return None;
    }
    let shm = Path::new("/dev/shm");
    if !fs::read_to_string("/proc/mounts").unwrap().contains(" /dev/shm tmpfs ") {
        skip("no tmpfs at /dev/shm");
        return None;
    }
    let elsewhere = TempDir::new(name);
    let root = busybox_root(&elsewhere.0)?;
    let mut world = World { supervisor: Supervisor::prepare_in(TempDir::below(shm, name)), root };
    world.supervisor.up();
    Some(Shm { world, _root: elsewhere })
}

fn unit(world: &World, script: &str, tables: &str) -> String {
    let root = world.root.display();
    format!(
        "rootfs = \"{root}\"\n[process]\nargs = [\"/bin/sh\", \"-c\", {}]\nuser = \"1000:1000\"\n\
         [[secret]]\nsource = \"../key\"\ntarget = \"/tls/key\"\n{tables}\n",
        quoted(script)
    )
}

fn write_key(world: &World, text: &str, mode: u32) {
    let (key, fresh) = (world.dir.join("key"), world.dir.join("key.new"));
    fs::write(&fresh, text).unwrap();
    fs::set_permissions(&fresh, fs::Permissions::from_mode(mode)).unwrap();
    fs::rename(fresh, key).unwrap();
}

fn answers(world: &World) {
    wait_for("another supervisor", || world.run(&["ps"]).status.success().then_some(()));
}

fn files_below(dir: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => files_below(&entry.path(), all),
            kind if kind.is_file() => all.push(entry.path()),
            _ => {}
        }
    }
}

/// Nothing of it is in the state-dir, the logs, the records, or in what people are shown.
fn kept_secret(world: &World) {
    let mut files = Vec::new();
    for dir in ["state", "log", "run/records"] {
        files_below(&world.dir.join(dir), &mut files);
    }
    assert!(!files.is_empty());
    for file in files {
        // A record's temporary name may be gone already.
        let Ok(bytes) = fs::read(&file) else { continue };
        assert!(!bytes.windows(6).any(|part| part == b"hunter"), "{}", file.display());
    }
    let mut said = world.output();
    for command in [&["ps", "--json"][..], &["status", "web", "--json"], &["why", "web"], &["events"], &["plan"]] {
        let (_, out, err) = world.says(command);
        said.push_str(&(out + &err));
    }
    assert!(!said.contains("hunter"), "{said}");
}

#[test]
fn a_secret_is_for_its_user_and_swapped_with_one_reload() {
    let Some(world) = start("secret-reload") else { return };
    write_key(&world, "hunter2", 0o600);
    world.unit("web", &unit(&world, TELLS, "on_change = \"reload\""));
    let web = world.running("web");
    world.wait_log("web", "seen 0 HUNTER2");
    let inside = |user: &str, script: &str| world.says(&["exec", "-u", user, "web", "--", "/bin/sh", "-c", script]);
    assert_eq!(inside("1000", "stat -c %a-%u $(readlink -f /tls/key)").1, "400-1000\n");
    assert!(inside("2000", "cat /tls/key").2.contains("Permission denied"));
    write_key(&world, "hunter3", 0o640);
    world.wait_log("web", "seen 1 HUNTER3");
    write_key(&world, "hunter4", 0o644);
    world.wait_reason("web", "can be read by others, chmod 0600 it");
    world.kept("web", &web, "others can read it");
    fs::set_permissions(world.dir.join("key"), fs::Permissions::from_mode(0o600)).unwrap();
    world.wait_log("web", "seen 2 HUNTER4");
    world.kept("web", &web, "it is swapped");
    // The salt outlives the supervisor: the same bytes are no change.
    world.kill9(world.pids().supervisor);
    answers(&world);
    world.kept("web", &web, "the supervisor died");
    assert_eq!(world.log("web").matches("seen ").count(), 3);
    kept_secret(&world);
}

#[test]
fn another_secret_takes_a_new_container_and_one_that_is_not_known_takes_none() {
    let Some(mut world) = start("secret-restart") else { return };
    write_key(&world, "hunter2", 0o600);
    let text = unit(&world, TELLS, "");
    world.unit("web", &text);
    let first = world.running("web");
    write_key(&world, "hunter3", 0o600);
    let second = world.replaced("web", &first);
    world.wait_log("web", "seen 0 HUNTER3");

    // A supervisor that does not know the secret: its file is gone, and then the text is not valid either.
    fs::remove_file(world.dir.join("key")).unwrap();
    world.wait_reason("web", "key: does not exist");
    for broken in [false, true] {
        if broken {
            world.unit("web", "broken");
            world.wait_reason("web", "web.toml:1:");
        }
        world.kill9(world.pids().supervisor);
        answers(&world);
        world.wait_reason("web", "running with the last good text");
        world.kept("web", &second, "what is not known is no change");
    }
    world.unit("web", &text);
    write_key(&world, "hunter4", 0o600);
    world.replaced("web", &second);
    world.wait_log("web", "seen 0 HUNTER4");
    kept_secret(&world);

    // The last good text has it from where it lies, whatever is on disk now.
    let third = world.running("web");
    world.unit("web", "broken");
    world.wait_reason("web", "web.toml:1:");
    world.kill9(world.pids().supervisor);
    answers(&world);
    world.kept("web", &third, "the supervisor died");
    world.ok(&["restart", "web"]);
    let row = world.wait_unit("web", "started anew", |row| row["phase"] == "running" && row["id"] != third.id.as_str());
    assert!(row["reason"].as_str().unwrap().contains("the last good text"), "{row}");
    wait_for("it to be seen again", || (world.log("web").matches("seen 0 HUNTER4").count() == 2).then_some(()));
    world.unit("web", &text);
    world.ok(&["sync", "web"]);
    kept_secret(&world);

    // After a boot there is no copy of it.
    assert!(world.world.supervisor.stop().success());
    fs::remove_dir_all(world.dir.join("run")).unwrap();
    fs::remove_file(world.dir.join("key")).unwrap();
    world.world.supervisor.up();
    world.wait_unit("web", "without its secret", |row| {
        row["exit"].as_str().is_some_and(|exit| exit.contains("key is not there, or may not be read, and no copy"))
    });
    write_key(&world, "hunter5", 0o600);
    world.wait_log("web", "seen 0 HUNTER5");
    world.running("web");
    kept_secret(&world);
}

#[test]
fn a_name_as_user_and_a_run_dir_on_a_disk_are_refused_in_words() {
    let Some(world) = start("secret-words") else { return };
    write_key(&world, "hunter2", 0o600);
    world.unit("web", &unit(&world, FOREVER, "").replace("1000:1000", "daemon"));
    world.wait_reason("web", "with a [[secret]] write numbers like \"1000:1000\"");
    let Some(disk) = World::start("secret-disk") else { return };
    if fs::read_to_string("/proc/mounts").unwrap().contains(" /tmp tmpfs ") {
        return skip("/tmp is in memory");
    }
    write_key(&disk, "hunter2", 0o600);
    disk.unit("web", &unit(&disk, FOREVER, ""));
    disk.wait_unit("web", "refused", |row| {
        row["exit"].as_str().is_some_and(|exit| exit.contains("is on a disk: use a --run-dir on a tmpfs"))
    });
    kept_secret(&disk);
}
