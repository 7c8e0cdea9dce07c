//! `[[mount]]` and `[[device]]`.

use std::collections::BTreeMap;

use super::diagnostic::quote;
use super::sections::PAGE;
use super::walk::{Table, Walk};
use super::{Condition, Device, Mount, MountKind, Security, Userns, path};
use crate::compact;

/// The mounts in the order of their targets, so that a parent never hides what is mounted below it, and so that their
/// order in the file means nothing; and the sources that must be mount points.
pub(crate) fn mounts(walk: &mut Walk, top: &Table) -> (Vec<Mount>, Vec<Condition>) {
    let mut targets: BTreeMap<String, u32> = BTreeMap::new();
    let (mut mounts, mut mount_points) = (Vec::new(), Vec::new());
    for table in walk.tables(top, "mount") {
        let required = walk.boolean(table.field("require_mountpoint")).unwrap_or(false);
        let Some(mount) = mount(walk, &table) else { continue };
        if required {
            mount_points.extend(mount_point(walk, &table, &mount));
        }
        if let Some(at) = table.field("target").map(|field| field.at()) {
            let line = walk.places.position(at.start).line;
            if let Some(first) = targets.insert(mount.target.clone(), line) {
                let message =
                    format!("`mount.target` \"{}\" is taken by the mount of line {first}", quote(&mount.target));
                walk.error(&at, message, Some("one mount for each target".to_owned()));
            }
        }
        mounts.push(mount);
    }
    compact::sort_by(&mut mounts, |a, b| a.target.split('/').cmp(b.target.split('/')));
    (mounts, mount_points)
}

/// The source itself, not a directory above it: only that is the disk.
fn mount_point(walk: &mut Walk, table: &Table, mount: &Mount) -> Option<Condition> {
    match &mount.kind {
        MountKind::Bind { source } => Some(Condition::MountPoint(source.clone())),
        MountKind::Tmpfs { .. } => {
            if let Some(field) = table.field("require_mountpoint") {
                walk.error(&field.key_span, "a tmpfs has no `source` that could be a mount point", None);
            }
            None
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Type {
    Bind,
    Tmpfs,
}

fn mount(walk: &mut Walk, table: &Table) -> Option<Mount> {
    let words = [("bind", Type::Bind), ("tmpfs", Type::Tmpfs)];
    let kind = match table.field("type") {
        Some(field) => walk.choice(Some(field), &words, &[("rbind", "bind"), ("volume", "bind"), ("none", "bind")])?,
        None => Type::Bind,
    };
    for key in ["target", "source"] {
        // An unknown key was probably meant as the missing one, and has its own message.
        if table.field(key).is_none() && (key == "target" || kind == Type::Bind) && table.is_regular() {
            let help = match key {
                "source" => "or write type = \"tmpfs\" for an empty one in memory",
                _ => "it is the path inside the container",
            };
            walk.absent(&table.span, &format!("[[mount]] without `{key}`"), Some(help));
        }
    }
    let target = table.field("target").and_then(|field| {
        let target = walk.inside_path(&field)?;
        if let Some(why) = path::reserved_target(&target) {
            walk.mismatch(&field, "another target", Some(why.to_owned()));
        }
        Some(target)
    });
    let read_only = walk.boolean(table.field("read_only"));
    let idmap = walk.boolean(table.field("idmap"));
    if let Some(field) = table.field("idmap").filter(|_| kind == Type::Tmpfs) {
        walk.error(&field.key_span, "`mount.idmap` is for a bind: a tmpfs is the container's own", None);
    }
    let kind = match kind {
        Type::Bind => bind(walk, table),
        Type::Tmpfs => tmpfs(walk, table),
    };
    let default = matches!(kind, Some(MountKind::Bind { .. }));
    Some(Mount { kind: kind?, target: target?, read_only: read_only.unwrap_or(default), idmap })
}

fn bind(walk: &mut Walk, table: &Table) -> Option<MountKind> {
    if let Some(size) = table.field("size") {
        walk.error(&size.key_span, "`mount.size` is for type = \"tmpfs\" only", None);
    }
    walk.host_path(table.field("source")).map(|source| MountKind::Bind { source })
}

fn tmpfs(walk: &mut Walk, table: &Table) -> Option<MountKind> {
    if let Some(source) = table.field("source") {
        walk.error(
            &source.key_span,
            "a tmpfs has no `source`",
            Some("leave it out, or write type = \"bind\"".to_owned()),
        );
    }
    let size = table.field("size");
    let size_bytes = walk.size(size.clone(), PAGE);
    (size.is_none() || size_bytes.is_some()).then_some(MountKind::Tmpfs { size_bytes })
}

/// Without ids of its own a container has the host's, in all its mounts.
pub(crate) fn check_id_maps(walk: &mut Walk, top: &Table, security: &Security) {
    if security.userns == Some(Userns::Auto) {
        return;
    }
    for table in walk.quiet_tables(top, "mount") {
        if let Some(field) = table.field("idmap") {
            let help = Some("write userns = \"auto\" in [security], or leave it out".to_owned());
            walk.error(&field.key_span, "`mount.idmap` means nothing without ids of the container's own", help);
        }
    }
}

/// The devices in the order of their paths.
pub(crate) fn devices(walk: &mut Walk, top: &Table) -> Vec<Device> {
    let mut devices: Vec<Device> = Vec::new();
    for table in walk.tables(top, "device") {
        let Some(field) = table.field("path") else {
            if table.is_regular() {
                walk.absent(&table.span, "[[device]] without `path`", Some("write path = \"/dev/…\""));
            }
            continue;
        };
        const EXPECTED: &str = "a path like \"/dev/ttyUSB0\"";
        let Some(text) = walk.text(&field, EXPECTED) else { continue };
        let path = path::inside(&text).ok().filter(|path| path.starts_with("/dev/") && path.len() <= path::PATH_MAX);
        let Some(text) = path.filter(|path| !path.starts_with("/dev/pts/") && !path.starts_with("/dev/shm/")) else {
            walk.mismatch(&field, EXPECTED, None);
            continue;
        };
        let device = Device { path: text.into() };
        if devices.contains(&device) {
            let message = format!("`device.path` \"{}\" is there twice", quote(&device.path.to_string_lossy()));
            walk.error(&field.at(), message, None);
        }
        devices.push(device);
    }
    compact::sort_by(&mut devices, |a, b| a.path.cmp(&b.path));
    devices
}
