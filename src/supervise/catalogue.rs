//! The catalogue: for each unit the text in force, and why it is not the one on disk.
//!
//! | what is on disk | how it is entered | what is in force |
//! |---|---|---|
//! | nothing read yet | remembered from an earlier run | the last good text |
//! | a text whose source or env files are being looked at | it parsed | what was before |
//! | a good text | text, source, config.json and env files are valid together | this text |
//! | a bad text | any of them is not valid, or may not be trusted | what was before, if anything |
//! | a mask | a link to /dev/null: whatever earlier directories say, there is no such unit | nothing |
//! | nothing | the file was removed, from a directory that is the one it always was | nothing |
//!
//! A text in force is left only for another valid one or for the removal of its file, which a mask also is. A directory that is missing or unreadable removes
//! nothing. If a directory became another one (device, inode or mount changed) and more than half of its units would go, they are braked:
//! they run on until somebody confirms or the files return. A unit that is in several directories is what the last of them says.
//!
//! Pure: what is read comes in, what is in force comes out.

mod files;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use text::recall;
use text::{NoText, OnDisk, Verdict, judge, parse};

use super::contents::FileView;

use crate::plan::{BootTime, Desired, Now, WallTime, Want};
use crate::unit::{Condition, Fingerprint, Source, SourceFacts, SpecError, Unit, UnitName};

/// Every unit that is in force or on disk.
#[derive(Debug, Default)]
pub struct Catalogue {
    entries: BTreeMap<UnitName, Entry>,
    /// By source, not by path: a file is no rootfs and may be an executable.
    sources: BTreeMap<Source, SourceView>,
    /// Env files, config files and secrets that texts name; `None`: not looked at yet.
    files: BTreeMap<PathBuf, Option<FileView>>,
    strays: BTreeMap<PathBuf, String>,
    directories: BTreeMap<PathBuf, DirectoryView>,
    /// Remembered units that were not in their directory when it was first listed, and until when they may come back.
    absent: BTreeMap<UnitName, BootTime>,
    /// Units whose text in force changed since [`Catalogue::take_changes`].
    changes: BTreeSet<UnitName>,
}

/// One unit.
#[derive(Debug, Default)]
struct Entry {
    /// What was read, sorted by the rank of the directory: the last one counts. Nearly always one.
    texts: Vec<OnDisk>,
    in_force: Option<Arc<InForce>>,
    /// Why the newest text is not in force.
    errors: Vec<String>,
    /// The newest text waits for its source to be looked at.
    looking: bool,
    /// Somebody has the file open for writing.
    busy: Option<String>,
}

/// A text that was valid together with its source: what runs, and what survives in the state-dir.
#[derive(Debug, Clone, PartialEq)]
pub struct InForce {
    /// The unit file.
    pub file: PathBuf,
    /// Device and inode of its directory.
    pub directory: DirectoryId,
    /// The file without links: relative paths start from its directory.
    pub resolved: PathBuf,
    /// Its text.
    pub text: Arc<str>,
    /// The text, parsed.
    pub unit: Arc<Unit>,
    /// What was read of the source.
    pub facts: Arc<SourceFacts>,
    /// The identity of the whole.
    pub fingerprint: Fingerprint,
    /// Since when it is in force.
    pub since: WallTime,
    /// What is odd but no error.
    pub warnings: Vec<String>,
}

/// What a look at a source found: `Err` in words, with the cure.
pub type SourceView = Result<Arc<SourceFacts>, String>;

/// Which directory it is; both 0 if unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DirectoryId {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Mount id; 0 if unknown, as across a reboot.
    pub mount: u64,
}

/// A watched directory.
#[derive(Debug, Default)]
struct DirectoryView {
    rank: usize,
    id: Option<DirectoryId>,
    /// Why it cannot be read, if so.
    trouble: Option<String>,
    /// Units that the brake holds.
    braked: BTreeSet<UnitName>,
}

/// A removal counts after this long, so that an editor's rename-aside, `git checkout` and `rsync` stop nothing.
const ABSENCE: Duration = Duration::from_secs(1);

/// Checks text and source together, down to the last system call; the core's part of a start without its effects.
pub type Validate = fn(&Unit, &SourceFacts) -> Result<Vec<String>, Vec<SpecError>>;

impl Catalogue {
    /// Watches these directories, later ones winning.
    pub fn new(directories: &[PathBuf]) -> Catalogue {
        let view = |(rank, path): (usize, &PathBuf)| (path.clone(), DirectoryView { rank, ..DirectoryView::default() });
        Catalogue { directories: directories.iter().enumerate().map(view).collect(), ..Catalogue::default() }
    }

    /// Puts a text in force that was in force in an earlier run; what is on disk decides later.
    pub fn remember(&mut self, good: InForce) {
        let name = good.unit.name.clone();
        self.entries.entry(name.clone()).or_default().in_force = Some(Arc::new(good));
        self.changes.insert(name);
    }

    /// A file's settled text; `resolved` is the file without links.
    pub fn read(
        &mut self,
        path: &Path,
        name: UnitName,
        text: String,
        resolved: PathBuf,
        validate: Validate,
        now: WallTime,
    ) {
        let text = parse(path, &name, text, resolved).map_err(NoText::Bad);
        self.set_text(path, name, text, validate, now);
    }

    /// A file that may not or cannot be read.
    pub fn refuse(&mut self, path: &Path, name: UnitName, why: String, validate: Validate, now: WallTime) {
        self.set_text(path, name, Err(NoText::Bad(vec![why])), validate, now);
    }

    /// A file that says that there is no such unit.
    pub fn mask(&mut self, path: &Path, name: UnitName, validate: Validate, now: WallTime) {
        self.set_text(path, name, Err(NoText::Mask), validate, now);
    }

    fn set_text(
        &mut self,
        path: &Path,
        name: UnitName,
        text: Result<text::Text, NoText>,
        validate: Validate,
        now: WallTime,
    ) {
        let rank = self.rank_of(path);
        if let Some(view) = path.parent().and_then(|dir| self.directories.get_mut(dir)) {
            view.braked.remove(&name);
        }
        self.absent.remove(&name);
        let entry = self.entries.entry(name.clone()).or_default();
        entry.busy = None;
        entry.texts.retain(|other| other.rank != rank);
        entry.texts.push(OnDisk { rank, path: path.to_owned(), text });
        entry.texts.sort_by_key(|text| text.rank);
        self.evaluate(&name, validate, now);
    }

    fn rank_of(&self, path: &Path) -> usize {
        path.parent().and_then(|dir| self.directories.get(dir)).map_or(0, |view| view.rank)
    }

    /// An entry of a watched directory that is no unit and should not look like one.
    pub fn stray(&mut self, path: &Path, why: Option<String>) {
        match why {
            Some(why) => self.strays.insert(path.to_owned(), why),
            None => self.strays.remove(path),
        };
    }

    /// Somebody writes the file; nothing of it is read before they close it.
    pub fn busy(&mut self, name: UnitName, who: String) {
        self.entries.entry(name).or_default().busy = Some(who);
    }

    /// A file is gone for good.
    pub fn gone(&mut self, path: &Path, name: &UnitName, validate: Validate, now: WallTime) {
        let rank = self.rank_of(path);
        let braked =
            path.parent().and_then(|dir| self.directories.get(dir)).is_some_and(|view| view.braked.contains(name));
        let Some(entry) = self.entries.get_mut(name) else { return };
        entry.texts.retain(|other| other.rank != rank);
        entry.busy = None;
        if braked {
            return;
        }
        match entry.texts.is_empty() {
            true => self.remove(name),
            false => self.evaluate(name, validate, now),
        }
    }

    fn remove(&mut self, name: &UnitName) {
        self.absent.remove(name);
        if let Some(Entry { in_force: Some(_), .. }) = self.entries.remove(name) {
            self.changes.insert(name.clone());
        }
    }

    /// A directory cannot be read: what it declared stays.
    pub fn directory_lost(&mut self, dir: &Path, why: String) {
        if let Some(view) = self.directories.get_mut(dir) {
            view.trouble = Some(why);
        }
    }

    /// A directory is there, whole: `names` are all its unit files. Brakes a mass removal if it is not the one it was; else removes
    /// what an earlier run remembered and is not there any more. Returns how many units are braked.
    pub fn directory_listed(&mut self, dir: &Path, id: DirectoryId, names: &BTreeSet<UnitName>, now: Now) -> usize {
        let declared: Vec<UnitName> = self.declared_in(dir);
        let missing: BTreeSet<UnitName> = declared.iter().filter(|name| !names.contains(name)).cloned().collect();
        let earlier = self.earlier_id(dir);
        let Some(view) = self.directories.get_mut(dir) else { return 0 };
        let replaced = earlier.is_some_and(|earlier| !earlier.is_same(id));
        (view.id, view.trouble) = (Some(id), None);
        if replaced && missing.len() * 2 > declared.len() {
            view.braked = missing;
            return view.braked.len();
        }
        view.braked.clear();
        let unseen = |name: &UnitName| self.entries.get(name).is_some_and(|entry| entry.texts.is_empty());
        self.absent.extend(missing.into_iter().filter(unseen).map(|name| (name, now.boot.after(ABSENCE))));
        0
    }

    /// Removes what was absent long enough; says when to ask again.
    pub fn expire(&mut self, now: BootTime) -> Option<BootTime> {
        let due: Vec<UnitName> =
            self.absent.iter().filter(|(_, until)| **until <= now).map(|(name, _)| name.clone()).collect();
        due.iter().for_each(|name| self.remove(name));
        self.absent.values().min().copied()
    }

    fn declared_in(&self, dir: &Path) -> Vec<UnitName> {
        let in_dir = |entry: &Entry| entry.in_force.as_ref().is_some_and(|good| good.file.parent() == Some(dir));
        self.entries.iter().filter(|(_, entry)| in_dir(entry)).map(|(name, _)| name.clone()).collect()
    }

    fn earlier_id(&self, dir: &Path) -> Option<DirectoryId> {
        let of_view = self.directories.get(dir).and_then(|view| view.id);
        let remembered = || {
            let mut goods = self.entries.values().filter_map(|entry| entry.in_force.as_ref());
            goods.find(|good| good.file.parent() == Some(dir)).map(|good| good.directory)
        };
        of_view.or_else(remembered)
    }

    /// The removals that the brake holds are meant. Returns what goes: at once, or when its absence has settled.
    pub fn confirm_removals(&mut self) -> BTreeSet<UnitName> {
        let braked: BTreeSet<UnitName> =
            self.directories.values_mut().flat_map(|view| std::mem::take(&mut view.braked)).collect();
        let gone = |name: &&UnitName| self.entries.get(*name).is_some_and(|entry| entry.texts.is_empty());
        let gone: Vec<UnitName> = braked.iter().filter(gone).cloned().collect();
        gone.iter().for_each(|name| self.remove(name));
        braked
    }

    /// What a look at a source found.
    pub fn looked(&mut self, source: &Source, view: SourceView, validate: Validate, now: WallTime) {
        if self.sources.get(source) == Some(&view) {
            return;
        }
        self.sources.insert(source.clone(), view);
        let concerned: Vec<UnitName> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.source() == Some(source))
            .map(|(name, _)| name.clone())
            .collect();
        concerned.iter().for_each(|name| self.evaluate(name, validate, now));
    }

    /// Every source that a text names, on disk or in force.
    pub fn sources(&self) -> Vec<&Source> {
        let on_disk = self.entries.values().filter_map(Entry::newest).filter_map(|on_disk| on_disk.text.as_ref().ok());
        on_disk.map(|text| &text.unit.source).collect()
    }

    /// What the host must be like for the units on disk and those in force.
    pub fn conditions(&self) -> impl Iterator<Item = &Condition> {
        self.entries.values().flat_map(Entry::units).flat_map(|unit| &unit.conditions)
    }

    /// Forgets what was seen at paths that no text names any more.
    pub fn retain_sources(&mut self) {
        let named: BTreeSet<PathBuf> = self.sources().into_iter().map(|source| source.path().to_owned()).collect();
        self.sources.retain(|source, _| named.contains(source.path()));
        self.retain_files();
    }

    fn evaluate(&mut self, name: &UnitName, validate: Validate, now: WallTime) {
        let Some(entry) = self.entries.get(name) else { return };
        let Some(on_disk) = entry.newest() else { return };
        let verdict = match &on_disk.text {
            Err(NoText::Bad(errors)) => Verdict::Bad(errors.clone()),
            Err(NoText::Mask) => Verdict::Masked,
            Ok(text) => match self.sources.get(&text.unit.source) {
                None => Verdict::Looking,
                Some(Err(why)) => Verdict::Bad(vec![on_disk.at_source(text, why)]),
                Some(Ok(facts)) => match text.with_files(&on_disk.path, |path| self.files.get(path)?.as_ref()) {
                    None => Verdict::Looking,
                    Some(Err(errors)) => Verdict::Bad(errors),
                    Some(Ok(text)) => judge(on_disk, &text, facts, validate),
                },
            },
        };
        let directory = on_disk.path.parent().and_then(|dir| self.directories.get(dir)).and_then(|view| view.id);
        let Some(entry) = self.entries.get_mut(name) else { return };
        if entry.settle(verdict, directory.unwrap_or_default(), now) {
            self.changes.insert(name.clone());
        }
    }

    /// Units whose text in force changed, came or went since the last call.
    pub fn take_changes(&mut self) -> BTreeSet<UnitName> {
        std::mem::take(&mut self.changes)
    }

    /// Brings `desired` up to date for these units.
    pub fn update(&self, desired: &mut Desired, changes: &BTreeSet<UnitName>) {
        for name in changes {
            match self.in_force(name) {
                Some(good) => {
                    let want = Want { unit: Arc::clone(&good.unit), fingerprint: good.fingerprint };
                    desired.units.insert(name.clone(), want);
                }
                None => drop(desired.units.remove(name)),
            }
        }
    }

    /// The text in force.
    pub fn in_force(&self, name: &UnitName) -> Option<&Arc<InForce>> {
        self.entries.get(name)?.in_force.as_ref()
    }

    /// Whether it is in force or on disk.
    pub fn is_known(&self, name: &UnitName) -> bool {
        self.entries.contains_key(name)
    }

    /// Every unit in force or on disk.
    pub fn names(&self) -> impl Iterator<Item = &UnitName> {
        self.entries.keys()
    }

    /// Why what is on disk is not in force, one line each; empty if it is.
    pub fn errors(&self, name: &UnitName) -> &[String] {
        self.entries.get(name).map_or(&[], |entry| &entry.errors)
    }

    /// The file on disk that counts.
    pub fn file(&self, name: &UnitName) -> Option<&Path> {
        let entry = self.entries.get(name)?;
        entry
            .newest()
            .map(|on_disk| on_disk.path.as_path())
            .or_else(|| entry.in_force.as_ref().map(|good| good.file.as_path()))
    }

    /// The link to /dev/null that masks it.
    pub fn mask_of(&self, name: &UnitName) -> Option<&Path> {
        let newest = self.entries.get(name)?.newest()?;
        matches!(newest.text, Err(NoText::Mask)).then_some(newest.path.as_path())
    }

    /// What disk and running have not in common, in words.
    pub fn drift(&self, name: &UnitName) -> Option<String> {
        let entry = self.entries.get(name)?;
        if let Some(who) = &entry.busy {
            return Some(format!("the file is being written{who}"));
        }
        if let Some(mask) = self.mask_of(name) {
            return Some(format!("masked by {}", mask.display()));
        }
        if entry.looking {
            return Some("the source of the new text is being looked at".to_owned());
        }
        if !entry.errors.is_empty() {
            return Some("the text on disk is not valid".to_owned());
        }
        let braked = self.directories.values().any(|view| view.braked.contains(name));
        let missing = || entry.texts.is_empty().then(|| "its directory is missing or unreadable".to_owned());
        if braked {
            Some("its file went with its directory; removal waits for `moored apply --confirm-removals`".to_owned())
        } else {
            missing()
        }
    }

    /// Whether a text waits for a look at its source, or a file for its writer.
    pub fn is_unsettled(&self, name: &UnitName) -> bool {
        self.entries.get(name).is_some_and(|entry| entry.looking || entry.busy.is_some())
    }

    /// Whether any text waits for a look at its source.
    pub fn is_looking(&self) -> bool {
        self.entries.values().any(|entry| entry.looking)
    }

    /// What concerns no single unit.
    pub fn notes(&self) -> Vec<String> {
        let of_directory = |(path, view): (&PathBuf, &DirectoryView)| {
            let trouble = view.trouble.as_ref().map(|why| format!("{}: {why}", path.display()));
            let braked = (!view.braked.is_empty()).then(|| {
                format!(
                    "{}: became another directory and {} of its units would go: they run on until the files return or `moored apply --confirm-removals`",
                    path.display(),
                    view.braked.len()
                )
            });
            [trouble, braked]
        };
        let directories = self.directories.iter().flat_map(of_directory).flatten();
        directories.chain(self.strays.iter().map(|(path, why)| format!("{}: {why}", path.display()))).collect()
    }
}
impl Entry {
    /// What counts of what is on disk.
    fn newest(&self) -> Option<&OnDisk> {
        self.texts.last()
    }

    /// The newest text, if it is one, and the one in force.
    fn units(&self) -> impl Iterator<Item = &Arc<Unit>> {
        let newest = self.newest().and_then(|on_disk| on_disk.text.as_ref().ok()).map(|text| &text.unit);
        newest.into_iter().chain(self.in_force.as_ref().map(|good| &good.unit))
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.newest()?.text.as_ref().ok()?.unit.source)
    }

    /// Takes a verdict; says whether there is something to tell.
    fn settle(&mut self, verdict: Verdict, directory: DirectoryId, now: WallTime) -> bool {
        self.looking = matches!(verdict, Verdict::Looking);
        match verdict {
            Verdict::Looking => false,
            Verdict::Masked => {
                let had_errors = !std::mem::take(&mut self.errors).is_empty();
                self.in_force.take().is_some() || had_errors
            }
            Verdict::Bad(errors) => {
                let changed = self.errors != errors;
                self.errors = errors;
                changed
            }
            Verdict::Good(new) => {
                let had_errors = !std::mem::take(&mut self.errors).is_empty();
                let since = match &self.in_force {
                    Some(old) if old.fingerprint == new.fingerprint => old.since,
                    Some(_) | None => now,
                };
                let new = InForce { directory, since, ..new };
                let changed = self.in_force.as_deref() != Some(&new);
                if changed {
                    self.in_force = Some(Arc::new(new));
                }
                changed || had_errors
            }
        }
    }
}

impl DirectoryId {
    /// Whether both may be the same directory: what one of them does not know cannot tell them apart.
    fn is_same(self, other: DirectoryId) -> bool {
        let same = |a: u64, b: u64| a == b || a == 0 || b == 0;
        same(self.device, other.device) && same(self.inode, other.inode) && same(self.mount, other.mount)
    }
}
