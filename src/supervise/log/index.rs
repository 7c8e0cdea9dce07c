//! The index beside a log file: which bytes are whose, since when. Pure.
//!
//! A record is 16 bytes, little endian: offset in the log file (48 bits), kind (8), check (8), then a value (64): the time in ms
//! since 1970 for bytes, else a generation or a number of bytes. Records are only ever appended. The bytes from a record's offset
//! up to the next record's offset, or the end of the file, are that record's; a record that has none is void.

/// Size of one record.
pub const RECORD_BYTES: usize = 16;
/// A record covers what comes on the same stream within this time.
pub const COALESCE_MS: u64 = 10;
/// Offsets have 48 bits.
const OFFSET_MAX: u64 = (1 << 48) - 1;
/// Makes a record of zeros (a hole after a power loss) invalid.
const CHECK_SEED: u8 = 0xA7;

/// Which of the two pipes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// stdout.
    Out,
    /// stderr.
    Err,
}

/// What a record says from its offset on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Bytes of this stream, which came at this time.
    Bytes { stream: Stream, time_ms: u64 },
    /// A new generation's first byte would be here; what follows is its.
    Begins { generation: u64 },
    /// What follows is this generation's, which began earlier.
    Continues { generation: u64 },
    /// This generation has written its last byte; whose bytes follow does not change.
    Ends { generation: u64 },
    /// The disk did not take this many bytes of the current generation's.
    Dropped { stream: Stream, bytes: u64 },
}

/// One entry of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// In the log file of the same number.
    pub offset: u64,
    /// What holds from there on.
    pub mark: Mark,
}

impl Record {
    /// As it is stored.
    pub fn encode(self) -> [u8; RECORD_BYTES] {
        let (kind, value) = match self.mark {
            Mark::Bytes { stream: Stream::Out, time_ms } => (1, time_ms),
            Mark::Bytes { stream: Stream::Err, time_ms } => (2, time_ms),
            Mark::Begins { generation } => (3, generation),
            Mark::Continues { generation } => (4, generation),
            Mark::Ends { generation } => (5, generation),
            Mark::Dropped { stream: Stream::Out, bytes } => (6, bytes),
            Mark::Dropped { stream: Stream::Err, bytes } => (7, bytes),
        };
        let mut text = [0; RECORD_BYTES];
        text[..8].copy_from_slice(&self.offset.min(OFFSET_MAX).to_le_bytes());
        text[6] = kind;
        text[8..].copy_from_slice(&value.to_le_bytes());
        text[7] = check(&text);
        text
    }

    /// `None` if these bytes are no record.
    pub fn decode(text: &[u8; RECORD_BYTES]) -> Option<Record> {
        if text[7] != check(text) {
            return None;
        }
        let word = |at: usize| -> u64 { (0..8).rev().fold(0, |word, i| word << 8 | u64::from(text[at + i])) };
        let value = word(8);
        let mark = match text[6] {
            1 => Mark::Bytes { stream: Stream::Out, time_ms: value },
            2 => Mark::Bytes { stream: Stream::Err, time_ms: value },
            3 => Mark::Begins { generation: value },
            4 => Mark::Continues { generation: value },
            5 => Mark::Ends { generation: value },
            6 => Mark::Dropped { stream: Stream::Out, bytes: value },
            7 => Mark::Dropped { stream: Stream::Err, bytes: value },
            _ => return None,
        };
        Some(Record { offset: word(0) & OFFSET_MAX, mark })
    }
}

/// Over every byte but its own place.
fn check(text: &[u8; RECORD_BYTES]) -> u8 {
    let others = text.iter().enumerate().filter(|(at, _)| *at != 7);
    others.fold(CHECK_SEED, |sum, (_, byte)| sum.rotate_left(1) ^ byte)
}

/// The records of an index up to the first that is torn, damaged, beyond the log's end, or behind its predecessor: what a crash or a
/// power loss left of it. The writer cuts the rest off before it goes on.
pub fn valid_records(index: &[u8], log_bytes: u64) -> impl Iterator<Item = Record> {
    let mut floor = 0;
    index.as_chunks().0.iter().map_while(move |text| {
        let record = Record::decode(text).filter(|r| r.offset >= floor && r.offset <= log_bytes)?;
        floor = record.offset;
        Some(record)
    })
}

/// What the writer knows about the end of its file: it decides which records the next splice needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Bytes in the log file.
    pub offset: u64,
    /// Whose bytes the next ones are, if the index says.
    pub generation: Option<u64>,
    /// The last record, if more bytes may go under it.
    open: Option<(Stream, u64)>,
}

impl Cursor {
    /// Takes up a file again. Nothing is coalesced into what was written before.
    pub fn resume(records: impl Iterator<Item = Record>, log_bytes: u64) -> Cursor {
        let generation = records.fold(None, |generation, record| match record.mark {
            Mark::Begins { generation } | Mark::Continues { generation } => Some(generation),
            Mark::Bytes { .. } | Mark::Ends { .. } | Mark::Dropped { .. } => generation,
        });
        Cursor { offset: log_bytes, generation, open: None }
    }

    /// The records that must be in the index before bytes of this stream are moved; none if the last one covers them.
    pub fn before_splice(&self, generation: u64, stream: Stream, now_ms: u64) -> impl Iterator<Item = Record> + use<> {
        let same = self.generation == Some(generation);
        let open = same && self.open.is_some_and(|(s, since)| s == stream && now_ms.abs_diff(since) < COALESCE_MS);
        let owner = (!same).then_some(self.record(Mark::Continues { generation }));
        let bytes = (!open).then_some(self.record(Mark::Bytes { stream, time_ms: now_ms }));
        owner.into_iter().chain(bytes)
    }

    /// A record for the place where the file ends now.
    pub fn record(&self, mark: Mark) -> Record {
        Record { offset: self.offset, mark }
    }

    /// The index has this record now.
    pub fn wrote(&mut self, record: Record) {
        self.open = None;
        match record.mark {
            Mark::Bytes { stream, time_ms } => self.open = Some((stream, time_ms)),
            Mark::Begins { generation } | Mark::Continues { generation } => self.generation = Some(generation),
            Mark::Ends { .. } | Mark::Dropped { .. } => {}
        }
    }

    /// The splice moved so many bytes. If none, its record stays void and is closed.
    pub fn moved(&mut self, bytes: u64) {
        self.offset += bytes;
        if bytes == 0 {
            self.open = None;
        }
    }
}

/// Consecutive bytes of one stream, generation and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// In the log file.
    pub offset: u64,
    /// Never 0.
    pub bytes: u64,
    /// Whose.
    pub owner: Owner,
    /// ms since 1970.
    pub time_ms: u64,
}

/// One generation's one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// 0 if the index does not say.
    pub generation: u64,
    /// Which pipe.
    pub stream: Stream,
}

/// What a reader meets, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// Bytes to read.
    Bytes(Extent),
    /// At this place a generation began.
    Begins { offset: u64, generation: u64 },
    /// Here it ended.
    Ends { generation: u64 },
    /// Here bytes are missing.
    Dropped { owner: Owner, bytes: u64, time_ms: u64 },
}

impl Piece {
    /// Whose it is.
    pub fn generation(&self) -> u64 {
        match self {
            Piece::Bytes(Extent { owner, .. }) | Piece::Dropped { owner, .. } => owner.generation,
            Piece::Begins { generation, .. } | Piece::Ends { generation } => *generation,
        }
    }
}

/// Turns records into pieces, as far as the file has grown: the reader's counterpart of [`Cursor`].
#[derive(Debug, Clone)]
pub struct Walk {
    offset: u64,
    owner: Owner,
    time_ms: u64,
}

impl Walk {
    /// At the beginning of a file. Bytes before the first record would be stdout's, of generation 0, at time 0: shown, not hidden.
    pub fn start() -> Walk {
        Walk { offset: 0, owner: Owner { generation: 0, stream: Stream::Out }, time_ms: 0 }
    }

    /// How far it has come.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The bytes up to `end` that belong to the last record seen.
    pub fn bytes_until(&mut self, end: u64) -> Option<Piece> {
        let bytes = end.checked_sub(self.offset).filter(|bytes| *bytes > 0)?;
        let extent = Extent { offset: self.offset, bytes, owner: self.owner, time_ms: self.time_ms };
        self.offset = end;
        Some(Piece::Bytes(extent))
    }

    /// The next record: the bytes before it (of a log that has `log_bytes` so far), then what it says itself.
    pub fn record(&mut self, record: Record, log_bytes: u64) -> [Option<Piece>; 2] {
        let before = self.bytes_until(record.offset.min(log_bytes));
        let own = match record.mark {
            Mark::Bytes { stream, time_ms } => {
                self.owner.stream = stream;
                self.time_ms = time_ms;
                None
            }
            Mark::Begins { generation } => {
                self.owner.generation = generation;
                Some(Piece::Begins { offset: self.offset, generation })
            }
            Mark::Continues { generation } => {
                self.owner.generation = generation;
                None
            }
            Mark::Ends { generation } => Some(Piece::Ends { generation }),
            Mark::Dropped { stream, bytes } => {
                let owner = Owner { stream, ..self.owner };
                Some(Piece::Dropped { owner, bytes, time_ms: self.time_ms })
            }
        };
        [before, own]
    }
}

/// All pieces of a file at once.
pub fn pieces(records: impl Iterator<Item = Record>, log_bytes: u64) -> Vec<Piece> {
    let mut walk = Walk::start();
    let mut pieces = Vec::new();
    for record in records {
        pieces.extend(walk.record(record, log_bytes).into_iter().flatten());
    }
    pieces.extend(walk.bytes_until(log_bytes));
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKS: [Mark; 7] = [
        Mark::Bytes { stream: Stream::Out, time_ms: 1_700_000_000_123 },
        Mark::Bytes { stream: Stream::Err, time_ms: 0 },
        Mark::Begins { generation: u64::MAX },
        Mark::Continues { generation: 7 },
        Mark::Ends { generation: 1 << 40 },
        Mark::Dropped { stream: Stream::Out, bytes: 5 },
        Mark::Dropped { stream: Stream::Err, bytes: 6 },
    ];

    #[test]
    fn every_record_reads_back_as_written() {
        for mark in MARKS {
            for offset in [0, 1, 4096, OFFSET_MAX] {
                let record = Record { offset, mark };
                assert_eq!(Record::decode(&record.encode()), Some(record));
            }
        }
    }

    #[test]
    fn a_damaged_byte_is_noticed() {
        let good = Record { offset: 77, mark: MARKS[0] }.encode();
        for at in 0..RECORD_BYTES {
            for bit in 0..8 {
                let mut bad = good;
                bad[at] ^= 1 << bit;
                assert_eq!(Record::decode(&bad), None, "byte {at} bit {bit}");
            }
        }
        assert_eq!(Record::decode(&[0; RECORD_BYTES]), None);
        assert_eq!(Record::decode(&[0xff; RECORD_BYTES]), None);
    }

    #[test]
    fn what_a_crash_left_is_cut_at_the_first_bad_record() {
        let at = |offset| Record { offset, mark: MARKS[0] }.encode();
        let index = [at(0), at(5), at(9)].concat();
        let count = |index: &[u8], size| valid_records(index, size).count();
        assert_eq!(count(&index, 9), 3);
        assert_eq!(count(&index, 8), 2, "beyond the end of the log");
        assert_eq!(count(&index[..47], 9), 2, "torn");
        assert_eq!(count(&[at(5), at(4)].concat(), 9), 1, "backwards");
        assert_eq!(count(&[at(0), [0; 16], at(3)].concat(), 9), 1, "a hole");
    }

    #[test]
    fn one_record_covers_one_stream_for_ten_milliseconds() {
        let mut cursor = Cursor { generation: Some(1), ..Cursor::default() };
        let mut write = |stream, now, moved| {
            let records: Vec<_> = cursor.before_splice(1, stream, now).collect();
            records.iter().for_each(|r| cursor.wrote(*r));
            cursor.moved(moved);
            records.len()
        };
        assert_eq!(write(Stream::Out, 100, 5), 1);
        assert_eq!(write(Stream::Out, 109, 5), 0);
        assert_eq!(write(Stream::Out, 110, 5), 1);
        assert_eq!(write(Stream::Err, 110, 5), 1);
        assert_eq!(write(Stream::Out, 110, 5), 1);
        assert_eq!(write(Stream::Out, 90, 5), 1, "the clock was set back");
        assert_eq!(write(Stream::Out, 91, 0), 0);
        assert_eq!(write(Stream::Out, 91, 5), 1, "never into a void record");
    }

    /// The world of the exhaustive test: two files and what was written by whom.
    #[derive(Clone, Default)]
    struct World {
        log: Vec<u8>,
        index: Vec<u8>,
        cursor: Cursor,
        said: [Vec<u8>; 2],
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Crash {
        No,
        BeforeRecord,
        Torn,
        AfterRecord,
        AfterSplice,
    }

    impl World {
        /// One splice of one byte, with a crash and a new attach at one place of it; the byte stays in the pipe until it is moved.
        fn step(&mut self, stream: Stream, now: u64, crash: Crash) {
            let byte = b'a' + (self.said[0].len() + self.said[1].len()) as u8;
            if crash != Crash::No {
                self.splice(stream, now, byte, crash);
                let records: Vec<_> = valid_records(&self.index, self.log.len() as u64).collect();
                self.index.truncate(records.len() * RECORD_BYTES);
                self.cursor = Cursor::resume(records.into_iter(), self.log.len() as u64);
            }
            if crash != Crash::AfterSplice {
                self.splice(stream, now + 1, byte, Crash::No);
            }
        }

        fn splice(&mut self, stream: Stream, now: u64, byte: u8, crash: Crash) {
            if crash == Crash::BeforeRecord {
                return;
            }
            for record in self.cursor.before_splice(9, stream, now) {
                let text = record.encode();
                self.index.extend(if crash == Crash::Torn { &text[..7] } else { &text[..] });
                self.cursor.wrote(record);
            }
            if matches!(crash, Crash::Torn | Crash::AfterRecord) {
                return;
            }
            self.log.push(byte);
            self.said[stream as usize].push(byte);
            self.cursor.moved(1);
        }

        fn check(&self) {
            let mut heard: [Vec<u8>; 2] = [vec![], vec![]];
            let records = valid_records(&self.index, self.log.len() as u64);
            for piece in pieces(records, self.log.len() as u64) {
                if let Piece::Bytes(extent) = piece {
                    assert_eq!(extent.owner.generation, 9);
                    let range = extent.offset as usize..(extent.offset + extent.bytes) as usize;
                    heard[extent.owner.stream as usize].extend(&self.log[range]);
                }
            }
            assert_eq!(heard, self.said);
        }
    }

    fn all_histories(world: &World, now: u64, depth: u32, seen: &mut u64) {
        world.check();
        *seen += 1;
        if depth == 0 {
            return;
        }
        for stream in [Stream::Out, Stream::Err] {
            for later in [1, COALESCE_MS] {
                for crash in [Crash::No, Crash::BeforeRecord, Crash::Torn, Crash::AfterRecord, Crash::AfterSplice] {
                    let mut next = world.clone();
                    next.step(stream, now + later, crash);
                    all_histories(&next, now + later, depth - 1, seen);
                }
            }
        }
    }

    #[test]
    fn every_short_history_with_every_crash_point_keeps_each_byte_its_stream() {
        let mut seen = 0;
        all_histories(&World::default(), 1000, 4, &mut seen);
        assert_eq!(seen, 1 + 20 + 400 + 8_000 + 160_000);
    }

    #[test]
    fn a_reader_that_meets_the_file_while_it_grows_sees_the_same_pieces() {
        let mut cursor = Cursor::default();
        let mut records = Vec::new();
        for (stream, now, bytes) in [(Stream::Out, 1, 3), (Stream::Err, 2, 0), (Stream::Err, 3, 2), (Stream::Out, 3, 4)]
        {
            for record in cursor.before_splice(1, stream, now) {
                records.push(record);
                cursor.wrote(record);
            }
            cursor.moved(bytes);
        }
        let whole = pieces(records.iter().copied(), 9);
        let mut walk = Walk::start();
        let (mut grown, mut at) = (Vec::new(), 0);
        for size in 0..=9 {
            while let Some(record) = records.get(at).filter(|r| r.offset <= size) {
                grown.extend(walk.record(*record, size).into_iter().flatten());
                at += 1;
            }
            grown.extend(walk.bytes_until(size));
        }
        let join = |pieces: &[Piece]| -> Vec<(Owner, u64)> {
            pieces.iter().fold(Vec::new(), |mut all, piece| {
                if let Piece::Bytes(e) = piece {
                    all.extend((0..e.bytes).map(|_| (e.owner, e.time_ms)));
                }
                all
            })
        };
        assert_eq!(join(&grown), join(&whole));
    }
}
