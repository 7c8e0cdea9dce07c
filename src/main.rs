//! The one binary. What runs is decided by the first recognised subcommand; see [`moored::cli`].

fn main() -> std::process::ExitCode {
    moored::cli::main()
}
