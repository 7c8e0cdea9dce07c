//! `update`: other limits for a container that runs.
//!
//! What is given is laid over what the container has: its config.json's `linux.resources`, or what an earlier `update` made of it. The
//! whole is compiled as at `create`, so that what does not go together is refused with the same words, and written; if the kernel refuses one
//! value, those from before are written again. What came out is kept in the container's record.
//!
//! As in runc, 0 and an empty text stand for "not given", device rules stay as they are, and with `--resources` the other options are
//! not looked at. Unlike runc, a memory limit below what the container holds and cannot give back is refused on v2 as well, where the kernel
//! would kill for it.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value, json};

use super::error::{OciError, file};
use super::log::Log;
use crate::compact;
use crate::oci::{self, CgroupSettings};
use crate::runtime::cgroup::without_effect;
use crate::runtime::container::{Change, Container, ContainerError, StateRoot};

#[derive(Debug, Default, Args)]
pub struct Update {
    /// Which
    pub id: String,
    /// Take all of it from this file, as `linux.resources` of config.json; - is standard input
    #[arg(long, short, value_name = "FILE")]
    pub resources: Option<PathBuf>,
    /// Bytes of memory, with K, M or G behind; -1: no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory: Option<String>,
    /// What it is brought down to when the host is short of memory
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_reservation: Option<String>,
    /// Bytes of memory and swap together
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// CPU time in a period, in microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    /// Length of a period
    #[arg(long, value_name = "US")]
    pub cpu_period: Option<u64>,
    /// Unused time that may be kept
    #[arg(long, value_name = "US")]
    pub cpu_burst: Option<u64>,
    /// Weight against others
    #[arg(long, value_name = "N")]
    pub cpu_share: Option<u64>,
    /// Realtime time in a period (v1)
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub cpu_rt_runtime: Option<i64>,
    /// Length of a realtime period (v1)
    #[arg(long, value_name = "US")]
    pub cpu_rt_period: Option<u64>,
    /// 1: only while nobody else wants the CPU
    #[arg(long, value_name = "0|1")]
    pub cpu_idle: Option<i64>,
    /// CPUs it may use, as 0-2,7
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes it may use
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Processes and threads; -1: no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// Weight of its block I/O
    #[arg(long, value_name = "N")]
    pub blkio_weight: Option<u16>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub kernel_memory: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub kernel_memory_tcp: Option<String>,
    /// Share of L3 caches, as in L3:0=7f0;1=1f (resctrl)
    #[arg(long, value_name = "SCHEMA")]
    pub l3_cache_schema: Option<String>,
    /// Share of memory bandwidth, as in MB:0=20;1=70 (resctrl)
    #[arg(long, value_name = "SCHEMA")]
    pub mem_bw_schema: Option<String>,
}

/// More than that is no list of limits.
const RESOURCES_BYTES_MAX: u64 = oci::MAX_CONFIG_BYTES as u64 + 1;

/// Changes the limits.
pub fn update(root: &StateRoot, update: &Update, log: &Log) -> Result<u8, OciError> {
    let given = match &update.resources {
        Some(path) => read_resources(path)?,
        None => from_options(update, log)?,
    };
    let container = root.find(&update.id)?;
    let change = container.change()?;
    share(&change, update)?;
    let old = match change.record().resources.clone() {
        Some(resources) => resources,
        None => from_config(&container)?,
    };
    let mut new = old.clone();
    let lifts_memory = given.pointer("/memory/limit") == Some(&json!(-1)) && given.pointer("/memory/swap").is_none();
    lay_over(&mut new, given);
    // Memory and swap together cannot be limited where memory is not.
    if let Some(swap) = new.pointer_mut("/memory/swap").filter(|_| lifts_memory) {
        *swap = json!(-1);
    }
    let source = update.resources.clone().unwrap_or_else(|| "update".into());
    let (old, _) = compile(&old, &source)?;
    let (settings, warnings) = compile(&new, &source)?;
    warnings.iter().for_each(|warning| log.warning(&warning.to_string()));
    without_effect(&settings).iter().for_each(|warning| log.warning(warning));
    change.limit(&old, &settings, new)?;
    Ok(0)
}

/// Also beside `--resources`, which has nothing like it.
fn share(change: &Change, update: &Update) -> Result<(), OciError> {
    let given = |text: &'_ Option<String>| text.clone().filter(|text| !text.is_empty());
    let (cache, bandwidth) = (given(&update.l3_cache_schema), given(&update.mem_bw_schema));
    let option = if cache.is_some() { "--l3-cache-schema" } else { "--mem-bw-schema" };
    if cache.is_none() && bandwidth.is_none() {
        return Ok(());
    }
    let schemata = oci::schemata_of_update(cache.as_deref(), bandwidth.as_deref()).map_err(|_| OciError::Value {
        what: option,
        found: cache.or(bandwidth).unwrap_or_default(),
        expected: "a line like L3:0=7f0;1=1f or MB:0=20;1=70",
    })?;
    Ok(change.share(option, &schemata)?)
}

/// What the bundle said when the container was made.
fn from_config(container: &Container) -> Result<Value, OciError> {
    let path = container.path().join("config.json");
    let mut config: Value =
        compact::from_json(&container.config()?).map_err(|source| ContainerError::Damaged { path, source })?;
    let resources = config.pointer_mut("/linux/resources").map(Value::take);
    Ok(resources.filter(Value::is_object).unwrap_or_else(|| json!({})))
}

fn compile(resources: &Value, path: &Path) -> Result<(CgroupSettings, Vec<oci::Warning>), OciError> {
    oci::compile_resources(resources).map_err(|errors| OciError::Config { path: path.to_owned(), errors })
}

fn read_resources(path: &Path) -> Result<Value, OciError> {
    let mut text = Vec::new();
    if path.as_os_str() == "-" {
        std::io::stdin().take(RESOURCES_BYTES_MAX).read_to_end(&mut text).map_err(file("read", "standard input"))?;
    } else {
        text = super::make::read_bounded(path).map_err(file("read", path))?;
    }
    oci::parse_resources(&text).map_err(|errors| OciError::Config { path: path.to_owned(), errors })
}

fn from_options(update: &Update, log: &Log) -> Result<Value, OciError> {
    if update.kernel_memory.is_some() || update.kernel_memory_tcp.is_some() {
        log.warning("--kernel-memory and --kernel-memory-tcp were taken out of the spec and have no effect");
    }
    let bytes = |option, text: &Option<String>| text.as_deref().map(|text| ram_bytes(option, text)).transpose();
    let text = |text: &Option<String>| text.as_ref().map(|text| json!(text));
    let values = [
        ("memory", "limit", bytes("--memory", &update.memory)?.map(Value::from)),
        ("memory", "reservation", bytes("--memory-reservation", &update.memory_reservation)?.map(Value::from)),
        ("memory", "swap", bytes("--memory-swap", &update.memory_swap)?.map(Value::from)),
        ("cpu", "quota", update.cpu_quota.map(Value::from)),
        ("cpu", "period", update.cpu_period.map(Value::from)),
        ("cpu", "burst", update.cpu_burst.map(Value::from)),
        ("cpu", "shares", update.cpu_share.map(Value::from)),
        ("cpu", "realtimeRuntime", update.cpu_rt_runtime.map(Value::from)),
        ("cpu", "realtimePeriod", update.cpu_rt_period.map(Value::from)),
        ("cpu", "idle", update.cpu_idle.map(Value::from)),
        ("cpu", "cpus", text(&update.cpuset_cpus)),
        ("cpu", "mems", text(&update.cpuset_mems)),
        ("pids", "limit", update.pids_limit.map(Value::from)),
        ("blockIO", "weight", update.blkio_weight.map(Value::from)),
    ];
    let mut resources = Map::new();
    for (group, name, value) in values {
        if let (Some(value), Some(group)) = (value, resources.entry(group).or_insert_with(|| json!({})).as_object_mut())
        {
            group.insert(name.to_owned(), value);
        }
    }
    resources.retain(|_, group| group.as_object().is_some_and(|group| !group.is_empty()));
    Ok(Value::Object(resources))
}

/// Docker's and runc's way to write sizes: `512m`, `1.5G`, `4KiB`, `-1`.
fn ram_bytes(option: &'static str, text: &str) -> Result<i64, OciError> {
    let expected = "bytes, or a number with K, M, G, T or P behind, or -1 for no limit";
    let bad = || OciError::Value { what: option, found: text.to_owned(), expected };
    if text == "-1" {
        return Ok(-1);
    }
    let lower = text.to_ascii_lowercase();
    let number = lower.strip_suffix('b').unwrap_or(&lower);
    let number = number.strip_suffix('i').unwrap_or(number);
    let power = "kmgtp".chars().zip([10, 20, 30, 40, 50]).find(|(unit, _)| number.ends_with(*unit));
    let digits = power.map_or(number, |(unit, _)| number.trim_end_matches(unit).trim_end());
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let value: f64 = Some(digits).filter(|_| plain).and_then(|digits| digits.parse().ok()).ok_or_else(bad)?;
    let bytes = value * f64::from(power.map_or(0, |(_, power)| power)).exp2();
    // Above, a number no longer fits config.json's.
    if bytes < i64::MAX as f64 { Ok(bytes as i64) } else { Err(bad()) }
}

/// Objects go together, key by key; anything else takes the place of what was there, unless it stands for "not given".
fn lay_over(below: &mut Value, above: Value) {
    /// Of these 0 is a value.
    const ZERO_COUNTS: [&str; 4] = ["idle", "burst", "swappiness", "disableOOMKiller"];
    let (Value::Object(below), Value::Object(above)) = (below, above) else { return };
    for (key, value) in above {
        let absent = match &value {
            Value::Null => true,
            Value::Number(number) => number.as_i64() == Some(0) && !ZERO_COUNTS.contains(&key.as_str()),
            Value::String(text) => text.is_empty(),
            Value::Bool(_) | Value::Array(_) | Value::Object(_) => key == "devices",
        };
        match below.get_mut(&key) {
            _ if absent => {}
            Some(inner @ Value::Object(_)) if value.is_object() => lay_over(inner, value),
            Some(_) | None if value.is_object() => {
                let mut inner = json!({});
                lay_over(&mut inner, value);
                below.insert(key, inner);
            }
            Some(_) | None => drop(below.insert(key, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_docker_writes_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("512m", 512 << 20),
            ("1.5G", 3 << 29),
            ("4KiB", 4096),
            ("2 kb", 2048),
            ("10B", 10),
            ("-1", -1),
        ] {
            assert_eq!(ram_bytes("--memory", text).ok(), Some(bytes), "{text}");
        }
        for text in ["", "-2", "m", "1x", "1e3", "0x10", "9999999P", "1mm "] {
            let said = ram_bytes("--memory", text).unwrap_err().to_string();
            assert!(said.starts_with(&format!("--memory {text:?}: expected bytes")), "{said}");
        }
    }

    #[test]
    fn what_is_given_is_laid_over_what_there_is() {
        let mut has = json!({ "memory": { "limit": 1, "swap": 2 }, "cpu": { "cpus": "0", "idle": 1 }, "devices": [1] });
        let given = json!({ "memory": { "limit": 5, "swap": 0 }, "cpu": { "cpus": "", "idle": 0, "shares": null },
            "pids": { "limit": 0 }, "hugepageLimits": [{ "pageSize": "2MB", "limit": 0 }], "devices": [] });
        lay_over(&mut has, given);
        let expected = json!({ "memory": { "limit": 5, "swap": 2 }, "cpu": { "cpus": "0", "idle": 0 }, "devices": [1],
            "pids": {}, "hugepageLimits": [{ "pageSize": "2MB", "limit": 0 }] });
        assert_eq!(has, expected);
    }

    #[test]
    fn options_become_fields_of_config_json() {
        let update = Update {
            memory: Some("64M".into()),
            cpu_quota: Some(-1),
            pids_limit: Some(7),
            cpuset_cpus: Some("0".into()),
            blkio_weight: Some(300),
            ..Update::default()
        };
        let log = Log::new(None, super::super::args::LogFormat::Text, false);
        let expected = json!({ "memory": { "limit": 64 << 20 }, "cpu": { "quota": -1, "cpus": "0" },
            "pids": { "limit": 7 }, "blockIO": { "weight": 300 } });
        assert_eq!(from_options(&update, &log).unwrap(), expected);
        let cache = Update { l3_cache_schema: Some("L3:0=1".into()), ..Update::default() };
        assert_eq!(from_options(&cache, &log).unwrap(), json!({}), "it is no resource of a cgroup");
    }
}
