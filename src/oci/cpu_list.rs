//! Lists of CPUs and memory nodes as cpuset(7) writes them (`0-3,7`), read into masks.

/// The bits of a list, lowest word first, none above `below`. `None`: it is no such list, or names nothing.
pub(super) fn parse(text: &str, below: u32) -> Option<Vec<u64>> {
    let mut words = vec![0u64; below.div_ceil(64) as usize];
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last >= below {
            return None;
        }
        for bit in first..=last {
            *words.get_mut(bit as usize / 64)? |= 1 << (bit % 64);
        }
    }
    let used = words.iter().rposition(|word| *word != 0)?;
    words.truncate(used + 1);
    Some(words)
}

/// Digits alone: `parse` itself would take a sign.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// As it is written, for people.
pub(super) fn show(words: &[u64]) -> String {
    let is_set = |bit: usize| words.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1);
    let (mut parts, mut bit) = (Vec::new(), 0);
    while bit < words.len() * 64 {
        let length = (bit..).take_while(|bit| is_set(*bit)).count();
        match length {
            0 => {}
            1 => parts.push(bit.to_string()),
            _ => parts.push(format!("{bit}-{}", bit + length - 1)),
        }
        bit += length.max(1);
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_are_read_as_cpuset_has_them() {
        assert_eq!(parse("0-3,7", 64), Some(vec![0x8f]));
        assert_eq!(parse(" 1 , 64", 128), Some(vec![2, 1]));
        assert_eq!(parse("8191", 8192).map(|words| words.len()), Some(128));
        for bad in ["", ",", "1,", "3-1", "a", "-1", "1-", "+1", "64", "0-4294967295", "1-2-3", "99999999999"] {
            assert_eq!(parse(bad, 64), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_again(words in proptest::collection::vec(any::<u64>(), 1..4)) {
            let mut words = words;
            words.push(1);
            prop_assert_eq!(parse(&show(&words), 256), Some(words));
        }
    }
}
