//! Any bytes as a config.json, and any words as the options of a mount.

use oci_spec::runtime::{Mount as SpecMount, Spec};

use super::error::Report;
use super::schema::check;
use super::{CompileError, Compiled, Context, MountSource, compile, mistakes, parse, parse_process, parse_resources};
use crate::fuzzing::assert_plain;

/// A config.json, a process of `exec --process`, and resources of `update`. The fast way of reading takes only what the slow one takes as well.
pub(crate) fn config(bytes: &[u8]) {
    for error in mistakes(bytes) {
        assert_plain(&error.to_string());
    }
    if let Ok((process, warnings)) = explained(parse_process(bytes)) {
        warnings.iter().for_each(|warning| assert_plain(&warning.to_string()));
        let spec: Spec = serde_json::from_str(super::template()).expect("it is ours");
        let _ = explained(super::compile_exec(&process, spec.linux().as_ref(), &context()));
    }
    if let Ok(resources) = explained(parse_resources(bytes)) {
        let _ = explained(super::compile_resources(&resources));
    }
    let Ok(parsed) = explained(parse(bytes)) else { return };
    parsed.warnings.iter().for_each(|warning| assert_plain(&warning.to_string()));
    let raw: serde_json::Value = serde_json::from_slice(bytes).expect("it was read once");
    let mut report = Report::default();
    check(&raw, &mut report);
    assert!(report.errors.is_empty(), "taken by one way alone: {:?}", report.errors);
    let Ok(Compiled { script, warnings, .. }) = explained(compile(&parsed.spec, Some(&raw), &context())) else {
        return;
    };
    warnings.iter().for_each(|warning| assert_plain(&warning.to_string()));
    // It goes to the keeper so, and is what it was there.
    let sent = postcard::to_stdvec(&script).expect("a script is sent");
    assert_eq!(postcard::from_bytes::<super::Script>(&sent).expect("a script is received"), script);
    script.steps.iter().for_each(|step| assert_plain(&step.to_string()));
}

/// Lines: destination, type, source, and options from there on.
pub(crate) fn mounts(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut lines = text.split('\n');
    let mut mount = SpecMount::default();
    mount.set_destination(lines.next().unwrap_or_default().into());
    mount.set_typ(lines.next().filter(|line| !line.is_empty()).map(str::to_owned));
    mount.set_source(lines.next().filter(|line| !line.is_empty()).map(Into::into));
    mount.set_options(Some(lines.map(str::to_owned).collect()));
    let mut report = Report::default();
    let bundle = context().bundle;
    let compiled = super::mount::compile(&mount, format_args!("mounts[0]"), &bundle, &mut report);
    report.errors.iter().for_each(|error| assert_plain(&error.to_string()));
    let Some(compiled) = compiled else {
        assert!(!report.errors.is_empty(), "no mount and no reason: {mount:?}");
        return;
    };
    let target = &compiled.target;
    assert!(target.starts_with('/') && target.len() > 1 && !target.contains('\0'), "{target:?}");
    assert!(target.split('/').all(|part| part != ".." && part != "."), "{target:?}");
    for attributes in [compiled.own, compiled.below] {
        let both = attributes.set & attributes.clear & !libc::MOUNT_ATTR__ATIME;
        assert_eq!(both, 0, "set and cleared: {mount:?}");
        // The kernel takes one value of a field at a time.
        let time = attributes.set & libc::MOUNT_ATTR__ATIME;
        let whole = time == 0 || attributes.clear & libc::MOUNT_ATTR__ATIME == libc::MOUNT_ATTR__ATIME;
        assert!(whole && time != libc::MOUNT_ATTR__ATIME, "{time:#x} of {mount:?}");
    }
    if let MountSource::Bind { source, .. } = &compiled.source {
        assert!(source.is_absolute(), "{source:?}");
    }
}

fn context() -> Context {
    Context::new("/srv/web".into(), "web".into())
}

/// A refusal says something, each in one line.
fn explained<T>(result: Result<T, Vec<CompileError>>) -> Result<T, ()> {
    result.map_err(|errors| {
        assert!(!errors.is_empty(), "refused without a reason");
        errors.iter().for_each(|error| assert_plain(&error.to_string()));
    })
}
