//! What the watch reads, put into the catalogue.
//!
//! A unit's source is followed by what of it matters: a bundle's config.json by its contents, a rootfs or an executable by where its path
//! leads. The look at what is there (is it a directory, is it a static program) is done on the watch's own thread, which may wait for a disk.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::catalogue::{DirectoryId, SourceView};
use super::clock;
use super::contents::FileView;
use super::mail::Mail;
use super::narrate;
use super::round::{Post, Supervisor, VALIDATE};
use super::source::{self, SourceError};
use crate::plan::{Fact, Presence};
use crate::unit::{Condition, Source, SourceFacts, UnitName, file_stem_to_name};
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
        for event in events {
            let mail = match event {
                Event::Place { path, place } => Mail::Look(look(path, place)),
                event => Mail::Watch(event),
            };
            // The loop outlives the watch.
            let _ = post.send(mail);
        }
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

/// What of a source is to be followed.
fn follow(source: &Source) -> Follow {
    match source {
        Source::Bundle(path) => Follow { path: path.join(CONFIG), purpose: Purpose::Contents },
        Source::Rootfs(path) | Source::Executable(path) => Follow { path: path.clone(), purpose: Purpose::Place },
    }
}

impl Supervisor {
    pub(super) fn watched(&mut self, event: Event) {
        let now = clock::now();
        match event {
            Event::Text { path, name, text, resolved } => match self.unit_of(&path, &name) {
                Some(unit) => self.catalogue.read(&path, unit, text, resolved, VALIDATE, now.wall),
                None => return,
            },
            Event::Refused { path, name, why: watch::ReadError::Mask { .. } } => match self.unit_of(&path, &name) {
                Some(unit) => self.catalogue.mask(&path, unit, VALIDATE, now.wall),
                None => return,
            },
            Event::Refused { path, name, why } => match self.unit_of(&path, &name) {
                Some(unit) => self.catalogue.refuse(&path, unit, why.to_string(), VALIDATE, now.wall),
                None => return,
            },
            Event::Gone { path, name } => match self.unit_of(&path, &name) {
                Some(unit) => self.catalogue.gone(&path, &unit, VALIDATE, now.wall),
                None => self.catalogue.stray(&path, None),
            },
            Event::Busy { path, writer } => self.busy(&path, writer),
            Event::Directory { dir, state } => self.directory(&dir, state),
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
                return self.record(&Fact::Found { path, presence });
            }
            Event::Blind(blind) => self.blind(&blind),
            Event::Synced { token, .. } => return self.read_to_the_end(token),
        }
        self.sources_changed = true;
    }

    pub(super) fn looked(&mut self, look: Look) {
        let now = clock::now().wall;
        if !self.catalogue.sources().into_iter().any(|source| source.path() == look.path) {
            return;
        }
        // As both: a path is followed once, whatever the texts that name it take it for.
        let Look { path, directory, program } = look;
        self.catalogue.looked(&Source::Rootfs(path.clone()), directory, VALIDATE, now);
        self.catalogue.looked(&Source::Executable(path), program, VALIDATE, now);
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

    fn busy(&mut self, path: &Path, writer: Option<u32>) {
        let who = writer.map(|pid| format!(" by pid {pid}")).unwrap_or_default();
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
            DirectoryState::Present { identity, names, .. } => {
                let id = DirectoryId { device: identity.dev, inode: identity.ino, mount: identity.mount };
                let names: BTreeSet<UnitName> =
                    names.iter().filter_map(|name| file_stem_to_name(name).ok().flatten()).collect();
                let braked = self.catalogue.directory_listed(dir, id, &names, clock::now());
                if braked > 0 {
                    let text = format!(
                        "{} became another directory and {braked} of its units would go: they run on until the files return or `moored apply --confirm-removals`",
                        dir.display()
                    );
                    self.tell(narrate::note("braked", text));
                }
            }
        }
    }

    /// Follows what the texts, and those in force, name now. Once a round: it looks at all of them.
    pub(super) fn follow_sources(&mut self) {
        if !std::mem::take(&mut self.sources_changed) {
            return;
        }
        let places = self.catalogue.conditions().filter_map(Condition::path).cloned();
        let places: BTreeSet<Follow> = places.map(|path| Follow { path, purpose: Purpose::Presence }).collect();
        self.observed
            .host
            .retain(|path| places.contains(&Follow { path: path.to_owned(), purpose: Purpose::Presence }));
        let files = self.catalogue.files();
        self.catalogue.expect_files(&files, VALIDATE, clock::now().wall);
        let contents = |path: &PathBuf| Follow { path: path.clone(), purpose: Purpose::Contents };
        let wanted: BTreeSet<Follow> =
            self.catalogue.sources().into_iter().map(follow).chain(files.iter().map(contents)).chain(places).collect();
        if self.files.follow(wanted) {
            self.catalogue.retain_sources();
        }
    }

    /// Everything on disk at the time of a `sync` was posted. Sources that these texts name come behind them; their units are unsettled
    /// until then.
    fn read_to_the_end(&mut self, token: u64) {
        self.first_read |= token == super::FIRST_READ;
        self.was_read(token);
    }
}

fn config_view(bundle: &Path, file: Result<watch::Contents, watch::ReadError>) -> SourceView {
    match file {
        Err(why) => Err(SourceError::refused("bundle", bundle, why).to_string()),
        Ok(watch::Contents { bytes, resolved, .. }) => {
            let resolved = resolved.parent().unwrap_or(bundle).to_owned();
            Ok(Arc::new(SourceFacts { resolved, config_json: Some(bytes) }))
        }
    }
}
