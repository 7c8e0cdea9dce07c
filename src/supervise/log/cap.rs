//! The cap on all logs of the host: whose file goes. Pure.

/// What the cap needs to know of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// All its files.
    pub bytes: u64,
    /// How many files it has before the current one.
    pub rotated: usize,
    /// Bytes of the current file.
    pub current_bytes: u64,
}

/// What makes room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Remove this unit's oldest file before the current one.
    Oldest(usize),
    /// No unit has any: begin a new file for this one (the largest), then its old one can go.
    Rotate(usize),
}

/// The next step towards the cap; `None` when nothing can be removed.
pub fn plan_cut(units: impl Iterator<Item = Use>) -> Option<Cut> {
    let mut oldest: Option<(u64, usize)> = None;
    let mut current: Option<(u64, usize)> = None;
    for (at, unit) in units.enumerate() {
        if unit.rotated > 0 && oldest.is_none_or(|(most, _)| unit.bytes > most) {
            oldest = Some((unit.bytes, at));
        }
        if unit.current_bytes > 0 && current.is_none_or(|(most, _)| unit.current_bytes > most) {
            current = Some((unit.current_bytes, at));
        }
    }
    oldest.map(|(_, at)| Cut::Oldest(at)).or(current.map(|(_, at)| Cut::Rotate(at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(bytes: u64, rotated: usize) -> Use {
        Use { bytes, rotated, current_bytes: if rotated == 0 { bytes } else { 1 } }
    }

    #[test]
    fn the_largest_unit_that_has_old_files_gives_first() {
        assert_eq!(plan_cut([unit(5, 1), unit(9, 2), unit(50, 0)].into_iter()), Some(Cut::Oldest(1)));
    }

    #[test]
    fn without_old_files_the_largest_current_one_is_rotated() {
        assert_eq!(plan_cut([unit(5, 0), unit(9, 0)].into_iter()), Some(Cut::Rotate(1)));
        assert_eq!(plan_cut([unit(0, 0)].into_iter()), None);
        assert_eq!(plan_cut(std::iter::empty()), None);
    }
}
