//! Who the process is: limits, user and groups, capabilities.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;

use rustix::fs::{FileType, OFlags, fchown, fstat};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit as KernelLimit, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets as KernelSets, Gid, Uid, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_keep_capabilities, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use super::error::{StepError, call};
use super::root::Root;
use super::slots::Slots;
use crate::oci::{CapabilitySets, Identity, Rlimit, RlimitResource};

/// The largest passwd or group file that is read (CVE-2024-9676).
const MAX_ACCOUNT_BYTES: u64 = 1 << 20;
/// Supplementary groups that are taken from a group file; the kernel's NGROUPS_MAX.
const MAX_GROUPS: usize = 65536;
/// Bits of a capability mask.
const MAX_CAPABILITIES: u32 = 64;

/// A user as the kernel sees it, and what passwd says besides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Account {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    /// The home directory, where a passwd file names one.
    pub(super) home: Option<String>,
}

/// Sets the limits; with `clamp`, those that may not be raised are raised as far as they may.
pub(super) fn set_limits(limits: &[Rlimit], clamp: bool) -> Result<(), StepError> {
    for limit in limits {
        let resource = resource(limit.resource);
        let wanted = KernelLimit { current: finite(limit.soft), maximum: finite(limit.hard) };
        match setrlimit(resource, wanted) {
            Ok(()) => {}
            Err(Errno::PERM) if clamp => {
                let ceiling = getrlimit(resource).maximum;
                let lower = |value: Option<u64>| match (value, ceiling) {
                    (Some(value), Some(ceiling)) => Some(value.min(ceiling)),
                    (None, ceiling) => ceiling,
                    (value, None) => value,
                };
                let clamped = KernelLimit { current: lower(wanted.current), maximum: lower(wanted.maximum) };
                setrlimit(resource, clamped).map_err(call("setrlimit"))?;
            }
            Err(errno) => return Err(call("setrlimit")(errno)),
        }
    }
    Ok(())
}

/// `RLIM_INFINITY` is all ones.
pub(super) fn finite(value: u64) -> Option<u64> {
    (value != u64::MAX).then_some(value)
}

pub(super) fn resource(name: RlimitResource) -> Resource {
    match name {
        RlimitResource::As => Resource::As,
        RlimitResource::Core => Resource::Core,
        RlimitResource::Cpu => Resource::Cpu,
        RlimitResource::Data => Resource::Data,
        RlimitResource::Fsize => Resource::Fsize,
        RlimitResource::Locks => Resource::Locks,
        RlimitResource::Memlock => Resource::Memlock,
        RlimitResource::Msgqueue => Resource::Msgqueue,
        RlimitResource::Nice => Resource::Nice,
        RlimitResource::Nofile => Resource::Nofile,
        RlimitResource::Nproc => Resource::Nproc,
        RlimitResource::Rss => Resource::Rss,
        RlimitResource::Rtprio => Resource::Rtprio,
        RlimitResource::Rttime => Resource::Rttime,
        RlimitResource::Sigpending => Resource::Sigpending,
        RlimitResource::Stack => Resource::Stack,
    }
}

/// Removes from the bounding set what is not in `keep`.
pub(super) fn limit_bounding_set(keep: u64) -> Result<(), StepError> {
    for number in (0..MAX_CAPABILITIES).filter(|number| keep & (1 << number) == 0) {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            // The first number that the kernel does not know ends the list.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(call("drop from the bounding set")(errno)),
        }
    }
    Ok(())
}

/// Makes the user the owner of the pipes and of the terminal that are his standard streams, as runc does: else he may write to
/// descriptor 1 but not open `/dev/stdout`. Files, and a terminal that is somebody's, stay whose they are. Best effort: most programs
/// never ask.
pub(super) fn give_streams(account: &Account, slots: &Slots, terminal: bool) {
    let slots = [&slots.stdin, &slots.stdout, &slots.stderr];
    let own = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    for (slot, own) in slots.into_iter().zip(own) {
        let stream = slot.as_ref().map_or(own, AsFd::as_fd);
        let is_pipe = |stat: rustix::fs::Stat| {
            FileType::from_raw_mode(stat.st_mode) == FileType::Fifo && stat.st_uid != account.uid
        };
        if (terminal && slot.is_some()) || fstat(stream).is_ok_and(is_pipe) {
            let _ = fchown(stream, Some(Uid::from_raw(account.uid)), None);
        }
    }
}

/// Groups, gid, uid, in the order that keeps the right to do the next; capabilities stay permitted for the step that
/// sets them.
pub(super) fn become_user(account: &Account, may_set_groups: bool) -> Result<(), StepError> {
    let groups: Vec<Gid> = account.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (gid, uid) = (Gid::from_raw(account.gid), Uid::from_raw(account.uid));
    set_keep_capabilities(true).map_err(call("keep capabilities"))?;
    if may_set_groups || !groups.is_empty() {
        set_thread_groups(&groups).map_err(call("setgroups"))?;
    }
    set_thread_res_gid(gid, gid, gid).map_err(call("setgid"))?;
    set_thread_res_uid(uid, uid, uid).map_err(call("setuid"))?;
    set_keep_capabilities(false).map_err(call("keep no capabilities"))
}

/// Root of the user namespace, in no other group. Whether groups may be set: not where a user mapped just himself ("setgroups" in
/// user_namespaces(7)), who stays in his own.
pub(super) fn become_root() -> Result<bool, StepError> {
    let (root_user, root_group) = (Uid::from_raw(0), Gid::from_raw(0));
    let may_set_groups = match set_thread_groups(&[]) {
        Ok(()) => true,
        Err(Errno::PERM) => false,
        Err(errno) => return Err(call("setgroups")(errno)),
    };
    set_thread_res_gid(root_group, root_group, root_group).map_err(call("setgid"))?;
    set_thread_res_uid(root_user, root_user, root_user).map_err(call("setuid"))?;
    Ok(may_set_groups)
}

/// Effective, permitted, inheritable, ambient.
pub(super) fn set_capabilities(sets: CapabilitySets) -> Result<(), StepError> {
    let kernel = KernelSets {
        effective: CapabilitySet::from_bits_retain(sets.effective),
        permitted: CapabilitySet::from_bits_retain(sets.permitted),
        inheritable: CapabilitySet::from_bits_retain(sets.inheritable),
    };
    rustix::thread::set_capabilities(None, kernel).map_err(call("capset"))?;
    for number in (0..MAX_CAPABILITIES).filter(|number| sets.ambient & (1 << number) != 0) {
        configure_capability_in_ambient_set(CapabilitySet::from_bits_retain(1 << number), true)
            .map_err(call("raise an ambient capability"))?;
    }
    Ok(())
}

/// What [`become_user`] kept goes with root's number, as in setuid(2).
pub(super) fn take_rights_of(account: &Account) -> Result<(), StepError> {
    match account.uid {
        0 => Ok(()),
        _ => set_capabilities(CapabilitySets::default()),
    }
}

/// Numbers as they are; names by the root's own files.
pub(super) fn resolve(root: &Root, who: &Identity) -> Result<Account, StepError> {
    match who {
        Identity::Numbers { uid, gid, groups } => {
            let home = home_of(root, *uid).unwrap_or_else(|| "/".to_owned());
            Ok(Account { uid: *uid, gid: *gid, groups: groups.clone(), home: Some(home) })
        }
        Identity::Names { user, group } => {
            let passwd = read_accounts(root, "/etc/passwd")?;
            let groups = read_accounts(root, "/etc/group")?;
            lookup(&passwd, &groups, user, group.as_deref())
        }
    }
}

/// The home directory of a numbered user, where the root's passwd file names one.
fn home_of(root: &Root, uid: u32) -> Option<String> {
    let passwd = read_accounts(root, "/etc/passwd").ok()?;
    let entry = passwd.lines().map(fields).find(|fields| number(fields.get(2)) == Some(uid))?;
    entry.get(5).filter(|home| !home.is_empty()).map(|home| (*home).to_owned())
}

fn fields(line: &str) -> Vec<&str> {
    line.trim_end().split(':').collect()
}

fn number(field: Option<&&str>) -> Option<u32> {
    field.and_then(|text| text.parse().ok())
}

fn lookup(passwd: &str, groups: &str, user: &str, group: Option<&str>) -> Result<Account, StepError> {
    let uid: Option<u32> = user.parse().ok();
    let entry = passwd
        .lines()
        .map(fields)
        .find(|fields| fields.first() == Some(&user) || (uid.is_some() && number(fields.get(2)) == uid));
    let missing = |what, name: &str, file| StepError::NoSuchName { what, name: name.to_owned(), file };
    let (name, uid, primary, home) = match &entry {
        Some(fields) => {
            let uid = uid.or_else(|| number(fields.get(2))).ok_or_else(|| missing("user", user, "/etc/passwd"))?;
            (fields.first().copied().unwrap_or(user), uid, number(fields.get(3)), fields.get(5).copied())
        }
        None => (user, uid.ok_or_else(|| missing("user", user, "/etc/passwd"))?, None, None),
    };
    let gid = match group {
        Some(group) => group_number(groups, group).ok_or_else(|| missing("group", group, "/etc/group"))?,
        // Not 0: nobody gets root's group for want of an entry.
        None => primary.unwrap_or(uid),
    };
    // Supplementary groups belong to the user as a whole; with a group named, only that one counts, as with docker.
    let supplementary = if group.is_some() { Vec::new() } else { memberships(groups, name, gid) };
    let home = home.filter(|home| !home.is_empty()).map(str::to_owned);
    Ok(Account { uid, gid, groups: supplementary, home })
}

fn group_number(groups: &str, group: &str) -> Option<u32> {
    group.parse().ok().or_else(|| {
        let entry = groups.lines().map(fields).find(|fields| fields.first() == Some(&group))?;
        number(entry.get(2))
    })
}

fn memberships(groups: &str, name: &str, primary: u32) -> Vec<u32> {
    let entries = groups.lines().map(fields);
    let member = entries.filter(|fields| fields.get(3).is_some_and(|users| users.split(',').any(|user| user == name)));
    member.filter_map(|fields| number(fields.get(2))).filter(|gid| *gid != primary).take(MAX_GROUPS).collect()
}

/// A regular file of bounded size, found inside the root; an absent one is empty. `O_NONBLOCK`: it may be a FIFO.
fn read_accounts(root: &Root, file: &'static str) -> Result<String, StepError> {
    let bad = |problem| StepError::BadAccountFile { file, problem };
    let fd = match root.open(file, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        Err(_) => return Err(bad("not to be opened")),
    };
    let stat = fstat(&fd).map_err(call("fstat"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(bad("not a regular file"));
    }
    if stat.st_size as u64 > MAX_ACCOUNT_BYTES {
        return Err(bad("larger than 1 MiB"));
    }
    let mut bytes = Vec::new();
    File::from(fd).take(MAX_ACCOUNT_BYTES).read_to_end(&mut bytes).map_err(|_| bad("not to be read"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nweb:x:33:34:Web:/var/www:/bin/false\nbad:x:abc:1::/:\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nadm:x:4:web,root\nssl:x:99:web\n";

    #[test]
    fn names_numbers_and_groups_are_found_in_the_roots_files() {
        let web = lookup(PASSWD, GROUP, "web", None).expect("web is there");
        assert_eq!(web, Account { uid: 33, gid: 34, groups: vec![4, 99], home: Some("/var/www".into()) });
        assert_eq!(lookup(PASSWD, GROUP, "33", None).expect("by number"), web);
        let grouped = lookup(PASSWD, GROUP, "web", Some("ssl")).expect("group by name");
        assert_eq!((grouped.gid, grouped.groups), (99, vec![]));
        let unknown = lookup(PASSWD, GROUP, "1000", Some("1000")).expect("numbers need no entry");
        assert_eq!(unknown, Account { uid: 1000, gid: 1000, groups: vec![], home: None });
        assert_eq!(lookup(PASSWD, GROUP, "1000", None).expect("a lone number"), unknown);
    }

    #[test]
    fn a_name_that_is_not_there_is_an_error_that_names_it() {
        let error = lookup(PASSWD, GROUP, "nobody", None).expect_err("not there").to_string();
        assert_eq!(error, "no user nobody in /etc/passwd of the container");
        let error = lookup(PASSWD, GROUP, "web", Some("nogroup")).expect_err("not there").to_string();
        assert_eq!(error, "no group nogroup in /etc/group of the container");
        assert!(lookup(PASSWD, GROUP, "bad", None).is_err(), "an entry without a number");
        assert!(lookup(PASSWD, GROUP, "4294967296", None).is_err(), "a number out of range (CVE-2024-40635)");
        assert!(lookup(PASSWD, GROUP, "-1", None).is_err());
    }
}
