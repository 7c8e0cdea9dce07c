//! Directories to settled texts.
