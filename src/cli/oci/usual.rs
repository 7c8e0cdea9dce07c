//! `create` and `run` as clients usually type them, read without clap: setting its parser up takes 0.1 ms, a sixteenth of a start.
//!
//! What is read here means the same to clap. Whatever else stands there (another command or option, one that is given twice, a value that is
//! missing or may not be one, `--help`, `--`) is left to clap, which also says what is wrong with it.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use super::args::{Cli, Command, Globals, LogFormat, Make, Run};

/// An option as it is typed, and whether a value belongs to it.
const OPTIONS: [(&str, &str, bool); 11] = [
    ("--root", "", true),
    ("--log", "", true),
    ("--log-format", "", true),
    ("--debug", "", false),
    ("--bundle", "-b", true),
    ("--console-socket", "", true),
    ("--pid-file", "", true),
    ("--preserve-fds", "", true),
    ("--no-new-keyring", "", false),
    ("--detach", "-d", false),
    ("--keep", "", false),
];

/// Reads the words after the program's name; `None` leaves them to clap.
pub fn read(words: &[OsString]) -> Option<Cli> {
    let mut given: Vec<(&str, Option<&OsStr>)> = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let text = word.to_str()?;
        if !text.starts_with('-') {
            names.push(text);
            continue;
        }
        let (option, attached) = match text.split_once('=').filter(|_| text.starts_with("--")) {
            Some((option, value)) => (option, Some(OsStr::new(value))),
            None => (text, None),
        };
        let (name, _, has_value) = OPTIONS.iter().find(|(long, short, _)| *long == option || *short == option)?;
        let value = match (has_value, attached) {
            (true, Some(value)) => Some(value),
            (true, None) => Some(words.next()?.as_os_str()),
            (false, None) => None,
            (false, Some(_)) => return None,
        };
        let odd = value.is_some_and(|value| value.is_empty() || value.as_encoded_bytes().starts_with(b"-"));
        if odd || given.iter().any(|(known, _)| known == name) {
            return None;
        }
        given.push((name, value));
    }
    let [command, id] = names[..] else { return None };
    let takes = |name: &str| given.iter().any(|(known, _)| *known == name);
    let value = |name: &str| given.iter().find(|(known, _)| *known == name).and_then(|(_, value)| *value);
    let path = |name: &str| value(name).map(PathBuf::from);
    let globals = Globals {
        root: path("--root"),
        log: path("--log"),
        log_format: match value("--log-format").map(OsStr::to_str) {
            None | Some(Some("text")) => LogFormat::Text,
            Some(Some("json")) => LogFormat::Json,
            Some(_) => return None,
        },
        debug: takes("--debug"),
        systemd_cgroup: false,
        rootless: None,
        version: false,
    };
    let make = Make {
        id: id.to_owned(),
        bundle: path("--bundle"),
        console_socket: path("--console-socket"),
        pid_file: path("--pid-file"),
        preserve_fds: value("--preserve-fds").map_or(Some(0), |value| value.to_str()?.parse().ok())?,
        no_new_keyring: takes("--no-new-keyring"),
        no_pivot: false,
        pidfd_socket: None,
    };
    let command = match command {
        "create" if !takes("--detach") && !takes("--keep") => Command::Create(make),
        "run" => Command::Run(Run { make, detach: takes("--detach"), keep: takes("--keep"), no_subreaper: false }),
        _ => return None,
    };
    Some(Cli { globals, command: Some(command) })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn what_is_read_here_means_the_same_to_clap() {
        let globals =
            ["", "--root /r", "--root=/r --log l", "--log-format json --debug", "--log-format=xml", "--debug --debug"];
        let options = [
            "",
            "-b b",
            "--bundle b --pid-file=/p",
            "-d",
            "--detach --keep",
            "--no-new-keyring -d",
            "-bb",
            "-dd",
            "--bundle",
            "--keep=1",
            "--preserve-fds 3",
            "--preserve-fds=x",
            "--preserve-fds 70000",
            "--bundle= b",
            "--console-socket -x",
            "--bundle a -b c",
            "-- y",
            "--help",
            "--pid-file /p --console-socket /s",
            "--no-pivot",
            "--unknown",
            "-h",
            "--root /after",
            "--bundle=-x",
        ];
        let mut read_here = 0;
        for command in ["run", "create", "exec", "delete"] {
            for (global, option) in globals.iter().flat_map(|global| options.iter().map(move |option| (global, option)))
            {
                for line in [format!("{global} {command} {option} x"), format!("{global} {command} x {option}")] {
                    let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
                    let Some(here) = read(&words) else { continue };
                    read_here += 1;
                    let clap = Cli::try_parse_from(std::iter::once("moored oci".into()).chain(words));
                    let clap = clap.unwrap_or_else(|error| panic!("{line}: {error}"));
                    assert_eq!(format!("{here:?}"), format!("{clap:?}"), "{line}");
                }
            }
        }
        assert!(read_here > 50, "{read_here}");
    }
}
