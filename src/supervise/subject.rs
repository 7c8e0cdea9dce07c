//! What `moored debug` asks for: a unit's process, and what its root is made of.

use super::round::Supervisor;
use crate::control::protocol::{Root, Subject};
use crate::store::kept_upper;
use crate::unit::{RootPlan, Source, UnitName, compile};

impl Supervisor {
    /// Of a unit that runs, as it runs; else of what is in force.
    pub(super) fn subject(&self, unit: &UnitName) -> Result<Subject, String> {
        let live = self.observed.unit(unit).and_then(|seen| seen.live.as_ref());
        let running = live.and_then(|live| self.text_of(&live.id));
        let good = running.or_else(|| self.catalogue.in_force(unit));
        let good = good.ok_or_else(|| format!("nothing of {unit} is in force"))?;
        let root = match &good.unit.source {
            Source::Host => Root::Host,
            Source::Executable(_) => Root::Program,
            Source::Bundle(_) | Source::Rootfs(_) | Source::Layers(_) => {
                let text = compile(&good.unit, &good.facts);
                let text =
                    text.map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
                match text.root {
                    RootPlan::Directory(path) => Root::Directory { path },
                    RootPlan::Tmpfs { .. } => Root::Program,
                    RootPlan::Layers { layers, upper } => {
                        let upper = upper.persist.then(|| kept_upper(&self.settings.state_dir, unit)).flatten();
                        Root::Layers { layers, upper }
                    }
                }
            }
        };
        let pid = live.and_then(|live| live.pid).and_then(|pid| i32::try_from(pid.0).ok());
        Ok(Subject { unit: unit.to_string(), id: live.map(|live| live.id.to_string()), pid, root })
    }
}
