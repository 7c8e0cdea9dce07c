//! What the fuzzers of `fuzz/` give their bytes to, one function for each reader of bytes that are not ours. Built for them and for the tests
//! alone: the tests feed the same functions with the fuzzers' first inputs and with every input that once was answered wrongly
//! (`fuzz/seeds`), so that what a fuzzer found stays found. For some of them they also make inputs up, two minutes in all.
//!
//! Nothing may panic. Beyond that each function demands what must hold of every answer: that a message is one line that does not control
//! a terminal, that two ways of reading agree, that what was read is read the same when it is written.

#[cfg(test)]
mod tests;

/// A fuzzer's name, and what it gives its bytes to.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 8] = [
    ("config", crate::oci::fuzz::config),
    ("seccomp", crate::oci::seccomp::fuzz::profile),
    ("mounts", crate::oci::fuzz::mounts),
    ("units", units),
    ("control", crate::control::fuzz::request),
    ("keeper", crate::keeper::fuzz::packet),
    ("state", crate::store::fuzz::file),
    ("log", crate::supervise::log::fuzz::files),
];

/// A unit's texts, to the script of its container.
fn units(bytes: &[u8]) {
    let Some(text) = crate::unit::fuzz::texts(bytes) else { return };
    let context = crate::oci::Context::new("/srv/web".into(), "web.1".into());
    match crate::oci::compile(&text.spec, Some(&text.raw), &context) {
        Ok(compiled) => compiled.warnings.iter().for_each(|warning| assert_plain(&warning.to_string())),
        Err(errors) => errors.iter().for_each(|error| assert_plain(&error.to_string())),
    }
}

/// Gives bytes to the target of this name.
pub fn run(target: &str, bytes: &[u8]) {
    let found = TARGETS.iter().find(|(name, _)| *name == target);
    let (_, give) = found.unwrap_or_else(|| panic!("no target {target}, expected one of {:?}", TARGETS.map(|it| it.0)));
    give(bytes);
}

/// A message is one line, and where it is shown nothing that it quotes controls a terminal.
pub(crate) fn assert_plain(message: &str) {
    assert!(!message.contains('\n'), "{message:?}");
    let shown = crate::unit::diagnostic::one_line(message);
    assert!(!shown.chars().any(char::is_control), "{shown:?}");
}
