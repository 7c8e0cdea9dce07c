//! How long a machine takes from the kernel's start of process 1 to a container's first instruction, beside the least that a C program can do
//! for the same (`boot/init.c`). Both boot the same kernel in the same virtual machine and run the same container. The C program's file is as
//! long as moored's: both copy it into memory once.
//!
//! `cargo bench --bench boot [-- BOOTS]`, with qemu, gcc and the kernel that `tests/run` puts into target/vm. `MOORED_BIN` names another binary.
//!
//! Without a number each boots once, and the machine's clock is what it executes, 1 ns an instruction (qemu's `-icount`): the same figures each
//! time, on a busy host as well. Waits count in full. The machine has one processor then, and one without ERMS, so that the kernel copies by
//! words: with it each byte that is copied would count as an instruction. With a number each boots so often by the host's clock, in turns.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

// The tests make more of it.
#[allow(dead_code)]
#[path = "../tests/it/vm/initramfs.rs"]
mod initramfs;

use initramfs::Initramfs;

const KERNEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/vm/vmlinuz");
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/boot/init.c");
/// What the container writes to the kernel's log, before the number of microseconds.
const MARK: &str = "boot-bench ";
/// The container's: it reads the kernel's log, which is in its own clock.
const UNIT: &str = "type = \"oneshot\"\nexecutable = \"/bin/stamp\"\nsecurity.capabilities = [\"CAP_SYSLOG\"]\n[[device]]\npath = \"/dev/kmsg\"\n";

fn main() {
    let boots: Option<usize> = std::env::args().skip(1).find_map(|word| word.parse().ok());
    let clock = if boots.is_some() { Clock::Host } else { Clock::Instructions };
    let dir = std::env::temp_dir().join(format!("moored-bench-boot-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a temporary directory");
    let c = dir.join("init");
    let built = Command::new("gcc").args(["-static", "-O2", "-Wall", "-s", "-o"]).arg(&c).arg(SOURCE).status();
    assert!(built.is_ok_and(|status| status.success()), "apt-get install gcc libc6-dev");
    let moored = std::env::var_os("MOORED_BIN").map_or_else(|| env!("CARGO_BIN_EXE_moored").into(), PathBuf::from);
    pad(&c, &moored);
    let contestants = [("C", &c), ("moored", &moored)].map(|(name, init)| {
        let image = dir.join(name);
        std::fs::write(&image, archive(init, &c)).expect("a temporary directory");
        (name, image)
    });
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..boots.unwrap_or(1) {
        for ((_, image), times) in contestants.iter().zip(&mut times) {
            times.push(boot(image, clock));
        }
    }
    for ((name, _), times) in contestants.iter().zip(&mut times) {
        times.sort_unstable();
        println!("{name:8} median {:>7} us, {times:?}", median(times));
    }
    println!("ratio {:.2}", median(&times[1]) as f64 / median(&times[0]) as f64);
    std::fs::remove_dir_all(dir).expect("the directory is ours");
}

/// What the machine's clock follows.
#[derive(Debug, Clone, Copy)]
enum Clock {
    Host,
    Instructions,
}

impl Clock {
    fn options(self) -> &'static [&'static str] {
        match self {
            Clock::Host => &["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"],
            Clock::Instructions => &[
                "-accel",
                "tcg,thread=single",
                "-icount",
                "shift=0,sleep=off",
                "-cpu",
                "max,erms=off,fsrm=off",
                "-smp",
                "1",
            ],
        }
    }
}

/// Zeros behind what is loaded of it, up to the length of the other one.
fn pad(program: &Path, other: &Path) {
    let length = std::fs::metadata(other).expect("a binary").len();
    let file = std::fs::File::options().write(true).open(program).expect("it was built");
    let own = file.metadata().expect("it was built").len();
    file.set_len(own.max(length)).expect("a temporary directory");
}

fn median(times: &[u64]) -> u64 {
    times[times.len() / 2]
}

fn archive(init: &Path, stamp: &Path) -> Vec<u8> {
    let mut archive = Initramfs::default();
    for directory in ["bin", "dev", "etc", "etc/moored", "etc/moored/units"] {
        archive.directory(directory);
    }
    archive.copy("init", init);
    archive.copy("bin/stamp", stamp);
    archive.file("etc/moored/units/first.toml", UNIT.as_bytes());
    archive.finish()
}

/// Microseconds, of one boot. The machine is switched off then.
fn boot(image: &Path, clock: Clock) -> u64 {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(clock.options()).args(["-M", "q35", "-m", "256M"]);
    command.args(["-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot", "-serial", "stdio"]);
    command.arg("-kernel").arg(KERNEL).arg("-initrd").arg(image);
    // On a busy host the kernel finds no ticks of a timer that works, and panics.
    command.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check"]);
    let mut machine =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("apt-get install qemu-system-x86");
    let console = BufReader::new(machine.stdout.take().expect("it is a pipe"));
    let lines = console.split(b'\n').map_while(Result::ok).map(|line| String::from_utf8_lossy(&line).into_owned());
    let (mut said, mut found) = (String::new(), None);
    for line in lines {
        found = line.split_once(MARK).and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        said.push_str(&line);
        if found.is_some() {
            break;
        }
    }
    machine.kill().expect("it is ours");
    machine.wait().expect("it is ours");
    found.unwrap_or_else(|| panic!("the container did not start:\n{said}"))
}
