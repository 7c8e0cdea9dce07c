//! The process that somebody started: signals, orphans, the keeper's spare.
