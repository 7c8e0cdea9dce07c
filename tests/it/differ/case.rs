//! A config.json as a list of genes: one can be left out, and what is left is a config.json still. So a failure shrinks.

use serde_json::{Value, json};

use crate::simulation::rng::Rng;

use super::genes::GENES;
use super::genes_rest;
use super::stage::{CGROUPS, STAGE};

/// A change at a JSON pointer; what is missing on the way is made.
#[derive(Debug, Clone, PartialEq)]
pub enum Edit {
    Set(String, Value),
    Push(String, Value),
    Remove(String),
    /// The process of an `exec` that joins while the container runs.
    Exec(Value),
}

/// Changes that belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Gene {
    pub name: &'static str,
    pub edits: Vec<Edit>,
}

#[derive(Debug, Clone)]
pub struct Case {
    pub seed: u64,
    pub genes: Vec<Gene>,
}

impl Case {
    /// One to five genes, each kind at most once but for those that come in numbers.
    pub fn new(seed: u64) -> Case {
        let mut rng = Rng::new(seed);
        let total: u64 = GENES.iter().map(|(_, weight, _)| weight).sum();
        let count = 1 + rng.below(5);
        let mut genes: Vec<Gene> = Vec::new();
        for _ in 0..count {
            let mut at = rng.below(total);
            let Some((name, _, make)) = GENES.iter().find(|(_, weight, _)| match at.checked_sub(*weight) {
                Some(left) => {
                    at = left;
                    false
                }
                None => true,
            }) else {
                continue;
            };
            let comes_in_numbers = matches!(*name, "mount" | "device" | "env");
            if comes_in_numbers || genes.iter().all(|gene| gene.name != *name) {
                genes.push(Gene { name, edits: make(&mut rng) });
            }
        }
        genes.extend(genes_rest::any(seed));
        Case { seed, genes }
    }

    /// With the program's words, which follow from the rest.
    pub fn config(&self) -> Value {
        let mut config: Value = serde_json::from_str(moored::oci::template()).unwrap();
        config["ociVersion"] = json!("1.0.2");
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["/look"]);
        config["root"]["path"] = json!(format!("{STAGE}/root"));
        config["linux"]["cgroupsPath"] = json!(format!("{CGROUPS}/@id"));
        for edit in self.genes.iter().flat_map(|gene| &gene.edits) {
            match edit {
                Edit::Set(pointer, value) => *place(&mut config, pointer) = value.clone(),
                Edit::Push(pointer, value) => match place(&mut config, pointer) {
                    Value::Array(items) => items.push(value.clone()),
                    other => *other = json!([value]),
                },
                Edit::Remove(pointer) => remove(&mut config, pointer),
                Edit::Exec(_) => {}
            }
        }
        let words = self.words(&config);
        if let Some(args) = config.pointer_mut("/process/args").and_then(Value::as_array_mut)
            && args.first().and_then(Value::as_str).is_some_and(|program| program.ends_with("look"))
        {
            args.extend(words.into_iter().map(Value::from));
        }
        config
    }

    /// The process of an `exec`, if there is one.
    pub fn exec(&self) -> Option<Value> {
        self.genes.iter().flat_map(|gene| &gene.edits).find_map(|edit| match edit {
            Edit::Exec(process) => Some(process.clone()),
            Edit::Set(..) | Edit::Push(..) | Edit::Remove(_) => None,
        })
    }

    /// Whether its cgroup is looked at, or somebody joins: it has to live until then.
    pub fn waits(&self) -> bool {
        self.genes.iter().any(|gene| matches!(gene.name, "resources" | "rest of resources" | "exec" | "device rules"))
    }

    fn words(&self, config: &Value) -> Vec<String> {
        let mut words: Vec<String> = ["ls=/", "ls=/dev", "open=/", "open=/data", "open=/dev/null", "open=/dev/full"]
            .into_iter()
            .chain(["open=/proc/sys/kernel/hostname", "open=/proc/sysrq-trigger", "open=/sys/kernel", "exit=42"])
            .map(str::to_owned)
            .collect();
        let strings = |pointer: &str| {
            let list = config.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
            list.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
        };
        for path in [strings("/linux/maskedPaths"), strings("/linux/readonlyPaths")].concat() {
            words.extend(["stat", "read", "open"].map(|what| format!("{what}={path}")));
        }
        let paths = |pointer: &str, field: &str| {
            let list = config.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
            list.filter_map(|entry| entry[field].as_str()).map(str::to_owned).collect::<Vec<_>>()
        };
        for path in paths("/linux/devices", "path") {
            words.extend(["stat", "read", "open"].map(|what| format!("{what}={path}")));
        }
        for path in paths("/mounts", "destination").iter().filter(|path| !path.starts_with("/proc")) {
            let what = if path.starts_with("/sys") { "stat" } else { "ls" };
            words.extend([what, "open"].map(|what| format!("{what}={path}")));
        }
        let sysctl = config.pointer("/linux/sysctl").and_then(Value::as_object).into_iter().flatten();
        words.extend(sysctl.map(|(name, _)| format!("sysctl={name}")));
        words.extend(self.waits().then(|| "wait".to_owned()));
        let mut seen = std::collections::BTreeSet::new();
        words.retain(|word| seen.insert(word.clone()));
        words
    }

    /// The same case with less, as long as `fails`; it is asked at most `tries` times.
    pub fn shrunk(&self, tries: usize, mut fails: impl FnMut(&Case) -> bool) -> Case {
        let mut best = self.clone();
        let mut left = tries;
        let mut try_it = |less: &Case| {
            left = left.saturating_sub(1);
            left > 0 && fails(less)
        };
        loop {
            let less = without_one(&best).find(&mut try_it);
            match less {
                Some(less) => best = less,
                None => return best,
            }
        }
    }
}

/// Without a gene, an edit, or a part of a value.
fn without_one(case: &Case) -> impl Iterator<Item = Case> + use<> {
    let mut all = Vec::new();
    for gene in 0..case.genes.len() {
        let mut less = case.clone();
        less.genes.remove(gene);
        all.push(less);
    }
    for gene in 0..case.genes.len() {
        for edit in 0..case.genes[gene].edits.len() {
            if case.genes[gene].edits.len() > 1 {
                let mut less = case.clone();
                less.genes[gene].edits.remove(edit);
                all.push(less);
            }
            let (Edit::Set(_, value) | Edit::Push(_, value) | Edit::Exec(value)) = &case.genes[gene].edits[edit] else {
                continue;
            };
            for smaller in smaller(value) {
                let mut less = case.clone();
                if let Edit::Set(_, value) | Edit::Push(_, value) | Edit::Exec(value) =
                    &mut less.genes[gene].edits[edit]
                {
                    *value = smaller;
                }
                all.push(less);
            }
        }
    }
    all.into_iter()
}

/// A list or an object without one of its parts, at any depth.
fn smaller(value: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    match value {
        Value::Array(items) => {
            for at in 0..items.len() {
                let mut less = items.clone();
                less.remove(at);
                all.push(Value::Array(less));
                all.extend(smaller(&items[at]).into_iter().map(|part| {
                    let mut less = items.clone();
                    less[at] = part;
                    Value::Array(less)
                }));
            }
        }
        Value::Object(fields) => {
            for (key, inner) in fields {
                let mut less = fields.clone();
                less.remove(key);
                all.push(Value::Object(less));
                all.extend(smaller(inner).into_iter().map(|part| {
                    let mut less = fields.clone();
                    less.insert(key.clone(), part);
                    Value::Object(less)
                }));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    all
}

fn place<'a>(config: &'a mut Value, pointer: &str) -> &'a mut Value {
    pointer.split('/').skip(1).fold(config, |value, key| {
        if !value.is_object() {
            *value = json!({});
        }
        &mut value[key]
    })
}

fn remove(config: &mut Value, pointer: &str) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    if let Some(object) = config.pointer_mut(parent).and_then(Value::as_object_mut) {
        object.remove(key);
    }
}

#[test]
fn a_case_is_its_seeds_and_shrinks_to_what_matters() {
    assert_eq!(Case::new(7).config(), Case::new(7).config());
    let matters = |case: &Case| case.genes.iter().any(|gene| gene.name == "mount");
    let case = (0..1000).map(Case::new).find(|case| case.genes.len() > 4 && matters(case)).unwrap();
    let small = case.shrunk(1000, matters);
    assert_eq!(small.genes.len(), 1, "{small:?}");
    let [Edit::Push(_, mount)] = small.genes[0].edits.as_slice() else { panic!("{small:?}") };
    assert_eq!(*mount, json!({}));
}
