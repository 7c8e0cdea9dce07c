use super::*;

/// A bind with these options, without an error or a warning: what is no word of a mount would be warned about as a file system's.
fn bind(options: &[&str]) -> Mount {
    let entry = serde_json::json!({ "destination": "/d", "type": "bind", "source": "/s", "options": options });
    let entry: SpecMount = serde_json::from_value(entry).expect("it is a mount");
    let mut report = Report::default();
    let mount = compile(&entry, format_args!("mounts[0]"), Path::new("/bundle"), &mut report);
    assert!(report.errors.is_empty() && report.warnings.is_empty(), "{options:?}: {report:?}");
    mount.expect("it compiles")
}

fn changed(set: u64, clear: u64) -> Attributes {
    Attributes { set, clear }
}

/// Every attribute word of runtime-spec, with what it sets and clears.
fn attribute_words() -> [(&'static str, Attributes); 18] {
    let set = |bit| changed(bit, 0);
    let clear = |bit| changed(0, bit);
    let atime = |value| changed(value, libc::MOUNT_ATTR__ATIME);
    [
        ("ro", set(libc::MOUNT_ATTR_RDONLY)),
        ("rw", clear(libc::MOUNT_ATTR_RDONLY)),
        ("nosuid", set(libc::MOUNT_ATTR_NOSUID)),
        ("suid", clear(libc::MOUNT_ATTR_NOSUID)),
        ("nodev", set(libc::MOUNT_ATTR_NODEV)),
        ("dev", clear(libc::MOUNT_ATTR_NODEV)),
        ("noexec", set(libc::MOUNT_ATTR_NOEXEC)),
        ("exec", clear(libc::MOUNT_ATTR_NOEXEC)),
        ("nodiratime", set(libc::MOUNT_ATTR_NODIRATIME)),
        ("diratime", clear(libc::MOUNT_ATTR_NODIRATIME)),
        ("nosymfollow", set(libc::MOUNT_ATTR_NOSYMFOLLOW)),
        ("symfollow", clear(libc::MOUNT_ATTR_NOSYMFOLLOW)),
        ("relatime", atime(libc::MOUNT_ATTR_RELATIME)),
        ("norelatime", atime(libc::MOUNT_ATTR_RELATIME)),
        ("atime", atime(libc::MOUNT_ATTR_RELATIME)),
        ("noatime", atime(libc::MOUNT_ATTR_NOATIME)),
        ("strictatime", atime(libc::MOUNT_ATTR_STRICTATIME)),
        ("nostrictatime", atime(libc::MOUNT_ATTR_RELATIME)),
    ]
}

#[test]
fn an_attribute_is_of_the_mount_and_with_an_r_of_all_below_it() {
    for (word, expected) in attribute_words() {
        let plain = bind(&[word]);
        assert_eq!((plain.own, plain.below), (expected, Attributes::default()), "{word}");
        let recursive = format!("r{word}");
        let mount = bind(&[&recursive]);
        assert_eq!((mount.own, mount.below), (Attributes::default(), expected), "{recursive}");
    }
}

#[test]
fn the_last_word_about_an_attribute_counts() {
    assert_eq!(bind(&["ro", "rw"]).own, changed(0, libc::MOUNT_ATTR_RDONLY));
    assert_eq!(bind(&["rrw", "rro"]).below, changed(libc::MOUNT_ATTR_RDONLY, 0));
    let rows: [(&[&str], u64); 5] = [
        (&["noatime", "strictatime"], libc::MOUNT_ATTR_STRICTATIME),
        (&["strictatime", "noatime", "relatime"], libc::MOUNT_ATTR_STRICTATIME),
        (&["noatime", "relatime"], libc::MOUNT_ATTR_NOATIME),
        (&["strictatime", "noatime", "nostrictatime"], libc::MOUNT_ATTR_NOATIME),
        (&["noatime", "strictatime", "atime", "nostrictatime"], libc::MOUNT_ATTR_RELATIME),
    ];
    for (words, value) in rows {
        assert_eq!(bind(words).own, changed(value, libc::MOUNT_ATTR__ATIME), "{words:?}: one field with one value");
    }
}

#[test]
fn every_propagation_is_kept_in_its_order() {
    use PropagationKind::{Private, Shared, Slave, Unbindable};
    for (word, kind) in [("private", Private), ("slave", Slave), ("shared", Shared), ("unbindable", Unbindable)] {
        for (word, recursive) in [(word.to_owned(), false), (format!("r{word}"), true)] {
            let expected = Propagation { kind, recursive };
            assert_eq!(bind(&[&word]).propagation, [expected], "{word}");
            assert_eq!(root_propagation(&word), Some(expected), "{word}");
        }
    }
    let both = [Propagation { kind: Slave, recursive: true }, Propagation { kind: Shared, recursive: false }];
    assert_eq!(bind(&["rslave", "shared"]).propagation, both);
    assert_eq!(root_propagation("ro"), None);
}

#[test]
fn a_destination_stays_inside_and_a_relative_one_starts_at_the_root() {
    for (text, expected) in [("a/b", "/a/b"), ("../../etc", "/etc"), ("/a/./b/../c//", "/a/c"), ("..", "/")] {
        assert_eq!(clean(text), expected, "{text}");
    }
}
