//! The config.json that `spec` writes: what `runc spec`
//! writes, with a cgroup namespace (as runc itself writes on v2 hosts) and without the ambient capabilities, which the
//! kernel refuses where they are not inheritable.

use serde::Serialize;
use serde_json::{Value, json};

/// The text, indented by tabs, without a newline at its end.
pub fn template() -> &'static str {
    include_str!("template.json").trim_end()
}

/// The same for a user without root's rights, changed as runc changes it: a user namespace in which this user and group are root, the
/// host's network and `/sys`, no options that need other ids, and no limits.
pub fn rootless_template(uid: u32, gid: u32) -> String {
    let mut config: Value = serde_json::from_str(template()).unwrap_or_default();
    let mapped = |id: u32| json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
    if let Some(linux) = config.get_mut("linux").and_then(Value::as_object_mut) {
        if let Some(namespaces) = linux.get_mut("namespaces").and_then(Value::as_array_mut) {
            namespaces.retain(|namespace| namespace.get("type") != Some(&json!("network")));
            namespaces.push(json!({ "type": "user" }));
        }
        linux.insert("uidMappings".to_owned(), mapped(uid));
        linux.insert("gidMappings".to_owned(), mapped(gid));
        linux.remove("resources");
    }
    if let Some(mounts) = config.get_mut("mounts").and_then(Value::as_array_mut) {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        mounts.retain(|mount| !text(mount.get("destination")).starts_with("/sys"));
        for options in mounts.iter_mut().filter_map(|mount| mount.get_mut("options")?.as_array_mut()) {
            options.retain(|option| !["uid=", "gid="].iter().any(|name| text(Some(option)).starts_with(name)));
        }
        let options = ["rbind", "nosuid", "noexec", "nodev", "ro"];
        mounts.push(json!({ "destination": "/sys", "type": "none", "source": "/sys", "options": options }));
    }
    let mut indented = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    // Values that were parsed are written: neither the writer nor a value can fail.
    let _ = config.serialize(&mut serde_json::Serializer::with_formatter(&mut indented, format));
    String::from_utf8(indented).unwrap_or_default()
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

    #[test]
    fn the_rootless_one_maps_its_user_and_needs_nothing_of_roots() {
        let text = rootless_template(1000, 100);
        let parsed = super::super::parse(text.as_bytes()).expect("parses");
        assert_eq!(parsed.warnings, []);
        let config: Value = serde_json::from_str(&text).unwrap();
        let linux = &config["linux"];
        assert_eq!(linux["uidMappings"], json!([{ "containerID": 0, "hostID": 1000, "size": 1 }]));
        assert_eq!(linux["gidMappings"][0]["hostID"], 100);
        assert!(
            linux.get("resources").is_none() && !text.contains("gid=5") && !text.contains("cgroup\"\n\t\t\t\"source")
        );
        let kinds: Vec<_> = linux["namespaces"].as_array().unwrap().iter().map(|one| one["type"].clone()).collect();
        assert!(kinds.contains(&json!("user")) && !kinds.contains(&json!("network")), "{kinds:?}");
        let mounts = config["mounts"].as_array().unwrap();
        let below_sys: Vec<_> =
            mounts.iter().filter(|mount| mount["destination"].as_str().unwrap().starts_with("/sys")).collect();
        assert!(matches!(below_sys[..], [one] if one["source"] == "/sys"), "{below_sys:?}");
    }
}
