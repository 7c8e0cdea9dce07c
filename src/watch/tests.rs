//! The watch against real file systems: ext4 (or what /tmp is on) and tmpfs.

mod directories;
mod files;
mod fixture;
mod hints;
