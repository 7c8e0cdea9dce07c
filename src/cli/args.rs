//! The command line as typed.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::detach::DetachKeys;
use super::values;
use crate::store::IdPool;

/// Keeps containers running that are declared in a directory of TOML unit files.
#[derive(Debug, Parser)]
#[command(name = "moored", version, about, disable_help_subcommand = true, arg_required_else_help = true)]
pub struct Cli {
    /// Where everything is.
    #[command(flatten)]
    pub places: Places,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes; see [`super::settings`] for what holds when they are not given.
#[derive(Debug, Default, Args)]
pub struct Places {
    /// Sockets and what lasts until reboot [env: MOORED_RUN_DIR] [default: /run/moored]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Places")]
    pub run_dir: Option<PathBuf>,
    /// What must survive a reboot [env: MOORED_STATE_DIR] [default: /var/lib/moored]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Places")]
    pub state_dir: Option<PathBuf>,
    /// What containers print [env: MOORED_LOG_DIR] [default: /var/log/moored]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Places")]
    pub log_dir: Option<PathBuf>,
    /// Parent of the containers' cgroups [env: MOORED_CGROUP_ROOT] [default: /moored]
    #[arg(long, global = true, value_name = "CGROUP", help_heading = "Places")]
    pub cgroup_root: Option<PathBuf>,
    /// The supervisor's own file; it need not exist [env: MOORED_CONFIG] [default: /etc/moored/moored.toml]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Places")]
    pub config: Option<PathBuf>,
}

/// What `schema` is asked for.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum Schema {
    /// NAME.toml and NAME@.toml
    #[default]
    Unit,
    /// NAME.toml.d/*.toml
    DropIn,
    /// moored.toml
    Config,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run in the foreground; Ctrl-C and SIGTERM stop everything in order
    Up(Up),
    /// Wait until what is on disk now is read and converged: exit 0, 1 invalid, 2 failed, 3 timeout
    Sync {
        /// Only these units
        units: Vec<String>,
        /// Give up after this long
        #[arg(long, value_name = "TIME", value_parser = values::duration)]
        timeout: Option<Duration>,
    },
    /// List units: phase, pid, since when, restarts, last exit, and why
    Ps {
        /// Only these units; of one with replicas each
        units: Vec<String>,
        /// A row for each replica, not one for all of a unit
        #[arg(short, long)]
        all: bool,
        /// Only those that failed, are stuck or wait for the next try
        #[arg(long)]
        failed: bool,
        /// An array of objects
        #[arg(long)]
        json: bool,
    },
    /// Show one unit in full, with its last log lines; without a unit, the supervisor itself
    Status {
        /// Which
        unit: Option<String>,
        /// One object
        #[arg(long)]
        json: bool,
    },
    /// Print what a unit printed
    Logs(Logs),
    /// Join a unit's terminal; of one without print what it prints from now on
    Attach(Attach),
    /// Print what happened
    Events {
        /// Only about these units
        units: Vec<String>,
        /// Go on as things happen
        #[arg(short, long)]
        follow: bool,
        /// Only the last N
        #[arg(short = 'n', long, value_name = "N", conflicts_with = "follow")]
        lines: Option<usize>,
        /// From this time on: "10m" ago, or a date and time
        #[arg(long, value_name = "TIME", value_parser = values::since)]
        since: Option<u64>,
        /// One object a line
        #[arg(long)]
        json: bool,
    },
    /// Run units; also ends a stop and begins anew after a failure
    Start(Units),
    /// Stop units; they stay stopped until `start`, the time given, or their file's removal
    Stop {
        /// Which
        #[arg(required = true)]
        units: Vec<String>,
        /// Why, shown by ps and status
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// For this long only
        #[arg(long = "for", value_name = "TIME", value_parser = values::duration)]
        hold: Option<Duration>,
    },
    /// Stop units and start them at once
    Restart(Units),
    /// Do what the reload section of the unit says; SIGHUP if it says nothing
    Reload(Units),
    /// Send a signal to the first process of units
    Kill {
        /// Which
        #[arg(required = true)]
        units: Vec<String>,
        /// Name or number [default: SIGTERM; with --all SIGKILL]
        #[arg(short, long, value_name = "SIG", value_parser = values::signal)]
        signal: Option<u8>,
        /// To every process of the unit; SIGKILL only
        #[arg(short, long)]
        all: bool,
    },
    /// Run a program inside a unit's container
    Exec(Exec),
    /// Validate unit files: exit 1 and say file:line:column
    Check {
        /// Files or directories [default: the directories that `up` reads]
        paths: Vec<PathBuf>,
        /// Also the init.toml of a machine; without paths that of this one, if it has one
        #[arg(long, value_name = "FILE")]
        init_config: Option<PathBuf>,
        /// An array of objects
        #[arg(long)]
        json: bool,
    },
    /// Show what would change, why, and how, in the order in which it would happen
    Plan {
        /// Compare with this directory instead of those in force
        #[arg(long, value_name = "DIR")]
        units: Option<PathBuf>,
        /// One object, with the hash that `apply --plan` takes
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of unit files, or of another kind of file
    Schema {
        /// Of which kind
        #[arg(value_enum, default_value_t)]
        of: Schema,
    },
    /// Put in force what is on disk now, then wait as `sync` does: exit 0, 1 invalid, 2 failed, 3 timeout
    Apply(Apply),
    /// Stop everything in order, and the supervisor
    Down,
    /// runc's command line: spec, create, start, run, exec, state, list, kill, delete
    #[command(disable_help_flag = true)]
    Oci(Rest),
    /// The same as `up`, as process 1 of a machine or of a container; also when process 1 is given no command
    Init(Init),
    /// Stop everything in order and switch the machine off, if moored is its process 1
    Poweroff,
    /// Stop everything in order and start the machine again, if moored is its process 1
    Reboot,
    /// Stop everything in order and halt the machine, if moored is its process 1
    Halt,
    /// Show what led to what a unit is doing now, and who did it
    Why {
        /// Which
        unit: String,
        /// One object
        #[arg(long)]
        json: bool,
    },
    /// Run the host's tools in a container's namespaces, with the host's rights
    Debug(Debug),
    /// Replace the program under running containers
    Upgrade {
        /// The new one [default: the file that `up` was started from, read again]
        program: Option<PathBuf>,
    },
    /// Print the text in force of a unit, merged from all its files, each value with the one it came from
    Cat {
        /// Which
        unit: String,
        /// One object
        #[arg(long)]
        json: bool,
    },
}

/// Units to act on.
#[derive(Debug, Args)]
pub struct Units {
    /// Which
    #[arg(required = true)]
    pub units: Vec<String>,
}

/// Everything after the subcommand, as it is.
#[derive(Debug, Args)]
pub struct Rest {
    /// Arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<OsString>,
}

/// `up`, and the processes that it starts.
#[derive(Debug, Default, Args)]
pub struct Up {
    /// Read units here instead of in /usr/lib/moored/units, /run/moored/units and /etc/moored/units; later ones win
    #[arg(long, value_name = "DIR")]
    pub units: Vec<PathBuf>,
    /// Leave containers running when the supervisor ends
    #[arg(long)]
    pub detach_on_exit: bool,
    /// Put changed, new and removed files in force only by `moored apply` [env: MOORED_MANUAL]
    #[arg(long)]
    pub manual: bool,
    /// Bytes that the logs of all units together may take
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub log_cap: Option<u64>,
    /// Namespaces of network and of mounts made ahead, for starts to be quicker; 0 makes none [default: 4]
    #[arg(long, alias = "spare-networks", value_name = "N", value_parser = clap::value_parser!(u16).range(..=64))]
    pub spare_namespaces: Option<u16>,
    /// From which ids units with `userns = "auto"` get theirs, 65,536 each [default: 524288-1879048191, that of systemd's containers]
    #[arg(long, value_name = "FIRST-LAST")]
    pub userns_pool: Option<IdPool>,
    /// From init.toml: so many boots in a row may be bad.
    #[arg(long, hide = true, value_name = "BOOTS", requires = "good_after")]
    pub boot_loop_guard: Option<u32>,
    /// From init.toml: a boot is good after this long.
    #[arg(long, hide = true, value_name = "TIME", value_parser = values::duration)]
    pub good_after: Option<Duration>,
}

/// `init`.
#[derive(Debug, Default, Args)]
pub struct Init {
    /// As for `up`.
    #[command(flatten)]
    pub up: Up,
    /// What the machine needs before its units; it need not exist [default: /etc/moored/init.toml]
    #[arg(long, value_name = "FILE")]
    pub init_config: Option<PathBuf>,
}

/// `apply`.
#[derive(Debug, Args)]
pub struct Apply {
    /// Only these units
    pub units: Vec<String>,
    /// Give up after this long
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub timeout: Option<Duration>,
    /// All or nothing: if any text is not valid, or not settled in time, nothing changes and the exit code is 1
    #[arg(long)]
    pub atomic: bool,
    /// Only if the plan is still the one with this hash, from `moored plan --json`
    #[arg(long, value_name = "HASH")]
    pub plan: Option<String>,
    /// Also remove the units that are missing although their directory became another one
    #[arg(long)]
    pub confirm_removals: bool,
}

/// `logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// Which
    pub unit: String,
    /// Go on as it prints
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last N lines
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<usize>,
    /// From this time on: "10m" ago, or a date and time
    #[arg(long, value_name = "TIME", value_parser = values::since)]
    pub since: Option<u64>,
    /// Put the time before each line
    #[arg(short, long)]
    pub timestamps: bool,
    /// The run before this one
    #[arg(short, long)]
    pub previous: bool,
    /// One object a line
    #[arg(long)]
    pub json: bool,
}

/// `attach`.
#[derive(Debug, Args)]
pub struct Attach {
    /// To which
    pub unit: String,
    /// Keys that detach from its terminal; "": none
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: DetachKeys,
    /// Look on without typing
    #[arg(long)]
    pub no_stdin: bool,
}

/// `exec`.
#[derive(Debug, Args)]
pub struct Exec {
    /// Pass standard input on
    #[arg(short, long)]
    pub interactive: bool,
    /// With a terminal of its own
    #[arg(short, long)]
    pub tty: bool,
    /// Set an environment variable
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = values::assignment)]
    pub env: Vec<String>,
    /// Directory inside
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// A user, or user:group, by name or number
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,
    /// Where
    pub unit: String,
    /// What to run
    #[arg(last = true, required = true, value_name = "ARGS")]
    pub args: Vec<String>,
}

/// `debug`.
#[derive(Debug, Args)]
pub struct Debug {
    /// Enter only these namespaces of its [default: all]
    #[arg(short, long, value_name = "NAMESPACE", value_delimiter = ',')]
    pub target: Vec<Kind>,
    /// Where
    pub unit: String,
    /// What to run [default: $SHELL]
    #[arg(last = true, value_name = "ARGS")]
    pub args: Vec<String>,
}

/// A namespace that the host's tools enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Kind {
    Pid,
    Net,
    Ipc,
    Uts,
    Cgroup,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn places_may_stand_before_and_after_the_subcommand() {
        for line in ["moored --run-dir /r ps --failed", "moored ps --run-dir /r --failed"] {
            let cli = parse(line).unwrap();
            assert_eq!(cli.places.run_dir, Some("/r".into()));
            assert!(matches!(cli.command, Command::Ps { failed: true, json: false, .. }));
        }
    }

    #[test]
    fn exec_takes_the_program_after_two_dashes() {
        let Command::Exec(exec) = parse("moored exec -it -e A=1 -e B= -w / -u 0:0 web -- sh -c ls").unwrap().command
        else {
            panic!()
        };
        assert!(exec.interactive && exec.tty);
        assert_eq!((exec.unit.as_str(), exec.args.join(" ").as_str()), ("web", "sh -c ls"));
        assert_eq!(exec.env, ["A=1", "B="]);
        assert!(parse("moored exec web").is_err());
        assert!(parse("moored exec -e A web -- sh").is_err());
    }

    #[test]
    fn oci_and_later_commands_take_anything() {
        let Command::Oci(rest) = parse("moored oci run --bundle /b -- x --help").unwrap().command else { panic!() };
        assert_eq!(rest.args.len(), 6);
        let Command::Debug(debug) = parse("moored debug --target net,pid web -- ss -ln").unwrap().command else {
            panic!()
        };
        assert_eq!((debug.target, debug.args), (vec![Kind::Net, Kind::Pid], vec!["ss".to_owned(), "-ln".to_owned()]));
        assert!(parse("moored debug --target user web").is_err() && parse("moored debug").is_err());
    }

    #[test]
    fn bad_values_are_usage_errors() {
        for line in [
            "moored",
            "moored dance",
            "moored stop",
            "moored stop a --for abc",
            "moored kill a -s SIGNOPE",
            "moored sync --timeout -1s",
            "moored up --log-cap lots",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert!(
            parse("moored kill a -s hup").is_ok_and(|cli| matches!(cli.command, Command::Kill { signal: Some(1), .. }))
        );
    }
}
