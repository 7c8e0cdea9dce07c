//! What happens to each call number: the rules of a profile gathered by number, numbers with one outcome joined to
//! ranges.

use std::collections::HashMap;

use super::abi::{Abi, X32_BIT};
use super::rules::{self, Profile, RETURN_ENOSYS, Rule};
use super::{multiplex, syscalls};

/// What a number leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A `SECCOMP_RET_*` value whatever the arguments are.
    Return(u32),
    /// Arguments decide: an index into the chains.
    Chain(usize),
}

/// Rules in the order of the file, the first that holds wins.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Chain {
    /// Indices of rules, all with conditions.
    pub(super) rules: Vec<usize>,
    /// Where none holds.
    pub(super) otherwise: u32,
    /// Only the low halves of arguments count.
    pub(super) narrow: bool,
}

/// All numbers of one `AUDIT_ARCH_*`.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) audit_arch: u32,
    /// First number and outcome, ascending from 0; each range ends where the next starts.
    pub(super) ranges: Vec<(u32, Outcome)>,
}

/// Everything that the assembler needs.
pub(super) struct Plan {
    pub(super) sections: Vec<Section>,
    pub(super) chains: Vec<Chain>,
    pub(super) rules: Vec<Rule>,
}

/// Gathers a profile. `bad_arch` is for x32 calls where x32 is not listed.
pub(super) fn plan(profile: Profile<'_>, bad_arch: u32) -> Plan {
    let mut gather = Gather { named: named(&profile), chains: Vec::new(), known: HashMap::new(), profile };
    let mut sections = Vec::new();
    for abi in gather.profile.abis.clone() {
        if abi == Abi::X32 {
            continue; // Part of x86-64's section.
        }
        let mut ranges = Ranges(Vec::new());
        gather.fill(abi, 0, &mut ranges);
        if abi == Abi::X86_64 {
            if gather.profile.abis.contains(&Abi::X32) {
                gather.fill(Abi::X32, X32_BIT, &mut ranges);
            } else {
                // -1 is what a tracer writes to skip a call, not an x32 number: it stays what it is without the bit.
                let last = ranges.0.last().map_or(Outcome::Return(bad_arch), |(_, outcome)| *outcome);
                ranges.add(X32_BIT, Outcome::Return(bad_arch));
                ranges.add(u32::MAX, last);
            }
        }
        sections.push(Section { audit_arch: abi.audit_arch(), ranges: ranges.0 });
    }
    Plan { sections, chains: gather.chains, rules: gather.profile.rules }
}

/// A name of the profile that is known.
struct Named {
    /// The entry it stands in.
    entry: usize,
    /// Its numbers.
    row: Option<&'static syscalls::Row>,
    /// Its other way on i386.
    call: Option<&'static multiplex::Call>,
}

/// Each name that the tables know, found once.
fn named(profile: &Profile<'_>) -> Vec<Named> {
    let (mut rows, mut calls) = (syscalls::lookup(), multiplex::lookup());
    let mut named = Vec::with_capacity(profile.entries.iter().map(|entry| entry.names.len()).sum());
    for (at, entry) in profile.entries.iter().enumerate() {
        let found = entry.names.iter().map(|name| Named { entry: at, row: rows.find(name), call: calls.find(name) });
        named.extend(found.filter(|named| named.row.is_some() || named.call.is_some()));
    }
    named
}

/// The rules of all numbers of one ABI.
#[derive(Default)]
struct Numbered {
    /// A number and an index into `rules` in one word, which is quick to sort: by number, and then as the file has them.
    order: Vec<u64>,
    rules: Vec<usize>,
}

impl Numbered {
    fn add(&mut self, number: u32, rule: usize) {
        self.order.push(u64::from(number) << 32 | self.rules.len() as u64);
        self.rules.push(rule);
    }

    fn number(word: u64) -> u32 {
        (word >> 32) as u32
    }

    fn rule(&self, word: u64) -> Option<usize> {
        self.rules.get(word as u32 as usize).copied()
    }
}

struct Gather<'a> {
    profile: Profile<'a>,
    named: Vec<Named>,
    chains: Vec<Chain>,
    known: HashMap<Chain, usize>,
}

impl Gather<'_> {
    /// Appends the ranges of one ABI, whose numbers start at `first`.
    fn fill(&mut self, abi: Abi, first: u32, ranges: &mut Ranges) {
        let (mut numbered, newest) = self.numbered(abi);
        numbered.order.sort_unstable();
        let default = self.profile.default;
        let newer = if self.profile.enosys_for_newer { RETURN_ENOSYS } else { default };
        let unnamed = |number: u32| if newest.is_some_and(|last| number > last) { newer } else { default };
        let gap = |number: u32| Outcome::Return(unnamed(number));
        let mut next = Some(first);
        for group in numbered.order.chunk_by(|one, other| Numbered::number(*one) == Numbered::number(*other)) {
            let Some(number) = group.first().copied().map(Numbered::number) else { continue };
            let group = group.iter().filter_map(|word| numbered.rule(*word));
            if let Some(start) = next.filter(|start| *start < number) {
                ranges.add_gap(start, number, newest, gap);
            }
            // A multiplexer that is not named itself is newer as well, but for the calls that are. Private numbers are named when they are here.
            let otherwise = if syscalls::is_private(number) { default } else { unnamed(number) };
            ranges.add(number, self.outcome(abi, group, otherwise));
            next = number.checked_add(1);
        }
        if let Some(start) = next {
            ranges.add_gap(start, u32::MAX, newest, gap);
        }
    }

    /// All rules with their numbers, and the newest number that is named, by whatever rule.
    fn numbered(&mut self, abi: Abi) -> (Numbered, Option<u32>) {
        let mut numbered = Numbered::default();
        numbered.order.reserve(self.named.len());
        numbered.rules.reserve(self.named.len());
        let mut newest = None;
        for named in &self.named {
            let Some(entry) = self.profile.entries.get(named.entry) else { continue };
            let number = named.row.and_then(|row| syscalls::number_in(row, abi));
            if let Some(number) = number {
                newest = newest.max(Some(number).filter(|number| !syscalls::is_private(*number)));
                entry.rules.clone().for_each(|rule| numbered.add(number, rule));
            }
            if abi == Abi::I386
                && let Some((number, rule)) =
                    named.call.and_then(|call| multiplexed(call, &self.profile.rules, entry.rules.clone()))
            {
                numbered.add(number, self.profile.rules.len());
                self.profile.rules.push(rule);
            }
        }
        (numbered, newest)
    }

    /// The outcome of one number, from all its rules, and `otherwise` where none of them holds.
    fn outcome(&mut self, abi: Abi, group: impl Iterator<Item = usize> + Clone, otherwise: u32) -> Outcome {
        let mut all = group.clone().filter_map(|rule| self.profile.rules.get(rule));
        if let Some(always) = all.find(|rule| rule.conditions.is_empty()) {
            return Outcome::Return(always.action);
        }
        let rules: Vec<usize> = group.collect();
        let mut conditions = rules.iter().filter_map(|rule| self.profile.rules.get(*rule)).flat_map(|r| &r.conditions);
        // Where upper halves do not matter anyway, narrow and wide ABIs share one piece of code.
        let narrow = abi.is_narrow() && conditions.any(|condition| condition.test.reads_upper_half());
        let chain = Chain { rules, otherwise, narrow };
        let chains = &mut self.chains;
        Outcome::Chain(*self.known.entry(chain).or_insert_with_key(|chain| {
            chains.push(chain.clone());
            chains.len() - 1
        }))
    }
}

/// The rule that a multiplexer gets for one of its calls.
fn multiplexed(call: &multiplex::Call, rules: &[Rule], range: std::ops::Range<usize>) -> Option<(u32, Rule)> {
    let first = rules.get(range)?.first()?;
    let said = first.conditions.is_empty() || !rules::lets_run(first.action);
    said.then(|| (call.1, Rule { conditions: vec![multiplex::condition(call)], action: first.action }))
}

/// Ascending ranges; neighbours with one outcome are one.
struct Ranges(Vec<(u32, Outcome)>);

impl Ranges {
    fn add(&mut self, start: u32, outcome: Outcome) {
        if self.0.last().is_none_or(|(_, last)| *last != outcome) {
            self.0.push((start, outcome));
        }
    }

    /// Numbers that no rule names, from `start` to before `end` (or to the last one).
    fn add_gap(&mut self, start: u32, end: u32, newest: Option<u32>, outcome: impl Fn(u32) -> Outcome) {
        self.add(start, outcome(start));
        if let Some(after) =
            newest.and_then(|newest| newest.checked_add(1)).filter(|after| (start..end).contains(after))
        {
            self.add(after, outcome(after));
        }
    }
}
