//! The command line as resolved: what `up` hands to the anchor, and the anchor to keeper and supervisor.
//!
//! An option wins over its environment variable, which wins over the default; an empty variable counts as not set. Paths are made
//! absolute here, because the processes that get them stand elsewhere. [`Settings::to_args`] writes them as options again,
//! [`Settings::from_args`] reads those: what is resolved once stays so.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Parser;
use serde::{Deserialize, Serialize};

use super::args::{Places, Up};
use crate::store::IdPool;
use crate::unit::BootGuard;

/// Where units are, later ones winning by name.
pub const UNITS_DIRS: [&str; 3] = ["/usr/lib/moored/units", "/run/moored/units", "/etc/moored/units"];

/// More help only where several containers start at once, and then the making of them is in the way.
const SPARE_NAMESPACES: u16 = 4;
/// What the logs of all units together may take unless `--log-cap` says otherwise.
pub const LOG_CAP_BYTES: u64 = 1024 * 1024 * 1024;

/// What the supervisor and its helpers need to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Absolute, later ones winning by name.
    pub units_dirs: Vec<PathBuf>,
    /// With `--units`: files of SUDO_UID are trusted too.
    pub given_by_hand: bool,
    /// Sockets, FIFOs, what lasts until reboot. Absolute.
    pub run_dir: PathBuf,
    /// What must survive a reboot. Absolute.
    pub state_dir: PathBuf,
    /// What containers print. Absolute.
    pub log_dir: PathBuf,
    /// Parent of the containers' cgroups, from the hierarchy's root: begins with a slash.
    pub cgroup_root: PathBuf,
    /// The supervisor's own file; it need not exist. Absolute.
    pub config: PathBuf,
    /// Leave containers running when the supervisor ends.
    pub detach_on_exit: bool,
    /// What is on disk goes in force by `moored apply`.
    pub manual: bool,
    /// What the logs of all units together may take.
    pub log_cap_bytes: u64,
    /// Namespaces of network and of mounts that are made ahead, so many of each.
    #[serde(default, alias = "spare_networks")]
    pub spare_namespaces: u16,
    /// From which ids units with their own get them.
    #[serde(default)]
    pub userns_pool: IdPool,
    /// What is done about boots that are not good.
    #[serde(default)]
    pub boot_guard: Option<BootGuard>,
}

/// The places, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// See [`Settings::run_dir`].
    pub run_dir: PathBuf,
    /// See [`Settings::state_dir`].
    pub state_dir: PathBuf,
    /// See [`Settings::log_dir`].
    pub log_dir: PathBuf,
    /// See [`Settings::cgroup_root`].
    pub cgroup_root: PathBuf,
    /// See [`Settings::config`].
    pub config: PathBuf,
}

impl Places {
    /// Options, then environment, then defaults.
    pub fn resolve(self) -> Resolved {
        self.resolve_with(|name| std::env::var_os(name))
    }

    fn resolve_with(self, env: impl Fn(&str) -> Option<OsString>) -> Resolved {
        let pick = |given: Option<PathBuf>, name: &str, default: &str| {
            let from_env = || env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
            given.or_else(from_env).unwrap_or_else(|| default.into())
        };
        Resolved {
            run_dir: absolute(&pick(self.run_dir, "MOORED_RUN_DIR", "/run/moored")),
            state_dir: absolute(&pick(self.state_dir, "MOORED_STATE_DIR", "/var/lib/moored")),
            log_dir: absolute(&pick(self.log_dir, "MOORED_LOG_DIR", "/var/log/moored")),
            cgroup_root: Path::new("/").join(pick(self.cgroup_root, "MOORED_CGROUP_ROOT", "/moored")),
            config: absolute(&pick(self.config, "MOORED_CONFIG", "/etc/moored/moored.toml")),
        }
    }
}

impl Settings {
    /// From what `up` was given.
    pub fn new(places: Resolved, up: Up) -> Self {
        let given_by_hand = !up.units.is_empty();
        let units_dirs = match given_by_hand {
            true => up.units.iter().map(|dir| absolute(dir)).collect(),
            false => UNITS_DIRS.iter().map(PathBuf::from).collect(),
        };
        let Resolved { run_dir, state_dir, log_dir, cgroup_root, config } = places;
        Self {
            units_dirs,
            given_by_hand,
            run_dir,
            state_dir,
            log_dir,
            cgroup_root,
            config,
            detach_on_exit: up.detach_on_exit,
            manual: up.manual,
            log_cap_bytes: up.log_cap.unwrap_or(LOG_CAP_BYTES),
            spare_namespaces: up.spare_namespaces.unwrap_or(SPARE_NAMESPACES),
            userns_pool: up.userns_pool.unwrap_or_default(),
            boot_guard: up
                .boot_loop_guard
                .zip(up.good_after)
                .map(|(boots, good_after)| BootGuard { boots, good_after }),
        }
    }

    /// Options from which [`Settings::from_args`] makes the same value, whatever the environment holds by then.
    pub fn to_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = Vec::new();
        let mut option = |name: &str, value: OsString| args.extend([name.into(), value]);
        option("--run-dir", self.run_dir.clone().into());
        option("--state-dir", self.state_dir.clone().into());
        option("--log-dir", self.log_dir.clone().into());
        option("--cgroup-root", self.cgroup_root.clone().into());
        option("--config", self.config.clone().into());
        option("--log-cap", self.log_cap_bytes.to_string().into());
        option("--spare-namespaces", self.spare_namespaces.to_string().into());
        option("--userns-pool", self.userns_pool.to_string().into());
        if let Some(BootGuard { boots, good_after }) = self.boot_guard {
            option("--boot-loop-guard", boots.to_string().into());
            option("--good-after", format!("{}ms", good_after.as_millis()).into());
        }
        for dir in self.units_dirs.iter().filter(|_| self.given_by_hand) {
            option("--units", dir.clone().into());
        }
        if self.detach_on_exit {
            args.push("--detach-on-exit".into());
        }
        if self.manual {
            args.push("--manual".into());
        }
        args
    }

    /// Reads what [`Settings::to_args`] wrote; the message is clap's.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        #[derive(Parser)]
        struct Passed {
            #[command(flatten)]
            places: Places,
            #[command(flatten)]
            up: Up,
        }
        let args = std::iter::once("moored".into()).chain(args);
        let passed = Passed::try_parse_from(args).map_err(|error| error.to_string())?;
        Ok(Self::new(passed.places.resolve(), passed.up))
    }
}

impl Up {
    /// With what the environment says where no option does. `Err` says what was expected of it.
    pub fn or_environment(self) -> Result<Up, &'static str> {
        self.or(std::env::var_os("MOORED_MANUAL"))
    }

    fn or(self, manual: Option<OsString>) -> Result<Up, &'static str> {
        let says_so = match manual.unwrap_or_default().to_str() {
            Some("1" | "true" | "yes" | "on") => true,
            Some("" | "0" | "false" | "no" | "off") => false,
            Some(_) | None => return Err("MOORED_MANUAL: expected 1 or 0, true or false, yes or no, on or off"),
        };
        Ok(Up { manual: self.manual || says_so, ..self })
    }
}

fn absolute(path: &Path) -> PathBuf {
    // Fails only for an empty path and when the working directory is gone; then the path as given is named in the error that follows.
    std::path::absolute(path).unwrap_or_else(|_| path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_wins_over_the_environment_and_that_over_the_default() {
        let env = |name: &str| match name {
            "MOORED_RUN_DIR" => Some("/env/run".into()),
            "MOORED_STATE_DIR" => Some("/env/state".into()),
            "MOORED_LOG_DIR" => Some(OsString::new()),
            _ => None,
        };
        let places = Places { run_dir: Some("/given".into()), cgroup_root: Some("mine".into()), ..Places::default() };
        let resolved = places.resolve_with(env);
        assert_eq!(resolved.run_dir, Path::new("/given"));
        assert_eq!(resolved.state_dir, Path::new("/env/state"));
        assert_eq!(resolved.log_dir, Path::new("/var/log/moored"));
        assert_eq!(resolved.cgroup_root, Path::new("/mine"));
    }

    #[test]
    fn the_environment_says_manual_in_few_words() {
        let said = |text: &str| Up::default().or(Some(text.into())).map(|up| up.manual);
        assert_eq!([said("1"), said("yes"), said(""), said("off")], [Ok(true), Ok(true), Ok(false), Ok(false)]);
        assert!(said("maybe").is_err_and(|error| error.starts_with("MOORED_MANUAL")));
        assert_eq!(Up { manual: true, ..Up::default() }.or(Some("0".into())).map(|up| up.manual), Ok(true));
    }

    #[test]
    fn settings_survive_being_passed_on() {
        let places = || Places { run_dir: Some("r".into()), ..Places::default() }.resolve_with(|_| None);
        let by_hand = Up {
            units: vec!["a".into(), "/b c".into()],
            detach_on_exit: true,
            manual: true,
            log_cap: Some(4096),
            spare_namespaces: Some(0),
            userns_pool: "100000-231071".parse().ok(),
            boot_loop_guard: Some(3),
            good_after: Some(std::time::Duration::from_millis(120_500)),
        };
        for up in [Up::default(), by_hand] {
            let settings = Settings::new(places(), up);
            assert!(settings.run_dir.is_absolute() && settings.units_dirs.iter().all(|dir| dir.is_absolute()));
            assert_eq!(Settings::from_args(settings.to_args()), Ok(settings));
        }
    }
}
