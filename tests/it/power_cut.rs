//! Power cuts: a machine whose process 1 is moored, with an ext4 on a virtio disk that loses what was not flushed (`power_cut/disk.rs`), and whose
//! state is written all the time: texts edited, set in force together, spoilt, units stopped, started and restarted, logs rotated.
//!
//! What the machine is asked for and what it acknowledges goes over its serial console, so no cut loses that; `power_cut/model.rs` says what
//! may be on the disk then. There are two kinds of cut:
//!
//! - In passing: what would be on the disk if the power went now, at some write. The machine goes on; afterwards the journal of the copy's ext4 is
//!   replayed, and its state-dir is read by the store's own code.
//! - Real: the machine is switched off, what is left is looked at as before, and the next machine boots from it: fsck, the replay by the kernel, and
//!   what moored makes of it.
//!
//! A few boots in the ordinary run; `tests/power-cuts` makes many (`MOORED_POWER_CUTS`, with a seed: `MOORED_POWER_SEED`).

mod disk;
mod model;
mod parts;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use moored::store::{Mark, StateStore, read_history};

use super::support::end_of;
use super::vm_init::Console;
use disk::{Cached, Random};
use model::{Ask, Entry, Model};
use parts::Parts;

/// Real cuts in the ordinary run; a machine boots in some 10 s where nothing else runs.
const CUTS: usize = 1;
/// Cuts in passing, in each boot.
const IN_PASSING: usize = 5;
/// Writes of the disk from one cut to the next, at most: some commits of ext4's journal.
const WRITES_BETWEEN: usize = 60;
const UNITS: usize = 6;
/// What the machine does at a time.
const AT_ONCE: usize = 4;
/// A command that takes longer hangs.
const COMMAND: Duration = Duration::from_secs(120);
const MEMORY: &str = if cfg!(debug_assertions) { "224M" } else { "160M" };
const UNIT_TOML: &str = include_str!("power_cut/unit.toml");

#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged() {
    let Some(parts) = Parts::find() else { return };
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let cuts = number("MOORED_POWER_CUTS").map_or(CUTS, |cuts| cuts as usize);
    let seed = number("MOORED_POWER_SEED").unwrap_or_else(|| std::process::id().into());
    println!("seed {seed}");
    let mut trial = Trial::new(parts, seed);
    for cut in 0..cuts {
        let begun = Instant::now();
        trial.boot_and_cut(cut);
        println!("cut {} of {cuts}: {:?}, {}", cut + 1, begun.elapsed(), trial.summary());
    }
    // Everything that is left holds for a last boot, too.
    trial.boot(cuts, usize::MAX).check_what_is_in_force();
}

/// As `text` in power_cut/serve.
fn text(unit: usize, version: u32) -> String {
    let head = UNIT_TOML.replace("@VERSION@", &version.to_string());
    head + &format!("# u{unit} {version}\n").repeat(version as usize * 37 % 400)
}

/// What the loop outside and the disk's thread both see.
#[derive(Default)]
struct Shared {
    journal: Vec<Entry>,
    /// Disks as cuts leave them, with the journal up to then.
    in_passing: Vec<(Vec<u8>, usize)>,
    real: Option<(Vec<u8>, usize)>,
}

/// A row of boots from one disk.
struct Trial {
    parts: Parts,
    seed: u64,
    random: Random,
    image: Vec<u8>,
    shared: Arc<Mutex<Shared>>,
    /// The last version of each unit that was asked for.
    versions: [u32; UNITS],
    asked: usize,
    looked_at: usize,
    done: usize,
    refused: usize,
    flushes: usize,
}

impl Trial {
    fn new(parts: Parts, seed: u64) -> Trial {
        let image = parts.fresh_disk();
        Trial {
            parts,
            seed,
            random: Random(seed),
            image,
            shared: Arc::default(),
            versions: [0; UNITS],
            asked: 0,
            looked_at: 0,
            done: 0,
            refused: 0,
            flushes: 0,
        }
    }

    fn summary(&self) -> String {
        let Trial { looked_at, done, refused, flushes, .. } = self;
        format!("{looked_at} disks looked at, {done} done, {refused} refused, {flushes} flushes")
    }

    /// A machine on the disk as it is. `cuts`: how many in passing, before the real one.
    fn boot(&mut self, number: usize, cuts: usize) -> Machine<'_> {
        // Every other machine takes what is on disk only when it is told.
        let manual = number.is_multiple_of(2);
        let socket = self.parts.dir.join(&format!("nbd-{number}"));
        let disk = Arc::new(Mutex::new(Cached::new(std::mem::take(&mut self.image))));
        let armed = Arc::new(Mutex::new(false));
        let watch = watch(Arc::clone(&self.shared), Arc::clone(&armed), self.random.next(), cuts);
        disk::serve(&socket, Arc::clone(&disk), watch).unwrap();
        let mut command = Command::new(&self.parts.qemu);
        command.args(["-accel", "tcg,thread=multi", "-M", "q35", "-cpu", "max", "-smp", "2", "-m", MEMORY]);
        command.args(["-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot", "-serial", "stdio"]);
        let server = format!("driver=nbd,node-name=disk,server.type=unix,server.path={}", socket.display());
        command.arg("-blockdev").arg(server).args(["-device", "virtio-blk-pci,drive=disk"]);
        command.arg("-kernel").arg(&self.parts.kernel).arg("-initrd").arg(&self.parts.initramfs);
        let words = "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check moored.shell";
        command.arg("-append").arg(if manual { format!("{words} MOORED_MANUAL=1") } else { words.to_owned() });
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut console = Console::of(&mut process);
        console.until("/ # ");
        process.stdin.as_mut().unwrap().write_all(b"sh /serve\n").unwrap();
        console.until("@serving");
        assert!(!console.text.contains("moored: m"), "{}", console.text);
        let read = console.text.len();
        let ran_before = Model::of(&self.shared.lock().unwrap().journal).units;
        let ran_before = ran_before.into_iter().map(|(unit, found)| (unit, found.generation)).collect();
        Machine { trial: self, process, console, read, disk, armed, manual, waiting: BTreeMap::new(), ran_before }
    }

    fn boot_and_cut(&mut self, number: usize) {
        let mut machine = self.boot(number, IN_PASSING);
        machine.check_what_is_in_force();
        machine.work();
        drop(machine);
        let (in_passing, (image, length)) = {
            let mut shared = self.shared.lock().unwrap();
            (std::mem::take(&mut shared.in_passing), shared.real.take().expect("the power was cut"))
        };
        for (passing, (image, length)) in in_passing.iter().enumerate() {
            self.look_at(image, *length, &format!("cut-{number}-{passing}"));
        }
        let left = self.look_at(&image, length, &format!("cut-{number}"));
        let mut shared = self.shared.lock().unwrap();
        // What was acknowledged behind the cut says nothing.
        shared.journal.truncate(length);
        shared.journal.extend(left);
        self.image = image;
    }

    /// What the store finds on a disk after a cut, or a panic with the disk kept.
    fn look_at(&mut self, image: &[u8], length: usize, name: &str) -> Vec<Entry> {
        self.looked_at += 1;
        let journal = self.shared.lock().unwrap().journal[..length].to_vec();
        let found = self.parts.state_on(image, name).map_err(|error| vec![error]);
        let found = found.and_then(|state| judge(&state, &Model::of(&journal)));
        found.unwrap_or_else(|wrong| {
            let kept = std::env::temp_dir().join(format!("moored-power-cut-{}.img", self.seed));
            fs::write(&kept, image).unwrap();
            panic!("seed {}, {name}: {wrong:#?}\ndisk: {}\njournal: {journal:#?}", self.seed, kept.display())
        })
    }
}

/// Cuts the power in passing, and at last for good, each time at some write.
fn watch(shared: Arc<Mutex<Shared>>, armed: Arc<Mutex<bool>>, seed: u64, cuts: usize) -> disk::Watch {
    let mut random = Random(seed);
    let mut left = 1 + random.below(WRITES_BETWEEN);
    Box::new(move |disk| {
        if !*armed.lock().unwrap() || !disk.is_dirty() {
            return true;
        }
        left -= 1;
        if left > 0 {
            return true;
        }
        left = 1 + random.below(WRITES_BETWEEN);
        let image = disk.cut(&mut random);
        let mut shared = shared.lock().unwrap();
        let length = shared.journal.len();
        if shared.in_passing.len() < cuts {
            shared.in_passing.push((image, length));
            return true;
        }
        shared.real = Some((image, length));
        false
    })
}

/// What is wrong with a state-dir, or what it holds.
fn judge(state: &Path, model: &Model) -> Result<Vec<Entry>, Vec<String>> {
    let (store, loaded) = StateStore::open(state, |_| {}).unwrap();
    drop(store);
    // Files are renamed into place when they are synced: none is torn, whatever was lost.
    let mut wrong: Vec<String> = loaded.notes.iter().map(ToString::to_string).collect();
    let mut versions = BTreeMap::new();
    let unit_of = |name: &str| name.strip_prefix('u')?.parse::<usize>().ok();
    for (name, good) in &loaded.good {
        let unit = unit_of(name.as_str()).expect("its name");
        for good in std::iter::once(good).chain(good.earlier.as_deref()) {
            let version =
                good.text.lines().find_map(|line| line.strip_prefix("env = { VERSION = \"")?.strip_suffix("\" }"));
            match version.and_then(|version| version.parse().ok()) {
                Some(version) if good.text == text(unit, version) => versions.entry(unit).or_insert(version),
                _ => {
                    wrong.push(format!("{name}: not a text that was ever written: {:?}", good.text));
                    continue;
                }
            };
        }
    }
    let stops: Vec<usize> = loaded.stops.iter().filter_map(|(name, _)| unit_of(name.as_str())).collect();
    wrong.extend(model.texts(&versions));
    wrong.extend(model.stops(&stops));
    let ran = model.units.values().map(|unit| unit.generation).max().unwrap_or(0);
    match loaded.mark {
        Mark::At(mark) if mark >= ran => {}
        Mark::Never if ran == 0 => {}
        mark => wrong.push(format!("the generation mark is {mark:?}, and {ran} ran")),
    }
    if let Err(error) = read_history::<serde_json::Value>(state) {
        wrong.push(error.to_string());
    }
    let left = |unit| Entry::Left { unit, version: versions.get(&unit).copied(), stopped: stops.contains(&unit) };
    if wrong.is_empty() { Ok((0..UNITS).map(left).collect()) } else { Err(wrong) }
}

/// One that runs; switched off when dropped.
struct Machine<'t> {
    trial: &'t mut Trial,
    process: std::process::Child,
    console: Console,
    /// Up to here what it said is taken in.
    read: usize,
    disk: Arc<Mutex<Cached>>,
    armed: Arc<Mutex<bool>>,
    manual: bool,
    /// What it was asked for and has not answered: since when, and of which units.
    waiting: BTreeMap<usize, (Instant, Vec<usize>)>,
    /// The highest generations of earlier boots.
    ran_before: BTreeMap<usize, u64>,
}

impl Machine<'_> {
    fn send(&mut self, command: &str) -> usize {
        self.trial.asked += 1;
        let line = format!("{} {command}\n", self.trial.asked);
        // A machine without power takes it, too.
        let _ = self.process.stdin.as_mut().unwrap().write_all(line.as_bytes());
        self.trial.asked
    }

    /// What it says next, as lines behind the `@`; empty if that takes too long.
    fn lines(&mut self, wait: Duration) -> Vec<String> {
        self.console.more_within(wait);
        let Some(end) = self.console.text[self.read..].rfind('\n') else { return Vec::new() };
        let lines = self.console.text[self.read..self.read + end].lines();
        let lines = lines.filter_map(|line| line.trim_end().strip_prefix('@').map(str::to_owned)).collect();
        self.read += end + 1;
        lines
    }

    /// Runs one command to its end: what it printed.
    fn run(&mut self, command: &str) -> Vec<String> {
        let (number, begun) = (self.send(command), Instant::now());
        let (said, over) = (format!("{number}| "), format!("{number} "));
        let mut output = Vec::new();
        loop {
            for line in self.lines(COMMAND) {
                output.extend(line.strip_prefix(&said).map(str::to_owned));
                if line.starts_with(&over) {
                    self.saw_containers(&line);
                    return output;
                }
            }
            assert!(begun.elapsed() < COMMAND, "{command}: no answer\n{}", self.console.text);
        }
    }

    /// Notes the containers at the end of an answer.
    fn saw_containers(&mut self, line: &str) {
        let id = |word: &str| {
            let (unit, generation) = word.strip_prefix('u')?.split_once('.')?;
            Some((unit.parse().ok()?, generation.parse().ok()?))
        };
        let seen: BTreeSet<(usize, u64)> = line.split(' ').filter_map(id).collect();
        for (unit, generation) in seen {
            let before = self.ran_before.get(&unit).copied().unwrap_or(0);
            assert!(
                generation > before,
                "u{unit}.{generation} after {before} in an earlier boot\n{}",
                self.console.text
            );
            self.trial.shared.lock().unwrap().journal.push(Entry::Ran { unit, generation });
        }
    }

    /// What moored made of what the last cut left: the last good text, or with `--manual` off the file's, whichever is valid; stop marks.
    fn check_what_is_in_force(&mut self) {
        self.run("moored sync --timeout 60s");
        let journal = self.trial.shared.lock().unwrap().journal.clone();
        let model = Model::of(&journal);
        for unit in model.units.keys().copied().collect::<Vec<usize>>() {
            let said = self.run(&format!("look u{unit}"));
            let fields: BTreeMap<&str, &str> = said
                .first()
                .map(|line| line.split(' ').filter_map(|word| word.split_once('=')).collect())
                .unwrap_or_default();
            let version = |name: &str| fields.get(name).and_then(|version| version.parse::<u32>().ok());
            let (good, file) =
                (model.units[&unit].oldest, version("file").filter(|_| fields.get("whole") == Some(&"yes")));
            let expected = if self.manual { good.or(file) } else { file.or(good) };
            let stopped = model.units[&unit].may_be_stopped;
            let told =
                format!("{said:?}, expected {expected:?}, stopped {stopped}\n{journal:#?}\n{}", self.console.text);
            assert!(version("force") == expected, "u{unit}: {told}");
            assert!(expected.is_none() || (fields.get("phase") == Some(&"stopped")) == stopped, "u{unit}: {told}");
            assert!(expected.is_none() || fields.get("log") == Some(&"good"), "u{unit}: {told}");
            // A file that a cut took back to an earlier text is what counts now.
            let version = expected.min(good.or(expected));
            self.trial.shared.lock().unwrap().journal.push(Entry::Left { unit, version, stopped });
        }
    }

    /// Keeps it busy until the power is cut.
    fn work(&mut self) {
        *self.armed.lock().unwrap() = true;
        let begun = Instant::now();
        while self.trial.shared.lock().unwrap().real.is_none() {
            while self.waiting.len() < AT_ONCE {
                self.ask();
            }
            for line in self.lines(Duration::from_millis(100)) {
                self.take(&line);
            }
            assert!(begun.elapsed() < 3 * COMMAND, "it does not write:\n{}", self.console.text);
            let slow = self.waiting.values().find(|(since, _)| since.elapsed() > COMMAND);
            assert!(slow.is_none(), "{slow:?} of {:?}\n{}", self.waiting, self.console.text);
        }
    }

    fn take(&mut self, line: &str) {
        let mut words = line.split(' ');
        let Some(number) = words.next().and_then(|word| word.parse::<usize>().ok()) else { return };
        if self.waiting.remove(&number).is_none() {
            return;
        }
        let entry = match words.next() {
            Some("0") => {
                self.trial.done += 1;
                Entry::Done { number }
            }
            _ => {
                self.trial.refused += 1;
                Entry::Refused { number }
            }
        };
        self.saw_containers(line);
        self.trial.shared.lock().unwrap().journal.push(entry);
    }

    /// Asks for something of units that are asked for nothing else.
    fn ask(&mut self) {
        let busy: BTreeSet<usize> = self.waiting.values().flat_map(|(_, units)| units.iter().copied()).collect();
        let free: Vec<usize> = (0..UNITS).filter(|unit| !busy.contains(unit)).collect();
        let random = &mut self.trial.random;
        let unit = free[random.below(free.len())];
        let other = free.iter().copied().find(|other| *other != unit);
        let mut next = |unit: usize| {
            self.trial.versions[unit] += 1;
            self.trial.versions[unit]
        };
        let put = if self.manual { "apply" } else { "sync" };
        let write = if random.below(2) == 0 { "edit" } else { "rewrite" };
        let known = self
            .trial
            .shared
            .lock()
            .unwrap()
            .journal
            .iter()
            .any(|entry| matches!(entry, Entry::Ran { unit: ran, .. } if *ran == unit));
        let (ask, command) = match random.below(if known { 10 } else { 1 }) {
            0 | 1 => {
                let version = next(unit);
                let command = format!("{write} u{unit} {version} && moored {put} --timeout 60s u{unit}");
                (Ask::Edit { unit, version }, command)
            }
            2 | 3 if self.manual && other.is_some() => {
                let texts = [unit, other.unwrap_or(unit)].map(|unit| (unit, next(unit)));
                let [(a, va), (b, vb)] = texts;
                let command =
                    format!("{write} u{a} {va} && {write} u{b} {vb} && moored apply --timeout 60s --atomic u{a} u{b}");
                (Ask::Set { texts }, command)
            }
            2 | 3 => (Ask::Sync, "sync".to_owned()),
            4 => (Ask::Spoil { unit }, format!("spoil u{unit}")),
            5 | 6 => (Ask::Stop { unit }, format!("moored stop u{unit}")),
            7 | 8 => (Ask::Start { unit }, format!("moored start u{unit}")),
            _ => (Ask::Restart { unit }, format!("moored restart u{unit}")),
        };
        let units = match &ask {
            Ask::Set { texts } => texts.map(|(unit, _)| unit).to_vec(),
            _ => vec![unit],
        };
        let number = self.trial.asked + 1;
        self.trial.shared.lock().unwrap().journal.push(Entry::Asked { number, ask });
        self.send(&command);
        self.waiting.insert(number, (Instant::now(), units));
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = end_of(&mut self.process, Duration::from_secs(10));
        self.trial.flushes += self.disk.lock().unwrap().flushes;
    }
}
