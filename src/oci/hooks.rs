//! Hooks (runtime-spec, config.md "POSIX-platform Hooks"): programs that are run at points of a container's life.
//!
//! | kind | run by | in the namespaces of | when | status in the state | if one fails |
//! |---|---|---|---|---|---|
//! | prestart, then createRuntime | whoever makes the container | the runtime | its namespaces and mounts are made, its root is not `/` yet | creating | it is undone |
//! | createContainer | its process | the container, path of the runtime's | after those | creating | it is undone |
//! | startContainer | its process, as its user and under its filter | the container | after `start`, right before the program | created | it is stopped and deleted |
//! | poststart | whoever starts it | the runtime | the program is executed | running | it is stopped and deleted (since 1.3) |
//! | poststop | whoever deletes it | the runtime | its processes and cgroups are gone | stopped | that is logged; the next is run |
//!
//! Hooks of a kind run one after the other in the order of config.json. Each gets the container's state as JSON on its standard input, its own
//! arguments, and its own environment and nothing else; one without `env` has that of the runtime, and startContainer that of the process, as
//! with runc 1.1 and crun, whose users' hooks look for programs in PATH. The first kinds end at the first failure. The working directory is the bundle, but
//! for startContainer that of the process.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Hook as SpecHook;
use serde::{Deserialize, Serialize};

use super::compile::Context;
use super::error::{Problem, Report};
use crate::compact;
use crate::config::Spec;

/// One program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Where it stands, e.g. `hooks.prestart[0]`.
    pub field: String,
    /// Absolute.
    pub path: String,
    /// `argv`, at least one.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Without `env` in config.json it has what whoever runs it has.
    pub inherits: bool,
    /// Seconds until it is killed.
    pub timeout_s: Option<u64>,
    /// What it says goes to the container's output, instead of into the error if it fails.
    pub to_log: bool,
}

/// A program that is run before the container's own, at the wish of whoever makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PreStart {
    /// By whoever makes the container, before anything of it is there. The environment is its own alone.
    OnHost(Hook),
    /// By its process, right before the program, with the environment of that and its own over it.
    Inside(Hook),
}

/// All of a container, and what its state says of it at every time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// What of the state does not change.
    pub state: StateText,
    /// `prestart`, then `createRuntime`: they run at one point.
    pub create_runtime: Vec<Hook>,
    /// `createContainer`.
    pub create_container: Vec<Hook>,
    /// `startContainer`.
    pub start_container: Vec<Hook>,
    /// `poststart`.
    pub poststart: Vec<Hook>,
    /// `poststop`.
    pub poststop: Vec<Hook>,
}

/// The container's state (runtime.md, "State"), but for what changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateText {
    /// `ociVersion` of its config.json.
    pub oci_version: String,
    /// Its id.
    pub id: String,
    /// Absolute path of its bundle.
    pub bundle: PathBuf,
    /// Annotations of its config.json.
    pub annotations: BTreeMap<String, String>,
}

/// Which hooks its own process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moment {
    /// `createContainer`.
    Create,
    /// `startContainer`.
    Start,
}

impl Moment {
    /// The state's word for it.
    pub fn status(self) -> &'static str {
        match self {
            Moment::Create => "creating",
            Moment::Start => "created",
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Moment::Create => "createContainer",
            Moment::Start => "startContainer",
        })
    }
}

impl Hooks {
    /// Whether the process tells whoever makes it who it is, and lets him run hooks.
    pub fn need_maker(&self) -> bool {
        !self.create_runtime.is_empty() || !self.poststart.is_empty()
    }

    /// Whether there is something to wait for once a created container is started.
    pub fn follow_start(&self) -> bool {
        !self.start_container.is_empty() || !self.poststart.is_empty()
    }

    /// Those whose path is the host's.
    pub fn on_host(&self) -> impl Iterator<Item = &Hook> {
        [&self.create_runtime, &self.create_container, &self.poststart, &self.poststop].into_iter().flatten()
    }
}

impl StateText {
    /// As JSON. `pid` is 0 where there is none any more, and is left out then, as runc has it.
    pub fn json(&self, status: &str, pid: u32) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct State<'text> {
            oci_version: &'text str,
            id: &'text str,
            status: &'text str,
            #[serde(skip_serializing_if = "Option::is_none")]
            pid: Option<u32>,
            bundle: &'text Path,
            #[serde(skip_serializing_if = "BTreeMap::is_empty")]
            annotations: &'text BTreeMap<String, String>,
        }
        let StateText { oci_version, id, bundle, annotations } = self;
        // Fails only for a path that is not UTF-8, which no JSON can hold.
        let pid = (pid != 0).then_some(pid);
        serde_json::to_string(&State { oci_version, id, status, pid, bundle, annotations }).unwrap_or_default()
    }
}

/// The state's text of a spec.
pub(super) fn state_text(spec: &Spec, context: &Context) -> StateText {
    StateText {
        oci_version: spec.version.clone(),
        id: context.id.clone(),
        bundle: context.bundle.clone(),
        annotations: compact::map(spec.annotations.iter().flatten().map(|(key, value)| (key.clone(), value.clone()))),
    }
}

/// The hooks of a spec; `None` where it has none.
pub(super) fn compile(spec: &Spec, context: &Context, report: &mut Report) -> Option<Hooks> {
    let hooks = spec.hooks.as_ref()?;
    let mut kind = |name: &str, listed: &Option<Vec<SpecHook>>| -> Vec<Hook> {
        let listed = listed.iter().flatten().enumerate();
        listed.map(|(index, hook)| compile_one(format!("hooks.{name}[{index}]"), hook, report)).collect()
    };
    #[allow(deprecated)]
    let mut create_runtime = kind("prestart", hooks.prestart());
    create_runtime.extend(kind("createRuntime", hooks.create_runtime()));
    let compiled = Hooks {
        create_runtime,
        create_container: kind("createContainer", hooks.create_container()),
        start_container: kind("startContainer", hooks.start_container()),
        poststart: kind("poststart", hooks.poststart()),
        poststop: kind("poststop", hooks.poststop()),
        state: state_text(spec, context),
    };
    let any = compiled.on_host().next().is_some() || !compiled.start_container.is_empty();
    any.then_some(compiled)
}

fn compile_one(field: String, hook: &SpecHook, report: &mut Report) -> Hook {
    let path = hook.path().to_string_lossy().into_owned();
    if !path.starts_with('/') {
        let found = format!("{path:?}");
        report.error(format_args!("{field}.path"), Problem::Range { found, expected: "an absolute path" });
    }
    let timeout_s = hook.timeout().map(|seconds| {
        u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).unwrap_or_else(|| {
            let problem = Problem::Range { found: seconds.to_string(), expected: "at least 1 second" };
            report.error(format_args!("{field}.timeout"), problem);
            1
        })
    });
    let args = hook.args().clone().filter(|args| !args.is_empty()).unwrap_or_else(|| vec![path.clone()]);
    let inherits = hook.env().is_none();
    let env = hook.env().clone().unwrap_or_default();
    for (index, entry) in env.iter().enumerate() {
        if entry.starts_with('=') || !entry.contains('=') {
            let problem = Problem::Range { found: format!("{entry:?}"), expected: "NAME=value" };
            report.error(format_args!("{field}.env[{index}]"), problem);
        }
    }
    if args.iter().chain(&env).chain([&path]).any(|text| text.contains('\0')) {
        report.error(&field, Problem::Conflict { reason: "holds a zero byte" });
    }
    Hook { field, path, args, env, inherits, timeout_s, to_log: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(hooks: &str) -> Result<Option<Hooks>, Vec<String>> {
        let text = format!(r#"{{"ociVersion": "1.3.0", "annotations": {{"a": "b"}}, "hooks": {hooks}}}"#);
        let spec = crate::oci::parse(text.as_bytes()).expect("well formed").spec;
        let mut report = Report::default();
        let hooks = compile(&spec, &Context::new("/b".into(), "x".into()), &mut report);
        let errors: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
        if errors.is_empty() { Ok(hooks) } else { Err(errors) }
    }

    #[test]
    fn prestart_comes_before_create_runtime_and_args_default_to_the_path() {
        let hooks = r#"{"createRuntime": [{"path": "/r", "args": ["r", "1"], "env": ["A=b"], "timeout": 3}], "prestart": [{"path": "/p"}]}"#;
        let hooks = compiled(hooks).unwrap().unwrap();
        let [prestart, create] = &hooks.create_runtime[..] else { panic!("{hooks:?}") };
        assert_eq!((prestart.field.as_str(), &prestart.args[..]), ("hooks.prestart[0]", &["/p".to_owned()][..]));
        assert_eq!(
            (create.args.join(" "), create.env.join(" "), create.timeout_s),
            ("r 1".into(), "A=b".into(), Some(3))
        );
        assert!(hooks.need_maker() && !hooks.follow_start());
        assert_eq!(hooks.on_host().count(), 2);
    }

    #[test]
    fn lists_without_hooks_are_none() {
        assert_eq!(compiled(r#"{"prestart": [], "poststop": null}"#), Ok(None));
    }

    #[test]
    fn every_mistake_names_its_field() {
        let hooks =
            r#"{"poststop": [{"path": "sh", "timeout": 0, "env": ["A"]}, {"path": "/x", "args": ["a\u0000"]}]}"#;
        let expected = [
            "hooks.poststop[0].path: \"sh\" is out of range, expected an absolute path",
            "hooks.poststop[0].timeout: 0 is out of range, expected at least 1 second",
            "hooks.poststop[0].env[0]: \"A\" is out of range, expected NAME=value",
            "hooks.poststop[1]: holds a zero byte",
        ];
        assert_eq!(compiled(hooks).unwrap_err(), expected);
    }

    #[test]
    fn the_state_is_that_of_the_spec() {
        let state = compiled(r#"{"poststop": [{"path": "/x"}]}"#).unwrap().unwrap().state;
        let json =
            r#"{"ociVersion":"1.3.0","id":"x","status":"running","pid":7,"bundle":"/b","annotations":{"a":"b"}}"#;
        assert_eq!(state.json("running", 7), json);
    }
}
