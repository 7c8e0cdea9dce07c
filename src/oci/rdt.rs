//! `linux.intelRdt`: a share of caches and of memory bandwidth (resctrl, in the kernel's Documentation/filesystems/resctrl.rst). Pure.
//!
//! | `closID` | schemata | the container's group |
//! |---|---|---|
//! | absent | | its own, named as its id, removed with it |
//! | a name | none | must be there |
//! | a name | some | made if it is not there, and left there; if it is, it must have these values |
//! | `/` | none | the default one |
//!
//! `schemata`, `l3CacheSchema` and `memBwSchema` are one list of lines. With monitoring in a group that others share, the container has a monitoring group
//! of its own in it, named as its id. An object that asks for nothing changes nothing, as in runc and crun.

use oci_spec::runtime::{Linux, LinuxIntelRdt};
use serde::{Deserialize, Serialize};

use super::error::{Problem, Report};

/// Where it stands in a config.json.
const FIELD: &str = "linux.intelRdt";
/// The kernel reads one page.
const SCHEMATA_BYTES_MAX: usize = 4095;

/// What a container asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rdt {
    /// Its group.
    pub group: Group,
    /// Lines for `schemata`.
    pub schemata: Vec<String>,
    /// It is monitored by itself.
    pub monitored: bool,
    /// The container's id.
    pub id: String,
}

/// A control group of resctrl.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Group {
    /// The default one.
    Default,
    /// By this name, shared.
    Named(String),
    /// The container's own.
    Own,
}

impl Rdt {
    /// The group's directory, below the root of resctrl.
    pub fn directory(&self) -> &str {
        match &self.group {
            Group::Default => "",
            Group::Named(name) => name,
            Group::Own => &self.id,
        }
    }

    /// The monitoring group's directory, if it has one.
    pub fn monitoring(&self) -> Option<String> {
        // A group of its own is monitored anyway.
        let shared = self.monitored && self.group != Group::Own;
        shared.then(|| format!("{}/mon_groups/{}", self.directory(), self.id).trim_start_matches('/').to_owned())
    }

    /// The directory that goes with the container.
    pub fn removed(&self) -> Option<String> {
        match self.group {
            Group::Own => Some(self.id.clone()),
            Group::Default | Group::Named(_) => self.monitoring(),
        }
    }
}

/// Compiles it; `None` where nothing is asked for.
pub(super) fn compile(linux: &Linux, id: &str, report: &mut Report) -> Option<Rdt> {
    let rdt = linux.intel_rdt().as_ref()?;
    let group = match rdt.clos_id().as_deref() {
        None | Some("") => Group::Own,
        Some("/") => Group::Default,
        Some(name) => Group::Named(name.to_owned()),
    };
    if let Group::Named(name) = &group {
        let reserved = ["info", "mon_groups", "mon_data"].contains(&name.as_str());
        if name.contains(['/', '\n', '\0']) || name == "." || name == ".." || reserved {
            let expected = "a name of a resctrl group, without /, or \"/\" for the default group";
            report.error(format_args!("{FIELD}.closID"), Problem::Range { found: format!("{name:?}"), expected });
        }
    }
    let schemata = schemata(rdt, report);
    if group == Group::Default && !schemata.is_empty() {
        let reason = "is the default group, whose share is that of all processes without a group: expected no schemata";
        report.error(format_args!("{FIELD}.closID"), Problem::Conflict { reason });
    }
    #[allow(deprecated)]
    let old = [rdt.enable_cmt(), rdt.enable_mbm()].into_iter().any(|on| *on == Some(true));
    let monitored = old || *rdt.enable_monitoring() == Some(true);
    let asks = group != Group::Own || !schemata.is_empty() || monitored;
    asks.then(|| Rdt { group, schemata, monitored, id: id.to_owned() })
}

/// The lines. Of `l3CacheSchema` those about bandwidth give way to `memBwSchema` (config-linux.md).
fn schemata(rdt: &LinuxIntelRdt, report: &mut Report) -> Vec<String> {
    let bandwidth = rdt.mem_bw_schema().iter().flat_map(|text| text.lines());
    let gives_way = |line: &&str| rdt.mem_bw_schema().is_none() || !line.trim_start().starts_with("MB:");
    let cache = rdt.l3_cache_schema().iter().flat_map(|text| text.lines()).filter(gives_way);
    let free = rdt.schemata().iter().flatten().flat_map(|text| text.lines());
    let fields = cache.map(|line| ("l3CacheSchema", line));
    let fields = fields.chain(bandwidth.map(|line| ("memBwSchema", line))).chain(free.map(|line| ("schemata", line)));
    let mut lines = Vec::new();
    for (field, line) in fields.filter(|(_, line)| !line.trim().is_empty()) {
        check_line(field, line, report);
        lines.push(line.trim().to_owned());
    }
    if lines.iter().map(|line| line.len() + 1).sum::<usize>() > SCHEMATA_BYTES_MAX {
        let found = format!("{} lines", lines.len());
        report.error(format_args!("{FIELD}.schemata"), Problem::Range { found, expected: "at most 4095 bytes" });
    }
    lines
}

/// The options of `update`, as such lines.
pub fn schemata_of_update(cache: Option<&str>, bandwidth: Option<&str>) -> Result<Vec<String>, String> {
    let mut rdt = LinuxIntelRdt::default();
    rdt.set_l3_cache_schema(cache.map(str::to_owned)).set_mem_bw_schema(bandwidth.map(str::to_owned));
    let mut report = Report::default();
    let lines = schemata(&rdt, &mut report);
    report.errors.first().map_or(Ok(lines), |error| Err(error.to_string()))
}

fn check_line(field: &str, line: &str, report: &mut Report) {
    let known = match field {
        "l3CacheSchema" => line.trim_start().starts_with("L3") || line.trim_start().starts_with("MB:"),
        "memBwSchema" => line.trim_start().starts_with("MB:"),
        _ => true,
    };
    if !known || values(line).is_none() {
        let expected = match field {
            "l3CacheSchema" => "a line like L3:0=7f0;1=1f",
            "memBwSchema" => "a line like MB:0=20;1=70",
            _ => "lines like L3:0=7f0;1=1f",
        };
        report.error(format_args!("{FIELD}.{field}"), Problem::Range { found: format!("{line:?}"), expected });
    }
}

/// What a line of schemata says: the resource, and of each domain the value without what makes no difference.
fn values(line: &str) -> Option<(&str, Vec<(u32, String)>)> {
    let (resource, domains) = line.trim().split_once(':')?;
    let value = |domain: &str| {
        let (id, value) = domain.split_once('=')?;
        let value = value.trim().to_ascii_lowercase();
        let bare = value.trim_start_matches("0x").trim_start_matches('0');
        (!value.is_empty()).then_some((id.trim().parse().ok()?, bare.to_owned()))
    };
    let domains: Option<Vec<_>> = domains.split(';').filter(|domain| !domain.trim().is_empty()).map(value).collect();
    Some((resource.trim(), domains.filter(|domains| !domains.is_empty())?))
}

/// The first of these lines that a group with this text of `schemata` does not have.
pub fn missing<'l>(lines: &'l [String], group: &str) -> Option<&'l str> {
    let there: Vec<_> = group.lines().filter_map(values).collect();
    let has = |resource: &str, domain: &(u32, String)| {
        there.iter().any(|(other, domains)| *other == resource && domains.contains(domain))
    };
    let is_there = |line: &&String| {
        values(line).is_some_and(|(resource, domains)| domains.iter().all(|domain| has(resource, domain)))
    };
    lines.iter().find(|line| !is_there(line)).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(rdt: &str) -> Result<Option<Rdt>, Vec<String>> {
        let linux: Linux = serde_json::from_str(&format!(r#"{{"intelRdt": {rdt}}}"#)).unwrap();
        let mut report = Report::default();
        let rdt = compile(&linux, "x", &mut report);
        let errors: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
        if errors.is_empty() { Ok(rdt) } else { Err(errors) }
    }

    #[test]
    fn what_is_asked_for_says_which_group_is_whose() {
        let rows = [
            (r#"{}"#, None),
            (r#"{"enableCMT": false, "closID": ""}"#, None),
            (r#"{"closID": "gold"}"#, Some(("gold", None, None))),
            (r#"{"closID": "/"}"#, Some(("", None, None))),
            (r#"{"closID": "/", "enableMonitoring": true}"#, Some(("", Some("mon_groups/x"), Some("mon_groups/x")))),
            (
                r#"{"closID": "gold", "enableMonitoring": true}"#,
                Some(("gold", Some("gold/mon_groups/x"), Some("gold/mon_groups/x"))),
            ),
            (r#"{"enableMonitoring": true}"#, Some(("x", None, Some("x")))),
            (r#"{"memBwSchema": "MB:0=20"}"#, Some(("x", None, Some("x")))),
        ];
        for (rdt, expected) in rows {
            let found = said(rdt).unwrap();
            let found = found.as_ref().map(|rdt| (rdt.directory(), rdt.monitoring(), rdt.removed()));
            let expected = expected
                .map(|(group, monitoring, removed)| (group, monitoring.map(str::to_owned), removed.map(str::to_owned)));
            assert_eq!(found, expected, "{rdt}");
        }
    }

    #[test]
    fn lines_come_together_and_bandwidth_has_a_field_of_its_own() {
        let rdt = r#"{"l3CacheSchema": "L3:0=f\nMB:0=10", "memBwSchema": "MB:0=20", "schemata": ["L2:0=3"]}"#;
        assert_eq!(said(rdt).unwrap().unwrap().schemata, ["L3:0=f", "MB:0=20", "L2:0=3"]);
        assert_eq!(schemata_of_update(Some("L3:0=f"), None).unwrap(), ["L3:0=f"]);
        assert!(schemata_of_update(None, Some("L3:0=f")).is_err());
    }

    #[test]
    fn every_mistake_names_its_field() {
        let rdt = r#"{"closID": "a/b", "l3CacheSchema": "0=f", "memBwSchema": "MB:", "schemata": ["L3:x=1"]}"#;
        let expected = [
            "linux.intelRdt.closID: \"a/b\" is out of range, expected a name of a resctrl group, without /, or \"/\" for the default group",
            "linux.intelRdt.l3CacheSchema: \"0=f\" is out of range, expected a line like L3:0=7f0;1=1f",
            "linux.intelRdt.memBwSchema: \"MB:\" is out of range, expected a line like MB:0=20;1=70",
            "linux.intelRdt.schemata: \"L3:x=1\" is out of range, expected lines like L3:0=7f0;1=1f",
        ];
        assert_eq!(said(rdt).unwrap_err(), expected);
        assert!(said(r#"{"closID": "/", "schemata": ["L3:0=1"]}"#).unwrap_err()[0].contains("default group"));
    }

    #[test]
    fn the_values_of_a_group_are_compared_and_not_how_they_are_written() {
        let group = "    MB:0=100;1= 50\n    L3:0=00fff;1=0F\n";
        let lines = |line: &str| [line.to_owned()];
        assert_eq!(missing(&lines("L3:0=fff"), group), None);
        assert_eq!(missing(&lines("L3: 1=f ; 0=0xFFF"), group), None);
        assert_eq!(missing(&lines("MB:1=50"), group), None);
        for other in ["L3:0=ff", "L3:2=fff", "L2:0=fff"] {
            assert_eq!(missing(&lines(other), group), Some(other));
        }
    }
}
