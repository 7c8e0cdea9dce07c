//! What is to be done: desired state, observed state, and the pure function between them.
