//! Looking up many names, which profiles mostly list in order, in a table that is sorted by name.

use std::cmp::Ordering;

/// Rows that are looked at one by one, from where the last name was.
const NEAR: usize = 8;

/// A table and a place in it.
pub(super) struct Lookup<R: 'static, N> {
    table: &'static [R],
    name: N,
    at: usize,
}

impl<R, N: Fn(&R) -> &'static str> Lookup<R, N> {
    /// From its beginning.
    pub(super) fn new(table: &'static [R], name: N) -> Lookup<R, N> {
        Lookup { table, name, at: 0 }
    }

    /// The row of this name.
    pub(super) fn find(&mut self, name: &str) -> Option<&'static R> {
        let ahead = self.table.get(self.at..).unwrap_or_default().iter().take(NEAR);
        let mut passed = 0;
        for row in ahead {
            match (self.name)(row).cmp(name) {
                Ordering::Less => passed += 1,
                Ordering::Equal => {
                    self.at += passed;
                    return Some(row);
                }
                // Behind the one that it comes after.
                Ordering::Greater if passed > 0 => {
                    self.at += passed;
                    return None;
                }
                Ordering::Greater => break,
            }
        }
        match self.table.binary_search_by(|row| (self.name)(row).cmp(name)) {
            Ok(at) => {
                self.at = at;
                self.table.get(at)
            }
            Err(at) => {
                // What comes next is likely behind the row before.
                self.at = at.saturating_sub(1);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_whatever_order_they_are_asked_for() {
        static TABLE: [&str; 12] = ["b", "d", "f", "h", "j", "l", "n", "p", "r", "t", "v", "x"];
        let letters: Vec<String> = ('a'..='z').map(String::from).collect();
        let backwards: Vec<String> = letters.iter().rev().cloned().collect();
        let jumps: Vec<String> = (0..26).map(|n| letters[n * 7 % 26].clone()).collect();
        for names in [&letters, &backwards, &jumps] {
            let mut lookup = Lookup::new(&TABLE, |row| row);
            for name in names.iter().chain(names) {
                let expected = TABLE.iter().find(|row| *row == name);
                assert_eq!(lookup.find(name), expected, "{name}");
            }
        }
        assert_eq!(Lookup::new(&[] as &[&str], |row| row).find("a"), None);
    }
}
