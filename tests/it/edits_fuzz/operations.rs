//! What people and tools do to unit files.
//!
//! A worker owns the files of its units, so that it always knows what is on disk; workers meet only in the directory and in the supervisor.
//! After each step that others can see, it has the model look. What an operation finds in its way (a directory, a FIFO, a link
//! to nothing) it removes first or leaves alone.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, FileType, Mode, RenameFlags};

use super::model::Model;
use super::texts::Texts;
use super::{Journal, Site};
use crate::simulation::rng::Rng;

/// What kind of files a worker has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Files in the directory itself.
    Plain,
    /// Links to files elsewhere, some of them through a link to a directory.
    Links,
    /// Links through `..data`, as Kubernetes makes them.
    Data,
    /// Links to a template.
    Instances,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Plain, Kind::Links, Kind::Data, Kind::Instances];

    pub fn units(self) -> &'static [&'static str] {
        match self {
            Kind::Plain => &["p0", "p1", "p2", "p3"],
            Kind::Links => &["l0", "l1", "l2"],
            Kind::Data => &["d0", "d1", "d2"],
            Kind::Instances => &["t@a", "t@b"],
        }
    }
}

pub struct Worker<'w> {
    kind: Kind,
    site: &'w Site,
    model: &'w Model<'w>,
    journal: &'w Journal,
    rng: Rng,
    texts: Texts,
    /// Counts names that are used once.
    count: u64,
}

/// Names that editors and tools give a file before it is renamed.
const ASIDE: [&str; 6] = [".NAME.toml.swp", "NAME.toml~", "NAME.toml.new", "4913", ".NAME.toml.x7Kq2", "#NAME.toml#"];

impl<'w> Worker<'w> {
    pub fn new(kind: Kind, site: &'w Site, model: &'w Model<'w>, journal: &'w Journal, seed: u64) -> Worker<'w> {
        let texts = Texts::new(&site.root);
        Worker { kind, site, model, journal, rng: Rng::new(seed), texts, count: 0 }
    }

    /// Makes the first files.
    pub fn set_up(&mut self) {
        match self.kind {
            Kind::Plain => {}
            Kind::Links => self.repoint_dir(),
            Kind::Data => self.swap_data(),
            Kind::Instances => self.write_aside(&self.file("t@")),
        }
        for unit in self.kind.units() {
            match self.kind {
                Kind::Plain => self.write_aside(&self.file(unit)),
                Kind::Links => {
                    for place in ["x", "y"] {
                        self.write_aside(&self.site.store.join(place).join(format!("{unit}.toml")));
                    }
                    self.relink(unit);
                }
                Kind::Data => self.link(unit, &format!("..data/{unit}.toml")),
                Kind::Instances => self.link(unit, "t@.toml"),
            }
        }
    }

    /// One operation.
    pub fn step(&mut self) {
        let unit = self.one();
        if self.rng.chance(10) {
            return self.above(unit);
        }
        let file = self.file(unit);
        match (self.kind, self.rng.below(10)) {
            (Kind::Plain, 0) => self.exchange(unit),
            (Kind::Plain, 1) => self.take_name(unit),
            (Kind::Links, 0..3) => self.relink(unit),
            (Kind::Links, 3) => self.repoint_dir(),
            (Kind::Links, 4) => self.edit(&self.site.store.join("x").join(format!("{unit}.toml"))),
            (Kind::Data, 0..3) => self.swap_data(),
            (Kind::Data, 3) => self.link(unit, &format!("..data/{unit}.toml")),
            (Kind::Instances, 0..2) => self.link(unit, "t@.toml"),
            (Kind::Instances, 2..8) => self.edit(&self.file("t@")),
            (_, _) => self.edit(&file),
        }
    }

    /// What can be done to any file.
    fn edit(&mut self, file: &Path) {
        match self.rng.below(20) {
            0..3 => self.overwrite(file),
            3..6 => self.write_aside(file),
            6..8 => self.rename_aside(file),
            8 => self.truncate(file),
            9 => self.append(file, b"process.ar"),
            10 => self.append(file, b"# and this\n"),
            11 => self.line_by_line(file),
            12 => self.touch(file),
            13 => self.distrust(file),
            14 => self.remove(file),
            15 => self.away(file),
            16 => self.link_over(file),
            17 => self.strange(file),
            18 => self.write_again(file),
            _ => self.append(file, b"description = \"twice\"\n"),
        }
    }

    // ---- texts ----

    fn text(&mut self, file: &Path) -> Vec<u8> {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let tag = if stem == "t@" { "t@ %i".to_owned() } else { stem };
        match self.rng.chance(75) {
            true => self.texts.valid(&mut self.rng, &tag).into_bytes(),
            false => self.texts.slip(&mut self.rng, &tag),
        }
    }

    /// In place, in pieces, as `echo >` and many an editor do it: nothing of it counts before the file is closed.
    fn overwrite(&mut self, file: &Path) {
        let text = self.text(file);
        if is_writable(file) {
            self.write(file, &text, "overwritten in place");
        }
    }

    fn write(&mut self, file: &Path, text: &[u8], how: &str) {
        self.say(file, &format!("{how}: {}", shown(text)));
        let Ok(mut open) = File::create(file) else { return self.say(file, "that did not work") };
        self.present();
        let pieces = 1 + self.rng.below(4) as usize;
        for piece in text.chunks(text.len() / pieces + 1) {
            self.pause(40);
            open.write_all(piece).unwrap();
        }
        self.pause(30);
        drop(open);
        self.note();
    }

    /// A copy is written and renamed over the file, as careful people and most tools do it.
    fn write_aside(&mut self, file: &Path) {
        let text = self.text(file);
        self.say(file, &format!("written aside: {}", shown(&text)));
        let aside = self.aside(file);
        fs::write(&aside, text).unwrap();
        self.pause(30);
        self.rename(&aside, file);
    }

    /// vim with `backupcopy=no`: the old file is moved away, another is written in its place.
    fn rename_aside(&mut self, file: &Path) {
        let text = self.text(file);
        if !is_writable(file) || fs::metadata(file).is_err() {
            return;
        }
        self.say(file, "renamed aside");
        let backup = file.with_extension("toml~");
        self.rename(file, &backup);
        self.pause(60);
        self.write(file, &text, "written where it was");
        let _ = fs::remove_file(backup);
    }

    fn truncate(&mut self, file: &Path) {
        let length = fs::metadata(file).ok().filter(std::fs::Metadata::is_file).map_or(0, |node| node.len());
        if length == 0 {
            return;
        }
        let to = self.rng.below(length);
        self.say(file, &format!("truncated from {length} to {to}"));
        let open = File::options().write(true).open(file).unwrap();
        open.set_len(to).unwrap();
        drop(open);
        self.note();
    }

    fn append(&mut self, file: &Path, words: &[u8]) {
        if is_writable(file) && fs::metadata(file).is_ok() {
            self.say(file, &format!("appended: {}", shown(words)));
            let mut open = File::options().append(true).open(file).unwrap();
            open.write_all(words).unwrap();
            drop(open);
            self.note();
        }
    }

    /// `echo >>`, a line at a time: each closed state is a text like any other.
    fn line_by_line(&mut self, file: &Path) {
        let text = self.text(file);
        if !is_writable(file) || text.len() > 10_000 {
            return;
        }
        self.write(file, b"", "emptied");
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            self.append(file, line);
            self.pause(20);
        }
    }

    /// The same bytes in another file, or written once more.
    fn write_again(&mut self, file: &Path) {
        let Some(text) = is_writable(file).then(|| fs::read(file).ok()).flatten() else { return };
        if self.rng.chance(50) {
            return self.write(file, &text, "written again");
        }
        self.say(file, "replaced by a copy of itself");
        let aside = self.aside(file);
        fs::write(&aside, text).unwrap();
        self.rename(&aside, file);
    }

    // ---- files ----

    fn touch(&mut self, file: &Path) {
        if is_writable(file)
            && let Ok(open) = File::options().write(true).open(file)
        {
            self.say(file, "touched");
            let at = SystemTime::now() - Duration::from_secs(self.rng.below(100_000));
            open.set_times(fs::FileTimes::new().set_modified(at)).unwrap();
        }
    }

    /// Others may write it, or it is somebody else's: not read until that is over.
    fn distrust(&mut self, file: &Path) {
        if !is_writable(file) || fs::metadata(file).is_err() {
            return;
        }
        let by_mode = self.rng.chance(50);
        let set = |good: bool| match by_mode {
            true => fs::set_permissions(file, fs::Permissions::from_mode(if good { 0o600 } else { 0o666 })),
            false => chown(file, Some(if good { 0 } else { 12345 }), None),
        };
        self.say(file, "made untrusted");
        set(false).unwrap();
        self.note();
        if self.rng.chance(70) {
            self.pause(80);
            self.say(file, "made trusted");
            set(true).unwrap();
            self.note();
        }
    }

    fn remove(&mut self, file: &Path) {
        self.say(file, "removed");
        clear(file);
        self.note();
    }

    fn away(&mut self, file: &Path) {
        let pause = *self.rng.pick(&[5, 50, 300, 700, 1500]);
        self.say(file, &format!("away for {pause} ms at most"));
        let aside = file.with_extension("toml.orig");
        if fs::rename(file, &aside).is_ok() {
            self.note();
            self.pause(pause);
            self.rename(&aside, file);
        }
    }

    /// `ln -f`: another name of a file elsewhere, which is then written through its other name.
    fn link_over(&mut self, file: &Path) {
        let (text, second) = (self.text(file), self.text(file));
        self.count += 1;
        let other = self.site.store.join(format!("{:?}-{}", self.kind, self.count));
        fs::write(&other, text).unwrap();
        self.say(file, "replaced by a hard link");
        let aside = self.aside(file);
        fs::hard_link(&other, &aside).unwrap();
        self.rename(&aside, file);
        if self.rng.chance(50) {
            self.pause(60);
            self.write(&other, &second, "written by its other name");
        }
        fs::remove_file(&other).unwrap();
    }

    /// Something that is no regular file.
    fn strange(&mut self, file: &Path) {
        self.say(file, "replaced by a directory, a FIFO or a link to itself");
        clear(file);
        self.note();
        match self.rng.below(3) {
            0 => fs::create_dir(file).unwrap(),
            1 => rustix::fs::mknodat(CWD, file, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap(),
            _ => symlink(file.file_name().unwrap_or_default(), file).unwrap(),
        }
        self.note();
    }

    // ---- two files ----

    fn exchange(&mut self, unit: &str) {
        let other = self.one();
        let (one, other) = (self.file(unit), self.file(other));
        self.say(&one, &format!("exchanged with {}", other.display()));
        if rustix::fs::renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).is_ok() {
            self.note();
        }
    }

    fn take_name(&mut self, unit: &str) {
        let other = self.one();
        let (one, other) = (self.file(unit), self.file(other));
        if one != other && fs::symlink_metadata(&one).is_ok() {
            self.say(&one, &format!("renamed to {}", other.display()));
            self.rename(&one, &other);
        }
    }

    // ---- links ----

    /// `ln -sfn`, which removes first, or the link is made aside and renamed.
    fn link(&mut self, unit: &str, target: &str) {
        let file = self.file(unit);
        self.link_at(&file, target);
    }

    fn link_at(&mut self, file: &Path, target: &str) {
        let at_once = self.rng.chance(60);
        self.say(file, &format!("linked to {target}{}", if at_once { " at once" } else { "" }));
        let fresh = if at_once { self.aside(file) } else { file.to_owned() };
        clear(&fresh);
        self.note();
        if !at_once {
            self.pause(40);
        }
        symlink(target, &fresh).unwrap();
        match at_once {
            true => self.rename(&fresh, file),
            false => self.note(),
        }
    }

    fn relink(&mut self, unit: &str) {
        let other = self.one();
        let target = match self.rng.below(7) {
            0 => format!("../store/x/{unit}.toml"),
            1 => format!("../store/y/{unit}.toml"),
            2 | 3 => format!("../current/{unit}.toml"),
            4 => format!("../current/../x/{unit}.toml"),
            5 => format!("../store/nowhere/{unit}.toml"),
            _ => format!("../current/{other}.toml"),
        };
        self.link(unit, &target);
    }

    /// The link to the directory through which others lead.
    fn repoint_dir(&mut self) {
        let current = self.site.store.with_file_name("current");
        let target = format!("store/{}", self.rng.pick(&["x", "y"]));
        self.link_at(&current, &target);
    }

    /// A new set beside the old one, then the link is swapped, then the old one goes.
    fn swap_data(&mut self) {
        self.count += 1;
        let set = format!("..set{}", self.count);
        let dir = self.site.units.join(&set);
        fs::create_dir(&dir).unwrap();
        let data = self.site.units.join("..data");
        for unit in self.kind.units() {
            let file = dir.join(format!("{unit}.toml"));
            let text = self.text(&file);
            if self.rng.chance(95) {
                self.say(&data, &format!("in {set}, {unit}: {}", shown(&text)));
                fs::write(file, text).unwrap();
            }
        }
        let old = fs::read_link(&data).ok();
        let fresh = self.site.units.join("..data_tmp");
        symlink(&set, &fresh).unwrap();
        self.say(&data, &format!("now {set}"));
        self.rename(&fresh, &data);
        self.pause(40);
        if let Some(old) = old {
            fs::remove_dir_all(self.site.units.join(old)).unwrap();
        }
    }

    /// In the later directory: a mask, a file that wins, or nothing again.
    fn above(&mut self, unit: &str) {
        let file = self.site.above.join(format!("{unit}.toml"));
        match self.rng.below(5) {
            0 => self.link_at(&file, "/dev/null"),
            1 => self.edit(&file),
            _ => self.remove(&file),
        }
    }

    // ---- means ----

    fn one(&mut self) -> &'static str {
        let units = self.kind.units();
        units[self.rng.below(units.len() as u64) as usize]
    }

    fn file(&self, unit: &str) -> PathBuf {
        self.site.units.join(format!("{unit}.toml"))
    }

    /// A name for a copy in the same directory; nothing is there.
    fn aside(&mut self, file: &Path) -> PathBuf {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let name = self.rng.pick(&ASIDE).replace("NAME", &stem);
        // Two workers may use it at once.
        let name = if name == "4913" { format!("4913{:?}", self.kind) } else { name };
        let aside = file.with_file_name(name);
        clear(&aside);
        aside
    }

    fn rename(&mut self, from: &Path, to: &Path) {
        // A directory takes the place of an empty directory only, and a file none's.
        if [from, to].iter().any(|file| fs::symlink_metadata(file).is_ok_and(|node| node.is_dir())) {
            clear(to);
            self.note();
        }
        fs::rename(from, to).unwrap();
        self.note();
    }

    fn note(&self) {
        self.model.note(self.kind.units().iter().copied());
    }

    fn present(&self) {
        self.model.note_present(self.kind.units().iter().copied());
    }

    fn pause(&mut self, most_ms: u64) {
        std::thread::sleep(Duration::from_millis(self.rng.below(most_ms)));
    }

    fn say(&self, file: &Path, what: &str) {
        let parent = file.parent().and_then(Path::file_name).unwrap_or_default();
        let name = Path::new(parent).join(file.file_name().unwrap_or_default());
        self.journal.say(&format!("{:?}", self.kind), &format!("{}: {what}", name.display()));
    }
}

/// A regular file, links followed, or nothing at all: opening a FIFO would wait.
fn is_writable(file: &Path) -> bool {
    match fs::metadata(file) {
        Ok(node) => node.is_file(),
        Err(_) => fs::symlink_metadata(file).is_err(),
    }
}

/// Removes whatever is there.
fn clear(file: &Path) {
    match fs::symlink_metadata(file) {
        Ok(node) if node.is_dir() => fs::remove_dir_all(file).unwrap(),
        Ok(_) => fs::remove_file(file).unwrap(),
        Err(_) => {}
    }
}

fn shown(text: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(&text[..text.len().min(400)]))
}
