//! runc's command line as its clients type it. Options may stand before or after the id.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use super::events::Events;
use super::ps::Ps;
use super::update::Update;

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
    /// Read cgroupsPath as slice:prefix:name; systemd itself is not asked
    #[arg(long, global = true)]
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
    /// Write a config.json to start from; with --rootless one for a user without root's rights
    Spec {
        /// Where [default: here]
        #[arg(long, short, value_name = "DIR")]
        bundle: Option<PathBuf>,
    },
    /// Make a container; its process waits for `start`
    Create(Make),
    /// Let a created container execute its program
    Start {
        /// Which
        id: String,
    },
    /// Make a container, start it, and wait for its end
    Run(Run),
    /// Run a process in a container
    Exec(Box<Exec>),
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
    /// Print a container's processes
    Ps(Ps),
    /// Freeze all processes of a container
    Pause {
        /// Which
        id: String,
    },
    /// Let them go on
    Resume {
        /// Which
        id: String,
    },
    /// Change the limits of a container
    Update(Box<Update>),
    /// Print what a container uses, again and again, and when memory runs out
    Events(Events),
    /// Print what this runtime does, as JSON
    Features,
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
    /// Change the root by chroot(2), where pivot_root(2) is refused (an initramfs)
    #[arg(long)]
    pub no_pivot: bool,
    /// Unix socket that gets a pidfd of the process
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub make: Make,
    /// Do not wait
    #[arg(long, short)]
    pub detach: bool,
    /// Keep the container's state when it has ended
    #[arg(long)]
    pub keep: bool,
    #[arg(long, hide = true)]
    pub no_subreaper: bool,
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
    /// Also in a paused container: it stands still until `resume`
    #[arg(long)]
    pub ignore_paused: bool,
    /// Unix socket that gets a pidfd of the process
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    pub apparmor: Option<String>,
    /// SELinux label
    #[arg(long, value_name = "LABEL")]
    pub process_label: Option<String>,
    /// Run in a cgroup below the container's own, which must be there; on cgroup v1 also by controllers
    #[arg(long, value_name = "[CONTROLLER,…:]PATH")]
    pub cgroup: Vec<String>,
}

/// The command line of one command: a fifth of the time that all of them together take to be set up.
#[derive(Debug, Parser)]
struct One<C: Args> {
    #[command(flatten)]
    globals: Globals,
    #[command(flatten)]
    command: C,
}

impl Cli {
    /// Reads the words after the program's name.
    pub fn read(words: Vec<OsString>) -> Result<Cli, clap::Error> {
        if let Some(cli) = super::usual::read(&words) {
            return Ok(cli);
        }
        let short_cut = command_word(&words).and_then(|at| {
            let mut rest = words.clone();
            let name = rest.remove(at);
            match name.to_str()? {
                "create" => Some(one("moored oci create", rest, Command::Create)),
                "run" => Some(one("moored oci run", rest, Command::Run)),
                "exec" => Some(one("moored oci exec", rest, |exec| Command::Exec(Box::new(exec)))),
                _ => None,
            }
        });
        let all = || Cli::try_parse_from(std::iter::once("moored oci".into()).chain(words));
        short_cut.unwrap_or_else(all)
    }
}

fn one<C: Args>(name: &'static str, words: Vec<OsString>, wrap: fn(C) -> Command) -> Result<Cli, clap::Error> {
    let parser = One::<C>::command().name(name).bin_name(name);
    let matches = parser.try_get_matches_from(std::iter::once(name.into()).chain(words))?;
    let One { globals, command } = One::<C>::from_arg_matches(&matches)?;
    Ok(Cli { globals, command: Some(wrap(command)) })
}

/// Where the command stands: the first word that is no option and no option's value.
fn command_word(words: &[OsString]) -> Option<usize> {
    let with_value = ["--root", "--log", "--log-format"];
    let mut at = 0;
    loop {
        let word = words.get(at)?.to_str()?;
        match word.starts_with('-') {
            false => return Some(at),
            true => at += if with_value.contains(&word) { 2 } else { 1 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::read(line.split_whitespace().skip(1).map(OsString::from).collect())
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
            "runc ps --format json x",
            "runc ps x -o pid,comm",
            "runc events --stats x",
            "runc events --interval 1s x",
            "runc update --resources=- x",
            "runc update x --memory -1 --memory-swap=-1 --cpu-quota -1 --pids-limit=-1",
            "runc --systemd-cgroup create --no-pivot --pidfd-socket /s --bundle /b x",
            "runc spec --rootless",
            "runc --rootless=auto pause x",
            "runc features",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn one_command_alone_is_read_as_among_all() {
        for line in [
            "runc --root /r --debug run -d x",
            "runc --log-format=json create --bundle b x",
            "runc exec x ls",
            "runc run",
        ] {
            let all = Cli::try_parse_from(line.split_whitespace());
            match (parse(line), all) {
                (Ok(one), Ok(all)) => assert_eq!(format!("{one:?}"), format!("{all:?}")),
                (Err(one), Err(all)) => assert_eq!(one.kind(), all.kind()),
                (one, all) => panic!("{line}: {one:?} against {all:?}"),
            }
        }
        assert!(parse("runc run --help").unwrap_err().to_string().contains("Usage: moored oci run [OPTIONS] <ID>"));
    }

    #[test]
    fn what_follows_the_id_of_exec_is_the_process_own() {
        let Some(Command::Exec(exec)) = parse("runc exec -t -e A=1 x sh -c ls --root").unwrap().command else {
            panic!()
        };
        assert_eq!((exec.id.as_str(), exec.args.join(" ").as_str(), exec.tty), ("x", "sh -c ls --root", true));
    }
}
