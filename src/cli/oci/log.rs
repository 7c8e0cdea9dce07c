//! Where messages go: standard error, and the file that a client named with `--log`.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use super::args::LogFormat;
use crate::supervise::log::rfc3339_ms;
use crate::unit::diagnostic::one_line;

/// See the module.
pub struct Log {
    file: Option<PathBuf>,
    format: LogFormat,
    debug: bool,
}

impl Log {
    /// The file is opened when there is something to say.
    pub fn new(file: Option<PathBuf>, format: LogFormat, debug: bool) -> Log {
        Log { file, format, debug }
    }

    /// The one that a command line names which does not read as a whole.
    pub fn as_named(words: &[OsString]) -> Log {
        let value = |option: &str| {
            let at = words.iter().position(|word| word == option);
            let attached = words.iter().find_map(|word| word.to_str()?.strip_prefix(option)?.strip_prefix('='));
            at.and_then(|at| words.get(at + 1)).cloned().or(attached.map(OsString::from))
        };
        let is_json = value("--log-format").is_some_and(|format| format == "json");
        let format = if is_json { LogFormat::Json } else { LogFormat::Text };
        Log::new(value("--log").map(PathBuf::from), format, false)
    }

    /// What standard error has been told already.
    pub fn error_in_file(&self, text: &str) {
        self.append("error", text);
    }

    /// Why the command failed; several lines are several mistakes, but one message.
    pub fn error(&self, text: &str) {
        for line in text.lines() {
            let _ = writeln!(std::io::stderr(), "moored: {}", one_line(line));
        }
        self.append("error", text);
    }

    /// Something odd that stops nothing.
    pub fn warning(&self, text: &str) {
        match self.file {
            Some(_) => self.append("warning", text),
            None => drop(writeln!(std::io::stderr(), "moored: warning: {}", one_line(text))),
        }
    }

    /// What is done, with `--debug`.
    pub fn debug(&self, what: &dyn Display) {
        match (self.debug, &self.file) {
            (false, _) => {}
            (true, Some(_)) => self.append("debug", &what.to_string()),
            (true, None) => drop(writeln!(std::io::stderr(), "moored: {}", one_line(&what.to_string()))),
        }
    }

    /// One write for one message, so that two commands do not mix theirs. A log that cannot be written stops no container.
    fn append(&self, level: &str, text: &str) {
        let Some(path) = &self.file else { return };
        let time = rfc3339_ms(crate::cli::text::now_ms());
        let line = match self.format {
            LogFormat::Json => serde_json::json!({ "level": level, "msg": text, "time": time }).to_string(),
            LogFormat::Text => format!("time={time:?} level={level} msg={text:?}"),
        };
        let opened = File::options().append(true).create(true).open(path);
        let _ = opened.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    }
}
