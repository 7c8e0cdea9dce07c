//! `[update]`: what happens when a change needs a new container.
//!
//! The old container stops first, or (`order = "start-first"`) goes on until the new one beside it has done well. Two of one unit at a time is asked
//! for in words only: by default both would write to the same places. A oneshot has nothing that could go on.
//!
//! The new text is on trial until it has done well for `min_healthy`. One that ends, fails its checks, or is not well by `deadline` is bad: the
//! earlier text comes back (`rollback`), nothing more is tried (`stay-failed`), or the restart policy goes on with the new one (`retry`).
//! Where a container can write to something that outlives it, `retry` is the default: data may have been migrated, and the earlier program
//! may not understand it.

use std::ops::Range;
use std::time::Duration;

use serde_json::Value;

use super::walk::{Table, Walk};
use super::{Kind, MountKind, Source, SourceFacts, Unit};
use crate::compact;

/// `[update]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// Which goes first.
    pub order: Order,
    /// A new text has done well when it was well for so long.
    pub min_healthy: Duration,
    /// It is bad when it is not well so long after its start.
    pub deadline: Duration,
    /// What happens then; `None`: [`on_bad`] says.
    pub on_bad: Option<OnBad>,
}

/// `update.order`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The old container stops, then the new one starts.
    StopFirst,
    /// The new one starts, and when it has done well the old one stops.
    StartFirst,
}

/// `update.on_bad`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum OnBad {
    /// The earlier text comes back, once.
    Rollback,
    /// Nothing is started until the file changes or somebody starts it.
    StayFailed,
    /// As after any failure.
    Retry,
}

/// `update.min_healthy`, where the unit does not say.
pub(super) const MIN_HEALTHY: Duration = Duration::from_secs(10);
/// `update.deadline`, where the unit does not say.
pub(super) const DEADLINE: Duration = Duration::from_secs(300);

const ORDERS: [(&str, Order); 2] = [("stop-first", Order::StopFirst), ("start-first", Order::StartFirst)];

const ON_BAD: [(&str, OnBad); 3] =
    [("rollback", OnBad::Rollback), ("stay-failed", OnBad::StayFailed), ("retry", OnBad::Retry)];

impl Default for Update {
    fn default() -> Update {
        Update { order: Order::StopFirst, min_healthy: MIN_HEALTHY, deadline: DEADLINE, on_bad: None }
    }
}

impl Order {
    /// The word in the unit file.
    pub fn word(self) -> &'static str {
        ORDERS.iter().find(|(_, order)| *order == self).map_or("", |(word, _)| word)
    }
}

impl OnBad {
    /// The word in the unit file.
    pub fn word(self) -> &'static str {
        ON_BAD.iter().find(|(_, on_bad)| *on_bad == self).map_or("", |(word, _)| word)
    }
}

/// What happens to a bad text of this unit.
pub fn on_bad(unit: &Unit, facts: &SourceFacts) -> OnBad {
    let default = || if writes(unit, facts) { OnBad::Retry } else { OnBad::Rollback };
    unit.update.on_bad.unwrap_or_else(default)
}

/// Whether it can write to something that outlives the container: its root, or what is bound into it.
fn writes(unit: &Unit, facts: &SourceFacts) -> bool {
    let of_unit = unit.mounts.iter().any(|mount| matches!(mount.kind, MountKind::Bind { .. }) && !mount.read_only);
    let config = || facts.config_json.as_deref().and_then(|bytes| compact::from_json::<Value>(bytes).ok());
    let root = match (&unit.source, unit.security.read_only) {
        (Source::Host, _) => true,
        // What is written goes with the container, unless it is kept.
        (Source::Layers(_), _) => unit.upper.persist,
        (Source::Executable(_), _) | (_, Some(true)) => false,
        (_, Some(false)) => true,
        (Source::Rootfs(_), None) => false,
        (Source::Bundle(_), None) => config().is_none_or(|config| config["root"]["readonly"] != Value::Bool(true)),
    };
    let bound = |mounts: &Value| mounts.as_array().into_iter().flatten().any(is_writable_bind);
    of_unit
        || root
        || config().is_some_and(|config| bound(&config["mounts"]))
        || unit.oci.get("mounts").is_some_and(bound)
}

/// Of config.json's mounts: `bind` in its options or its type, and no `ro`.
fn is_writable_bind(mount: &Value) -> bool {
    let options = || mount["options"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let binds = mount["type"] == "bind" || options().any(|option| matches!(option, "bind" | "rbind"));
    binds && !options().any(|option| matches!(option, "ro" | "rro"))
}

/// What goes wrong in silence: two containers that write to one place. Of a bundle only what the unit itself says is known here. `at`: the order.
pub(crate) fn warnings(walk: &mut Walk, at: &Range<usize>, unit: &Unit) {
    if unit.update.order != Order::StartFirst {
        return;
    }
    if unit.kind == Kind::Oneshot {
        return walk.warn(at, "`order` means nothing for a oneshot: it has nothing that goes on", None);
    }
    let place = unit.mounts.iter().find(|mount| matches!(mount.kind, MountKind::Bind { .. }) && !mount.read_only);
    let what = match place {
        Some(mount) => format!("`{}`, which is mounted writable", mount.target),
        None if unit.security.read_only == Some(false) => "its root, which is writable".to_owned(),
        None if unit.source == Source::Host => "the host".to_owned(),
        None => return,
    };
    let message = format!("`order` is \"start-first\": for a while the old and the new container both write to {what}");
    walk.warn(at, &message, Some("a program that is not made for that needs \"stop-first\""));
}

/// `[update]`.
pub(crate) fn update(walk: &mut Walk, top: &Table) -> Update {
    let table = walk.table(top, "update", "update");
    let field = |key: &str| table.as_ref().and_then(|table| table.field(key));
    let order_hints = [("recreate", "stop-first"), ("rolling", "start-first"), ("rolling-update", "start-first")];
    let order = walk.choice(field("order"), &ORDERS, &order_hints).unwrap_or(Order::StopFirst);
    let hints = [("revert", "rollback"), ("auto-revert", "rollback"), ("pause", "stay-failed"), ("continue", "retry")];
    let min_healthy = walk.duration(field("min_healthy"), Duration::ZERO).unwrap_or(MIN_HEALTHY);
    let deadline = walk.duration(field("deadline"), Duration::from_millis(1));
    if let (Some(deadline), Some(at)) = (deadline.filter(|deadline| *deadline < min_healthy), field("deadline")) {
        let shown = super::quantity::show_duration;
        let message = format!(
            "`update.deadline` is {}, less than `min_healthy`, which is {}",
            shown(deadline),
            shown(min_healthy)
        );
        walk.error(&at.at(), message, Some("no text could do well in time".to_owned()));
    }
    Update {
        order,
        min_healthy,
        deadline: deadline.unwrap_or(DEADLINE.max(min_healthy)),
        on_bad: walk.choice(field("on_bad"), &ON_BAD, &hints),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::unit::{UnitName, parse};

    fn decided(text: &str, config: Option<&str>) -> OnBad {
        let unit = parse(&UnitName::new("web").unwrap(), Path::new("/u/web.toml"), text).unwrap().unit;
        let facts = SourceFacts {
            resolved: "/b".into(),
            config_json: config.map(|text| text.as_bytes().into()),
            layers: Vec::new(),
        };
        on_bad(&unit, &facts)
    }

    #[test]
    fn an_earlier_text_comes_back_only_where_nothing_was_written_that_outlives_the_container() {
        let root = "rootfs = \"/srv/web\"\n[process]\nargs = [\"/x\"]\n";
        let bundle = "bundle = \"/b\"\n";
        let mount = |more: &str| format!("{root}[[mount]]\ntarget = \"/data\"\n{more}");
        let ro = r#"{"root": {"path": "rootfs", "readonly": true}, "mounts": [{"type": "tmpfs", "options": ["rw"]}]}"#;
        let bound = r#"{"root": {"readonly": true}, "mounts": [{"options": ["rbind", "rw"]}]}"#;
        let bound_ro = r#"{"root": {"readonly": true}, "mounts": [{"type": "bind", "options": ["ro"]}]}"#;
        for (text, config, expected) in [
            (root.to_owned(), None, OnBad::Rollback),
            ("executable = \"/x\"".to_owned(), None, OnBad::Rollback),
            (mount("source = \"/d\"\n"), None, OnBad::Rollback),
            (mount("type = \"tmpfs\"\n"), None, OnBad::Rollback),
            (mount("source = \"/d\"\nread_only = false\n"), None, OnBad::Retry),
            (format!("{root}[security]\nread_only = false\n"), None, OnBad::Retry),
            (format!("{root}[security]\nread_only = false\n[update]\non_bad = \"rollback\"\n"), None, OnBad::Rollback),
            (bundle.to_owned(), Some(ro), OnBad::Rollback),
            (bundle.to_owned(), Some("{}"), OnBad::Retry),
            (bundle.to_owned(), Some(bound), OnBad::Retry),
            (bundle.to_owned(), Some(bound_ro), OnBad::Rollback),
            (format!("{bundle}[update]\non_bad = \"stay-failed\"\n"), Some(ro), OnBad::StayFailed),
        ] {
            assert_eq!(decided(&text, config), expected, "{text} {config:?}");
        }
    }
}
