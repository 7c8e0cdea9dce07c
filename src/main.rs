//! The one binary. What runs is decided by the first recognised subcommand; see [`moored::cli`].

#![no_main]

moored::entry!(moored::cli::main);
