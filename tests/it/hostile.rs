//! Bad input in quantity: mutated and oversized unit files and config.json, from text to compiled script. Nothing panics; memory and CPU time
//! are bounded by the kernel, in a process of its own.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use moored::oci::{self, Context};
use moored::unit::{self, SourceFacts, SpecError, UnitName};
use rustix::process::{Resource, Rlimit};
use serde_json::{Value, json};

use super::simulation::rng::Rng;

/// Set in the process that has the limits.
const ALONE: &str = "MOORED_TEST_HOSTILE_ALONE";
/// Address space of the whole test, its own threads and inputs included: input is at most 1 MiB, and nothing may multiply it without end.
const MEMORY_BYTES: u64 = 512 << 20;
/// CPU time for one input, in a build without optimisation.
const INPUT_CPU: Duration = Duration::from_secs(10);
const MUTANTS: u64 = 3000;

const UNITS: [&str; 2] = [include_str!("../../src/unit/whole.toml"), include_str!("../../src/unit/example.toml")];

/// Runs `case` in a process that may not use more than so much.
fn bounded(test: &str, case: fn()) {
    if std::env::var_os(ALONE).is_some() {
        let limit = Rlimit { current: Some(MEMORY_BYTES), maximum: Some(MEMORY_BYTES) };
        rustix::process::setrlimit(Resource::As, limit).unwrap();
        return case();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("hostile::{test}"), "--nocapture", "--test-threads=1"]).env(ALONE, "1");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{test}: {}\n{text}", output.status);
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Does it, and sees how long it took; `input` is shown if that was too long.
fn timed(input: &[u8], work: impl FnOnce()) {
    let before = cpu_time();
    work();
    let took = cpu_time() - before;
    let head = String::from_utf8_lossy(&input[..input.len().min(80)]).into_owned();
    if took > Duration::from_millis(300) {
        println!("{took:?} for {} bytes: {head}", input.len());
    }
    assert!(took < INPUT_CPU, "{took:?} for {} bytes: {head}", input.len());
}

/// A unit file's way from bytes to a script.
fn read_unit(bytes: &[u8]) {
    let (name, file) = (UnitName::new("web").unwrap(), Path::new("/u/web.toml"));
    let Ok(text) = unit::text_of(file, bytes) else { return };
    match unit::parse(&name, file, text) {
        Err(errors) => assert!(!errors.is_empty() && errors.len() <= 500, "{} mistakes", errors.len()),
        Ok(parsed) => {
            let config = (!parsed.unit.source.is_hardened()).then(|| oci::template().as_bytes().into());
            compile(&parsed.unit, SourceFacts { resolved: "/srv/web".into(), config_json: config, layers: Vec::new() });
        }
    }
}

/// A config.json's way from bytes to a script.
fn read_config(bytes: &[u8]) {
    let (name, file) = (UnitName::new("web").unwrap(), Path::new("/u/web.toml"));
    let parsed = unit::parse(&name, file, "bundle = \"/srv/web\"\n").unwrap();
    let facts = SourceFacts { resolved: "/srv/web".into(), config_json: Some(bytes.into()), layers: Vec::new() };
    let mistakes = oci::mistakes(bytes).into_iter().map(|error| (error.path, error.problem.to_string())).collect();
    for error in SpecError::at_paths(mistakes, &facts, None) {
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    compile(&parsed.unit, facts);
    if let Ok(parsed) = oci::parse(bytes) {
        let _ = oci::compile(&parsed.spec, None, &Context::new("/srv/web".into(), "web".into()));
    }
}

fn compile(unit: &unit::Unit, facts: SourceFacts) {
    if let Ok(text) = unit::compile(unit, &facts) {
        let context = Context::new(facts.resolved.clone(), "web.1".to_owned());
        let _ = oci::compile(&text.spec, Some(&text.raw), &context);
    }
    unit::fingerprint(unit, &facts);
}

/// Flips, cuts, repeats and inserts.
fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    const PIECES: [&[u8]; 12] =
        [b"[", b"]", b"{", b"}", b"\"", b"=", b"\n", b"\\u0000", b"-1", b"18446744073709551616", b"\xff", b"null"];
    for _ in 0..=rng.below(6) {
        let at = rng.below(bytes.len() as u64 + 1) as usize;
        let end = (at + rng.below(40) as usize).min(bytes.len());
        match rng.below(5) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            1 => bytes.truncate(at.max(8)),
            2 => drop(bytes.drain(at..end)),
            3 => bytes.extend_from_within(at..end),
            _ => drop(bytes.splice(at..at, rng.pick(&PIECES).iter().copied())),
        }
    }
}

/// Puts something odd in the place of one value.
fn replace(rng: &mut Rng, value: &mut Value) {
    let odd = [
        json!(null),
        json!(-1),
        json!(1e300),
        json!(u64::MAX),
        json!(""),
        json!("\u{0}\n\u{1b}[31m"),
        json!("a".repeat(5000)),
        json!([]),
        json!({}),
        json!([[[[[{}]]]]]),
        json!(true),
        json!({ "": { "": [] } }),
        json!("/../../.."),
        json!("%s"),
    ];
    let stop = rng.chance(25);
    match value {
        Value::Array(items) if !stop && !items.is_empty() => {
            let at = rng.below(items.len() as u64) as usize;
            replace(rng, &mut items[at]);
        }
        Value::Object(map) if !stop && !map.is_empty() => {
            let at = rng.below(map.len() as u64) as usize;
            replace(rng, map.values_mut().nth(at).unwrap());
        }
        _ => *value = rng.pick(&odd).clone(),
    }
}

#[test]
fn mutated_unit_files_are_answered() {
    bounded("mutated_unit_files_are_answered", || {
        for seed in 0..MUTANTS {
            let mut rng = Rng::new(seed);
            let mut bytes = rng.pick(&UNITS).as_bytes().to_vec();
            mutate(&mut rng, &mut bytes);
            timed(&bytes, || read_unit(&bytes));
        }
    });
}

#[test]
fn mutated_config_files_are_answered() {
    bounded("mutated_config_files_are_answered", || {
        let template: Value = serde_json::from_str(oci::template()).unwrap();
        for seed in 0..MUTANTS {
            let mut rng = Rng::new(seed);
            let mut value = template.clone();
            (0..=rng.below(4)).for_each(|_| replace(&mut rng, &mut value));
            let mut bytes = serde_json::to_vec_pretty(&value).unwrap();
            if rng.chance(30) {
                mutate(&mut rng, &mut bytes);
            }
            timed(&bytes, || read_config(&bytes));
        }
    });
}

/// As much of `piece` as a file may hold.
fn full(start: &str, piece: &str, end: &str) -> String {
    let room = unit::TEXT_MAX - start.len() - end.len();
    format!("{start}{}{end}", piece.repeat(room / piece.len()))
}

#[test]
fn the_largest_unit_files_are_answered() {
    bounded("the_largest_unit_files_are_answered", || {
        let source = "rootfs = \"/srv/web\"\n[process]\nargs = [\"/x\"]\n";
        let numbered = |make: fn(usize) -> String| (0..40_000).map(make).collect::<String>();
        let giants = [
            full("", "[", ""),
            full("x-a = ", "[", ""),
            full("x-a = ", "{a=", ""),
            full("", "a.", ""),
            full("", "a\n", ""),
            full("", "\"", ""),
            full("", "[[mount]]\n", ""),
            full("", "[x]\n", ""),
            full("x-a = \"", "x", "\"\n"),
            full("", "\r", ""),
            full("", "\u{feff}", ""),
            full(&format!("{source}env = {{ A = \""), "ä", "\" }\n"),
            full("rootfs = \"/srv/web\"\nprocess.args = [", "\"/x\", ", "]\n"),
            full(&format!("{source}[oci]\nlinux.x = ["), "{a=1},", "]\n"),
            format!("{source}[process.env]\n{}", numbered(|n| format!("A{n} = {n}\n"))),
            format!("{source}{}", numbered(|n| format!("[x{n}]\n"))),
            format!(
                "{source}{}",
                (0..15_000).map(|n| format!("[[mount]]\nsource = \"/a\"\ntarget = \"/t{n}\"\n")).collect::<String>()
            ),
        ];
        giants.iter().for_each(|text| timed(text.as_bytes(), || read_unit(text.as_bytes())));
    });
}

#[test]
fn the_largest_config_files_are_answered() {
    bounded("the_largest_config_files_are_answered", || {
        let start = "{\"ociVersion\":\"1.3.0\",\"root\":{\"path\":\"r\"},\"process\":{\"user\":{\"uid\":0,\"gid\":0},\"cwd\":\"/\",\"args\":[\"/x\"]},";
        let giants = [
            full("", "[", ""),
            full("", "{\"a\":", ""),
            full("{\"a\":\"", "x", "\"}"),
            full("{", "\"a\":1,", "\"b\":2}"),
            full("{\"process\":{\"args\":[", "1,", "1]}}"),
            full("{\"mounts\":[", "{},", "{}]}"),
            full("{\"mounts\":[", "{\"destination\":5},", "{}]}"),
            full(
                &format!("{start}\"mounts\":["),
                "{\"destination\":\"/a\",\"type\":\"tmpfs\",\"source\":\"x\"},",
                "{\"destination\":\"/a\"}]}",
            ),
            full(
                &format!("{start}\"linux\":{{\"seccomp\":{{\"defaultAction\":\"SCMP_ACT_ERRNO\",\"syscalls\":["),
                "{\"names\":[\"read\"],\"action\":\"SCMP_ACT_ALLOW\"},",
                "{\"names\":[\"write\"],\"action\":\"SCMP_ACT_ALLOW\"}]}}}",
            ),
            full(&format!("{start}\"linux\":{{\"maskedPaths\":["), "\"/a\",", "\"/b\"]}}"),
            full(&format!("{start}\"annotations\":{{"), "\"a.b[\":\"c\",", "\"x\":\"y\"}}"),
        ];
        giants.iter().for_each(|text| timed(text.as_bytes(), || read_config(text.as_bytes())));
    });
}
