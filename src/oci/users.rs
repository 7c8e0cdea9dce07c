//! What a user namespace changes about the rest of a script. Pure.
//!
//! In one, root is not the host's: the process cannot raise its limits, lower its `oom_score_adj`, or own the host's pipes. What of
//! that config.json asks for is done [outside](super::outside), with the rights of the caller. Ids that are not mapped do not
//! exist there, so each that config.json names has to be.

use super::error::{Problem, Report};
use super::idmap::{self, IdMaps, IdRange};
use super::outside::{NamespaceKind, Outside};
use super::script::{Identity, Mount, MountIdMap, MountSource, PropagationKind, RootPlan, Script, Step};

/// Moves outside what the process itself cannot do, and checks the ids. It changes nothing of a script without user namespace, id-mapped
/// mounts and shared binds.
pub(super) fn complete(script: &mut Script, report: &mut Report) {
    let Script { outside, steps, .. } = script;
    let user = outside.in_user_namespace();
    outside.copies = steps.iter().any(|step| is_copied_outside(step, outside));
    if !user {
        return check_mount_maps(steps, report);
    }
    if let Some(maps) = outside.ids() {
        check_ids(steps, maps, report);
    }
    if outside.user.is_some() && outside.joins(NamespaceKind::Ipc) {
        check_queues(steps, report);
    }
    move_outside(outside, steps);
    if let Some(maps) = outside.ids() {
        steps.iter_mut().for_each(|step| drop_unmapped_owner(step, maps, report));
    }
}

impl Script {
    /// To whom of the host's users and groups a cgroup v2 of this container belongs: to the root of its user namespace where it may write to
    /// it (cgroups(7), "Delegation").
    pub fn cgroup_owner(&self) -> Option<(u32, u32)> {
        let maps = self.outside.user.as_ref()?;
        let writable = |step: &Step| matches!(step, Step::Mount(Mount { source: MountSource::Cgroup, own, .. }) if own.set & libc::MOUNT_ATTR_RDONLY == 0);
        let unshared = |step: &Step| matches!(step, Step::Unshare(namespaces) if namespaces.cgroup);
        let owns = self.steps.iter().any(writable) && self.steps.iter().any(unshared);
        owns.then_some((idmap::to_host(&maps.uids, 0)?, idmap::to_host(&maps.gids, 0)?))
    }
}

/// Whether whoever stays outside makes the copy of a mount of the host's that this step attaches.
pub(crate) fn is_copied_outside(step: &Step, outside: &Outside) -> bool {
    // Paths of config.json are the caller's, whoever is to have the rights to them or not.
    let all = outside.in_user_namespace() || outside.joins(NamespaceKind::Mount);
    match step {
        Step::Root(RootPlan::Directory { .. }) => all,
        Step::Root(RootPlan::Layers { .. } | RootPlan::Tmpfs { .. }) => outside.in_user_namespace(),
        Step::Mount(mount @ Mount { source: MountSource::Bind { .. }, .. }) => {
            all || mount.idmap.is_some() || is_shared(mount, outside)
        }
        _ => false,
    }
}

/// Whether what is mounted below it shows on both sides.
pub(crate) fn is_shared(mount: &Mount, outside: &Outside) -> bool {
    outside.shares && mount.propagation.iter().any(|propagation| propagation.kind == PropagationKind::Shared)
}

/// The queues of an ipc namespace are shown to who has rights over it (mq_overview(7)), which is never a user namespace that is younger.
fn check_queues(steps: &[Step], report: &mut Report) {
    for step in steps {
        if let Step::Mount(Mount { target, source: MountSource::Filesystem { fstype, .. }, .. }) = step
            && fstype == "mqueue"
        {
            let reason = "a new user namespace has no right to the message queues of an ipc namespace that is joined";
            report.error(format_args!("mounts: {target}"), Problem::Conflict { reason });
        }
    }
}

fn check_mount_maps(steps: &[Step], report: &mut Report) {
    for step in steps {
        let Step::Mount(Mount { target, idmap: Some(MountIdMap { maps: None, .. }), .. }) = step else { continue };
        let reason =
            "idmap and ridmap need uidMappings and gidMappings beside them, or a user namespace whose they take";
        report.error(format_args!("mounts: {target}"), Problem::Conflict { reason });
    }
}

fn check_ids(steps: &[Step], maps: &IdMaps, report: &mut Report) {
    let mut check = |ranges: &[IdRange], id: u32, field: &str| {
        if idmap::to_host(ranges, id).is_none() {
            let expected = "an id that the container's mappings have";
            report.error(field, Problem::Range { found: id.to_string(), expected });
        }
    };
    for step in steps {
        let Step::Identity(Identity::Numbers { uid, gid, groups }) = step else { continue };
        check(&maps.uids, *uid, "process.user.uid");
        check(&maps.gids, *gid, "process.user.gid");
        for (index, group) in groups.iter().enumerate() {
            check(&maps.gids, *group, &format!("process.user.additionalGids[{index}]"));
        }
    }
}

fn move_outside(outside: &mut Outside, steps: &mut Vec<Step>) {
    for step in steps.iter() {
        match step {
            Step::OomScoreAdj { value, best_effort } => outside.oom_score_adj = Some((*value, *best_effort)),
            Step::Rlimits { limits, .. } => outside.ceilings.clone_from(limits),
            Step::Identity(Identity::Numbers { uid, .. }) => {
                outside.streams = outside.ids().and_then(|maps| idmap::to_host(&maps.uids, *uid));
            }
            // Whoever that is: root in there may give them away, and nobody else.
            Step::Identity(Identity::Names { .. }) => {
                outside.streams = outside.ids().and_then(|maps| idmap::to_host(&maps.uids, 0));
            }
            Step::JoinNetwork => outside.network = true,
            _ => {}
        }
    }
    steps.retain(|step| !matches!(step, Step::OomScoreAdj { .. } | Step::JoinNetwork));
}

/// The group of terminals is 5 nearly everywhere; where that is not mapped the kernel refuses the whole file system, so they stay root's.
fn drop_unmapped_owner(step: &mut Step, maps: &IdMaps, report: &mut Report) {
    let Step::Mount(Mount { target, source: MountSource::Filesystem { fstype, options, .. }, .. }) = step else {
        return;
    };
    if fstype != "devpts" {
        return;
    }
    options.retain(|(name, value)| {
        let ranges = match name.as_str() {
            "gid" => &maps.gids,
            "uid" => &maps.uids,
            _ => return true,
        };
        let id = value.as_ref().and_then(|value| value.parse().ok());
        let keep = id.is_none_or(|id| idmap::to_host(ranges, id).is_some());
        if !keep {
            let value = value.as_deref().unwrap_or_default();
            report.warn("mounts", format!("{name}={value} of {target} is not mapped, so terminals are root's"));
        }
        keep
    });
}
