//! The watch against real file systems: ext4 (or what /tmp is on) and tmpfs.

mod directories;
mod drop_ins;
mod files;
mod fixture;
mod hints;
