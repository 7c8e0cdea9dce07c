//! What is still to be told, told as far as the readers read.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::child::{Child, Named, Unadopted, Untold};
use super::client::mask;
use super::link::{Link, Sent};
use super::run::{Finish, Keeper};
use super::wire::{Builds, ChildState, Message, Role};

impl Keeper<'_> {
    /// Tells each connection what it has not been told, until it is all said or the socket is full.
    pub(super) fn flush(&mut self) {
        let stats = self.stats();
        let builds = self.links.iter().any(|link| link.builds).then(|| self.builds());
        let stays = self.finish == Some(Finish { leave_running: true }) && self.is_dormant();
        let mut links = std::mem::take(&mut self.links);
        for link in links.iter_mut().filter(|link| !link.closed && !link.deaf && !link.blocked) {
            if stays && link.is(Role::Anchor) {
                link.last = Some(Message::Ended { code: 0, stays: true });
            }
            match self.tell(link, stats, builds.as_ref()) {
                Sent::Yes | Sent::Full | Sent::Gone => {}
                Sent::Starved => self.starved = true,
            }
        }
        self.links = links;
        self.drop_closed();
    }

    fn tell(&mut self, link: &mut Link, stats: super::Stats, builds: Option<&Builds>) -> Sent {
        if let Some(last) = link.last.take() {
            let sent = link.send(&last, &[]);
            link.closed = true;
            return sent;
        }
        let mut said = tell_flag(link, |link| &mut link.welcome, &Message::Welcome { stats });
        if said == Sent::Yes
            && let Some(refusal) = link.refusal.clone()
        {
            said = link.send(&Message::Refused(refusal), &[]);
            if said == Sent::Yes {
                link.refusal = None;
            }
        }
        if said == Sent::Yes && link.is(Role::Supervisor) {
            said = tell_flag(link, |link| &mut link.stop, &Message::Stop);
            said = after(said, || tell_children(link, &mut self.children));
            said = after(said, || tell_said(link, &mut self.children));
            said = after(said, || tell_named(link, &mut self.named));
            said = after(said, || tell_orphans(link, &mut self.orphans));
            said = after(said, || tell_flag(link, |link| &mut link.synced, &Message::Synced));
        }
        said = after(said, || tell_flag(link, |link| &mut link.stats, &Message::Stats(stats)));
        if said == Sent::Yes
            && let Some(builds) = builds
        {
            said = tell_flag(link, |link| &mut link.builds, &Message::Builds(builds.clone()));
        }
        said = after(said, || self.tell_spares(link));
        after(said, || self.tell_replace(link))
    }

    /// The program that runs here is the one to execute.
    fn tell_replace(&self, link: &mut Link) -> Sent {
        if !link.replace {
            return Sent::Yes;
        }
        let sent = link.send(&Message::Replace, &[self.parts.image.as_fd()]);
        link.replace = sent != Sent::Yes;
        sent
    }
}

fn after(said: Sent, next: impl FnOnce() -> Sent) -> Sent {
    if said == Sent::Yes { next() } else { said }
}

fn tell_flag(link: &mut Link, flag: fn(&mut Link) -> &mut bool, message: &Message) -> Sent {
    if !*flag(link) {
        return Sent::Yes;
    }
    let sent = link.send(message, &[]);
    if sent == Sent::Yes {
        *flag(link) = false;
    }
    sent
}

fn tell_children(link: &mut Link, children: &mut [Child]) -> Sent {
    for child in children.iter_mut().filter(|child| child.untold != Untold::Nothing) {
        match tell_child(link, child) {
            Sent::Yes => child.untold = Untold::Nothing,
            other => return other,
        }
    }
    Sent::Yes
}

fn tell_child(link: &mut Link, child: &Child) -> Sent {
    let pidfd = match (&child.state, Pid::from_raw(child.pid)) {
        (ChildState::Running, Some(pid)) => match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Some(pidfd),
            // Not ESRCH, for it is not reaped: no descriptor or no memory is left.
            Err(_) => return Sent::Starved,
        },
        (ChildState::Running | ChildState::Failed { .. } | ChildState::Exited { .. }, _) => None,
    };
    let all = child.untold == Untold::All;
    let mut fds: Vec<BorrowedFd<'_>> = pidfd.iter().map(AsFd::as_fd).collect();
    if all {
        fds.extend(child.held.iter().flatten().map(AsFd::as_fd));
    }
    let message = Message::Child {
        id: child.id.clone(),
        kind: child.kind,
        pid: child.pid,
        state: child.state.clone(),
        tag: all.then(|| child.tag.clone()),
        held: all.then(|| mask(&child.held)),
    };
    link.send(&message, &fds)
}

fn tell_said(link: &mut Link, children: &mut [Child]) -> Sent {
    for child in children.iter_mut().filter(|child| child.said.untold || child.said.asked) {
        let (id, lines, answers) = (child.id.clone(), child.said.lines.clone(), child.said.asked);
        match link.send(&Message::Said { id, lines, answers }, &[]) {
            Sent::Yes => (child.said.untold, child.said.asked) = (false, false),
            other => return other,
        }
    }
    Sent::Yes
}

fn tell_named(link: &mut Link, names: &mut [Named]) -> Sent {
    for named in names.iter_mut().filter(|named| named.untold) {
        match link.send(&Message::Held { name: named.name.clone() }, &[named.fd.as_fd()]) {
            Sent::Yes => named.untold = false,
            other => return other,
        }
    }
    Sent::Yes
}

fn tell_orphans(link: &mut Link, orphans: &mut [Unadopted]) -> Sent {
    for unadopted in orphans.iter_mut().filter(|unadopted| unadopted.untold) {
        match link.send(&Message::Orphan(unadopted.orphan.clone()), &[]) {
            Sent::Yes => unadopted.untold = false,
            other => return other,
        }
    }
    Sent::Yes
}
