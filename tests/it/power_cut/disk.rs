//! A disk with a cache that a power cut empties: an NBD server (github.com/NetworkBlockDevice/nbd, doc/proto.md) for one machine.
//!
//! What the machine wrote since its last flush is kept apart. At a cut a part of it is on the disk, in whatever order, sector by sector; the rest
//! is lost. What was flushed, or written with FUA, is there.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// What a disk writes whole or not at all.
pub const SECTOR: usize = 512;
/// Longest request: qemu's own bound.
const REQUEST_MAX: usize = 32 << 20;

const INIT_MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
/// Fixed newstyle, and no 124 zeroes.
const HANDSHAKE_FLAGS: u16 = 0b11;
const OPTION_ABORT: u32 = 2;
const OPTION_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_ERR_UNSUP: u32 = (1 << 31) + 1;
const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;
/// Has flags, takes flushes, takes FUA.
const TRANSMISSION_FLAGS: u16 = 0b1101;
const COMMAND_READ: u16 = 0;
const COMMAND_WRITE: u16 = 1;
const COMMAND_DISCONNECT: u16 = 2;
const COMMAND_FLUSH: u16 = 3;
const FLAG_FUA: u16 = 1;
const EINVAL: u32 = 22;

/// Numbers from a seed (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

/// The disk and its cache.
#[derive(Debug, Default)]
pub struct Cached {
    /// As the machine reads it.
    seen: Vec<u8>,
    /// As it is without power.
    durable: Vec<u8>,
    /// Written since the last flush, in order: first sector, bytes.
    pending: Vec<(usize, Vec<u8>)>,
    pub writes: usize,
    pub flushes: usize,
}

impl Cached {
    pub fn new(image: Vec<u8>) -> Cached {
        Cached { seen: image.clone(), durable: image, ..Cached::default() }
    }

    pub fn is_dirty(&self) -> bool {
        !self.pending.is_empty()
    }

    fn write(&mut self, offset: usize, bytes: &[u8], fua: bool) {
        self.seen[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.writes += 1;
        if fua {
            self.durable[offset..offset + bytes.len()].copy_from_slice(bytes);
            // What was written there before is overwritten, wherever it was.
            let (first, end) = (offset / SECTOR, (offset + bytes.len()) / SECTOR);
            let mut kept = Vec::new();
            for (at, old) in std::mem::take(&mut self.pending) {
                let sectors = old.chunks(SECTOR).enumerate().map(|(n, sector)| (at + n, sector));
                kept.extend(sectors.filter(|(at, _)| !(first..end).contains(at)).map(|(at, old)| (at, old.to_vec())));
            }
            self.pending = kept;
        } else {
            self.pending.push((offset / SECTOR, bytes.to_vec()));
        }
    }

    fn flush(&mut self) {
        for (at, bytes) in std::mem::take(&mut self.pending) {
            self.durable[at * SECTOR..at * SECTOR + bytes.len()].copy_from_slice(&bytes);
        }
        self.flushes += 1;
    }

    /// What is there when the power goes now.
    pub fn cut(&self, random: &mut Random) -> Vec<u8> {
        let mut image = self.durable.clone();
        let (kind, last) = (random.below(5), self.pending.len().saturating_sub(1));
        let chosen = random.below(self.pending.len());
        for (number, (at, bytes)) in self.pending.iter().enumerate() {
            let whole = random.coin();
            for (n, sector) in bytes.chunks(SECTOR).enumerate() {
                let is_written = match kind {
                    // The cache is lost as a whole.
                    0 => false,
                    // Every sector for itself.
                    1 => random.coin(),
                    // Every request for itself.
                    2 => whole,
                    // All but one, in which the power went.
                    3 => number != chosen || random.coin(),
                    // The last ones first: a disk sorts.
                    _ => number >= last / 2 && (number > chosen || random.coin()),
                };
                if is_written {
                    let from = (at + n) * SECTOR;
                    image[from..from + sector.len()].copy_from_slice(sector);
                }
            }
        }
        image
    }
}

/// Called under the disk's lock behind every write and flush. `false`: the power is gone, and nothing is answered any more.
pub type Watch = Box<dyn FnMut(&Cached) -> bool + Send>;

/// Serves one machine in a thread, which ends with it.
pub fn serve(socket: &Path, disk: Arc<Mutex<Cached>>, watch: Watch) -> io::Result<()> {
    let listener = UnixListener::bind(socket)?;
    std::thread::Builder::new().name("disk".to_owned()).spawn(move || {
        let served = listener.accept().and_then(|(client, _)| Server { client, disk, watch }.run());
        // The machine was switched off in the middle of something.
        drop(served);
    })?;
    Ok(())
}

struct Server {
    client: UnixStream,
    disk: Arc<Mutex<Cached>>,
    watch: Watch,
}

impl Server {
    fn run(&mut self) -> io::Result<()> {
        self.handshake()?;
        while self.answer()? {}
        Ok(())
    }

    fn handshake(&mut self) -> io::Result<()> {
        let hello =
            [&INIT_MAGIC.to_be_bytes()[..], &OPTION_MAGIC.to_be_bytes(), &HANDSHAKE_FLAGS.to_be_bytes()].concat();
        self.client.write_all(&hello)?;
        let _client_flags: [u8; 4] = self.take()?;
        loop {
            let _magic: [u8; 8] = self.take()?;
            let option = u32::from_be_bytes(self.take()?);
            let length = u32::from_be_bytes(self.take()?) as usize;
            let mut data = vec![0; length.min(REQUEST_MAX)];
            self.client.read_exact(&mut data)?;
            match option {
                OPTION_GO => {
                    let size = self.disk.lock().unwrap().seen.len() as u64;
                    let export =
                        [&INFO_EXPORT.to_be_bytes()[..], &size.to_be_bytes(), &TRANSMISSION_FLAGS.to_be_bytes()]
                            .concat();
                    let sizes = [SECTOR as u32, 4096, REQUEST_MAX as u32].map(u32::to_be_bytes).concat();
                    self.option_reply(option, REP_INFO, &export)?;
                    self.option_reply(option, REP_INFO, &[&INFO_BLOCK_SIZE.to_be_bytes()[..], &sizes].concat())?;
                    return self.option_reply(option, REP_ACK, &[]);
                }
                OPTION_ABORT => return Err(io::ErrorKind::ConnectionAborted.into()),
                _ => self.option_reply(option, REP_ERR_UNSUP, &[])?,
            }
        }
    }

    fn option_reply(&mut self, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        let numbers = [option, kind, data.len() as u32].map(u32::to_be_bytes).concat();
        self.client.write_all(&[&OPTION_REPLY_MAGIC.to_be_bytes()[..], &numbers, data].concat())
    }

    /// One request. `false`: it was the last.
    fn answer(&mut self) -> io::Result<bool> {
        let magic = u32::from_be_bytes(self.take()?);
        let flags = u16::from_be_bytes(self.take()?);
        let command = u16::from_be_bytes(self.take()?);
        let handle: [u8; 8] = self.take()?;
        let offset = u64::from_be_bytes(self.take()?) as usize;
        let length = u32::from_be_bytes(self.take()?) as usize;
        assert!(magic == REQUEST_MAGIC && length <= REQUEST_MAX, "not a request: {magic:x}, {length} bytes");
        let mut data = vec![0; if command == COMMAND_WRITE { length } else { 0 }];
        self.client.read_exact(&mut data)?;
        let mut disk = self.disk.lock().unwrap();
        let fits = offset.checked_add(length).is_some_and(|end| end <= disk.seen.len());
        let aligned = offset.is_multiple_of(SECTOR) && length.is_multiple_of(SECTOR);
        let (mut error, mut read) = (0, Vec::new());
        match command {
            COMMAND_READ if fits => read = disk.seen[offset..offset + length].to_vec(),
            COMMAND_WRITE if fits && aligned => disk.write(offset, &data, flags & FLAG_FUA != 0),
            COMMAND_FLUSH => disk.flush(),
            COMMAND_DISCONNECT => return Ok(false),
            _ => error = EINVAL,
        }
        let is_on = command == COMMAND_READ || (self.watch)(&disk);
        drop(disk);
        if !is_on {
            // The machine waits for this answer until it is switched off.
            let _ = self.client.read(&mut [0]);
            return Ok(false);
        }
        let reply = [&REPLY_MAGIC.to_be_bytes()[..], &u32::to_be_bytes(error), &handle, &read].concat();
        self.client.write_all(&reply)?;
        Ok(true)
    }

    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.client.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

#[test]
fn a_cut_loses_a_part_of_what_was_not_flushed_and_nothing_else() {
    let mut random = Random(7);
    let (mut lost, mut kept, mut torn) = (0, 0, 0);
    for _ in 0..1000 {
        let mut disk = Cached::new(vec![0; 8 * SECTOR]);
        disk.write(0, &[1; SECTOR], false);
        disk.flush();
        disk.write(2 * SECTOR, &[2; 4 * SECTOR], false);
        disk.write(3 * SECTOR, &[3; SECTOR], true);
        disk.write(0, &[4; SECTOR], false);
        let image = disk.cut(&mut random);
        let sectors: Vec<u8> = image.chunks(SECTOR).map(|sector| sector[0]).collect();
        assert!([1, 4].contains(&sectors[0]) && sectors[3] == 3 && sectors[1] == 0 && sectors[6..] == [0, 0]);
        assert!(image.chunks(SECTOR).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        let written = [2, 4, 5].map(|n| sectors[n] == 2);
        lost += usize::from(written == [false; 3]);
        kept += usize::from(written == [true; 3]);
        torn += usize::from(written != [false; 3] && written != [true; 3]);
    }
    assert!(lost > 100 && kept > 100 && torn > 100, "{lost} {kept} {torn}");
}
