//! A unit and its source, compiled to what the keeper runs: [`unit::compile`](crate::unit::compile), then [`oci::compile`](crate::oci::compile).

use crate::oci::{self, CgroupSettings, Script};
use crate::unit::{self, SourceFacts, Unit};

/// What a start is made of.
pub struct Program {
    /// For the container's first process.
    pub script: Script,
    /// For its cgroup.
    pub cgroup: CgroupSettings,
    /// What is odd but no error.
    pub warnings: Vec<String>,
}

/// Compiles. Errors are lines for people, each with the place it is about.
pub fn compile(unit: &Unit, facts: &SourceFacts, id: &str) -> Result<Program, Vec<String>> {
    let lines = |errors: Vec<unit::SpecError>| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
    let text = unit::compile(unit, facts).map_err(lines)?;
    let context = oci::Context {
        root: Some(text.root.into()),
        init: text.init,
        user: text.user_lookup.as_deref().map(user_and_group),
        devices: text.devices,
        join_network: text.network_of.is_some(),
        best_effort: true,
        ..oci::Context::new(facts.resolved.clone(), id.to_owned())
    };
    let lines = |errors: Vec<oci::CompileError>| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
    let compiled = oci::compile(&text.spec, Some(&text.raw), &context).map_err(lines)?;
    let warnings = text.warnings.into_iter().chain(compiled.warnings.iter().map(ToString::to_string)).collect();
    Ok(Program { script: compiled.script, cgroup: compiled.cgroup, warnings })
}

fn user_and_group(lookup: &str) -> (String, Option<String>) {
    match lookup.split_once(':') {
        Some((user, group)) => (user.to_owned(), Some(group.to_owned())),
        None => (lookup.to_owned(), None),
    }
}
