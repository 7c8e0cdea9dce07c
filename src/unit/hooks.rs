//! `[hooks]`: commands around a container's life.
//!
//! | key | runs | if it fails |
//! |---|---|---|
//! | `pre_start` | before the program: inside as its first process, or on the host before anything is mounted | the start has failed |
//! | `post_start` | when the program runs; with `process.notify` when it has said that it is ready | the container is stopped, and has failed |
//! | `pre_stop` | before the stop signal, in a container that runs | that is told, and the signal is sent |
//! | `post_stop` | when nothing of the container is left, before the next one starts | that is told |
//!
//! `on = "container"` is as the container's own process: root, namespaces, cgroup, user, rights, filter, environment. The container is gone when
//! `post_stop` runs, so that gets a new one of the same making. `on = "host"` is as a program that moored runs: root, in the host's namespaces.
//!
//! Hooks belong to the container: another text of them takes a new one, and the old one ends with those that it began with.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::de::DeValue;

use super::process;
use super::variable::Given;
use super::walk::{Field, Table, Walk};

/// How long a hook may take that does not say so: as long as a container may take to stop.
pub const DEFAULT_HOOK_TIMEOUT: Duration = Duration::from_secs(30);

/// The shortest: the process that waits for it counts in seconds.
const TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// When.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum HookPoint {
    /// Before the program.
    PreStart,
    /// When it runs.
    PostStart,
    /// Before the stop signal.
    PreStop,
    /// When nothing is left.
    PostStop,
}

impl HookPoint {
    /// In the order of a life.
    pub const ALL: [HookPoint; 4] =
        [HookPoint::PreStart, HookPoint::PostStart, HookPoint::PreStop, HookPoint::PostStop];

    /// The key.
    pub fn word(self) -> &'static str {
        match self {
            HookPoint::PreStart => "pre_start",
            HookPoint::PostStart => "post_start",
            HookPoint::PreStop => "pre_stop",
            HookPoint::PostStop => "post_stop",
        }
    }

    /// The reverse.
    pub fn parse(word: &str) -> Option<HookPoint> {
        HookPoint::ALL.into_iter().find(|point| point.word() == word)
    }
}

/// `on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HookOn {
    /// As the container's own process.
    Container,
    /// As a program of the host's.
    Host,
}

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitHook {
    /// The program and its arguments; on the host the program is an absolute path.
    pub exec: Vec<String>,
    /// Then it is killed, and has failed.
    pub timeout: Duration,
    /// Where.
    pub on: HookOn,
}

/// All of a unit; at least one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitHooks {
    /// `pre_start`.
    pub pre_start: Option<UnitHook>,
    /// `post_start`.
    pub post_start: Option<UnitHook>,
    /// `pre_stop`.
    pub pre_stop: Option<UnitHook>,
    /// `post_stop`.
    pub post_stop: Option<UnitHook>,
}

impl UnitHooks {
    /// The one at this point.
    pub fn get(&self, point: HookPoint) -> Option<&UnitHook> {
        match point {
            HookPoint::PreStart => self.pre_start.as_ref(),
            HookPoint::PostStart => self.post_start.as_ref(),
            HookPoint::PreStop => self.pre_stop.as_ref(),
            HookPoint::PostStop => self.post_stop.as_ref(),
        }
    }

    /// Those that there are, in the order of a life.
    pub fn all(&self) -> impl Iterator<Item = (HookPoint, &UnitHook)> {
        HookPoint::ALL.into_iter().filter_map(|point| Some((point, self.get(point)?)))
    }
}

/// The table.
pub(crate) fn hooks(walk: &mut Walk, top: &Table) -> Option<Arc<UnitHooks>> {
    let table = walk.table(top, "hooks", "hooks")?;
    let mut one = |point: HookPoint| table.field(point.word()).and_then(|field| hook(walk, point, &field));
    let hooks = UnitHooks {
        pre_start: one(HookPoint::PreStart),
        post_start: one(HookPoint::PostStart),
        pre_stop: one(HookPoint::PreStop),
        post_stop: one(HookPoint::PostStop),
    };
    if table.is_regular() && HookPoint::ALL.iter().all(|point| table.field(point.word()).is_none()) {
        let help = "write for example [hooks.pre_start] and exec = [\"/bin/migrate\"]";
        walk.absent(&table.span, "`hooks` has no hook", Some(help));
    }
    hooks.all().next().is_some().then(|| Arc::new(hooks.clone()))
}

fn hook(walk: &mut Walk, point: HookPoint, field: &Field) -> Option<UnitHook> {
    let DeValue::Table(map) = field.value.get_ref() else {
        let word = point.word();
        walk.mismatch(
            field,
            "a table",
            Some(format!("write [hooks.{word}] and exec = [\"/bin/program\", \"argument\"]")),
        );
        return None;
    };
    let table = walk.checked(Table { name: "hooks.*", span: field.key_span.clone(), map });
    let field =
        |key: &str| table.field(key).map(|field| Field { name: format!("hooks.{}.{key}", point.word()), ..field });
    let places = [("container", HookOn::Container), ("host", HookOn::Host)];
    let on = walk.choice(field("on"), &places, &[("inside", "container"), ("supervisor", "host")]);
    let timeout = walk.duration(field("timeout"), TIMEOUT_MIN);
    let Some(exec) = field("exec") else {
        if table.is_regular() {
            let message = format!("`hooks.{}` has no `exec`, expected the program to run", point.word());
            walk.absent(&table.span, &message, Some("write exec = [\"/bin/program\", \"argument\"]"));
        }
        return None;
    };
    // It has the variables in its environment; here they would be shown.
    let variables = std::mem::replace(&mut walk.variables, Given::None);
    let args = process::args(walk, &exec);
    walk.variables = variables;
    let (args, _) = args?;
    let on = on.unwrap_or(HookOn::Container);
    if on == HookOn::Host && !args.first().is_some_and(|program| program.starts_with('/')) {
        let message = format!("`{}` names a program of the host's, expected an absolute path", exec.name);
        walk.error(&exec.at(), message, Some("write it as `command -v` shows it".to_owned()));
    }
    Some(UnitHook { exec: args, timeout: timeout.unwrap_or(DEFAULT_HOOK_TIMEOUT), on })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::unit::{UnitName, parse};

    fn read(text: &str) -> Result<Option<Arc<UnitHooks>>, Vec<String>> {
        let text = format!("bundle = \"/b\"\n{text}");
        match parse(&UnitName::new("web").unwrap(), Path::new("/u/web.toml"), &text) {
            Ok(parsed) => Ok(parsed.unit.hooks),
            Err(errors) => {
                Err(errors.iter().map(|error| format!("{}:{} {}", error.line, error.column, error.message)).collect())
            }
        }
    }

    #[test]
    fn each_point_has_its_own_command_place_and_time() {
        let text = "[hooks.pre_start]\nexec = [\"migrate\", \"--up\"]\n[hooks.post_stop]\nexec = [\"/usr/bin/report\"]\non = \"host\"\ntimeout = \"5s\"";
        let hooks = read(text).unwrap().unwrap();
        let pre_start = UnitHook {
            exec: vec!["migrate".to_owned(), "--up".to_owned()],
            timeout: DEFAULT_HOOK_TIMEOUT,
            on: HookOn::Container,
        };
        let post_stop =
            UnitHook { exec: vec!["/usr/bin/report".to_owned()], timeout: Duration::from_secs(5), on: HookOn::Host };
        let expected = [(HookPoint::PreStart, &pre_start), (HookPoint::PostStop, &post_stop)];
        assert_eq!(hooks.all().collect::<Vec<_>>(), expected);
        assert_eq!(read(""), Ok(None));
        for point in HookPoint::ALL {
            assert_eq!(HookPoint::parse(point.word()), Some(point));
        }
    }

    #[test]
    fn mistakes_name_the_key_and_what_was_expected() {
        let text = "hooks.pre_start = [\"/bin/x\"]\n[hooks.post_start]\ntimeout = \"10ms\"\n[hooks.pre_stop]\nexec = [\"drain\"]\non = \"host\"\n\
                    [hooks.post_stop]\nexec = []\non = \"here\"\n[stop]\nexec = [\"/bin/x\"]";
        let errors = read(text).unwrap_err();
        let expected = [
            "2:19 `hooks.pre_start` is an array, expected a table",
            "3:8 `hooks.post_start` has no `exec`, expected the program to run",
            "4:11 `hooks.post_start.timeout` is the string \"10ms\", expected at least \"1s\"",
            "6:8 `hooks.pre_stop.exec` names a program of the host's, expected an absolute path",
            "9:8 `hooks.post_stop.exec` names no program, expected at least one non-empty string",
            "10:6 `hooks.post_stop.on` is the string \"here\", expected \"container\" or \"host\"",
            "12:1 unknown key `exec`",
        ];
        assert_eq!(errors, expected);
        assert_eq!(read("[hooks]").unwrap_err(), ["2:2 `hooks` has no hook"]);
    }
}
