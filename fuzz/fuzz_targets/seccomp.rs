#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| moored::fuzzing::run("seccomp", bytes));
