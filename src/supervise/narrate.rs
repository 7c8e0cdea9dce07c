//! What happened, in words, for `moored events` and the supervisor's own log.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::catalogue::InForce;
use super::clock;
use super::log::LogEvent;
use crate::control::protocol::Event;
use crate::plan::{Action, Exit, Fact, Mark};
use crate::unit::{CheckKind, ContainerId, Listen, SettingChange, UnitName, template_sample};

fn event(unit: Option<&UnitName>, what: &str, text: String, by: Option<&str>) -> Event {
    let time = clock::now().wall.0;
    let (unit, what, by) = (unit.map(ToString::to_string), what.to_owned(), by.map(str::to_owned));
    Event { time, unit, what, text, by, ..Event::default() }
}

/// The fact, if it is one that people want to see.
pub fn fact(fact: &Fact) -> Option<Event> {
    Some(match fact {
        Fact::Started { id, pid } => event(Some(&id.unit), "started", format!("started as {id}, pid {}", pid.0), None),
        Fact::Adopted { id, pid, .. } => event(Some(&id.unit), "adopted", format!("adopted {id}, pid {}", pid.0), None),
        Fact::StartFailed { id, text } => {
            event(Some(&id.unit), "start-failed", format!("start of {id} failed: {text}"), None)
        }
        Fact::NeverStarted { id } => {
            event(Some(&id.unit), "never-started", format!("{id} was begun and never started"), None)
        }
        Fact::Exited { id, exit, oom, at } => {
            let memory = if *oom { ", out of memory" } else { "" };
            let text = format!("{id} exited: {}{memory}", words(*exit));
            // When it did, not when that was heard of.
            Event { time: clock::wall_of(*at).0, ..event(Some(&id.unit), "exited", text, None) }
        }
        Fact::Lost { id } => event(Some(&id.unit), "lost", format!("{id} ended; nobody saw how"), None),
        Fact::StopUnhandled { id } => {
            event(Some(&id.unit), "unhandled", format!("{id} does not handle its stop signal: killed at once"), None)
        }
        Fact::Lingering { id, processes } => {
            let left = if *processes == 1 { "1 process".to_owned() } else { format!("{processes} processes") };
            event(Some(&id.unit), "lingering", format!("{id} was killed, and {left} of it did not die yet"), None)
        }
        Fact::HookEnded { failure: None, .. } => return None,
        Fact::HookEnded { id, point, failure: Some(text) } => {
            event(Some(&id.unit), "hook-failed", format!("{} of {id} failed: {text}", point.word()), None)
        }
        Fact::Reloaded { id } => event(Some(&id.unit), "reloaded", format!("{id} was told to reload"), None),
        Fact::Limited { id, .. } => {
            event(Some(&id.unit), "limited", format!("{id} got its new limits without a restart"), None)
        }
        Fact::Swapped { id, .. } => {
            event(Some(&id.unit), "swapped", format!("{id} got the new contents of its files without a restart"), None)
        }
        Fact::Listening { unit, sockets } => {
            event(Some(unit), "listening", format!("listens at {}", listed(sockets)), None)
        }
        Fact::Closed { unit, sockets } => {
            event(Some(unit), "closed", format!("listens no more at {}", listed(sockets)), None)
        }
        Fact::ActionFailed { id, text, .. } => event(Some(&id.unit), "trouble", format!("{id}: {text}"), None),
        Fact::ClientStart { unit } => event(Some(unit), "asked", "start asked for".to_owned(), None),
        Fact::ClientStop { unit, hold } => {
            let reason = hold.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            event(Some(unit), "held", format!("stopped by {}{reason}", hold.by), Some(&hold.by))
        }
        Fact::ClientRestart { unit } => event(Some(unit), "asked", "restart asked for".to_owned(), None),
        Fact::ClientReload { unit } => event(Some(unit), "reload-asked", "reload asked for".to_owned(), None),
        Fact::ClientKill { unit, signal } => event(Some(unit), "signalled", format!("{signal} asked for"), None),
        Fact::Shutdown { by } => event(None, "shutdown", format!("everything stops: {by}"), Some(by)),
        // Told when it comes to a verdict: `checked`.
        Fact::Probed { .. } => return None,
        // And this when it is the first time that it is ready: `ready`.
        Fact::Notified { .. } | Fact::Heard { .. } | Fact::Awake => return None,
        Fact::Found { .. } | Fact::Booted { .. } | Fact::Clock(_) | Fact::Zone { .. } => return None,
        Fact::CgroupEmpty { .. } | Fact::Drained { .. } | Fact::Cleared { .. } | Fact::StopSent { .. } => return None,
    })
}

/// The action, if people want to see it before its effect.
pub fn action(action: &Action) -> Option<Event> {
    Some(match action {
        Action::Stop { id, why, .. } => event(Some(&id.unit), "stopping", format!("stopping {id}: {why}"), None),
        Action::Kill { id } => event(Some(&id.unit), "killing", format!("killing all of {id}"), None),
        Action::Raise { unit, failed } => {
            let text = format!("start asked for, because {failed} was the last try of {}", failed.unit);
            event(Some(unit), "asked", text, Some("policy"))
        }
        Action::RollBack { unit, why, .. } => {
            event(Some(unit), "rolled-back", format!("rolled back to the earlier text: {why}"), Some("policy"))
        }
        Action::TakeOver { id, .. } => event(Some(&id.unit), "took-over", format!("{id} takes over"), None),
        Action::Start { id, beside: true, .. } => {
            event(Some(&id.unit), "beside", format!("starting {id} beside the container that runs"), None)
        }
        Action::Prove { .. } => return None,
        Action::Reboot { unit } => {
            event(Some(unit), "reboot", format!("{unit} gave up: the host reboots"), Some("policy"))
        }
        Action::Schedule { unit, mark: Mark::LeftOut(_) } => event(
            Some(unit),
            "left-out",
            "its next run is due while this one goes on: left out".to_owned(),
            Some("policy"),
        ),
        Action::Start { .. }
        | Action::Hook { .. }
        | Action::Schedule { mark: Mark::From(..) | Mark::Gone, .. }
        | Action::Rely { .. }
        | Action::Signal { .. }
        | Action::Reload { .. }
        | Action::Hear { .. }
        | Action::Probe { .. }
        | Action::Update { .. }
        | Action::Settle { .. }
        | Action::Swap { .. }
        | Action::Clear { .. }
        | Action::Close { .. }
        | Action::Forget { .. } => return None,
    })
}

fn listed(sockets: &BTreeSet<Listen>) -> String {
    let all: Vec<String> = sockets.iter().map(ToString::to_string).collect();
    all.join(", ")
}

/// A check came to another verdict.
pub fn checked(id: &ContainerId, check: CheckKind, said: Option<&str>) -> Event {
    let (what, text) = match said {
        None => ("check-passed", format!("{} of {id} passes", check.word())),
        Some(said) => ("check-failed", format!("{} of {id} fails: {said}", check.word())),
    };
    event(Some(&id.unit), what, text, None)
}

/// It said so for the first time.
pub fn ready(id: &ContainerId) -> Event {
    event(Some(&id.unit), "ready", format!("{id} says that it is ready"), None)
}

/// An exit as people write it.
pub fn words(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("code {code}"),
        Exit::Signal(number) => format!("signal {}", crate::unit::Signal(number)),
        Exit::Unknown => "unknown".to_owned(),
    }
}

/// A text came into force.
pub fn put_in_force(good: &InForce, how: &str) -> Event {
    let listed = if is_listed(good) { "listed in " } else { "" };
    event(Some(&good.unit.name), how, format!("{how}: {listed}{}", good.file.display()), Some("file"))
}

/// Its text is that of a template which lists it.
fn is_listed(good: &InForce) -> bool {
    good.file.file_name().is_some_and(|name| template_sample(name).is_some())
}

/// A text is not valid.
pub fn invalid(unit: &UnitName, errors: &[String], has_last_good: bool) -> Event {
    let outcome = if has_last_good { "the last good text stays in force" } else { "nothing runs" };
    event(Some(unit), "invalid", format!("{}; {outcome}", errors.join("; ")), Some("file"))
}

/// Another text came into force, or what its files hold; `what` are the settings that differ, `edited` the texts.
pub fn changed(good: &InForce, what: &[SettingChange], edited: &BTreeSet<PathBuf>) -> Event {
    let is_file = |name: &str| ["config.", "secret.", "security.seccomp."].iter().any(|key| name.starts_with(key));
    let is_contents = |change: &&SettingChange| is_file(&change.name) && change.hidden;
    let (contents, hidden) =
        (what.iter().filter(is_contents).count(), what.iter().filter(|change| change.hidden).count());
    let own = [good.file.clone()].into();
    let files = if edited.is_empty() { &own } else { edited };
    let texts = || files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
    let place = match () {
        () if what.is_empty() || hidden < what.len() => texts(),
        () if contents == 0 => "its env files".to_owned(),
        () if contents == what.len() => "its config files".to_owned(),
        () => "its env and config files".to_owned(),
    };
    let names: Vec<&str> = what.iter().map(|change| change.name.as_str()).collect();
    let what = if names.is_empty() { "its source".to_owned() } else { names.join(", ") };
    event(Some(&good.unit.name), "changed", format!("changed: {what} in {place}"), Some("file"))
}

/// The supervisor begins.
pub fn begun(fresh: bool) -> Event {
    let (what, text) = match fresh {
        true => ("begun", "the supervisor begins with nothing running: first start, boot, or after all was stopped"),
        false => ("resumed", "the supervisor begins again and takes over what runs"),
    };
    event(None, what, format!("{text}; pid {}", std::process::id()), None)
}

/// The text on disk is the one in force again.
pub fn valid_again(unit: &UnitName) -> Event {
    event(Some(unit), "valid", "the text on disk is the one in force".to_owned(), Some("file"))
}

/// A file is gone, or a template does not list it any more.
pub fn removed(unit: &UnitName, gone: String) -> Event {
    event(Some(unit), "removed", gone, Some("file"))
}

/// A link to /dev/null says that there is no such unit.
pub fn masked(unit: &UnitName, mask: &Path) -> Event {
    event(Some(unit), "masked", format!("masked by {}", mask.display()), Some("file"))
}

/// A client kills all of a container at once.
pub fn kill_asked(unit: &UnitName, by: &str) -> Event {
    event(Some(unit), "signalled", "SIGKILL to every process asked for".to_owned(), Some(by))
}

/// Somebody said that a removal is meant.
pub fn confirmed(unit: &UnitName, by: &str) -> Event {
    event(Some(unit), "confirmed", "its removal was confirmed".to_owned(), Some(by))
}

/// What is next of a unit needs an order.
pub fn waits(unit: &UnitName, why: String) -> Event {
    event(Some(unit), "drift", why, Some("file"))
}

/// Something of the host's does not work.
pub fn trouble(text: String) -> Event {
    note("trouble", text)
}

/// About no unit.
pub fn note(what: &str, text: String) -> Event {
    event(None, what, text, None)
}

/// What the log thread has to say, apart from the end of a drain.
pub fn log(said: &LogEvent) -> Event {
    match said {
        LogEvent::Drained(id) => event(Some(&id.unit), "drained", format!("the log of {id} is read to its end"), None),
        LogEvent::Dropping { unit, error } => event(
            Some(unit),
            "dropping",
            format!("its log cannot be written, what it prints is dropped and counted: {error}"),
            None,
        ),
        LogEvent::Recorded { unit, dropped_bytes } => event(
            Some(unit),
            "dropped",
            format!("its log can be written again; {dropped_bytes} bytes are missing"),
            None,
        ),
    }
}
