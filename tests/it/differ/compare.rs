//! Ours against the others: where they agree we agree, where they do not, the choice is listed.

use std::collections::BTreeMap;

use super::choices::{As, Choice, Fit};
use super::stage::Seen;

/// Of what a runtime says, in a kind.
const SHOWN: usize = 160;

/// What stands where a runtime has no such line.
const NOTHING: &str = "-";

/// By row of the table: what it was about, and how often.
pub type Uses = BTreeMap<usize, BTreeMap<String, u64>>;

/// One line that is not as it should be.
#[derive(Debug, Clone)]
pub struct Difference {
    pub key: String,
    /// moored, runc, crun.
    pub values: [String; 3],
    pub what: &'static str,
}

impl Difference {
    /// The same for all differences of one cause, more or less.
    pub fn kind(&self) -> String {
        let short = |text: &String| text.chars().take(SHOWN).collect::<String>();
        format!(
            "{} {}\n    moored {}\n    runc   {}\n    crun   {}",
            self.what,
            self.key,
            short(&self.values[0]),
            short(&self.values[1]),
            short(&self.values[2])
        )
    }
}

/// All that is wrong with what was seen of one case: moored, runc, crun.
pub fn differences(seen: &[Seen; 3], choices: &[Choice], used: &mut Uses) -> Vec<Difference> {
    let [ours, runc, crun] = seen;
    let mut found: Vec<Difference> = ours
        .left
        .iter()
        .map(|what| Difference {
            key: format!("left {what}"),
            values: Default::default(),
            what: "moored leaves something",
        })
        .collect();
    for prefix in ["", "exec "] {
        let key = format!("{prefix}outcome");
        let Some(outcomes) = values(seen, &key) else { continue };
        // Nobody joins what does not run.
        let has = [&ours.lines, &runc.lines, &crun.lines].map(|lines| lines.contains_key(&key));
        if !has[0] {
            continue;
        }
        let ran =
            [&ours.lines, &runc.lines, &crun.lines].map(|lines| lines.get(&key).is_some_and(|text| text == "ran"));
        let simple =
            [0, 1, 2].map(|at| if outcomes[at].starts_with("refused") { "refused" } else { outcomes[at].as_str() });
        found.extend(judge(&key, &outcomes, simple, has, choices, used));
        if !ran[0] {
            continue;
        }
        let mut keys: Vec<&String> = seen.iter().flat_map(|seen| seen.lines.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        let is_exec = prefix == "exec ";
        for key in keys.into_iter().filter(|key| !key.ends_with("outcome") && key.starts_with("exec ") == is_exec) {
            let values = values(seen, key).unwrap_or_default();
            let simple = [&values[0], &values[1], &values[2]].map(String::as_str);
            found.extend(judge(key, &values, simple, ran, choices, used));
        }
    }
    found
}

fn values(seen: &[Seen; 3], key: &str) -> Option<[String; 3]> {
    seen.iter().any(|seen| seen.lines.contains_key(key)).then(|| {
        let value = |at: usize| seen[at].lines.get(key).cloned().unwrap_or_else(|| NOTHING.to_owned());
        [value(0), value(1), value(2)]
    })
}

/// `simple` is what must be equal, `ran` who has a say.
fn judge(
    key: &str,
    values: &[String; 3],
    simple: [&str; 3],
    ran: [bool; 3],
    choices: &[Choice],
    used: &mut Uses,
) -> Option<Difference> {
    let is = |peer: usize| !ran[peer] || simple[peer] == simple[0];
    if is(1) && is(2) {
        return None;
    }
    let line = key.strip_prefix("exec ").unwrap_or(key);
    let note = |at: usize, used: &mut Uses| {
        let short = values.each_ref().map(|value| value.chars().take(SHOWN).collect::<String>());
        *used.entry(at).or_default().entry(format!("{line}: {}", short.join(" | "))).or_default() += 1;
    };
    let what = match verdict(line, values, simple, ran, choices) {
        Verdict::Chosen(at) => {
            note(at, used);
            return None;
        }
        Verdict::Unfollowed(at, peer) => {
            note(at, used);
            let mut ran = ran;
            ran[peer] = false;
            return judge(key, values, simple, ran, choices, used);
        }
        Verdict::NotAsChosen => "is not as it was chosen",
        Verdict::NotListed if ran[1] && ran[2] && simple[1] != simple[2] => {
            "differs between the peers, and no choice is listed"
        }
        Verdict::NotListed => "differs from the peers",
    };
    Some(Difference { key: key.to_owned(), values: values.clone(), what })
}

/// What the table says of one line.
enum Verdict {
    Chosen(usize),
    /// Why this one of two who refuse is not followed. The other refuses for a reason of its own, of which another row may speak.
    Unfollowed(usize, usize),
    NotAsChosen,
    NotListed,
}

fn verdict(line: &str, values: &[String; 3], simple: [&str; 3], ran: [bool; 3], choices: &[Choice]) -> Verdict {
    let is = |peer: usize| !ran[peer] || simple[peer] == simple[0];
    for (at, choice) in choices.iter().enumerate() {
        let Some(fit) = choice.fits(line, values, ran) else { continue };
        let holds = match choice.choice {
            As::Runc => is(1),
            As::Crun => is(2),
            As::Either => is(1) || is(2),
            As::Neither => true,
        };
        let refuses = |peer: usize| ran[peer] && simple[peer] == "refused";
        let unfollowed = match choice.choice {
            As::Crun if refuses(1) && choice.asks(1) && !choice.asks(2) => Some(1),
            As::Runc if refuses(2) && choice.asks(2) && !choice.asks(1) => Some(2),
            As::Runc | As::Crun | As::Either | As::Neither => None,
        };
        match (holds, unfollowed, fit) {
            (true, _, _) => return Verdict::Chosen(at),
            (false, Some(peer), _) if line == "outcome" => return Verdict::Unfollowed(at, peer),
            (false, _, Fit::Whole) => return Verdict::NotAsChosen,
            // It asks for words of one who has no say, so it may be about something else: the next one may be meant.
            (false, _, Fit::Part) => {}
        }
    }
    Verdict::NotListed
}

/// `*` is any text, a leading `!` means what does not match.
pub fn matches(pattern: &str, text: &str) -> bool {
    fn one(pattern: &str, text: &str) -> bool {
        match pattern.split_once('*') {
            None => pattern == text,
            Some((start, rest)) => {
                let Some(left) = text.strip_prefix(start) else { return false };
                rest.is_empty()
                    || (0..=left.len()).filter(|at| left.is_char_boundary(*at)).any(|at| one(rest, &left[at..]))
            }
        }
    }
    match pattern.strip_prefix('!') {
        Some(pattern) => !matches(pattern, text),
        None => one(pattern, text),
    }
}

#[test]
fn patterns_and_differences_are_judged_as_written() {
    assert!(matches("mount /proc/*", "mount /proc/keys") && !matches("mount /proc/*", "mount /sys"));
    assert!(matches("a*b*c", "a--b--c") && !matches("a*b*c", "a--c") && matches("!a*", "b") && !matches("!a*", "ab"));
    let seen = |hostname: &str| {
        let lines = [("outcome", "ran"), ("process hostname", hostname)];
        Seen { lines: lines.map(|(key, value)| (key.to_owned(), value.to_owned())).into(), ..Seen::default() }
    };
    let wrong = |ours, runc, crun| {
        let found = differences(&[seen(ours), seen(runc), seen(crun)], &[], &mut BTreeMap::new());
        found.into_iter().map(|difference| difference.what).collect::<Vec<_>>()
    };
    assert!(wrong("a", "a", "a").is_empty());
    assert_eq!(wrong("a", "b", "b"), ["differs from the peers"]);
    assert_eq!(wrong("a", "a", "b"), ["differs between the peers, and no choice is listed"]);
}

#[test]
fn who_has_no_say_and_who_refuses_for_a_reason_of_his_own_are_seen_through() {
    let rows = "| `outcome` | `ran` | `refused: a flag*` | | crun | w |\n| `outcome` | `ran` | | `refused: a rule*` | runc | w |\n\
                | `mount` | | `none` | | crun | w |\n| `mount` | `rw` | | `ro` | neither | w |";
    let choices: Vec<Choice> = rows.lines().map(super::choices::row).collect();
    let seen = |outcome: &str, mount: &str| {
        let lines = [("outcome", outcome), ("mount", mount)];
        Seen { lines: lines.map(|(key, value)| (key.to_owned(), value.to_owned())).into(), ..Seen::default() }
    };
    let wrong = |runc, crun| {
        let seen = [seen("ran", "rw"), seen(runc, "-"), seen(crun, "ro")];
        let found = differences(&seen, &choices, &mut BTreeMap::new());
        found.into_iter().map(|difference| (difference.key, difference.what)).collect::<Vec<_>>()
    };
    assert_eq!(wrong("refused: a flag", "refused: a rule"), [], "each has a row");
    assert_eq!(wrong("refused: a flag", "refused: who knows"), [("outcome".to_owned(), "differs from the peers")]);
    assert_eq!(wrong("refused: a flag", "ran"), [], "the third row is about what runc says, and the fourth is meant");
    let none = |text| [seen("ran", "rw"), seen("ran", text), seen("ran", "ro")];
    let found = differences(&none("none"), &choices, &mut BTreeMap::new());
    assert_eq!(
        found.iter().map(|found| found.what).collect::<Vec<_>>(),
        ["is not as it was chosen"],
        "the third row counts"
    );
}
