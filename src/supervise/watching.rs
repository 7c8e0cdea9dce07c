//! What the watch reads, put into the catalogue.
//!
//! A unit's source is followed by what of it matters: a bundle's config.json by its contents, a rootfs or an executable by where its path
//! leads. The look at what is there (is it a directory, is it a static program) is done on the watch's own thread, which may wait for a disk.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::catalogue::{DirectoryId, Named, NamedChanges, NoDefaults, SourceView};
use super::clock;
use super::contents::FileView;
use super::mail::Mail;
use super::narrate;
use super::round::{Post, Supervisor, VALIDATE};
use super::source::{self, SourceError};
use crate::compact;
use crate::plan::{BootTime, Fact, Presence};
use crate::unit::{Source, SourceFacts, UnitName, file_stem_to_name, template_sample, text_of};
use crate::watch::{self, Blind, DirectoryState, Event, Follow, Purpose};

/// In a bundle.
const CONFIG: &str = "config.json";

/// What a look at the place of a rootfs or an executable found.
#[derive(Debug)]
pub struct Look {
    /// As the unit names it.
    path: PathBuf,
    /// As a rootfs.
    directory: SourceView,
    /// As an executable.
    program: SourceView,
}

/// The watch's callback: looks at places, posts all.
pub fn poster(post: Post) -> impl Fn(Vec<Event>) + Send + 'static {
    move |events| {
        let mail = |event| match event {
            Event::Place { path, place } => Mail::Look(look(path, place)),
            event => Mail::Watch(event),
        };
        // The loop outlives the watch.
        let _ = post.send(Mail::Together(events.into_iter().map(mail).collect()));
    }
}

fn look(path: PathBuf, place: Result<watch::Place, watch::ReadError>) -> Look {
    let (directory, program) = match place {
        Err(why) => (
            Err(SourceError::refused("rootfs", &path, why.clone())),
            Err(SourceError::refused("executable", &path, why)),
        ),
        Ok(watch::Place { resolved, .. }) => {
            (source::rootfs(&path, resolved.clone()), source::executable(&path, resolved))
        }
    };
    Look { path, directory: view(directory), program: view(program) }
}

fn view(found: Result<SourceFacts, SourceError>) -> SourceView {
    found.map(Arc::new).map_err(|error| error.to_string())
}

/// moored.toml.
pub fn follow_defaults(config: &Path) -> Follow {
    Follow { path: config.to_owned(), purpose: Purpose::Contents }
}

/// What of a thing is to be followed.
fn follow(named: &Named) -> Follow {
    let (path, purpose) = match named {
        Named::Source(Source::Bundle(path)) => (path.join(CONFIG), Purpose::Contents),
        Named::Source(Source::Rootfs(path) | Source::Executable(path)) => (path.clone(), Purpose::Place),
        // Never named: each of them is, as a rootfs.
        Named::Source(source @ Source::Layers(_)) => (source.path().to_owned(), Purpose::Place),
        // Never named: it is there.
        Named::Source(Source::Host) => (PathBuf::from("/"), Purpose::Place),
        Named::File(path) => (path.clone(), Purpose::Contents),
        Named::Place(path) => (path.clone(), Purpose::Presence),
    };
    Follow { path, purpose }
}

impl Supervisor {
    pub(super) fn watched(&mut self, event: Event) {
        let now = clock::now();
        match event {
            Event::Text { path, text, resolved, .. } if self.is_drop_in(&path) => {
                self.catalogue.drop_in_read(&path, text, resolved, VALIDATE, now.wall);
            }
            Event::Refused { path, why, .. } if self.is_drop_in(&path) => {
                let is_mask = matches!(why, watch::ReadError::Mask { .. });
                self.catalogue.drop_in_refused(&path, (!is_mask).then(|| why.to_string()), VALIDATE, now.wall);
            }
            Event::Gone { path, .. } if self.is_drop_in(&path) => {
                self.catalogue.drop_in_gone(&path, VALIDATE, now.wall);
            }
            Event::Directory { dir, state } if self.catalogue.is_drop_in_dir(&dir) => self.drop_ins(&dir, state),
            Event::Text { path, name, text, resolved } if template_sample(&name).is_some() => {
                self.catalogue.template_read(&path, text, resolved, VALIDATE, now);
            }
            Event::Refused { path, name, why } if template_sample(&name).is_some() => {
                let is_mask = matches!(why, watch::ReadError::Mask { .. });
                self.catalogue.template_refused(&path, (!is_mask).then(|| why.to_string()), VALIDATE, now);
            }
            Event::Gone { path, name } if template_sample(&name).is_some() => {
                self.catalogue.template_gone(&path, VALIDATE, now);
            }
            Event::Text { path, name, text, resolved } => {
                if let Some(unit) = self.unit_of(&path, &name) {
                    self.catalogue.read(&path, unit, text, resolved, VALIDATE, now.wall);
                }
            }
            Event::Refused { path, name, why: watch::ReadError::Mask { .. } } => {
                if let Some(unit) = self.unit_of(&path, &name) {
                    self.catalogue.mask(&path, unit, VALIDATE, now.wall);
                }
            }
            Event::Refused { path, name, why } => {
                if let Some(unit) = self.unit_of(&path, &name) {
                    self.catalogue.refuse(&path, unit, why.to_string(), VALIDATE, now.wall);
                }
            }
            Event::Gone { path, name } => match self.unit_of(&path, &name) {
                Some(unit) => self.catalogue.gone(&path, &unit, VALIDATE, now.wall),
                None => self.catalogue.stray(&path, None),
            },
            Event::Busy { path, writer } => self.busy(&path, writer),
            Event::Directory { dir, state } => self.directory(&dir, state),
            Event::File { path, file } if path == self.settings.config => self.defaults(&path, file),
            Event::File { path, file } => {
                if self.catalogue.names_file(&path) {
                    let view = FileView::of(file.clone().map(|file| (file.bytes, file.readable_by_others)));
                    self.catalogue.file_read(&path, view, VALIDATE, now.wall);
                }
                // It may be both.
                if path.file_name() == Some(OsStr::new(CONFIG)) {
                    let bundle = path.parent().unwrap_or(Path::new("/")).to_owned();
                    let view = config_view(&bundle, file);
                    self.catalogue.looked(&Source::Bundle(bundle), view, VALIDATE, now.wall);
                }
            }
            Event::Place { .. } => {}
            Event::Presence { path, exists, is_mount_point } => {
                let presence = Presence { exists, is_mount_point };
                self.record(&Fact::Found { path, presence });
            }
            Event::Blind(blind) => self.blind(&blind),
            Event::Synced { token, .. } => self.read_to_the_end(token),
        }
    }

    pub(super) fn looked(&mut self, look: Look) {
        let now = clock::now().wall;
        // What waits to be judged may name it.
        if !self.catalogue.is_pending() && !self.catalogue.names_source_at(&look.path) {
            return;
        }
        // As both: a path is followed once, whatever the texts that name it take it for.
        let Look { path, directory, program } = look;
        self.catalogue.looked(&Source::Rootfs(path.clone()), directory, VALIDATE, now);
        self.catalogue.looked(&Source::Executable(path), program, VALIDATE, now);
    }

    fn is_drop_in(&self, path: &Path) -> bool {
        path.parent().is_some_and(|dir| self.catalogue.is_drop_in_dir(dir))
    }

    fn drop_ins(&mut self, dir: &Path, state: DirectoryState) {
        let now = clock::now();
        match state {
            DirectoryState::Present { names, .. } => self.catalogue.drop_ins_listed(dir, &names, VALIDATE, now),
            DirectoryState::Missing => self.catalogue.drop_ins_gone(dir, VALIDATE, now.wall),
            DirectoryState::Unreadable(why) => {
                self.catalogue.drop_ins_lost(dir, why.to_string(), VALIDATE, now.wall);
            }
        }
    }

    /// The unit that a file declares; one that is none but looks like one is noted.
    fn unit_of(&mut self, path: &Path, name: &OsString) -> Option<UnitName> {
        match file_stem_to_name(name) {
            Ok(unit) => unit,
            Err(bad) => {
                self.catalogue.stray(path, Some(bad.to_string()));
                None
            }
        }
    }

    fn defaults(&mut self, path: &Path, file: Result<watch::Contents, watch::ReadError>) {
        let (now, before) = (clock::now(), self.catalogue.defaults().cloned());
        match file {
            Ok(watch::Contents { bytes, resolved, .. }) => match text_of(path, &bytes) {
                Ok(text) => self.catalogue.defaults_read(path, text, resolved, VALIDATE, now.wall),
                Err(error) => {
                    self.catalogue.defaults_not_read(NoDefaults::Refused(error.to_string()), VALIDATE, now);
                }
            },
            Err(why) => self.catalogue.defaults_not_read(no_defaults(path, &why), VALIDATE, now),
        }
        let errors = self.catalogue.defaults_errors().join("; ");
        if !errors.is_empty() {
            self.tell(narrate::note("invalid", format!("{errors}; the defaults before stay in force")));
        } else if self.catalogue.defaults() != before.as_ref() {
            let words = if self.catalogue.defaults().is_some() { "are in force" } else { "are gone" };
            self.tell(narrate::note("defaults", format!("the defaults of {} {words}", path.display())));
        }
    }

    fn busy(&mut self, path: &Path, writer: Option<u32>) {
        let who = writer.map(|pid| format!(" by pid {pid}")).unwrap_or_default();
        if path == self.settings.config {
            return self.tell(narrate::note("busy", format!("{} is being written{who}", path.display())));
        }
        if self.is_drop_in(path) {
            return self.catalogue.drop_in_busy(path, who);
        }
        if self.catalogue.template_busy(path, &who) {
            return;
        }
        let unit = path.file_name().and_then(|name| file_stem_to_name(name).ok().flatten());
        match unit {
            Some(unit) => self.catalogue.busy(unit, who),
            None => tracing::info!("{}: is being written{who}", path.display()),
        }
    }

    fn blind(&mut self, blind: &Blind) {
        self.tell(narrate::note("blind", blind.to_string()));
    }

    fn directory(&mut self, dir: &Path, state: DirectoryState) {
        match state {
            DirectoryState::Missing => {
                self.catalogue.directory_lost(dir, "does not exist: waiting for it".to_owned());
                self.tell(narrate::note("directory", format!("{} does not exist: waiting for it", dir.display())));
            }
            DirectoryState::Unreadable(why) => {
                self.catalogue.directory_lost(dir, why.to_string());
                self.tell(narrate::note("directory", format!("{why}; what it declared stays in force")));
            }
            DirectoryState::Present { identity, names, drop_ins, .. } => {
                let id = DirectoryId { device: identity.dev, inode: identity.ino, mount: identity.mount };
                let (files, drop_ins) = (compact::set(names), compact::set(drop_ins));
                if let Some(braked) = self.catalogue.directory_listed(dir, id, &files, &drop_ins, clock::now()) {
                    let text = format!(
                        "{} became another directory and {braked} would go: they run on until the files return or `moored apply --confirm-removals`",
                        dir.display()
                    );
                    self.tell(narrate::note("braked", text));
                }
            }
        }
    }

    /// Judges some of the units that wait for it. Until the directories were read, the defaults that an earlier run left are kept; after
    /// that they are stored before any unit that they are merged into.
    pub(super) fn judge_more(&mut self) {
        if self.catalogue.is_pending() {
            self.catalogue.end_batch(VALIDATE, clock::now().wall);
        }
        if self.first_read {
            self.files.keep_defaults(self.catalogue.defaults());
        }
    }

    /// The next round goes on with it at once.
    pub(super) fn more_to_judge(&self) -> Option<BootTime> {
        self.catalogue.is_pending().then(|| clock::now().boot)
    }

    /// Follows what the texts, and those in force, name now. Once a round, and only what became otherwise.
    pub(super) fn follow_sources(&mut self) {
        let NamedChanges { more, no_more } = self.catalogue.take_named();
        for named in &no_more {
            if let Named::Place(path) = named {
                self.observed.host.forget(path);
            }
        }
        for named in &more {
            if let Named::File(path) = named {
                self.catalogue.expect_file(path, VALIDATE, clock::now().wall);
            }
        }
        self.files.follow(more.iter().map(follow), no_more.iter().map(follow));
    }

    /// Everything on disk at the time of a `sync` was posted. Sources that these texts name come behind them; their units are unsettled
    /// until then.
    fn read_to_the_end(&mut self, token: u64) {
        self.first_read |= token == super::FIRST_READ;
        self.was_read(token);
    }
}

/// A link that leads nowhere is no removal.
fn no_defaults(path: &Path, why: &watch::ReadError) -> NoDefaults {
    match why {
        watch::ReadError::Mask { .. } => NoDefaults::Mask,
        watch::ReadError::Missing { path: missing } if missing == path => NoDefaults::Missing,
        watch::ReadError::Missing { .. } => NoDefaults::MissingDirectory(why.to_string()),
        why => NoDefaults::Refused(why.to_string()),
    }
}

fn config_view(bundle: &Path, file: Result<watch::Contents, watch::ReadError>) -> SourceView {
    match file {
        Err(why) => Err(SourceError::refused("bundle", bundle, why).to_string()),
        Ok(watch::Contents { bytes, resolved, .. }) => {
            let resolved = resolved.parent().unwrap_or(bundle).to_owned();
            Ok(Arc::new(SourceFacts { resolved, config_json: Some(bytes.into()), layers: Vec::new() }))
        }
    }
}
