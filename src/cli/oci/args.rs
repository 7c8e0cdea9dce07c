//! runc's command line as its clients type it. Options may stand before or after the id.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Containers from OCI bundles, with runc's command line.
#[derive(Debug, Parser)]
#[command(
    name = "moored oci",
    disable_version_flag = true,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Options of every command.
#[derive(Debug, Args)]
pub struct Globals {
    /// Where the state of containers is [default: oci/ in the run-dir]
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Append messages to this file
    #[arg(long, global = true, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// How messages in that file look
    #[arg(long, global = true, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// Also say what is done
    #[arg(long, global = true)]
    pub debug: bool,
    #[arg(long, global = true, hide = true)]
    pub systemd_cgroup: bool,
    #[arg(long, global = true, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub rootless: Option<String>,
    /// Print the version and the spec's
    #[arg(long, short = 'v')]
    pub version: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people
    #[default]
    Text,
    /// One object a line: level, msg, time
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a config.json to start from
    Spec {
        /// Where [default: here]
        #[arg(long, short, value_name = "DIR")]
        bundle: Option<PathBuf>,
    },
    /// Make a container; its process waits for `start`
    Create {
        #[command(flatten)]
        make: Make,
    },
    /// Let a created container execute its program
    Start {
        /// Which
        id: String,
    },
    /// Make a container, start it, and wait for its end
    Run {
        #[command(flatten)]
        make: Make,
        /// Do not wait
        #[arg(long, short)]
        detach: bool,
        /// Keep the container's state when it has ended
        #[arg(long)]
        keep: bool,
        #[arg(long, hide = true)]
        no_subreaper: bool,
    },
    /// Run a process in a container
    Exec(Exec),
    /// Print what a container is doing
    State {
        /// Which
        id: String,
    },
    /// List containers
    List {
        /// table or json
        #[arg(long, short, value_enum, default_value_t)]
        format: ListFormat,
        /// Ids only
        #[arg(long, short)]
        quiet: bool,
    },
    /// Send a signal to a container's first process
    Kill {
        /// Which
        id: String,
        /// Name or number
        #[arg(default_value = "SIGTERM")]
        signal: String,
        /// To all its processes
        #[arg(long, short)]
        all: bool,
    },
    /// Remove a container that has stopped
    Delete {
        /// Which
        id: String,
        /// Kill it first; one that does not exist is no error
        #[arg(long, short)]
        force: bool,
    },
    #[command(external_subcommand)]
    Other(Vec<String>),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// For people
    #[default]
    Table,
    /// An array of objects
    Json,
}

/// What `create` and `run` share.
#[derive(Debug, Args)]
pub struct Make {
    /// Its name
    pub id: String,
    /// Directory with the config.json [default: here]
    #[arg(long, short, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Unix socket that gets the master of the terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Write the process id here
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Pass on this many descriptors from 3 up
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u16,
    /// Stay in the session keyring of the caller
    #[arg(long)]
    pub no_new_keyring: bool,
    #[arg(long, hide = true)]
    pub no_pivot: bool,
    #[arg(long, hide = true)]
    pub pidfd_socket: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Exec {
    /// Where
    pub id: String,
    /// What, and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<String>,
    /// Take the whole process from this JSON file
    #[arg(long, short, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// Directory inside
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// Set an environment variable
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = crate::cli::values::assignment)]
    pub env: Vec<String>,
    /// With a terminal of its own
    #[arg(long, short)]
    pub tty: bool,
    /// UID[:GID]
    #[arg(long, short, value_name = "UID[:GID]")]
    pub user: Option<String>,
    /// Supplementary groups
    #[arg(long, short = 'g', value_name = "GID")]
    pub additional_gids: Vec<u32>,
    /// Add a capability
    #[arg(long, short, value_name = "CAP")]
    pub cap: Vec<String>,
    /// Set no_new_privs
    #[arg(long)]
    pub no_new_privs: bool,
    /// Do not wait
    #[arg(long, short)]
    pub detach: bool,
    /// Write the process id here
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Unix socket that gets the master of the terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Pass on this many descriptors from 3 up
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u16,
    #[arg(long, hide = true)]
    pub ignore_paused: bool,
    #[arg(long, hide = true)]
    pub pidfd_socket: Option<PathBuf>,
    #[arg(long, hide = true)]
    pub apparmor: Option<String>,
    #[arg(long, hide = true)]
    pub process_label: Option<String>,
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
    fn clients_call_it_as_they_call_runc() {
        for line in [
            "runc --root /r --log /l --log-format json create --bundle /b --pid-file /p --console-socket /s x",
            "runc create x --bundle=/b --preserve-fds=3",
            "runc --root=/r exec --pid-file /p --process /q --detach x",
            "runc kill --all x 9",
            "runc kill x KILL --all",
            "runc delete --force x",
            "runc --rootless=true list -f json",
            "runc run -d --no-new-keyring -b /b x",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn what_follows_the_id_of_exec_is_the_process_own() {
        let Some(Command::Exec(exec)) = parse("runc exec -t -e A=1 x sh -c ls --root").unwrap().command else {
            panic!()
        };
        assert_eq!((exec.id.as_str(), exec.args.join(" ").as_str(), exec.tty), ("x", "sh -c ls --root", true));
    }
}
