//! The oracle of the attacks: what a host has, looked at before and after. A container that reached any of it was not contained.

use std::collections::BTreeMap;
use std::fs;
use std::hash::Hasher;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::support::TempDir;

/// What no container may read, in the file `secret`.
pub const SECRET: &str = "canary: not for containers";
/// Settings of the host's that an attack would like to have, and no test changes.
const SETTINGS: [&str; 10] = [
    "kernel/core_pattern",
    "kernel/modprobe",
    "kernel/hostname",
    "kernel/domainname",
    "kernel/sysrq",
    "kernel/panic",
    "vm/laptop_mode",
    "vm/overcommit_memory",
    "net/core/somaxconn",
    "fs/suid_dumpable",
];

/// A tree of files beside the container's root, and the host around it.
pub struct Canary {
    pub dir: PathBuf,
    /// Files that are to stay as they are, beside the tree.
    programs: Vec<PathBuf>,
    before: BTreeMap<String, String>,
}

impl Canary {
    /// Makes the tree below a test's directory, and looks at it for the first time.
    pub fn new(dir: &TempDir, programs: &[&Path]) -> Canary {
        let tree = dir.join("canary");
        fs::create_dir_all(tree.join("deep/er")).unwrap();
        fs::write(tree.join("secret"), SECRET).unwrap();
        fs::write(tree.join("deep/er/file"), "as it was\n").unwrap();
        fs::write(tree.join("setting"), "1\n").unwrap();
        fs::set_permissions(tree.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
        symlink("secret", tree.join("link")).unwrap();
        let programs = programs.iter().map(|program| program.to_path_buf()).collect();
        let mut canary = Canary { dir: tree, programs, before: BTreeMap::new() };
        canary.before = canary.look();
        canary
    }

    /// What is not as it was: names, with what they are now.
    pub fn changes(&self) -> Vec<String> {
        let now = self.look();
        let names = self.before.keys().chain(now.keys().filter(|name| !self.before.contains_key(*name)));
        let differs = names.filter(|name| self.before.get(*name) != now.get(*name));
        differs.map(|name| format!("{name}: {:?} was {:?}", now.get(name), self.before.get(name))).collect()
    }

    /// The attack that was just made got nowhere.
    pub fn assert_unharmed(&self, attack: &str) {
        let changes = self.changes();
        assert!(changes.is_empty(), "{attack}:\n{}", changes.join("\n"));
    }

    /// Takes what is there now for what is to stay, after an attack that was to succeed.
    pub fn forget(&mut self) {
        self.before = self.look();
    }

    fn look(&self) -> BTreeMap<String, String> {
        let mut seen = BTreeMap::new();
        tree(&self.dir, &mut seen);
        for program in &self.programs {
            seen.insert(program.display().to_string(), print_of(program));
        }
        for name in SETTINGS {
            let path = Path::new("/proc/sys").join(name);
            seen.insert(path.display().to_string(), fs::read_to_string(&path).unwrap_or_default());
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let path = hierarchy.path().join("release_agent");
            if let Ok(text) = fs::read_to_string(&path) {
                seen.insert(path.display().to_string(), text);
            }
        }
        let ours = self.dir.parent().unwrap().display().to_string();
        for mount in fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|line| is_ours(line, &ours)) {
            // The number of a mount is nobody's business, its place and its options are.
            let words: Vec<&str> = mount.split(' ').skip(2).collect();
            seen.insert(format!("mount {}", words.join(" ")), String::new());
        }
        seen
    }
}

/// Other tests mount and unmount at the same time, in directories of their own.
fn is_ours(mount: &str, ours: &str) -> bool {
    const OTHERS: [&str; 6] = ["moored-it-", "containers/", "containerd", "/netns/", "/tmp/", "/work/"];
    mount.contains(ours) || !OTHERS.iter().any(|other| mount.contains(other))
}

fn tree(dir: &Path, seen: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        let stat = fs::symlink_metadata(&path).unwrap();
        let contents = match (stat.is_file(), stat.is_symlink()) {
            (true, _) => String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned(),
            (_, true) => fs::read_link(&path).unwrap().display().to_string(),
            _ => String::new(),
        };
        let about = format!("{:o} {}:{} {} {contents:?}", stat.mode(), stat.uid(), stat.gid(), stat.nlink());
        seen.insert(path.display().to_string(), about);
        if stat.is_dir() {
            tree(&path, seen);
        }
    }
}

/// Of the whole file, and of whether it is the same one.
fn print_of(program: &Path) -> String {
    let stat = fs::metadata(program).unwrap();
    let mut hash = std::hash::DefaultHasher::new();
    hash.write(&fs::read(program).unwrap());
    format!("{} {:o} {:x}", stat.ino(), stat.mode(), hash.finish())
}

/// An oracle that sees nothing lets every attack pass.
#[test]
fn the_oracle_sees_what_was_touched() {
    let dir = TempDir::new("canary");
    let program = dir.join("program");
    fs::write(&program, "program").unwrap();
    let mut canary = Canary::new(&dir, &[&program]);
    canary.assert_unharmed("nothing was done");
    type Harm = Box<dyn Fn(&Path)>;
    let harms: [(&str, Harm); 7] = [
        ("deep/er/file", Box::new(|dir: &Path| fs::write(dir.join("deep/er/file"), "other").unwrap())),
        ("deep/new", Box::new(|dir: &Path| fs::create_dir(dir.join("deep/new")).unwrap())),
        (
            "secret",
            Box::new(|dir: &Path| fs::set_permissions(dir.join("secret"), fs::Permissions::from_mode(0o644)).unwrap()),
        ),
        ("setting", Box::new(|dir: &Path| fs::remove_file(dir.join("setting")).unwrap())),
        (
            "deep/er/file",
            Box::new(|dir: &Path| fs::hard_link(dir.join("deep/er/file"), dir.join("../elsewhere")).unwrap()),
        ),
        ("program", Box::new(|dir: &Path| fs::write(dir.join("../program"), "prograM").unwrap())),
        (
            "link",
            Box::new(|dir: &Path| {
                fs::remove_file(dir.join("link")).unwrap();
                symlink("deep", dir.join("link")).unwrap();
            }),
        ),
    ];
    for (name, harm) in harms {
        harm(&canary.dir);
        let changes = canary.changes();
        assert!(changes.len() <= 2 && changes.iter().any(|change| change.contains(name)), "{name}: {changes:?}");
        canary.forget();
    }
}
