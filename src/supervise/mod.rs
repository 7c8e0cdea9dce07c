//! The mailbox loop: facts in, reconcile, apply.

pub mod log;
