//! Texts for the fuzzer: valid ones of which most prefixes are valid too and mean something else, and what people write by mistake.

use std::path::{Path, PathBuf};

use moored::oci::{self, Context};
use moored::unit::{self, Fingerprint, SourceFacts, UnitName};

use crate::simulation::rng::Rng;

/// What a valid text says of one unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meaning {
    pub bytes: Vec<u8>,
    /// Of everything.
    pub whole: Fingerprint,
    /// Of what the container is made from.
    pub container: Fingerprint,
    pub args: Vec<String>,
    /// The variable that only the last lines of some texts set.
    pub mark: Option<String>,
}

/// What `bytes` say, read as this unit from the file at `resolved`; `None`: they are not valid.
pub fn meaning(unit: &str, root: &Path, resolved: &Path, bytes: &[u8]) -> Option<Meaning> {
    let name = UnitName::new(unit).unwrap();
    let text = unit::text_of(resolved, bytes).ok()?;
    let parsed = unit::parse(&name, resolved, text).ok()?.unit;
    if parsed.source.path() != root {
        return None;
    }
    let facts = SourceFacts { resolved: root.to_owned(), config_json: None, layers: Vec::new() };
    let spec = unit::compile(&parsed, &facts).ok()?;
    oci::compile(&spec.spec, Some(&spec.raw), &Context::new(root.to_owned(), format!("{unit}.1"))).ok()?;
    Some(Meaning {
        bytes: bytes.to_vec(),
        whole: unit::fingerprint(&parsed, &facts),
        container: unit::container_fingerprint(&parsed, &facts),
        args: parsed.process.args.clone()?,
        mark: parsed.process.env.get("MARK").cloned(),
    })
}

/// Makes texts for one worker.
pub struct Texts {
    root: PathBuf,
    serial: u64,
}

impl Texts {
    pub fn new(root: &Path) -> Texts {
        Texts { root: root.to_owned(), serial: 0 }
    }

    /// A valid one. There are few meanings, so that edits often go back to one that runs or ran. The order of lines is any: what a
    /// prefix lacks is now this, now that.
    pub fn valid(&mut self, rng: &mut Rng, tag: &str) -> String {
        self.serial += 1;
        let script = format!(": {tag} {}; trap 'exit 0' TERM; sleep 1000 & wait", rng.below(3));
        let mut lines = vec![
            format!("process.args = [\"/bin/sh\", \"-c\", \"{script}\"]"),
            format!("description = \"text {} of {tag}\"", self.serial),
            "# a comment = 7".to_owned(),
        ];
        let more = [
            format!("process.env.MARK = {}", rng.below(2)),
            format!("stop.timeout = \"1{}s\"", rng.below(10)),
            format!("resources.pids = 1{}", rng.below(10)),
            "restart.delay = \"200ms\"".to_owned(),
            "log.max_files = 3".to_owned(),
        ];
        lines.extend(more.into_iter().filter(|_| rng.chance(40)));
        shuffle(rng, &mut lines);
        // In front, for a text without it is no text at all.
        lines.insert(0, format!("rootfs = \"{}\"", self.root.display()));
        lines.join("\n") + "\n"
    }

    /// One that people would not want to have written; most of them are not valid.
    pub fn slip(&mut self, rng: &mut Rng, tag: &str) -> Vec<u8> {
        let text = self.valid(rng, tag);
        let with = |line: &str| (text.clone() + line).into_bytes();
        match rng.below(13) {
            0 => text.as_bytes()[..rng.below(text.len() as u64) as usize].to_vec(),
            1 => with("process.ar"),
            2 => with(text.lines().nth(1).unwrap_or_default()),
            3 => with("enabled = \"yes\"\n"),
            4 => with("process.user = [7]\n"),
            5 => with("comand = 1\n"),
            6 => with("stop.kill = \"soon\"\n"),
            7 => [text.as_bytes(), b"# \xff\n"].concat(),
            8 => with("\0"),
            9 => Vec::new(),
            10 => text.replace("rootfs = \"", "rootfs = \"/nowhere").into_bytes(),
            11 => "#".repeat(1_048_577).into_bytes(),
            _ => text.replacen('"', "'", 1).into_bytes(),
        }
    }
}

fn shuffle<T>(rng: &mut Rng, items: &mut [T]) {
    for last in (1..items.len()).rev() {
        items.swap(last, rng.below(last as u64 + 1) as usize);
    }
}
