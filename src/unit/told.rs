//! `process.notify` and `process.watchdog`: the container tells by itself how it is, in the words of sd_notify(3).
//!
//! It is one more way to know whether it is well, so it stands beside the checks of `[health]`: READY=1 is a readiness that passes, a word that
//! fails to come in time a liveness that fails. But what it is to tell and where to is in its environment: a change takes another container.

use std::time::Duration;

use toml::de::DeValue;

use super::walk::{Table, Walk};

/// What the container tells by itself, in the words of sd_notify(3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notify {
    /// `process.watchdog`: that it is alive, at least this often.
    pub watchdog: Option<Duration>,
}

/// A word at least so often is more work than sense.
const WATCHDOG_MIN: Duration = Duration::from_millis(100);

/// `process.notify` and `process.watchdog`. The table's keys are checked where the rest of it is read.
pub(super) fn notify(walk: &mut Walk, top: &Table) -> Option<Notify> {
    let process = top.field("process")?;
    let DeValue::Table(map) = process.value.get_ref() else { return None };
    let table = Table { name: "process", span: process.key_span, map };
    let watchdog = walk.duration(table.field("watchdog"), WATCHDOG_MIN);
    let is_on = match table.field("notify") {
        None => false,
        Some(field) if matches!(field.value.get_ref(), DeValue::Boolean(true)) => {
            walk.mismatch(&field, "\"none\" or \"systemd\"", Some("write \"systemd\"".to_owned()));
            return None;
        }
        Some(field) => {
            let hints = [("sd-notify", "systemd"), ("notify", "systemd"), ("ready", "systemd"), ("off", "none")];
            walk.choice(Some(field), &[("none", false), ("systemd", true)], &hints)?
        }
    };
    if let (Some(field), false) = (table.field("watchdog"), is_on) {
        let help = "write notify = \"systemd\" beside it, for a program that says WATCHDOG=1; for others there is [health.liveness]";
        walk.error(&field.key_span, "`process.watchdog` without `notify`", Some(help.to_owned()));
    }
    is_on.then_some(Notify { watchdog })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::unit::{Diagnostic, Health, UnitName, parse};

    fn health_of(text: &str) -> Result<Health, Vec<Diagnostic>> {
        let text = format!("bundle = \"/srv/web\"\n{text}");
        let parsed = parse(&UnitName::new("web").unwrap(), Path::new("/u/web.toml"), &text)?;
        Ok(parsed.unit.health.as_deref().cloned().unwrap_or_default())
    }

    #[test]
    fn the_containers_own_word_is_one_of_the_ways() {
        let watchdog = Some(Duration::from_secs(30));
        assert_eq!(
            health_of("[process]\nnotify = \"systemd\"\nwatchdog = \"30s\"\n").unwrap(),
            Health { notify: Some(Notify { watchdog }), ..Health::default() }
        );
        let both = health_of("[process]\nnotify = \"systemd\"\n[health.liveness]\ntcp = \"localhost:1\"\n").unwrap();
        assert!(both.notify == Some(Notify { watchdog: None }) && both.has_checks());
        assert_eq!(health_of("[process]\nnotify = \"none\"\n").unwrap(), Health::default());
    }

    #[test]
    fn mistakes_are_told_at_their_place() {
        for (text, expected) in [
            (
                "[process]\nnotify = true\nwatchdog = \"30s\"\n",
                "/u/web.toml:3:10 `process.notify` is true, expected \"none\" or \"systemd\", write \"systemd\"",
            ),
            (
                "[process]\nnotify = \"sd_notify\"\n",
                "/u/web.toml:3:10 `process.notify` is the string \"sd_notify\", expected \"none\" or \"systemd\", did you mean \"systemd\"?",
            ),
            (
                "[process]\nwatchdog = \"30s\"\n",
                "/u/web.toml:3:1 `process.watchdog` without `notify`, write notify = \"systemd\" beside it, for a program that says WATCHDOG=1; for others there is [health.liveness]",
            ),
            (
                "[process]\nnotify = \"systemd\"\nwatchdog = \"50ms\"\n",
                "/u/web.toml:4:12 `process.watchdog` is the string \"50ms\", expected at least \"100ms\"",
            ),
        ] {
            let errors: Vec<String> = health_of(text).unwrap_err().iter().map(ToString::to_string).collect();
            assert_eq!(errors, [expected], "{text}");
        }
    }
}
