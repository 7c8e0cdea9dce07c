//! The config.json that `spec` writes: what `runc spec`
//! writes, with a cgroup namespace (as runc itself writes on v2 hosts) and without the ambient capabilities, which the
//! kernel refuses where they are not inheritable.

/// The text, indented by tabs, without a newline at its end.
pub fn template() -> &'static str {
    include_str!("template.json").trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_spec_writes_compiles_without_a_complaint() {
        let parsed = super::super::parse(template().as_bytes()).expect("parses");
        assert_eq!(parsed.warnings, []);
        let context = super::super::Context::new("/bundle".into(), "x".into());
        let compiled = super::super::compile(&parsed.spec, None, &context).expect("compiles");
        assert_eq!(compiled.warnings, []);
    }
}
