//! Roots that are the union of directories: what is shared, what is a container's own, what is kept, and what is refused.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, FlockOperation, Mode, XattrFlags};
use rustix::mount::{MountFlags, mount};

use super::support::skip;
use super::world::{FOREVER, World, quoted};

/// What overlayfs's options, the kernel's tables and shells take for something else.
const NAMES: [&str; 2] = ["ba:se, \"1\" = \\x", "a\tp\\p,upperdir=x:lowerdir"];

/// A supervisor, the busybox root under a name with all of that, and a layer above it. `None` where there is no overlayfs.
struct Layers {
    world: World,
    base: PathBuf,
    app: PathBuf,
}

impl Layers {
    fn start(name: &str) -> Option<Layers> {
        let mut layers = Layers::prepare(name)?;
        layers.world.supervisor.up();
        Some(layers)
    }

    fn prepare(name: &str) -> Option<Layers> {
        let world = World::prepare(name)?;
        if rustix::mount::fsopen("overlay", rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC).is_err() {
            skip("the kernel has no overlayfs");
            return None;
        }
        let [base, app] = NAMES.map(|name| world.dir.join(name));
        fs::rename(&world.root, &base).unwrap();
        for dir in ["hidden", "opaque", "both"] {
            fs::create_dir(base.join(dir)).unwrap();
            fs::create_dir_all(app.join(dir)).unwrap();
            fs::write(base.join(dir).join("base"), "base").unwrap();
            fs::write(app.join(dir).join("app"), "app").unwrap();
        }
        fs::write(base.join("which"), "base").unwrap();
        fs::write(app.join("which"), "app").unwrap();
        rustix::fs::mknodat(CWD, app.join("hidden/base"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        rustix::fs::setxattr(app.join("opaque"), "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
        Some(Layers { world, base, app })
    }

    /// The text of a unit on both layers.
    fn text(&self, script: &str, more: &str) -> String {
        self.on(&[&self.base, &self.app], script, more)
    }

    fn on(&self, layers: &[&Path], script: &str, more: &str) -> String {
        let layers: Vec<String> = layers.iter().map(|path| quoted(path.to_str().unwrap())).collect();
        let args = format!("process.args = [\"/bin/sh\", \"-c\", {}]", quoted(script));
        format!("layers = [{}]\n{more}\n{args}\n", layers.join(", "))
    }

    fn printed(&self, name: &str, script: &str, more: &str) -> String {
        self.world.printed_by(name, &self.text(script, &format!("type = \"oneshot\"\n{more}")))
    }

    /// What is in both layers: kind, rights, owner, times and contents of each.
    fn contents(&self) -> BTreeMap<PathBuf, String> {
        let mut all = BTreeMap::new();
        let mut pending = vec![self.base.clone(), self.app.clone()];
        while let Some(path) = pending.pop() {
            let found = fs::symlink_metadata(&path).unwrap();
            if found.is_dir() {
                pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            // A busybox is large, and its size and times say as much.
            let bytes = (found.is_file() && found.len() < 4096).then(|| fs::read(&path).unwrap());
            let looks = format!(
                "{:o} {} {} {} {:?} {:?} {bytes:?}",
                found.mode(),
                found.uid(),
                found.len(),
                found.mtime_nsec(),
                found.mtime(),
                found.ctime()
            );
            all.insert(path, looks);
        }
        all
    }
}

#[test]
fn what_a_container_writes_is_its_own() {
    let Some(layers) = Layers::start("union") else { return };
    let (world, before) = (&layers.world, layers.contents());
    let look = "cat /which; echo; ls /hidden /opaque /both; stat -c '%%a %%F' /; \
                echo mine >/both/base; rm /both/app; mkdir /new; chmod 700 /opaque; mv /hidden/app /moved; ls /both; cat /both/base";
    let seen = "app\n/both:\napp\nbase\n\n/hidden:\napp\n\n/opaque:\napp\n755 directory\nbase\nmine\n";
    // The second finds nothing of what the first has done.
    for name in ["one", "two"] {
        assert_eq!(layers.printed(name, look, ""), seen, "{name}");
    }
    assert_eq!(layers.contents(), before, "nothing of the layers is touched");

    // As much as it may, and in whose memory it is.
    let fill = "dd if=/dev/zero of=/fill bs=64k 2>&1 | grep -c 'No space left'; stat -c %%s /fill; df -k / | tail -n 1";
    let log = layers.printed("small", fill, "upper.size = \"1M\"");
    let mut lines = log.lines();
    assert_eq!(lines.next(), Some("1"), "{log}");
    let written: u64 = lines.next().unwrap().parse().unwrap();
    assert!((900 << 10..=1 << 20).contains(&written), "{log}");

    // Read-only: what is missing to mount onto is made all the same.
    let sealed = "touch /x 2>&1; touch /tmp/x && echo tmp";
    let log = layers.printed("sealed", sealed, "security.read_only = true");
    assert_eq!(log, "touch: /x: Read-only file system\ntmp\n");
    let bare = world.dir.join("bare");
    fs::create_dir_all(bare.join("bin")).unwrap();
    fs::copy(layers.base.join("bin/busybox"), bare.join("bin/busybox")).unwrap();
    symlink("busybox", bare.join("bin/sh")).unwrap();
    let text = format!(
        "type = \"oneshot\"\nrootfs = {}\noverlay = true\nprocess.args = [\"/bin/sh\", \"-c\", \"echo /*\"]\n",
        quoted(bare.to_str().unwrap())
    );
    assert_eq!(world.printed_by("bare", &text), "/bin /dev /proc /sys /tmp\n");
    assert_eq!(fs::read_dir(&bare).unwrap().count(), 1, "no place to mount onto was made in the layer");

    // The host sees none of it, and none of it stays.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(" - overlay moored "), "{mounts}");
    assert!(!world.dir.join("state/upper").exists());
    assert_eq!(layers.contents(), before);
}

#[test]
fn what_is_not_kept_goes_with_the_container() {
    let Some(layers) = Layers::start("union-restart") else { return };
    let world = &layers.world;
    let script = format!("[ -e /seen ] && said=again || said=first; touch /seen; echo $said; {FOREVER}");
    world.unit("web", &layers.text(&script, ""));
    let first = world.running("web");
    world.wait_log("web", "first");
    world.ok(&["exec", "web", "--", "/bin/sh", "-c", "[ -e /seen ] && echo more >/seen"]);
    // Who joins finds the same root, and nothing is mounted over it.
    let mounts = world.ok(&["exec", "web", "--", "/bin/cat", "/proc/self/mountinfo"]);
    let roots: Vec<&str> = mounts.lines().filter(|line| line.split(' ').nth(4) == Some("/")).collect();
    assert!(roots.len() == 1 && roots[0].contains(" - overlay moored "), "{mounts}");
    assert!(!mounts.contains(" - tmpfs moored "), "{mounts}");
    world.ok(&["restart", "web"]);
    let second = world.replaced("web", &first);
    second_line(world, "web", "first\nfirst\n");
    // A layer in use that is moved away is still the container's; a link that leads elsewhere is another root.
    let status = world.ok(&["status", "web"]);
    assert!(status.contains("layers "), "{status}");
    fs::rename(&layers.app, world.dir.join("elsewhere")).unwrap();
    world.wait_reason("web", "does not exist");
    world.kept("web", &second, "its last good text stays");
    assert!(world.ok(&["exec", "web", "--", "/bin/cat", "/which"]).contains("app"));
    fs::create_dir(world.dir.join("v2")).unwrap();
    fs::write(world.dir.join("v2/which"), "v2").unwrap();
    symlink(world.dir.join("v2"), &layers.app).unwrap();
    world.replaced("web", &second);
    assert!(world.ok(&["exec", "web", "--", "/bin/cat", "/which"]).contains("v2"));
}

fn second_line(world: &World, unit: &str, log: &str) {
    super::support::wait_for(&format!("{log:?}"), || (world.log(unit) == log).then_some(()));
}

#[test]
fn what_is_kept_is_found_again_on_the_same_layers_alone() {
    let Some(layers) = Layers::start("union-kept") else { return };
    let world = &layers.world;
    let script = "cat /data/count 2>/dev/null; echo x >>/data/count; rm -rf /both";
    let kept = |more: &str| layers.text(script, &format!("type = \"oneshot\"\nupper.persist = true\n{more}"));
    let before = layers.contents();
    assert_eq!(world.printed_by("job", &kept("")), "");
    world.ok(&["start", "job"]);
    second_line(world, "job", "x\n");
    assert_eq!(layers.contents(), before);
    let upper = world.dir.join("state/upper/job");
    assert_eq!(fs::metadata(&upper).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(upper.join("upper/both").symlink_metadata().unwrap().rdev() == 0);

    // Another list is refused, with the cure.
    let (old, new) = (&layers.base, world.dir.join("new"));
    fs::create_dir(&new).unwrap();
    let on_new =
        |more: &str| layers.on(&[old, &new], script, &format!("type = \"oneshot\"\nupper.persist = true\n{more}"));
    world.unit("job", &on_new(""));
    let row = world.wait_reason("job", "and the layers are");
    let reason = row["reason"].as_str().unwrap();
    assert!(reason.contains("write upper.on_change = \"keep\""), "{reason}");
    world.unit("job", &on_new("upper.on_change = \"keep\"\n"));
    world.run(&["sync", "job"]);
    world.ok(&["start", "job"]);
    super::support::wait_for("the third run", || world.log("job").ends_with("x\nx\n").then_some(()));

    // Somebody else may write into it: nothing starts.
    world.wait_phase("job", &["completed"]);
    let lock = File::open(&upper).unwrap();
    rustix::fs::flock(lock.as_fd(), FlockOperation::NonBlockingLockExclusive).unwrap();
    world.run(&["start", "job"]);
    world.wait_reason("job", "is in use: another supervisor has a container on it");
    drop(lock);
    // Removing the unit removes no data.
    world.remove_unit("job");
    world.wait_gone("job");
    assert_eq!(fs::read_to_string(upper.join("upper/data/count")).unwrap().matches('x').count(), 3);
}

#[test]
fn a_layer_in_use_is_locked_also_after_a_new_supervisor_began() {
    let Some(layers) = Layers::start("union-lock") else { return };
    let world = &layers.world;
    world.unit("web", &layers.text(FOREVER, "upper.persist = true"));
    let web = world.running("web");
    let is_locked = || {
        let lock = File::open(world.dir.join("state/upper/web")).unwrap();
        rustix::fs::flock(lock.as_fd(), FlockOperation::NonBlockingLockExclusive).is_err()
    };
    assert!(is_locked());
    let supervisor = world.pids().supervisor;
    world.kill9(supervisor);
    world.kept("web", &web, "it is adopted");
    assert!(world.pids().supervisor != supervisor && is_locked());
    world.ok(&["stop", "web"]);
    super::support::wait_for("its lock to go", || (!is_locked()).then_some(()));
}

#[test]
fn a_place_that_cannot_hold_a_layer_is_said_and_nothing_is_lost() {
    let Some(mut layers) = Layers::prepare("union-hostile") else { return };
    let state = layers.world.dir.join("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    mount("tmpfs", &state, "tmpfs", MountFlags::empty(), Some(c"size=1m,mode=700")).unwrap();
    // A layer may lie on an overlayfs itself.
    let [nested, over, work] = ["nested", "over", "work"].map(|name| layers.world.dir.join(name));
    [&nested, &over, &work].iter().for_each(|dir| fs::create_dir(dir).unwrap());
    fs::rename(&layers.base, layers.world.dir.join("base")).unwrap();
    layers.base = layers.world.dir.join("base");
    let overlay = |target: &Path, lower: &Path, upper: &Path| {
        let (lower, upper, work) = (lower.display(), upper.display(), work.display());
        let options = std::ffi::CString::new(format!("lowerdir={lower},upperdir={upper},workdir={work}")).unwrap();
        mount("overlay", target, "overlay", MountFlags::empty(), Some(options.as_c_str())).unwrap();
    };
    overlay(&nested, &layers.base, &over);
    layers.world.supervisor.up();
    let world = &layers.world;
    let text = layers.on(&[&nested, &layers.app], "cat /which", "type = \"oneshot\"");
    assert_eq!(world.printed_by("nested", &text), "app\n");

    // A disk that is full: what runs is told so, and finds what was there; what starts says so.
    let script = "cat /data/kept 2>/dev/null || echo kept >/data/kept; dd if=/dev/zero of=/fill bs=64k 2>&1 | grep -c 'No space'";
    let kept = "type = \"oneshot\"\nupper.persist = true";
    assert_eq!(world.printed_by("full", &layers.text(script, kept)), "1\n");
    assert_eq!(fs::read_to_string(state.join("upper/full/upper/data/kept")).unwrap(), "kept\n");
    world.unit("more", &layers.text(script, kept));
    let row = world.wait_phase("more", &["failed", "backoff"]);
    assert!(row["reason"].as_str().unwrap().contains("No space left on device"), "{row}");
    fs::remove_file(state.join("upper/full/upper/fill")).unwrap();
    world.ok(&["start", "full"]);
    second_line(world, "full", "1\nkept\n1\n");
}

#[test]
fn no_kept_layer_lies_on_an_overlayfs() {
    let Some(mut layers) = Layers::prepare("union-state") else { return };
    let [state, over, work] = ["state", "over", "work"].map(|name| layers.world.dir.join(name));
    [&state, &over, &work].iter().for_each(|dir| fs::create_dir(dir).unwrap());
    fs::set_permissions(&over, fs::Permissions::from_mode(0o700)).unwrap();
    let options = format!("lowerdir={},upperdir={},workdir={}", state.display(), over.display(), work.display());
    let options = std::ffi::CString::new(options).unwrap();
    mount("overlay", &state, "overlay", MountFlags::empty(), Some(options.as_c_str())).unwrap();
    layers.world.supervisor.up();
    layers.world.unit("web", &layers.text(FOREVER, "upper.persist = true"));
    layers.world.wait_reason("web", "give a --state-dir on another file system");
}
