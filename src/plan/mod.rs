//! What is to be done: desired state, observed state, and the pure function between them.

mod action;
mod backoff;
mod desired;
mod exit;
mod fact;
mod observed;
mod time;

pub use action::Action;
pub use desired::{Desired, Want};
pub use exit::{Exit, ExitRecord, Outcome, TEXT_MAX};
pub use fact::{Deed, Fact};
pub use observed::*;
pub use time::{BootTime, Now, WallTime};
