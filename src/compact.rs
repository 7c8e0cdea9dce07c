//! Code that is there once for all types.
//!
//! A sort is compiled anew for each type and each order, 4 KB each time, and so is a map that is collected, which sorts; serde writes a reader of JSON for
//! each kind of input. The image lies in memory as a whole, so that is memory: some 300 KB of it were sorts. Here places are sorted, which are of one type, maps
//! grow by insertion, and JSON is read from text alone.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use serde::de::{DeserializeOwned, Error};

/// Sorts by an order; what is equal keeps its own.
pub fn sort_by<T>(items: &mut [T], mut order: impl FnMut(&T, &T) -> Ordering) {
    let mut comes_from = sorted_places(items.len(), &mut |a, b| order(&items[a], &items[b]));
    // Each circle of places is gone round once.
    for first in 0..items.len() {
        let mut at = first;
        loop {
            let from = std::mem::replace(&mut comes_from[at], at);
            if from == first || from == at {
                break;
            }
            items.swap(at, from);
            at = from;
        }
    }
}

/// The same by a key.
pub fn sort_by_key<T, K: Ord>(items: &mut [T], mut key: impl FnMut(&T) -> K) {
    sort_by(items, |a, b| key(a).cmp(&key(b)));
}

/// The same by what the items are.
pub fn sort<T: Ord>(items: &mut [T]) {
    sort_by(items, T::cmp);
}

fn sorted_places(count: usize, order: &mut dyn FnMut(usize, usize) -> Ordering) -> Vec<usize> {
    let mut places: Vec<usize> = (0..count).collect();
    places.sort_by(|a, b| order(*a, *b));
    places
}

/// Of equal keys the last counts.
pub fn map<K: Ord, V>(pairs: impl IntoIterator<Item = (K, V)>) -> BTreeMap<K, V> {
    let mut map = BTreeMap::new();
    map.extend(pairs);
    map
}

/// Of equal items the first stays.
pub fn set<T: Ord>(items: impl IntoIterator<Item = T>) -> BTreeSet<T> {
    let mut set = BTreeSet::new();
    set.extend(items);
    set
}

/// Reads JSON. That it is UTF-8 is looked at once, not again for each text in it.
///
/// Errs as serde_json does, with line and column.
pub fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    match std::str::from_utf8(bytes) {
        Ok(text) => serde_json::from_str(text),
        Err(_) => {
            Err(serde_json::from_slice::<serde_json::Value>(bytes).err().unwrap_or_else(|| Error::custom("not UTF-8")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorts_are_those_of_the_standard_library() {
        let mut seed = 7u64;
        for count in [0, 1, 2, 3, 7, 20, 21, 500] {
            let next = |seed: &mut u64| {
                *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *seed >> 60
            };
            let items: Vec<(u64, usize)> = (0..count).map(|place| (next(&mut seed), place)).collect();
            let (mut ours, mut theirs) = (items.clone(), items);
            sort_by_key(&mut ours, |(key, _)| *key);
            theirs.sort_by_key(|(key, _)| *key);
            assert_eq!(ours, theirs);
            sort(&mut ours);
            theirs.sort();
            assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn maps_and_sets_are_as_collected() {
        let pairs = [(2, "a"), (1, "b"), (2, "c")];
        assert_eq!(map(pairs), pairs.into_iter().collect());
        assert_eq!(set([3, 1, 3]), BTreeSet::from([1, 3]));
    }

    #[test]
    fn json_that_is_no_text_is_told_with_its_place() {
        assert_eq!(from_json::<Vec<u8>>(b"[1, 2]").unwrap(), [1, 2]);
        let error = from_json::<Vec<String>>(b"[\n \"\xff\"]").unwrap_err();
        assert_eq!((error.line(), error.is_syntax()), (2, true), "{error}");
    }
}
