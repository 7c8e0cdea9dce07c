//! `moored logs`: read from the files themselves, so that it works without a supervisor.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::Path;

use super::Failure;
use super::args::Logs;
use crate::supervise::log::{Query, ReadError, Style, print, print_several, with_replicas};
use crate::unit::UnitName;

/// Prints what is asked for; with `-f` until the output's reader goes, or a signal comes.
pub fn logs(log_dir: &Path, args: Logs) -> Result<u8, Failure> {
    let unit = UnitName::new(&args.unit).map_err(|error| Failure::BadUnit(error.to_string()))?;
    let query = Query {
        lines: args.lines.and_then(|lines| u64::try_from(lines).ok()),
        since_ms: args.since,
        previous: args.previous,
        follow: args.follow,
    };
    let stdout = io::stdout();
    let style = Style { terminal: stdout.is_terminal(), timestamps: args.timestamps, json: args.json };
    // Not through `Stdout`, which looks at every byte for newlines.
    let mut out = File::from(stdout.as_fd().try_clone_to_owned().map_err(Failure::Output)?);
    // A unit with replicas has no log, or an old one, and each of them has one.
    let units = with_replicas(log_dir, &unit);
    let printed = match units.as_slice() {
        [] => print(log_dir, &unit, &query, style, &mut out),
        [only] if *only == unit => print(log_dir, &unit, &query, style, &mut out),
        all => print_several(log_dir, all, &query, style, &mut out),
    };
    match printed {
        Ok(()) => Ok(0),
        Err(ReadError::Output(error)) => Err(Failure::Output(error)),
        Err(error) => Err(Failure::Logs(error)),
    }
}
