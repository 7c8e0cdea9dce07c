//! Words that people slip in: how near two are, and those that unit files and config.json share. And how what others wrote is shown.
//!
//! Pure, and below `unit` and `oci`, which may not use each other but make the same suggestions.

/// Longer keys get no suggestion by likeness: the comparison is quadratic.
const LIKENESS_MAX: usize = 64;

/// All capabilities up to Linux 6.18, without the `CAP_` that all share, in the order of their numbers (capabilities(7), linux/capability.h).
pub const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The nearest of some words to one that is none of them, or the first that it begins, if there is any.
pub fn nearest<'w>(word: &str, words: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    let lower = word.to_ascii_lowercase();
    let near = |other: &'w str| distance(&lower, &other.to_ascii_lowercase()).map(|d| (d, other));
    let words: Vec<&str> = words.into_iter().collect();
    let best = words.iter().filter_map(|other| near(other)).min_by_key(|(d, _)| *d);
    let begun =
        || words.iter().find(|other| lower.len() > 2 && other.to_ascii_lowercase().starts_with(&lower)).copied();
    best.filter(|(d, _)| *d <= tolerance(&lower)).map(|(_, other)| other).or_else(begun)
}

/// How many slips a word of this length may hold and still be recognised.
pub fn tolerance(word: &str) -> usize {
    match word.chars().count() {
        0..=2 => 0,
        3..=5 => 1,
        _ => 2,
    }
}

/// Letters added, dropped, replaced or swapped with their neighbour; `None` for words too long to be compared.
pub fn distance(a: &str, b: &str) -> Option<usize> {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(LIKENESS_MAX + 1).collect(), b.chars().collect());
    if a.len() > LIKENESS_MAX || b.len() > LIKENESS_MAX {
        return None;
    }
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            if i == 0 || j == 0 {
                rows[i][j] = i + j;
                continue;
            }
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    Some(rows[a.len()][b.len()])
}

/// In one line, with what controls a terminal written out.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().flat_map(visible).collect()
}

/// Separators U+2028/2029 and direction overrides change what a terminal shows without being `is_control`.
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// The character, or its escape if it is hidden.
pub(crate) fn visible(c: char) -> impl Iterator<Item = char> {
    let hidden = is_hidden(c);
    let escaped = hidden.then(|| c.escape_default());
    let plain = (!hidden).then_some(c);
    escaped.into_iter().flatten().chain(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_slips() {
        assert_eq!(distance("args", "agrs"), Some(1));
        assert_eq!(distance("", "abc"), Some(3));
        assert_eq!(distance("kitten", "sitting"), Some(3));
        assert_eq!(nearest("sigtrem", ["SIGHUP", "SIGTERM"]), Some("SIGTERM"));
        assert_eq!(nearest("NET_BIND", ["NET_ADMIN", "NET_BIND_SERVICE"]), Some("NET_BIND_SERVICE"));
        assert_eq!(nearest("zzz", ["SIGHUP"]), None);
    }
}
