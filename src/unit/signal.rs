//! Signals by name. The numbers are those of x86-64 and aarch64, which are the same (`asm-generic/signal.h`).

use std::fmt;

use super::Signal;

/// Names without `SIG`, by number from 1.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

/// Other names of the same signals (signal(7)).
const ALIASES: [(&str, u8); 4] = [("IOT", 6), ("CLD", 17), ("POLL", 29), ("UNUSED", 31)];

/// glibc keeps 32 and 33 to itself: its SIGRTMIN is 34.
const RTMIN: u8 = 34;
const RTMAX: u8 = 64;

impl Signal {
    /// Reads "SIGTERM", "TERM", "term", "SIGRTMIN+3", "RTMAX-1" or "15"; `None` if it is no signal.
    pub fn parse(text: &str) -> Option<Signal> {
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return text.parse().ok().and_then(Signal::from_number);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some(rest) = name.strip_prefix("RTMIN") {
            return offset(rest, '+').and_then(|n| RTMIN.checked_add(n)).filter(|n| *n <= RTMAX).map(Signal);
        }
        if let Some(rest) = name.strip_prefix("RTMAX") {
            return offset(rest, '-').and_then(|n| RTMAX.checked_sub(n)).filter(|n| *n >= RTMIN).map(Signal);
        }
        let known = (1u8..).zip(NAMES).map(|(number, name)| (name, number)).chain(ALIASES);
        known.into_iter().find(|(known, _)| *known == name).map(|(_, number)| Signal(number))
    }

    /// 1 to 64; 0 is not a signal, 65 and more do not exist.
    pub fn from_number(number: u64) -> Option<Signal> {
        u8::try_from(number).ok().filter(|n| (1..=RTMAX).contains(n)).map(Signal)
    }

    /// All the names a suggestion may come from, without `SIG`.
    pub(crate) fn names() -> &'static [&'static str] {
        &NAMES
    }
}

fn offset(rest: &str, sign: char) -> Option<u8> {
    if rest.is_empty() {
        return Some(0);
    }
    rest.strip_prefix(sign).filter(|n| n.bytes().all(|b| b.is_ascii_digit())).and_then(|n| n.parse().ok())
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = usize::from(self.0).checked_sub(1).and_then(|at| NAMES.get(at));
        match (name, self.0) {
            (Some(name), _) => write!(f, "SIG{name}"),
            (None, RTMIN) => f.write_str("SIGRTMIN"),
            (None, n) if n > RTMIN => write!(f, "SIGRTMIN+{}", n - RTMIN),
            (None, n) => write!(f, "signal {n}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_reads_back_as_printed() {
        for n in (1..=31).chain(RTMIN..=RTMAX) {
            assert_eq!(Signal::parse(&Signal(n).to_string()), Some(Signal(n)), "{n}");
            assert_eq!(Signal::parse(&n.to_string()), Some(Signal(n)), "{n}");
        }
    }

    #[test]
    fn names_are_those_of_signal_7() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("TERM", 15),
            ("sighup", 1),
            ("SIGIOT", 6),
            ("SIGPOLL", 29),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX", 64),
            ("RTMAX-30", 34),
            ("32", 32),
        ] {
            assert_eq!(Signal::parse(text), Some(Signal(number)), "{text}");
        }
        for bad in ["", "SIG", "0", "65", "-1", "SIGRTMIN+31", "RTMAX-31", "RTMIN-1", "TERMS", "99999999999999999999"] {
            assert_eq!(Signal::parse(bad), None, "{bad}");
        }
    }
}
