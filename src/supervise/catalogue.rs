//! The catalogue: for each unit the text in force, and why it is not the one on disk.
//!
//! | what is on disk | how it is entered | what is in force |
//! |---|---|---|
//! | nothing read yet | remembered from an earlier run | the last good text |
//! | a text whose source or files are being looked at | it parsed | what was before |
//! | a good text | text, source, config.json and files are valid together | this text, once it is put in force |
//! | a text that was rolled back | it is the one that `trial` marked | the earlier one |
//! | a bad text | any of them is not valid, or may not be trusted | what was before, if anything |
//! | a mask | a link to /dev/null: whatever earlier directories say, there is no such unit | nothing, once that is put in force |
//! | nothing | the file was removed, from a directory that is the one it always was | nothing, once that is put in force |
//!
//! What is valid and means something else than what is in force is *next* (`next`): it goes in force by itself, or when somebody says so.
//! A text in force is left only for another valid one or for the removal of its file, which a mask also is. A directory that is missing or unreadable removes
//! nothing. If a directory became another one (device, inode or mount changed) and more than half of its units would go, they are braked:
//! they run on until somebody confirms or the files return. What it holds goes in force as a whole (`swapped`). A unit that is in several
//! directories is what the last of them says.
//!
//! What counts of a unit is its own text merged with its drop-ins (`layers`) and the defaults: whenever one of them changes, all are judged anew.
//! Texts that the watch posted together are judged when all of them are entered, so that no merge is in force that was never on disk.
//!
//! Pure: what is read comes in, what is in force comes out.

mod defaults;
mod directories;
mod files;
#[cfg(test)]
mod history_tests;
mod layers;
mod merge;
mod named;
mod next;
#[cfg(test)]
mod next_tests;
mod replicas;
mod sets;
mod sockets;
mod swapped;
#[cfg(test)]
mod swapped_tests;
mod templates;
#[cfg(test)]
mod templates_tests;
#[cfg(test)]
mod tests;
mod text;
mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use defaults::Defaults;
pub use defaults::NoDefaults;
pub use directories::DirectoryId;
use directories::DirectoryView;
use layers::DropIns;
use named::Names;
pub use named::{Named, NamedChanges};
pub use next::{Next, Scope};
use sets::Part;
use sockets::Addresses;
use swapped::Progress;
use templates::Templates;
pub use text::recall;
use text::{NoText, OnDisk, Rank, Read, Text, Verdict, judge};
pub use trial::{Bad, Standing, Trial};

use super::contents::FileView;
use crate::compact;
use crate::plan::{BootTime, Desired, Now, WallTime};
use crate::unit::{Fingerprint, LayerText, Source, SourceFacts, SpecError, Unit, UnitName};

/// Every unit that is in force or on disk.
#[derive(Debug, Default)]
pub struct Catalogue {
    /// Boxed, for a map keeps room for half as many again.
    entries: BTreeMap<UnitName, Box<Entry>>,
    /// By source, not by path: a file is no rootfs and may be an executable.
    sources: BTreeMap<Source, SourceView>,
    /// Env files, config files and secrets that texts name; `None`: not looked at yet.
    files: BTreeMap<PathBuf, Option<FileView>>,
    strays: BTreeMap<PathBuf, String>,
    directories: BTreeMap<PathBuf, DirectoryView>,
    /// Remembered units that were not in their directory when it was first listed, and until when they may come back.
    absent: BTreeMap<UnitName, BootTime>,
    /// Units whose text in force changed since [`Catalogue::take_changes`], or of which there is something else to tell.
    changes: BTreeSet<UnitName>,
    /// Units with an [`Entry::next`].
    waiting: BTreeSet<UnitName>,
    /// Nothing goes in force without an order.
    manual: bool,
    /// An order for all or nothing is waited for: nothing goes ahead of it.
    withheld: bool,
    drop_ins: DropIns,
    templates: Templates,
    defaults: Defaults,
    /// Units that are to be judged at the end of the batch, and whether one is being entered.
    pending: BTreeSet<UnitName>,
    in_batch: bool,
    names: Names,
    addresses: Addresses,
    /// Of the directories that became others.
    progress: Progress,
}

/// One unit.
#[derive(Debug, Default)]
struct Entry {
    /// What was read, sorted by the rank of the directory: the last one counts. Nearly always one.
    texts: Vec<OnDisk>,
    /// The newest with all that is merged with it.
    merged: Option<Result<Text, Vec<String>>>,
    /// Something of that changed: it is to be merged anew.
    stale: bool,
    in_force: Option<Arc<InForce>>,
    /// What is on disk, valid, and not in force.
    next: Option<Next>,
    /// An order to put all in force or nothing left it behind: it waits for another order, or for another text.
    left_behind: bool,
    trial: Trial,
    /// Why the newest text is not in force.
    errors: Vec<String>,
    /// The newest text waits for its source to be looked at.
    looking: bool,
    /// The files whose texts differ since [`Catalogue::take_edited`].
    edited: BTreeSet<PathBuf>,
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
    /// What is merged with it: the defaults, then its drop-ins.
    pub layers: Vec<LayerText>,
    /// All of it, parsed.
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

/// A removal counts after this long, so that an editor's rename-aside, `git checkout` and `rsync` stop nothing.
const ABSENCE: Duration = Duration::from_secs(1);

/// Checks text and source together, down to the last system call; the core's part of a start without its effects.
pub type Validate = fn(&Unit, &SourceFacts) -> Result<Vec<String>, Vec<SpecError>>;

impl Catalogue {
    /// Watches these directories, later ones winning.
    pub fn new(directories: &[PathBuf]) -> Catalogue {
        let view = |(rank, path): (usize, &PathBuf)| (path.clone(), DirectoryView { rank, ..DirectoryView::default() });
        let sources = BTreeMap::from([(Source::Host, Ok(Arc::new(super::source::of_host())))]);
        Catalogue {
            directories: compact::map(directories.iter().enumerate().map(view)),
            sources,
            ..Catalogue::default()
        }
    }

    /// Puts a text in force that was in force in an earlier run; what is on disk decides later.
    pub fn remember(&mut self, good: InForce, trial: Trial) {
        let name = good.unit.name.clone();
        self.remember_drop_ins(&good);
        let entry = self.entries.entry(name.clone()).or_default();
        (entry.in_force, entry.trial) = (Some(Arc::new(good)), trial);
        self.update_named(&name);
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
        let (text, part) = (text.into(), Part::of(path, &resolved));
        self.set_text(path, name, (Ok(Read { text, resolved }), part), validate, now);
    }

    /// A file that may not or cannot be read.
    pub fn refuse(&mut self, path: &Path, name: UnitName, why: String, validate: Validate, now: WallTime) {
        self.set_text(path, name, (Err(NoText::Bad(vec![why])), Part::Unknown), validate, now);
    }

    /// A file that says that there is no such unit.
    pub fn mask(&mut self, path: &Path, name: UnitName, validate: Validate, now: WallTime) {
        self.set_text(path, name, (Err(NoText::Mask), Part::OfNone), validate, now);
    }

    fn set_text(
        &mut self,
        path: &Path,
        name: UnitName,
        (text, part): (Result<Read, NoText>, Part),
        validate: Validate,
        now: WallTime,
    ) {
        let rank = Rank::Own(self.rank_of(path));
        self.told_of(path);
        if let Some(view) = path.parent().and_then(|dir| self.directories.get_mut(dir)) {
            view.braked.remove(&name);
        }
        self.absent.remove(&name);
        self.take_unlisted(&name);
        let entry = self.entries.entry(name.clone()).or_default();
        entry.busy = None;
        let part = part.after(entry.texts.iter().find(|other| other.rank == rank).map(|other| &other.part));
        entry.texts.retain(|other| other.rank != rank);
        entry.texts.reserve_exact(1);
        entry.texts.push(OnDisk { rank, path: path.to_owned(), part, text });
        compact::sort_by_key(&mut entry.texts, |text| text.rank);
        entry.stale = true;
        self.evaluate(&name, validate, now);
    }

    fn rank_of(&self, path: &Path) -> usize {
        path.parent().and_then(|dir| self.directories.get(dir)).map_or(0, |view| view.rank)
    }

    /// An entry of a watched directory that is no unit and should not look like one.
    pub fn stray(&mut self, path: &Path, why: Option<String>) {
        self.told_of(path);
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
        self.told_of(path);
        let rank = Rank::Own(self.rank_of(path));
        let braked =
            path.parent().and_then(|dir| self.directories.get(dir)).is_some_and(|view| view.braked.contains(name));
        let Some(entry) = self.entries.get_mut(name) else { return };
        entry.texts.retain(|other| other.rank != rank);
        entry.stale = true;
        entry.busy = None;
        if braked {
            return;
        }
        match entry.texts.is_empty() {
            true => self.remove(name, validate, now),
            false => self.evaluate(name, validate, now),
        }
    }

    fn remove(&mut self, name: &UnitName, validate: Validate, now: WallTime) {
        self.absent.remove(name);
        match self.entries.get_mut(name) {
            Some(entry) if entry.in_force.is_some() => {
                if entry.is_removed() {
                    self.changes.insert(name.clone());
                }
                self.waiting.insert(name.clone());
                self.release_one(name, validate, now);
            }
            Some(_) | None => {
                // Masked or not valid, it was a replica's.
                if self.group_of(name).is_some() {
                    self.changes.insert(name.clone());
                }
                self.entries.remove(name);
                self.waiting.remove(name);
                self.update_named(name);
            }
        }
    }

    /// Removes what was absent long enough; says when to ask again.
    pub fn expire(&mut self, validate: Validate, now: Now) -> Option<BootTime> {
        let due: Vec<UnitName> =
            self.absent.iter().filter(|(_, until)| **until <= now.boot).map(|(name, _)| name.clone()).collect();
        due.iter().for_each(|name| self.remove(name, validate, now.wall));
        let others = [self.expire_drop_ins(validate, now), self.expire_defaults(validate, now)];
        self.absent.values().min().copied().into_iter().chain(others.into_iter().flatten()).min()
    }

    /// What a look at a source found.
    pub fn looked(&mut self, source: &Source, view: SourceView, validate: Validate, now: WallTime) {
        if self.sources.get(source) == Some(&view) {
            return;
        }
        self.sources.insert(source.clone(), view);
        let concerned = self.names.by(&Named::Source(source.clone()));
        concerned.iter().for_each(|name| self.evaluate(name, validate, now));
    }

    /// What was found of a source; of layers only when all were looked at.
    fn view_of(&self, source: &Source) -> Option<SourceView> {
        let Source::Layers(paths) = source else { return self.sources.get(source).cloned() };
        let each = paths.iter().map(|path| self.sources.get(&Source::Rootfs(path.clone())).cloned());
        Some(super::source::of_layers(each.collect::<Option<Vec<_>>>()?))
    }

    fn evaluate(&mut self, name: &UnitName, validate: Validate, now: WallTime) {
        if self.in_batch {
            self.pending.insert(name.clone());
            return;
        }
        self.merge(name);
        let Some(entry) = self.entries.get(name) else { return };
        let Some(on_disk) = entry.newest() else { return };
        let mut refused = false;
        let verdict = match (&on_disk.text, &entry.merged) {
            (Err(NoText::Bad(errors)), _) | (Ok(_), Some(Err(errors))) => Verdict::Bad(errors.clone()),
            (Err(NoText::Mask), _) => Verdict::Masked,
            (Ok(_), None) => return,
            (Ok(_), Some(Ok(text))) => match self.view_of(&text.unit.source) {
                None => Verdict::Looking,
                Some(Err(why)) => Verdict::Bad(vec![text.at_source(&why)]),
                Some(Ok(facts)) => match text.with_files(name, |path| self.files.get(path)?.as_ref()) {
                    None => Verdict::Looking,
                    Some(Err(errors)) => Verdict::Bad(errors),
                    Some(Ok(text)) => match self.taken(name, &text) {
                        None => judge(&text, &facts, validate),
                        Some(error) => {
                            refused = true;
                            Verdict::Bad(vec![error])
                        }
                    },
                },
            },
        };
        let dir = on_disk.path.parent();
        let view = dir.and_then(|dir| self.directories.get(dir));
        // What stays in force is of the directory it was in, until this one is in force as a whole.
        let of_earlier = view.is_some_and(|view| view.swap.is_some());
        let earlier = entry.in_force.as_ref().filter(|good| of_earlier && good.file.parent() == dir);
        let directory = earlier.map(|good| good.directory).or(view.and_then(|view| view.id)).unwrap_or_default();
        self.is_refused_for_another(name, refused);
        let masks_replica = matches!(verdict, Verdict::Masked) && self.group_of(name).is_some();
        let Some(entry) = self.entries.get_mut(name) else { return };
        if entry.settle(verdict, directory, now) || masks_replica {
            self.changes.insert(name.clone());
        }
        match entry.next {
            Some(_) => self.waiting.insert(name.clone()),
            None => self.waiting.remove(name),
        };
        self.update_named(name);
        self.release_one(name, validate, now);
    }

    /// Units whose text in force changed, came or went since the last call.
    pub fn take_changes(&mut self) -> BTreeSet<UnitName> {
        std::mem::take(&mut self.changes)
    }

    /// The files whose texts changed, came or went in what is in force since the last call.
    pub fn take_edited(&mut self, name: &UnitName) -> BTreeSet<PathBuf> {
        self.entries.get_mut(name).map(|entry| std::mem::take(&mut entry.edited)).unwrap_or_default()
    }

    /// Brings `desired` up to date for these units.
    ///
    /// Says whether there are other replicas than before, or others' texts.
    pub fn update(&self, desired: &mut Desired, changes: &BTreeSet<UnitName>) -> bool {
        let mut regrouped = false;
        // One that has a text of its own, or has it no more, is a replica less or more.
        let groups = compact::set(changes.iter().filter_map(|name| self.group_of(name)));
        for name in changes.iter().filter(|name| !groups.contains(*name)).chain(&groups) {
            regrouped |= match self.entries.get(name).and_then(|entry| entry.want()) {
                Some(want) => desired.put(name, want, |replica| self.is_apart(replica)),
                None => desired.take(name),
            };
        }
        regrouped
    }

    fn entries(&self) -> impl Iterator<Item = (&UnitName, &Entry)> {
        self.entries.iter().map(|(name, entry)| (name, entry.as_ref()))
    }

    /// The text in force; of a replica that of its group.
    pub fn in_force(&self, name: &UnitName) -> Option<&Arc<InForce>> {
        self.entry(name)?.in_force.as_ref()
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
        self.entry_on_disk(name).map_or(&[], |entry| &entry.errors)
    }

    /// The file on disk that counts.
    pub fn file(&self, name: &UnitName) -> Option<&Path> {
        let newest = self.entry_on_disk(name)?.newest();
        newest.map(|on_disk| on_disk.path.as_path()).or_else(|| self.in_force(name).map(|good| good.file.as_path()))
    }

    /// The link to /dev/null that masks it, unless it is in force all the same: the mask waits.
    pub fn mask_of(&self, name: &UnitName) -> Option<&Path> {
        self.entries.get(name).filter(|entry| entry.in_force.is_none())?.mask()
    }

    /// What disk and running have not in common, in words.
    pub fn drift(&self, name: &UnitName) -> Option<String> {
        let name = self.declared_on_disk(name);
        let entry = self.entries.get(name.as_ref())?;
        let name = name.as_ref();
        if let Some(who) = &entry.busy {
            return Some(format!("the file is being written{who}"));
        }
        if let Some(waits) = self.waits(name) {
            return Some(waits);
        }
        if let Some(writer) = self.drop_ins.writer(name) {
            return Some(writer);
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
        if let Some(bad) = &entry.trial.bad {
            return Some(format!("rolled back: {}; the text on disk is tried again when it changes", bad.why));
        }
        let braked = self.directories.values().any(|view| view.braked.contains(name));
        if self.absent.contains_key(name) {
            let what = self.gone_words(name);
            return Some(format!("{what}, which counts when it stays so for a second"));
        }
        let missing = || entry.texts.is_empty().then(|| "its directory is missing or unreadable".to_owned());
        if braked {
            Some("its file went with its directory; removal waits for `moored apply --confirm-removals`".to_owned())
        } else {
            missing()
        }
    }

    /// Whether a text waits for a look at its source, a file for its writer, or a removal for its time; its own, or of its set.
    pub fn is_unsettled(&self, name: &UnitName) -> bool {
        let name = self.declared_on_disk(name);
        let name = name.as_ref();
        let waits_for_set =
            || self.next(name).and_then(|_| self.set_holds(name)).is_some_and(|hold| hold.is_settling());
        self.entries.get(name).is_some_and(|entry| entry.looking || entry.busy.is_some())
            || waits_for_set()
            || self.drop_ins.writer(name).is_some()
            || self.pending.contains(name)
            || self.absent.contains_key(name)
    }

    /// Whether any text waits for a look at its source.
    pub fn is_looking(&self) -> bool {
        self.is_pending() || self.entries.values().any(|entry| entry.looking)
    }

    /// What concerns no single unit.
    pub fn notes(&self) -> Vec<String> {
        let of_directory = |(path, view): (&PathBuf, &DirectoryView)| {
            let trouble = view.trouble.as_ref().map(|why| format!("{}: {why}", path.display()));
            let held = view.held();
            let braked = held.map(|held| {
                format!(
                    "{}: became another directory and {held} would go: they run on until the files return or `moored apply --confirm-removals`",
                    path.display()
                )
            });
            [trouble, braked]
        };
        let directories = self.directories.iter().flat_map(of_directory).flatten();
        let defaults = self.defaults_errors().iter().map(|why| format!("{why}; the defaults before stay in force"));
        let templates = self.template_errors().map(|why| format!("{why}; it lists what it listed before"));
        defaults
            .chain(templates)
            .chain(directories)
            .chain(self.strays.iter().map(|(path, why)| format!("{}: {why}", path.display())))
            .collect()
    }
}
impl Entry {
    /// What counts of what is on disk.
    fn newest(&self) -> Option<&OnDisk> {
        self.texts.last()
    }

    /// The newest text, if it is one, and the one in force.
    fn units(&self) -> impl Iterator<Item = &Arc<Unit>> {
        self.text().map(|text| &text.unit).into_iter().chain(self.in_force.as_ref().map(|good| &good.unit))
    }

    /// The newest text with all that is merged with it, if they are valid together.
    fn text(&self) -> Option<&Text> {
        self.merged.as_ref()?.as_ref().ok()
    }
}
