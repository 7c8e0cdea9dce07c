//! A soak: a machine whose process 1 is moored runs units that write, end and are restarted for as long as one likes, while its supervisor is
//! killed at random times, and its keeper once. Its clock begins in 1970 and is set half way. Not a part of the ordinary run: `tests/soak [MINUTES]`.
//!
//! `soak/script` prints the figures once a minute; here they are compared: those of the second quarter with those of the last.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use super::support::TempDir;
use super::vm_init::{Parts, UNITS};

const SCRIPT: &[u8] = include_bytes!("soak/script");
const MORE_UNITS: [(&str, &str); 2] =
    [("flaky", include_str!("soak/flaky.toml")), ("chatty", include_str!("soak/chatty.toml"))];
/// No file of the last known time: the machine begins where its hardware's clock is.
const INIT_TOML: &str = "clock = \"/var/lib/moored/none\"\nstop_timeout = \"5s\"\n";
/// For its boot, and its end.
const BESIDE: Duration = Duration::from_secs(600);
/// What a machine that does nothing wrong may differ by: of kB a tenth, and of what is counted as many as are on their way at any time.
const KB_SPARE: i64 = 512;
const COUNT_SPARE: i64 = 4;

#[test]
#[ignore = "takes as long as one likes: tests/soak"]
fn a_machine_stays_as_it_is() {
    let Some(parts) = Parts::find() else { return };
    let minutes: u64 = std::env::var("MOORED_SOAK_MINUTES").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let dir = TempDir::new("soak");
    let image = dir.join("initramfs");
    let units: Vec<(&str, &str)> =
        UNITS.into_iter().filter(|(name, _)| *name != "stubborn").chain(MORE_UNITS).collect();
    let mut archive = parts.image(&dir, INIT_TOML, &units);
    archive.file("soak", SCRIPT);
    fs::write(&image, archive.finish()).unwrap();
    let mut machine = parts.start(&image, &dir.join("monitor"));
    machine.say(&format!("sh /soak {minutes}"));
    let by = Instant::now() + Duration::from_secs(60 * minutes) + BESIDE;
    let mut shown = machine.console.text.len();
    let ended = loop {
        machine.console.more_within(Duration::from_secs(1));
        let text = &machine.console.text;
        print!("{}", &text[shown..]);
        shown = text.len();
        if let Some(status) = machine.process.try_wait().unwrap() {
            break Some(status);
        }
        if Instant::now() > by {
            break None;
        }
    };
    let _ = machine.process.kill();
    let _ = machine.process.wait();
    let console = &machine.console.text;
    assert!(ended.is_some_and(|status| status.success()), "qemu: {ended:?}");
    assert!(console.contains("soak is over") && !console.contains("FAIL "), "it did not come to its end");
    let samples: Vec<BTreeMap<&str, i64>> = console.lines().filter_map(sample).collect();
    assert!(samples.len() >= 4, "{} samples", samples.len());
    let quarter = samples.len() / 4;
    let (before, after) = (&samples[quarter..2 * quarter], &samples[3 * quarter..]);
    let mut grown = Vec::new();
    for name in samples[0].keys().filter(|name| !["minute", "kills", "restarts"].contains(name)) {
        let (from, to) = (median(before, name), median(after, name));
        println!("{name}: {from} then {to}");
        let is_more = match () {
            () if name.starts_with("free") => to < from - from / 10 - KB_SPARE,
            () if name.ends_with("_kb") => to > from + from / 10 + KB_SPARE,
            () => to > from + COUNT_SPARE,
        };
        if is_more {
            grown.push(*name);
        }
    }
    assert!(grown.is_empty(), "not flat: {grown:?}");
}

/// `soak name=number …`.
fn sample(line: &str) -> Option<BTreeMap<&str, i64>> {
    let pairs = line.trim_end().strip_prefix("soak ")?.split(' ').map(|pair| {
        let (name, number) = pair.split_once('=')?;
        Some((name, number.parse().ok()?))
    });
    pairs.collect()
}

fn median(samples: &[BTreeMap<&str, i64>], name: &str) -> i64 {
    let mut numbers: Vec<i64> = samples.iter().filter_map(|sample| sample.get(name).copied()).collect();
    numbers.sort_unstable();
    numbers[numbers.len() / 2]
}
