//! What the watch reads, put into the catalogue.
//!
//! A unit's source is followed by what of it matters: a bundle's config.json by its contents, a rootfs or an executable by where its path
//! leads. The look at what is there (is it a directory, is it a static program) is done on the watch's own thread, which may wait for a disk.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::catalogue::{DirectoryId, SourceView};
use super::clock;
use super::mail::Mail;
use super::narrate;
use super::round::{Post, Supervisor, VALIDATE};
use crate::unit::{ELF_BYTES, Source, SourceFacts, UnitName, check_executable, file_stem_to_name};
use crate::watch::{self, Blind, DirectoryState, Event, Follow, Purpose};

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
    match place {
        Err(error) => Look { path, directory: Err(error.to_string()), program: Err(error.to_string()) },
        Ok(watch::Place { resolved, .. }) => look_at(path, resolved),
    }
}

pub(super) fn look_at(path: PathBuf, resolved: PathBuf) -> Look {
    let facts = || Arc::new(SourceFacts { resolved: resolved.clone(), config_json: None });
    let directory = match std::fs::metadata(&resolved) {
        Ok(metadata) if metadata.is_dir() => Ok(facts()),
        Ok(_) => Err(format!("rootfs {} is a file: expected a directory", path.display())),
        Err(error) => Err(format!("rootfs {}: {error}", path.display())),
    };
    let program = match head(&resolved) {
        Ok(first) => check_executable(&first)
            .map(|()| facts())
            .map_err(|error| format!("executable {}: {error}", path.display())),
        Err(error) => Err(format!("executable {}: {error}", path.display())),
    };
    Look { path, directory, program }
}

fn head(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut first = Vec::with_capacity(ELF_BYTES);
    let file = open_regular(path)?;
    file.take(ELF_BYTES as u64).read_to_end(&mut first)?;
    Ok(first)
}

/// Without waiting for the other end of a FIFO that somebody put there.
fn open_regular(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(std::io::Error::other("not a regular file")),
    }
}

impl Look {
    /// For a source that names this path.
    pub(super) fn view(&self, source: &Source) -> SourceView {
        match source {
            Source::Bundle(_) | Source::Rootfs(_) => self.directory.clone(),
            Source::Executable(_) => self.program.clone(),
        }
    }
}

/// What of a source is to be followed.
fn follow(source: &Source) -> Follow {
    match source {
        Source::Bundle(path) => Follow { path: path.join("config.json"), purpose: Purpose::Contents },
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
                let bundle = path.parent().unwrap_or(Path::new("/")).to_owned();
                self.catalogue.looked(&Source::Bundle(bundle), config_view(&path, file), VALIDATE, now.wall);
            }
            Event::Place { .. } => {}
            Event::Blind(blind) => self.blind(&blind),
            Event::Synced { token, .. } => return self.read_to_the_end(token),
        }
        self.follow_sources();
    }

    pub(super) fn looked(&mut self, look: Look) {
        let now = clock::now().wall;
        if !self.catalogue.sources().into_iter().any(|source| source.path() == look.path) {
            return;
        }
        // As both: a path is followed once, whatever the texts that name it take it for.
        for source in [Source::Rootfs(look.path.clone()), Source::Executable(look.path.clone())] {
            self.catalogue.looked(&source, look.view(&source), VALIDATE, now);
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

    /// Follows what the texts name now; cheap when that did not change.
    pub(super) fn follow_sources(&mut self) {
        let wanted: BTreeSet<Follow> = self.catalogue.sources().into_iter().map(follow).collect();
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

fn config_view(path: &Path, file: Result<watch::Contents, watch::ReadError>) -> SourceView {
    match file {
        Err(error) => Err(error.to_string()),
        Ok(watch::Contents { bytes, resolved }) => {
            let resolved = resolved.parent().unwrap_or(path).to_owned();
            Ok(Arc::new(SourceFacts { resolved, config_json: Some(bytes) }))
        }
    }
}
