//! What a child must get back because the keeper changed it for itself.

/// Limits, signals and OOM score as they were when the program started.
#[derive(Debug, Clone)]
pub struct Base {}
