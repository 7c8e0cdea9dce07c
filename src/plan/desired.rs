//! What should be: the units that the files declare, each with its last good text.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::unit::{Fingerprint, OnBad, Unit, UnitName};

/// Every declared unit. One that is absent is removed: it is stopped and forgotten.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Desired {
    /// By name. A unit whose text is not valid stays here with its last good one.
    pub units: BTreeMap<UnitName, Want>,
}

/// One unit as it should run.
#[derive(Debug, Clone, PartialEq)]
pub struct Want {
    /// The parsed text.
    pub unit: Arc<Unit>,
    /// Its identity: another one means another container.
    pub fingerprint: Fingerprint,
    /// An earlier text did well and is kept until this one has: what is done if it does not.
    pub trial: Option<OnBad>,
    /// That earlier text: a container of it may run.
    pub earlier: Option<Arc<Want>>,
}
