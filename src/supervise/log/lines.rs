//! Bytes to lines, per generation and stream. Pure.

use std::collections::VecDeque;

use super::index::{Owner, Stream};

/// A longer line is given in pieces, so that a reader's memory is bounded.
pub const LINE_MAX_BYTES: usize = 256 * 1024;
/// Unfinished lines held: two generations' two streams (an update may run two at a time), and one more to be safe.
const OPEN_MAX: usize = 6;

/// One line, or a note where bytes are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When its first byte came, ms since 1970; 0 if not known.
    pub time_ms: u64,
    /// Of which run of the unit.
    pub generation: u64,
    /// Which pipe.
    pub stream: Stream,
    /// What it is.
    pub what: What,
}

/// The content of an [`Entry`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// One line.
    Line {
        /// As the container wrote them, without the newline.
        bytes: Vec<u8>,
        /// What followed them.
        end: End,
    },
    /// So many bytes were not stored because the disk did not take them.
    Dropped {
        /// How many.
        bytes: u64,
    },
}

/// How a line ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With a newline.
    Newline,
    /// It is too long for one piece and goes on in the next entry of this stream.
    Cut,
    /// Without: the container ended, or bytes are missing, or no more has come.
    Open,
}

/// A line that has no newline yet.
#[derive(Debug, Clone)]
struct Open {
    owner: Owner,
    time_ms: u64,
    bytes: Vec<u8>,
}

/// Joins bytes into lines.
#[derive(Debug, Clone, Default)]
pub struct Assembler {
    open: Vec<Open>,
}

impl Assembler {
    /// Takes the next bytes of one owner; whole lines go to `out`.
    pub fn bytes(&mut self, owner: Owner, time_ms: u64, mut bytes: &[u8], out: &mut VecDeque<Entry>) {
        while !bytes.is_empty() {
            let at = self.open_line(owner, time_ms, out);
            let room = LINE_MAX_BYTES - self.open[at].bytes.len();
            let newline = bytes.iter().take(room).position(|b| *b == b'\n');
            let take = newline.unwrap_or(bytes.len().min(room));
            self.open[at].bytes.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take + usize::from(newline.is_some())..];
            if newline.is_some() || self.open[at].bytes.len() == LINE_MAX_BYTES {
                let open = self.open.remove(at);
                out.push_back(entry(open, if newline.is_some() { End::Newline } else { End::Cut }));
            }
        }
    }

    fn open_line(&mut self, owner: Owner, time_ms: u64, out: &mut VecDeque<Entry>) -> usize {
        if let Some(at) = self.open.iter().position(|open| open.owner == owner) {
            return at;
        }
        if self.open.len() == OPEN_MAX {
            out.push_back(entry(self.open.remove(0), End::Open));
        }
        self.open.push(Open { owner, time_ms, bytes: Vec::new() });
        self.open.len() - 1
    }

    /// A generation ended: its unfinished lines will not go on.
    pub fn ends(&mut self, generation: u64, out: &mut VecDeque<Entry>) {
        self.flush_where(|owner| owner.generation == generation, out);
    }

    /// Bytes of this owner are missing here: what came before cannot be joined with what follows.
    pub fn dropped(&mut self, owner: Owner, bytes: u64, time_ms: u64, out: &mut VecDeque<Entry>) {
        self.flush_where(|open| open == owner, out);
        let Owner { generation, stream } = owner;
        out.push_back(Entry { time_ms, generation, stream, what: What::Dropped { bytes } });
    }

    /// Gives up all unfinished lines, oldest first.
    pub fn flush(&mut self, out: &mut VecDeque<Entry>) {
        self.flush_where(|_| true, out);
    }

    fn flush_where(&mut self, ends: impl Fn(Owner) -> bool, out: &mut VecDeque<Entry>) {
        let (ended, open) = std::mem::take(&mut self.open).into_iter().partition(|open| ends(open.owner));
        self.open = open;
        out.extend(Vec::into_iter(ended).map(|open| entry(open, End::Open)));
    }
}

fn entry(open: Open, end: End) -> Entry {
    let Owner { generation, stream } = open.owner;
    Entry { time_ms: open.time_ms, generation, stream, what: What::Line { bytes: open.bytes, end } }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: Owner = Owner { generation: 1, stream: Stream::Out };
    const ERR: Owner = Owner { generation: 1, stream: Stream::Err };

    fn texts(out: &mut VecDeque<Entry>) -> Vec<(Stream, String, bool)> {
        let text = |e: Entry| match e.what {
            What::Line { bytes, end } => (e.stream, String::from_utf8(bytes).unwrap(), end == End::Newline),
            What::Dropped { bytes } => (e.stream, format!("-{bytes}"), true),
        };
        out.drain(..).map(text).collect()
    }

    #[test]
    fn lines_are_joined_per_stream() {
        let (mut lines, mut out) = (Assembler::default(), VecDeque::new());
        lines.bytes(OUT, 1, b"he", &mut out);
        lines.bytes(ERR, 2, b"oops\nmo", &mut out);
        lines.bytes(OUT, 3, b"llo\n\nx", &mut out);
        assert_eq!(out[1].time_ms, 1, "the time is the first byte's");
        let expected = [(Stream::Err, "oops"), (Stream::Out, "hello"), (Stream::Out, "")];
        assert_eq!(texts(&mut out), expected.map(|(s, t)| (s, t.to_owned(), true)));
        lines.flush(&mut out);
        assert_eq!(texts(&mut out), [(Stream::Err, "mo".into(), false), (Stream::Out, "x".into(), false)]);
    }

    #[test]
    fn a_generation_that_ended_is_not_glued_to_the_next() {
        let (mut lines, mut out) = (Assembler::default(), VecDeque::new());
        lines.bytes(OUT, 1, b"panic", &mut out);
        lines.ends(1, &mut out);
        lines.bytes(Owner { generation: 2, ..OUT }, 2, b"hello\n", &mut out);
        assert_eq!(texts(&mut out), [(Stream::Out, "panic".into(), false), (Stream::Out, "hello".into(), true)]);
    }

    #[test]
    fn missing_bytes_cut_the_line() {
        let (mut lines, mut out) = (Assembler::default(), VecDeque::new());
        lines.bytes(OUT, 1, b"ab", &mut out);
        lines.dropped(OUT, 7, 2, &mut out);
        lines.bytes(OUT, 3, b"yz\n", &mut out);
        let expected = [("ab", false), ("-7", true), ("yz", true)].map(|(t, e)| (Stream::Out, t.to_owned(), e));
        assert_eq!(texts(&mut out), expected);
    }

    #[test]
    fn a_line_without_end_and_many_generations_stay_bounded() {
        let (mut lines, mut out) = (Assembler::default(), VecDeque::new());
        lines.bytes(OUT, 1, &vec![b'x'; LINE_MAX_BYTES * 2 + 1], &mut out);
        assert_eq!(out.len(), 2);
        for generation in 2..100 {
            lines.bytes(Owner { generation, ..OUT }, 1, b"x", &mut out);
        }
        assert_eq!(lines.open.len(), OPEN_MAX);
    }
}
