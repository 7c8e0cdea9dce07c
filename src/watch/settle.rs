//! When to look at a file, and what a look means. Pure: time is an argument, and a file is a number.
//!
//! A file is **quiet**, or **due** at some moment:
//!
//! | what happened | due |
//! |---|---|
//! | an event | [`QUIET`] after it; the next event moves that |
//! | contents were modified while a writer is known to hold it | unchanged: the writer's close is an event too |
//! | a look found a writer | after [`HELD_FIRST`], doubled up to [`HELD_MAX`]: only for writers whose close gives no event here |
//! | a look found it younger than [`QUIET`] | when it no longer is |
//! | a look found nothing there | [`ABSENT`] after the first such look; an event does not move that |
//! | a look found a text where there are no leases | [`LOOKS_APART`] after the first look that saw the very same |
//! | a look found a text, or a reason to refuse it | never: it is settled |
//!
//! What is settled is posted only when it differs from what was posted last, or when somebody was told of a writer, or of its directory, since
//! ([`Settle::again`]). So an event too many costs a look and nothing else, and a file may be looked at whenever somebody thinks that it might have changed.
//!
//! `hurry` is `moored sync`: the quiet time, the age and the absence count as over; a writer, or the second look, does not.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// One file, directory or path that is looked at.
pub type Key = u32;

/// Time since the watch began.
pub type Moment = Duration;

/// A text, or what else was found, in 64 bits: two that differ are taken for the same once in 2^64.
pub type Digest = u64;

/// No text is read earlier after its last event.
pub const QUIET: Duration = Duration::from_millis(20);

/// A file is gone when it was absent for this long: editors rename aside, git and rsync remove and create.
pub const ABSENT: Duration = Duration::from_secs(1);

/// Without leases, two looks this far apart must agree: longer than a writer pauses, shorter than people wait.
pub const LOOKS_APART: Duration = Duration::from_secs(2);

/// The first look after one that found a writer, when no event comes.
pub const HELD_FIRST: Duration = Duration::from_millis(500);

/// The longest time between two such looks.
pub const HELD_MAX: Duration = Duration::from_secs(8);

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A whole text, or a directory.
    Found(Digest),
    /// A text of which nobody knows whether it is being written: `look` covers identity and times as well.
    Unleased {
        /// The text.
        text: Digest,
        /// The text and everything that a writer changes.
        look: Digest,
    },
    /// Something that is not accepted, and why.
    Refused(Digest),
    /// Nothing, or a link to nothing; which of these is in the digest. `at_once`: nobody was told of it yet, so nothing
    /// can be lost by telling.
    Absent {
        /// What there is to say of it.
        why: Digest,
        /// Do not wait for [`ABSENT`].
        at_once: bool,
    },
    /// A writer.
    Held,
    /// Changed this long before [`QUIET`] is over.
    Young {
        /// How long to wait.
        wait: Duration,
    },
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Say what was found: it is settled and new.
    Post,
    /// It is what was said last.
    Same,
    /// Not settled; there will be another look.
    Wait,
    /// Not settled, and it is time to say that a writer holds it.
    Busy,
}

/// What was said last of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Posted {
    Found(Digest),
    Refused(Digest),
    Absent(Digest),
}

#[derive(Debug, Default)]
struct File {
    due: Option<Moment>,
    absent_since: Option<Moment>,
    /// Looks in a row that found a writer.
    held: u32,
    busy_said: bool,
    /// The last look led to [`Verdict::Wait`] without a writer.
    waiting: bool,
    first_look: Option<(Digest, Moment)>,
    posted: Option<Posted>,
    /// What is found next is posted, the same or not.
    again: bool,
}

/// All files that are followed.
#[derive(Debug, Default)]
pub struct Settle {
    files: HashMap<Key, Box<File>>,
    due: BTreeSet<(Moment, Key)>,
}

impl Settle {
    /// Something happened to the file.
    pub fn touched(&mut self, key: Key, now: Moment) {
        self.schedule(key, now.saturating_add(QUIET));
    }

    /// Somebody wrote into the file and has not closed it yet.
    pub fn written(&mut self, key: Key, now: Moment) {
        if self.files.get(&key).is_none_or(|file| file.held == 0) {
            self.touched(key, now);
        }
    }

    /// Look at the file at the latest then; an earlier look that is due stays.
    pub fn look_by(&mut self, key: Key, at: Moment) {
        let due = self.files.get(&key).and_then(|file| file.due);
        self.schedule(key, due.map_or(at, |due| due.min(at)));
    }

    /// Everything that is due at some time is due now, except second looks.
    pub fn hurry(&mut self, now: Moment) {
        let pending: Vec<Key> = self.due.iter().map(|&(_, key)| key).collect();
        for key in pending {
            if self.files.get(&key).is_some_and(|file| file.first_look.is_none()) {
                self.schedule(key, now);
            }
        }
    }

    /// Do not look at the file until something happens to it; what was said of it stands.
    pub fn rest(&mut self, key: Key) {
        if let Some(file) = self.files.get_mut(&key) {
            if let Some(due) = file.due.take() {
                self.due.remove(&(due, key));
            }
            **file = File { posted: file.posted, again: file.again, ..File::default() };
        }
    }

    /// The file is of no interest any more.
    pub fn forget(&mut self, key: Key) {
        self.rest(key);
        self.files.remove(&key);
    }

    /// What the next look settles is said in any case, also that nothing is there.
    pub fn again(&mut self, key: Key) {
        self.files.entry(key).or_default().again = true;
    }

    /// Whether anything was ever said of it, or is to be said in any case.
    pub fn is_posted(&self, key: Key) -> bool {
        self.files.get(&key).is_some_and(|file| file.posted.is_some() || file.again)
    }

    /// Whether the last look found a writer.
    pub fn is_held(&self, key: Key) -> bool {
        self.files.get(&key).is_some_and(|file| file.held > 0)
    }

    /// The files whose last look settled nothing, although no writer was seen.
    pub fn waiting(&self) -> impl Iterator<Item = Key> + use<'_> {
        self.files.iter().filter(|(_, file)| file.waiting).map(|(&key, _)| key)
    }

    /// Whether the last look settled nothing, although no writer was seen.
    pub fn is_waiting(&self, key: Key) -> bool {
        self.files.get(&key).is_some_and(|file| file.waiting)
    }

    /// When a look at the file is due, if one is.
    pub fn due(&self, key: Key) -> Option<Moment> {
        self.files.get(&key).and_then(|file| file.due)
    }

    /// The earliest moment at which a look is due.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.due.first().map(|&(at, _)| at)
    }

    /// The files to look at now, in the order in which they became due. Each needs an [`Settle::outcome`].
    pub fn take_due(&mut self, now: Moment) -> Vec<Key> {
        let later = self.due.split_off(&(now.saturating_add(Duration::from_nanos(1)), 0));
        let due = std::mem::replace(&mut self.due, later);
        for (_, key) in &due {
            if let Some(file) = self.files.get_mut(key) {
                file.due = None;
            }
        }
        due.into_iter().map(|(_, key)| key).collect()
    }

    /// What a look at `now` found, and what follows.
    pub fn outcome(&mut self, key: Key, outcome: Outcome, now: Moment, hurry: bool) -> Verdict {
        let verdict = self.judge(key, outcome, now, hurry);
        if let Some(file) = self.files.get_mut(&key) {
            file.waiting = verdict == Verdict::Wait && outcome != Outcome::Held;
        }
        verdict
    }

    fn judge(&mut self, key: Key, outcome: Outcome, now: Moment, hurry: bool) -> Verdict {
        let file = self.files.entry(key).or_default();
        if outcome != Outcome::Held {
            file.held = 0;
        }
        if !matches!(outcome, Outcome::Absent { .. } | Outcome::Young { .. }) {
            file.absent_since = None;
        }
        if !matches!(outcome, Outcome::Unleased { .. }) {
            file.first_look = None;
        }
        match outcome {
            Outcome::Found(digest) => file.say(Posted::Found(digest)),
            Outcome::Refused(digest) => file.say(Posted::Refused(digest)),
            Outcome::Unleased { text, look } => match file.first_look {
                Some((first, at)) if first == look => {
                    let second = at.saturating_add(LOOKS_APART);
                    if now >= second {
                        file.first_look = None;
                        return file.say(Posted::Found(text));
                    }
                    self.schedule(key, second);
                    Verdict::Wait
                }
                _ => {
                    file.first_look = Some((look, now));
                    self.schedule(key, now.saturating_add(LOOKS_APART));
                    Verdict::Wait
                }
            },
            Outcome::Absent { why, at_once } => {
                let gone = file.absent_since.get_or_insert(now).saturating_add(ABSENT);
                if at_once || hurry || now >= gone {
                    file.absent_since = None;
                    return file.say(Posted::Absent(why));
                }
                if file.posted == Some(Posted::Absent(why)) && !file.again {
                    return Verdict::Same;
                }
                self.schedule(key, gone);
                Verdict::Wait
            }
            Outcome::Held => {
                let wait = HELD_FIRST.saturating_mul(1 << file.held.min(8)).min(HELD_MAX);
                file.held = file.held.saturating_add(1);
                let say = !file.busy_said && (hurry || file.held > 1);
                file.busy_said |= say;
                self.look_by(key, now.saturating_add(wait));
                if say { Verdict::Busy } else { Verdict::Wait }
            }
            Outcome::Young { wait } => {
                self.look_by(key, now.saturating_add(wait));
                Verdict::Wait
            }
        }
    }

    fn schedule(&mut self, key: Key, at: Moment) {
        let file = self.files.entry(key).or_default();
        if let Some(due) = file.due.replace(at) {
            self.due.remove(&(due, key));
        }
        self.due.insert((at, key));
    }
}

impl File {
    /// After a writer was told of, also that nothing came of it.
    fn say(&mut self, what: Posted) -> Verdict {
        let in_any_case = std::mem::take(&mut self.busy_said) | std::mem::take(&mut self.again);
        if self.posted == Some(what) && !in_any_case {
            return Verdict::Same;
        }
        self.posted = Some(what);
        Verdict::Post
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Moment {
        Duration::from_millis(ms)
    }

    const GONE: Outcome = Outcome::Absent { why: 9, at_once: false };

    #[test]
    fn a_look_waits_for_the_quiet_time_and_each_event_moves_it() {
        let mut settle = Settle::default();
        settle.touched(1, ms(0));
        settle.touched(1, ms(15));
        assert_eq!(settle.next_deadline(), Some(ms(35)));
        assert_eq!(settle.take_due(ms(34)), Vec::<Key>::new());
        assert_eq!(settle.take_due(ms(35)), [1]);
        assert_eq!(settle.next_deadline(), None);
        assert_eq!(settle.outcome(1, Outcome::Found(7), ms(35), false), Verdict::Post);
        assert_eq!(settle.next_deadline(), None, "settled: nothing is due");
    }

    #[test]
    fn the_same_text_is_posted_once_until_something_else_was_said() {
        let mut settle = Settle::default();
        let mut say = |outcome| settle.outcome(1, outcome, ms(0), false);
        assert_eq!(say(Outcome::Found(7)), Verdict::Post);
        assert_eq!(say(Outcome::Found(7)), Verdict::Same);
        assert_eq!(say(Outcome::Refused(7)), Verdict::Post);
        assert_eq!(say(Outcome::Found(7)), Verdict::Post);
        assert_eq!(say(Outcome::Found(8)), Verdict::Post);
    }

    #[test]
    fn a_removal_settles_after_a_second_and_events_do_not_move_that() {
        let mut settle = Settle::default();
        settle.outcome(1, Outcome::Found(7), ms(0), false);
        assert_eq!(settle.outcome(1, GONE, ms(100), false), Verdict::Wait);
        assert_eq!(settle.next_deadline(), Some(ms(1100)));
        settle.touched(1, ms(500));
        assert_eq!(settle.take_due(ms(520)), [1]);
        assert_eq!(settle.outcome(1, GONE, ms(520), false), Verdict::Wait);
        assert_eq!(settle.next_deadline(), Some(ms(1100)));
        assert_eq!(settle.take_due(ms(1100)), [1]);
        assert_eq!(settle.outcome(1, GONE, ms(1100), false), Verdict::Post);
        assert_eq!(settle.outcome(1, GONE, ms(1200), false), Verdict::Same);
        assert_eq!(settle.next_deadline(), None);
    }

    #[test]
    fn a_file_that_comes_back_within_the_second_was_never_gone() {
        let mut settle = Settle::default();
        settle.outcome(1, Outcome::Found(7), ms(0), false);
        assert_eq!(settle.outcome(1, GONE, ms(100), false), Verdict::Wait);
        assert_eq!(settle.outcome(1, Outcome::Found(7), ms(900), false), Verdict::Same);
        assert_eq!(settle.outcome(1, GONE, ms(1000), false), Verdict::Wait);
        assert_eq!(settle.next_deadline(), Some(ms(2000)), "absent since 1000, not since 100");
    }

    #[test]
    fn a_file_that_comes_back_after_it_was_gone_is_posted_again() {
        let mut settle = Settle::default();
        settle.outcome(1, Outcome::Found(7), ms(0), false);
        assert_eq!(settle.outcome(1, GONE, ms(1), true), Verdict::Post);
        assert_eq!(settle.outcome(1, Outcome::Found(7), ms(2), false), Verdict::Post);
    }

    #[test]
    fn a_writer_is_waited_for_with_a_bounded_backoff_and_said_once() {
        let mut settle = Settle::default();
        let mut now = ms(0);
        let mut gaps = Vec::new();
        let mut said = 0;
        for _ in 0..20 {
            said += u32::from(settle.outcome(1, Outcome::Held, now, false) == Verdict::Busy);
            let next = settle.next_deadline().unwrap();
            gaps.push((next - now).as_millis());
            now = next;
            settle.take_due(now);
        }
        assert_eq!(gaps[..6], [500, 1000, 2000, 4000, 8000, 8000]);
        assert_eq!(gaps[19], 8000);
        assert_eq!(said, 1);
        settle.outcome(1, Outcome::Held, now, false);
        settle.written(1, now);
        assert_eq!(settle.next_deadline(), Some(now + HELD_MAX), "more writing is no reason to look");
        settle.touched(1, now);
        assert_eq!(settle.next_deadline(), Some(now + QUIET), "the close is");
    }

    #[test]
    fn a_writer_of_whom_was_told_and_who_changed_nothing_is_told_of_too() {
        let mut settle = Settle::default();
        settle.outcome(1, Outcome::Found(7), ms(0), false);
        assert_eq!(settle.outcome(1, Outcome::Held, ms(1), true), Verdict::Busy);
        assert_eq!(settle.outcome(1, Outcome::Young { wait: QUIET }, ms(2), false), Verdict::Wait);
        assert_eq!(settle.outcome(1, Outcome::Found(7), ms(30), false), Verdict::Post);
        assert_eq!(settle.outcome(1, Outcome::Found(7), ms(40), false), Verdict::Same);
        settle.outcome(1, Outcome::Held, ms(50), false);
        assert_eq!(settle.outcome(1, Outcome::Found(7), ms(60), false), Verdict::Same, "nothing was said");
    }

    #[test]
    fn what_is_to_be_said_again_is_said_once_whatever_it_is() {
        let mut settle = Settle::default();
        settle.outcome(1, Outcome::Found(7), ms(0), false);
        settle.again(1);
        settle.rest(1);
        assert_eq!(settle.outcome(1, Outcome::Young { wait: QUIET }, ms(1), false), Verdict::Wait);
        assert_eq!(settle.outcome(1, Outcome::Found(7), ms(30), false), Verdict::Post);
        assert_eq!(settle.outcome(1, Outcome::Found(7), ms(40), false), Verdict::Same);
        // One that nobody knows and that goes before it was read is gone, after its second.
        settle.again(2);
        assert!(settle.is_posted(2));
        assert_eq!(settle.outcome(2, GONE, ms(0), false), Verdict::Wait);
        assert_eq!(settle.outcome(2, GONE, ms(1000), false), Verdict::Post);
        settle.again(2);
        assert_eq!(settle.outcome(2, GONE, ms(1100), false), Verdict::Wait);
        assert_eq!(settle.outcome(2, GONE, ms(2100), false), Verdict::Post);
        assert_eq!(settle.outcome(2, GONE, ms(2200), false), Verdict::Same);
    }

    #[test]
    fn without_leases_two_looks_must_agree() {
        let look = |text, look| Outcome::Unleased { text, look };
        let mut settle = Settle::default();
        assert_eq!(settle.outcome(1, look(7, 70), ms(0), false), Verdict::Wait);
        settle.hurry(ms(10));
        assert_eq!(settle.next_deadline(), Some(ms(2000)), "nobody hurries the second look");
        settle.take_due(ms(2000));
        assert_eq!(settle.outcome(1, look(7, 71), ms(2000), false), Verdict::Wait, "changed meanwhile");
        assert!(settle.is_waiting(1));
        assert_eq!(settle.outcome(1, look(7, 71), ms(3000), true), Verdict::Wait);
        assert_eq!(settle.next_deadline(), Some(ms(4000)));
        assert_eq!(settle.outcome(1, look(7, 71), ms(4000), false), Verdict::Post);
        assert!(!settle.is_waiting(1));
    }

    #[test]
    fn a_sync_skips_every_quiet_time() {
        let mut settle = Settle::default();
        settle.touched(1, ms(0));
        settle.outcome(2, Outcome::Found(7), ms(0), false);
        settle.outcome(2, GONE, ms(0), false);
        settle.outcome(3, Outcome::Held, ms(0), false);
        settle.hurry(ms(5));
        assert_eq!(settle.take_due(ms(5)), [1, 2, 3]);
        assert_eq!(settle.outcome(2, GONE, ms(5), true), Verdict::Post);
        assert_eq!(settle.outcome(3, Outcome::Held, ms(5), true), Verdict::Busy);
        assert!(settle.is_held(3));
    }

    #[test]
    fn resting_keeps_what_was_said_and_forgetting_does_not() {
        let mut settle = Settle::default();
        settle.outcome(1, Outcome::Found(7), ms(0), false);
        settle.touched(1, ms(1));
        settle.rest(1);
        assert_eq!(settle.next_deadline(), None);
        assert_eq!(settle.outcome(1, Outcome::Found(7), ms(2), false), Verdict::Same);
        settle.forget(1);
        assert!(!settle.is_posted(1));
        assert_eq!(settle.outcome(1, Outcome::Found(7), ms(2), false), Verdict::Post);
    }

    #[test]
    fn a_thousand_files_are_due_in_order() {
        let mut settle = Settle::default();
        for key in 0..1000 {
            settle.touched(key, ms(u64::from(1000 - key)));
        }
        let due = settle.take_due(ms(5000));
        assert_eq!(due.len(), 1000);
        assert!(due.windows(2).all(|pair| pair[0] > pair[1]));
        assert_eq!(settle.next_deadline(), None);
    }
}
