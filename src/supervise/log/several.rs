//! The logs of several units as one, as of a unit with replicas: each line with the name of the unit before it, in the order of their times.
//!
//! Which units there are is looked at once; with `follow` those that come later are not followed. A line that the log holds in pieces has its
//! name before each of them.

use std::collections::{BinaryHeap, VecDeque};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;

use super::lines::Entry;
use super::reader::{LogReader, Query, ReadError};
use super::render::{Style, render};
use crate::compact;
use crate::plan::in_number_order;
use crate::unit::{UnitName, replica_number};

/// Text is written in pieces of about this size.
const OUTPUT_BYTES: usize = 64 * 1024;

/// A thread that follows one log needs little.
const STACK_BYTES: usize = 256 * 1024;

/// The replicas of a unit that have a log here, by number, with the unit's own log, if it has one from when it had none.
pub fn with_replicas(log_dir: &Path, unit: &UnitName) -> Vec<UnitName> {
    let names = std::fs::read_dir(log_dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let names = names.filter_map(|name| UnitName::new(name.to_str()?).ok());
    let is_one = |name: &UnitName| name == unit || name.prefix() == unit.as_str() && replica_number(name).is_some();
    let mut found: Vec<UnitName> = names.filter(is_one).collect();
    compact::sort_by(&mut found, in_number_order);
    found
}

/// One log, and its next entry.
struct One {
    name: String,
    reader: LogReader,
    left: VecDeque<Entry>,
    /// Its end was reached, and what has no newline was taken.
    ended: bool,
}

impl One {
    /// Has the next entry at hand, if there is one; `whole`: also what has no newline yet.
    fn fill(&mut self, whole: bool) -> Result<(), ReadError> {
        if !self.left.is_empty() || self.ended {
            return Ok(());
        }
        match self.reader.next_entry()? {
            Some(entry) => self.left.push_back(entry),
            None => {
                self.ended = true;
                if whole {
                    self.left.extend(self.reader.unfinished());
                }
            }
        }
        Ok(())
    }
}

/// Where the next line comes from: the earliest, and of those the first.
type Turn = std::cmp::Reverse<(u64, usize)>;

/// The same as [`print`](super::print) for several units.
pub fn print_several(
    log_dir: &Path,
    units: &[UnitName],
    query: &Query,
    style: Style,
    out: &mut (dyn Write + Send),
) -> Result<(), ReadError> {
    match print_all(log_dir, units, query, style, out) {
        Err(ReadError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

fn print_all(
    log_dir: &Path,
    units: &[UnitName],
    query: &Query,
    style: Style,
    out: &mut (dyn Write + Send),
) -> Result<(), ReadError> {
    let width = units.iter().map(|unit| unit.as_str().len()).max().unwrap_or(0);
    let mut all = Vec::new();
    for unit in units {
        let reader = match LogReader::open(log_dir, unit, query) {
            // That of a run before is one's that has run twice.
            Err(ReadError::NoPrevious { .. } | ReadError::NoLog { .. }) => continue,
            reader => reader?,
        };
        let name = if style.json { unit.to_string() } else { format!("{unit:width$} | ") };
        all.push(One { name, reader, left: VecDeque::new(), ended: false });
    }
    print_past(&mut all, query, style, out)?;
    if query.follow { follow(all, style, out) } else { Ok(()) }
}

fn print_past(all: &mut [One], query: &Query, style: Style, out: &mut (dyn Write + Send)) -> Result<(), ReadError> {
    let mut turns: BinaryHeap<Turn> = BinaryHeap::new();
    for (at, one) in all.iter_mut().enumerate() {
        one.fill(!query.follow)?;
        turns.extend(one.left.front().map(|entry| std::cmp::Reverse((entry.time_ms, at))));
    }
    let newest = query.lines.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX));
    let (mut kept, mut text) = (VecDeque::new(), Vec::new());
    while let Some(std::cmp::Reverse((_, at))) = turns.pop() {
        let Some(one) = all.get_mut(at) else { continue };
        let Some(entry) = one.left.pop_front() else { continue };
        match newest {
            None => line(&one.name, &entry, style, &mut text),
            Some(newest) => {
                let mut own = Vec::new();
                line(&one.name, &entry, style, &mut own);
                kept.push_back(own);
                if kept.len() > newest {
                    kept.pop_front();
                }
            }
        }
        if text.len() >= OUTPUT_BYTES {
            out.write_all(&text).map_err(ReadError::Output)?;
            text.clear();
        }
        one.fill(!query.follow)?;
        turns.extend(one.left.front().map(|entry| std::cmp::Reverse((entry.time_ms, at))));
    }
    text.extend(kept.into_iter().flatten());
    out.write_all(&text).and_then(|()| out.flush()).map_err(ReadError::Output)
}

/// From here on each is followed by itself; the first that cannot go on ends all.
fn follow(all: Vec<One>, style: Style, out: &mut (dyn Write + Send)) -> Result<(), ReadError> {
    let out = Mutex::new(out);
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for mut one in all {
            let (out, ended) = (&out, ended.clone());
            let follow = move || {
                let end = follow_one(&mut one, style, out);
                // Whether anybody waits for it makes no difference.
                let _ = ended.send(end);
            };
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, follow);
            if let Err(error) = thread {
                return Err(ReadError::Output(error));
            }
        }
        match end.recv() {
            // The others sleep until their logs grow: nobody waits for that.
            Ok(Err(ReadError::Output(error))) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
            Ok(Err(error)) => {
                tracing::error!("{error}");
                std::process::exit(1)
            }
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    })
}

fn follow_one(one: &mut One, style: Style, out: &Mutex<&mut (dyn Write + Send)>) -> Result<(), ReadError> {
    let mut text = Vec::new();
    loop {
        one.reader.wait()?;
        while let Some(entry) = one.reader.next_entry()? {
            line(&one.name, &entry, style, &mut text);
        }
        if text.is_empty() {
            continue;
        }
        // Whoever panicked while it wrote has ended the program.
        let mut out = out.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        out.write_all(&text).and_then(|()| out.flush()).map_err(ReadError::Output)?;
        text.clear();
    }
}

/// One entry with its unit's name; a line of its own in any case.
fn line(name: &str, entry: &Entry, style: Style, text: &mut Vec<u8>) {
    let mut own = Vec::new();
    render(entry, style, &mut own);
    if own.last() != Some(&b'\n') {
        own.push(b'\n');
    }
    match own.strip_prefix(b"{").filter(|_| style.json) {
        // A unit's name has nothing in it that JSON escapes.
        Some(rest) => {
            text.extend_from_slice(format!("{{\"unit\":\"{name}\",").as_bytes());
            text.extend_from_slice(rest);
        }
        None => {
            text.extend_from_slice(name.as_bytes());
            text.extend_from_slice(&own);
        }
    }
}
