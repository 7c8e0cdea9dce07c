//! `state` and `list`: what containers are doing.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::args::ListFormat;
use super::error::OciError;
use crate::runtime::container::{Container, ContainerError, Record, StateRoot, Status};
use crate::supervise::log::rfc3339_ms;

/// One container as clients read it (runtime-spec, "State", and runc's own fields).
struct Row {
    id: String,
    pid: u32,
    status: Status,
    record: Record,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct State<'row> {
    oci_version: &'row str,
    id: &'row str,
    pid: u32,
    status: String,
    bundle: &'row Path,
    rootfs: &'row Path,
    created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'row BTreeMap<String, String>,
    owner: String,
}

/// Prints the state of one container as JSON.
pub fn state(root: &StateRoot, id: &str) -> Result<u8, OciError> {
    let row = row(root.find(id)?)?.ok_or(ContainerError::Unknown)?;
    print_json(&row.state())
}

/// Prints all containers.
pub fn list(root: &StateRoot, format: ListFormat, quiet: bool) -> Result<u8, OciError> {
    let containers = root.list()?;
    if quiet {
        let ids: String = containers.iter().map(|container| format!("{}\n", container.id)).collect();
        return Ok(crate::cli::print(&ids).map(|()| 0)?);
    }
    // One that is taken away in this moment has nothing to show.
    let rows: Vec<Row> = containers.into_iter().filter_map(|container| row(container).ok().flatten()).collect();
    match format {
        ListFormat::Json => print_json(&rows.iter().map(Row::state).collect::<Vec<_>>()),
        ListFormat::Table => Ok(crate::cli::print(&table(&rows)).map(|()| 0)?),
    }
}

fn row(container: Container) -> Result<Option<Row>, ContainerError> {
    let Some(record) = container.read_made()? else { return Ok(None) };
    let (status, process) = container.status(Some(&record));
    let pid = process.map_or(0, |(pid, _)| pid.0);
    Ok(Some(Row { id: container.id, pid, status, record }))
}

impl Row {
    fn state(&self) -> State<'_> {
        let record = &self.record;
        State {
            oci_version: &record.oci_version,
            id: &self.id,
            pid: self.pid,
            status: self.status.to_string(),
            bundle: &record.bundle,
            rootfs: &record.rootfs,
            created: self.created(),
            annotations: &record.annotations,
            owner: owner(record.owner),
        }
    }

    fn created(&self) -> String {
        rfc3339_ms(ms(self.record.created))
    }
}

fn ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The user's name from the host's own file; NSS is not to be had in a static program.
fn owner(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let is_theirs = |line: &&str| line.split(':').nth(2).and_then(|field| field.parse().ok()) == Some(uid);
    let name = passwd.lines().find(is_theirs).and_then(|line| line.split(':').next());
    name.map_or_else(|| format!("#{uid}"), str::to_owned)
}

fn table(rows: &[Row]) -> String {
    let cells = |row: &Row| {
        let bundle = row.record.bundle.display().to_string();
        [row.id.clone(), row.pid.to_string(), row.status.to_string(), bundle, row.created(), owner(row.record.owner)]
    };
    let header = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let lines: Vec<[String; 6]> = std::iter::once(header).chain(rows.iter().map(cells)).collect();
    /// As wide as runc makes them: scripts cut columns.
    const NARROWEST: usize = 9;
    let widths: Vec<usize> = (0..6)
        .map(|at| lines.iter().filter_map(|line| line.get(at)).map(String::len).max().unwrap_or(0).max(NARROWEST))
        .collect();
    let padded = |line: &[String; 6]| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}   "));
        cells.collect::<String>().trim_end().to_owned() + "\n"
    };
    lines.iter().map(padded).collect()
}

/// On one line.
pub(super) fn print_compact(value: &impl Serialize) -> Result<u8, OciError> {
    let text = serde_json::to_string(value).unwrap_or_default();
    Ok(crate::cli::print(&(text + "\n")).map(|()| 0)?)
}

pub(super) fn print_json(value: &impl Serialize) -> Result<u8, OciError> {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    Ok(crate::cli::print(&(text + "\n")).map(|()| 0)?)
}
