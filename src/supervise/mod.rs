//! The mailbox loop: facts in, reconcile, apply.
