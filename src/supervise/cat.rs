//! `moored cat`: the texts in force of a unit as one.

use std::sync::Arc;

use super::catalogue::InForce;
use super::host;
use super::round::Supervisor;
use crate::control::protocol::{MergedText, MergedValue};
use crate::control::{Reply, Response};
use crate::unit::cat::cat;

impl Supervisor {
    /// Merged on a thread of its own: a text may be large.
    pub(super) fn cat(&self, typed: &str, reply: Reply) -> Result<(), String> {
        let name = self.resolve_one(typed)?;
        let errors = self.catalogue.errors(&name).iter().chain(self.catalogue.defaults_errors());
        let errors: Vec<String> = errors.cloned().collect();
        let differs = self.catalogue.drift(&name);
        let good = self.catalogue.in_force(&name).map(Arc::clone).ok_or_else(|| {
            let why = errors.first().or(differs.as_ref()).map(|why| format!(": {why}")).unwrap_or_default();
            format!("nothing of {name} is in force{why}")
        })?;
        let work = move || {
            let answer = merged(&good).map(|merged| Response::Cat(Box::new(MergedText { differs, errors, ..merged })));
            reply.send(&answer.unwrap_or_else(|message| Response::Error { message, code: 1 }));
            reply.close();
        };
        let thread = std::thread::Builder::new().name("cat".to_owned()).spawn(work);
        thread.map(drop).map_err(|error| format!("no thread to merge the texts: {error}"))
    }
}

fn merged(good: &InForce) -> Result<MergedText, String> {
    let layers = good.all_layers();
    let unit = &good.unit.name;
    let merged = cat(host::names(unit), &layers).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        lines.join("; ")
    })?;
    let values = merged.values.into_iter().map(|value| MergedValue {
        key: value.key,
        value: value.value,
        file: value.place.file,
        line: value.place.line,
    });
    Ok(MergedText {
        unit: unit.to_string(),
        files: layers.iter().map(|layer| layer.file.to_owned()).collect(),
        text: merged.text,
        values: values.collect(),
        ..MergedText::default()
    })
}
