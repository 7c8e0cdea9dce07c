//! The way to the program for a process that is a copy of one whose executable might be written: by way of a
//! [trampoline](crate::sys::trampoline).
//!
//! A process in the container could write that executable, once nobody runs it, through `/proc/PID/exe` of a process of ours
//! (CVE-2019-5736). Two of ours are there: the one that sets itself up, and what it is while the kernel looks for the program, which may be
//! `/proc/self/exe` or have it as its interpreter. The trampoline takes the place of the second. Of the first nobody gets hold where
//! [`Trampoline::suits`]: it is pid 1 of a new namespace and alone there, not dumpable since before it was made, and gone before anything
//! else can join. Everywhere else all of moored has to run from where nobody can write.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;

use super::error::{StepError, call};
use super::spawn::Failure;
use crate::oci::seccomp::Filter;
use crate::oci::{Identity, Script, Step};
use crate::sys::trampoline::{self, Failed};

/// One for one process.
#[derive(Debug)]
pub struct Trampoline(OwnedFd);

impl Trampoline {
    /// Whether nobody can get hold of a process that executes this script until it executes the trampoline. Not if it waits at a gate,
    /// where others may join it, nor if executing gives it rights, nor if its filter has a listener to hand over, nor if it has a label, which would be the trampoline's, nor if it stays as an init, nor if it runs hooks: one of the container's may be `/proc/self/exe`.
    pub fn suits(script: &Script) -> bool {
        let is_hook = |step: &Step| matches!(step, Step::MakerHooks(_) | Step::HostStart(_) | Step::OwnStart { .. });
        let is_seen = |step: &Step| {
            let told = matches!(step, Step::Listener(_) | Step::ExecLabel { .. });
            told || matches!(step, Step::Gate | Step::Init) || is_hook(step)
        };
        script.new_pid_namespace && !script.steps.iter().any(is_seen) && !gains_rights(script)
    }

    /// Errs with EACCES where the host executes nothing from memory.
    pub fn reserve() -> io::Result<Trampoline> {
        trampoline::reserve().map(Trampoline)
    }

    /// Another handle of it.
    pub(super) fn try_clone(&self) -> io::Result<Trampoline> {
        self.0.try_clone().map(Trampoline)
    }

    /// Whether it is to load a filter that is still being compiled.
    pub(super) fn awaits_filter(script: &Script) -> bool {
        last_steps(script).any(|step| matches!(step, Step::SeccompComing))
    }

    /// Makes it ready for a process that executes this script and reports to the descriptor of this number. With the filter that it
    /// [awaits](Trampoline::awaits_filter), if it does.
    pub(super) fn write(&self, script: &Script, came: Option<&Filter>, report: RawFd) -> io::Result<()> {
        let in_script =
            || last_steps(script).find_map(|step| if let Step::Seccomp(filter) = step { Some(filter) } else { None });
        let filter = came.or_else(in_script);
        let flags = filter.map_or(0, |filter| filter.flags.bits());
        trampoline::write(self.0.as_fd(), report, &filter.map(super::filter::program).unwrap_or_default(), flags)
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Those that come after all that moored does. A filter among them is the trampoline's to load: it need not allow more than the program
/// wants.
fn last_steps(script: &Script) -> impl Iterator<Item = &Step> {
    script.steps.iter().rev().take_while(|step| !matches!(step, Step::FindProgram { .. }))
}

/// Whether execve(2) gives this process rights that it has not: root's permitted set becomes the bounding set (capabilities(7)). Such a program is
/// not dumpable; behind a trampoline, which gets them first, it would be.
fn gains_rights(script: &Script) -> bool {
    let (mut bounding, mut permitted, mut may_be_root) = (0, u64::MAX, true);
    for step in &script.steps {
        match step {
            Step::BoundingSet(set) => bounding = *set,
            Step::Capabilities(sets) => permitted = sets.permitted,
            Step::Identity(Identity::Numbers { uid, .. }) => may_be_root = *uid == 0,
            _ => {}
        }
    }
    may_be_root && bounding & !permitted != 0
}

/// What the trampoline of a process that executes this script has reported, if it is that.
pub(super) fn failure(report: &[u8], script: &Script) -> Option<Failure> {
    let failed = Failed::read(report)?;
    let (index, step) = script.steps.iter().enumerate().rfind(|(_, step)| match failed {
        Failed::Report(_) => matches!(step, Step::Descriptors),
        Failed::Filter(_) => matches!(step, Step::Seccomp(_) | Step::SeccompComing),
        Failed::Execute(_) => matches!(step, Step::Execute { .. }),
    })?;
    let error = match (failed, step) {
        (Failed::Execute(errno), Step::Execute { args, .. }) => {
            let program = args.first().cloned().unwrap_or_default();
            StepError::Exec { program, errno: Errno::from_raw_os_error(errno) }
        }
        (Failed::Filter(errno), _) => call("seccomp")(Errno::from_raw_os_error(errno)),
        (Failed::Report(errno) | Failed::Execute(errno), _) => call("fcntl")(Errno::from_raw_os_error(errno)),
    };
    Some(Failure::new(index, step, &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{CapabilitySets, Outside};

    #[test]
    fn who_gains_rights_by_executing_goes_without_a_trampoline() {
        let script = |uid, bounding, permitted| {
            let sets = CapabilitySets { permitted, ..CapabilitySets::default() };
            let who = Identity::Numbers { uid, gid: 0, groups: Vec::new() };
            let steps = vec![Step::BoundingSet(bounding), Step::Identity(who), Step::Capabilities(sets)];
            Script { new_pid_namespace: true, outside: Outside::default(), steps }
        };
        assert!(Trampoline::suits(&script(0, 0b110, 0b110)) && Trampoline::suits(&script(0, 0b10, 0b110)));
        assert!(!Trampoline::suits(&script(0, 0b110, 0b10)), "root gets what is bounded");
        assert!(Trampoline::suits(&script(1000, 0b110, 0b10)), "nobody else does");
    }
}
