//! `ps`: the processes of a container, as the host numbers them.
//!
//! The table is the host's own `ps`, of whose lines those are kept that are about the container's processes; what follows the id are its
//! options, `-ef` without any. A program of that name is looked for in PATH, as runc does.

use std::process::Command;

use clap::{Args, ValueEnum};

use super::error::OciError;
use crate::runtime::container::{ContainerError, StateRoot};

#[derive(Debug, Args)]
pub struct Ps {
    /// Which
    pub id: String,
    /// table or json
    #[arg(long, short, value_enum, default_value_t)]
    pub format: PsFormat,
    /// Options of ps(1) [default: -ef]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTION")]
    pub options: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum PsFormat {
    /// What ps(1) prints of them
    #[default]
    Table,
    /// An array of numbers
    Json,
}

/// Prints them.
pub fn ps(root: &StateRoot, ps: Ps) -> Result<u8, OciError> {
    let container = root.find(&ps.id)?;
    let record = container.read_made()?.ok_or(ContainerError::Unknown)?;
    let cgroup = record.need_cgroup("ps")?;
    let mut pids = cgroup.map_or_else(|| Ok(Vec::new()), |cgroup| cgroup.processes()).map_err(ContainerError::from)?;
    pids.sort_unstable();
    match ps.format {
        PsFormat::Json => super::show::print_compact(&pids),
        PsFormat::Table => {
            let options = if ps.options.is_empty() { vec!["-ef".to_owned()] } else { ps.options };
            let output = Command::new("ps").args(&options).output();
            let output = output.map_err(super::error::file("run", "ps"))?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(OciError::PsFailed { options: options.join(" "), said });
            }
            let table = String::from_utf8_lossy(&output.stdout).into_owned();
            let kept = lines_of(&table, &pids).ok_or(OciError::NoPidColumn { options: options.join(" ") })?;
            Ok(crate::cli::print(&kept).map(|()| 0)?)
        }
    }
}

/// The header and the lines whose PID is one of these; `None` where no column is called so.
fn lines_of(table: &str, pids: &[u32]) -> Option<String> {
    let header = table.lines().next()?;
    let column = header.split_whitespace().position(|word| word == "PID")?;
    let is_theirs = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|word| word.parse().ok());
        pid.is_some_and(|pid: u32| pids.contains(&pid))
    };
    let lines = std::iter::once(header).chain(table.lines().skip(1).filter(is_theirs));
    Some(lines.flat_map(|line| [line, "\n"]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept_by_the_column_called_pid() {
        let table = "UID        PID  PPID CMD\nroot        12     1 /sbin/12 13\nroot        13    12 sh\n";
        assert_eq!(lines_of(table, &[13, 99]).unwrap(), "UID        PID  PPID CMD\nroot        13    12 sh\n");
        assert_eq!(lines_of(table, &[]).unwrap(), "UID        PID  PPID CMD\n");
        assert_eq!(lines_of("CMD\nsh\n", &[1]), None);
        assert_eq!(lines_of("", &[1]), None);
    }
}
