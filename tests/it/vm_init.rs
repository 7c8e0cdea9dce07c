//! A machine whose process 1 is moored: it boots from an initramfs that holds little else, and is used over its serial console, by the shell that
//! the kernel's command line asks for. `vm_init/scenarios` runs there.
//!
//! A binary with debug assertions is five times as large as a released one, and lies in memory twice: in the initramfs, and sealed.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use super::crash::upgrades::places_in;
use super::support::{Patience, TempDir, end_of, tool};
use super::vm::initramfs::Initramfs;
use super::vm::{VIRTIO, kernel, module, stripped};

/// Debian's kernel does not start with 64 MB: it unpacks itself to 16 MB and up, and takes 51 there. It keeps 46 MB for itself, an initramfs
/// lies in memory twice until it is unpacked, and the storms of shells take 10.
/// An upgrade of a machine has the program there twice more for a while.
const MEMORY: &str = if cfg!(debug_assertions) { "320M" } else { "112M" };
/// Of the machine's disk.
const DISK_BYTES: u64 = 8 << 20;
/// A machine that is not off by then hangs. It takes a minute and a half where nothing else runs.
const PATIENCE: Duration = Duration::from_secs(600);
/// The time that the files in the image have; the machine's clock begins in 1970.
const LAST_KNOWN: u32 = 1_700_000_000;
const SCENARIOS: &[u8] = include_bytes!("vm_init/scenarios");
const INIT_TOML: &str = include_str!("vm_init/init.toml");
pub const UNITS: [(&str, &str); 5] = [
    ("db", include_str!("vm_init/db.toml")),
    ("front", include_str!("vm_init/front.toml")),
    ("hello", include_str!("../../units/hello.toml")),
    ("stubborn", include_str!("vm_init/stubborn.toml")),
    ("web", include_str!("../../units/web.toml")),
];

#[test]
fn a_machine_boots_runs_its_units_and_ends_in_order() {
    let Some(parts) = Parts::find() else { return };
    let console = parts.boot("init", INIT_TOML, &UNITS, "sh /scenarios");
    let lines: Vec<&str> = console.lines().map(str::trim_end).collect();
    let passed = lines.iter().filter(|line| line.starts_with("ok ")).count();
    assert!(!console.contains("FAIL ") && passed > 0, "{console}");
    assert!(lines.contains(&format!("done {passed}").as_str()), "{console}");
    let place = |text: &str| console.find(text).unwrap_or_else(|| panic!("no {text:?} in\n{console}"));
    // Who depends on another one is stopped before it is; who does not stop at all is not waited for longer than the machine allows.
    let order =
        ["stopping front.", "front.1 exited", "stopping db.", "db.1 exited", "the units are not stopped in time"];
    let places = order.map(place);
    assert!(places.is_sorted(), "{places:?}\n{console}");
    assert!(place("poweroff now") < place("reboot: Power down"), "{console}");
    // Each panic was one, and is on the console.
    let panics = console.matches("process 1 begins again: it panicked: ").count();
    assert_eq!(panics, if cfg!(all(debug_assertions, target_arch = "x86_64")) { 2 } else { 0 }, "{console}");
    println!("{console}");
}

#[test]
fn a_broken_init_toml_boots_with_the_defaults_and_says_so() {
    let Some(parts) = Parts::find() else { return };
    let broken = "host_name = \"box\"\nwatchdog = 5\n[[mount]]\ntarget = \"var\"\n";
    let console = parts.boot("broken", broken, &UNITS, "hostname; moored status | grep Note; kill -TERM 1");
    for line in [
        "moored: /etc/moored/init.toml:2:12 `watchdog` is the integer 5, expected a duration like \"250ms\" or \"1m30s\"",
        "localhost",
        "      Note: /etc/moored/init.toml is not valid: booted with the defaults",
        "      Note: /etc/moored/init.toml:4:10 `mount.target` is the string \"var\", expected an absolute path without `..`",
    ] {
        let found = console.lines().any(|found| found.trim_end().starts_with(line));
        assert!(found, "no {line:?} in\n{console}");
    }
    assert!(console.contains("reboot: Restarting system"), "{console}");
}

/// How a machine ends: by what, and what the kernel says then. One that is halted does not end.
const ENDS: [(&str, End, &str); 3] = [
    ("halt", End::Line("moored halt"), "reboot: System halted"),
    ("power", End::Line("kill -PWR 1"), "reboot: Power down"),
    ("keys", End::CtrlAltDel, "reboot: Restarting system"),
];

enum End {
    Line(&'static str),
    CtrlAltDel,
}

#[test]
fn a_machine_ends_as_it_is_told() {
    let Some(parts) = Parts::find() else { return };
    let dir = TempDir::new("vm-ends");
    let image = dir.join("initramfs");
    fs::write(&image, parts.image(&dir, "stop_timeout = \"20s\"\n", &UNITS[..1]).finish()).unwrap();
    for (name, by, last) in ENDS {
        let (monitor, mut machine) = (dir.join(name), parts.start(&image, &dir.join(name)));
        machine.say("until moored ps db | grep -q running; do :; done; echo is''up");
        machine.console.until("isup");
        // Whoever hangs up at once is not heard.
        let mut monitor = UnixStream::connect(monitor).unwrap();
        match by {
            End::Line(line) => machine.say(line),
            End::CtrlAltDel => monitor.write_all(b"sendkey ctrl-alt-delete\n").unwrap(),
        }
        machine.console.until(last);
        let console = &machine.console.text;
        let place = |text: &str| console.find(text).unwrap_or_else(|| panic!("no {text:?} in\n{console}"));
        let order = ["stopping db.", "db.1 exited", " now", last];
        assert!(order.map(place).is_sorted(), "{name}\n{console}");
        let _ = machine.process.kill();
        let _ = machine.process.wait();
    }
}

/// What the machine is made of.
pub struct Parts {
    qemu: PathBuf,
    busybox: PathBuf,
    mke2fs: PathBuf,
    kernel: PathBuf,
}

impl Parts {
    pub fn find() -> Option<Parts> {
        let (qemu, busybox, mke2fs) = (tool("qemu-system-x86_64")?, tool("busybox")?, tool("mke2fs")?);
        Some(Parts { qemu, busybox, mke2fs, kernel: kernel()? })
    }

    /// Boots, gives the shell one line, and waits until the machine is off. What its console said.
    fn boot(&self, name: &str, init_toml: &str, units: &[(&str, &str)], line: &str) -> String {
        let dir = TempDir::new(&format!("vm-{name}"));
        let image = dir.join("initramfs");
        fs::write(&image, self.image(&dir, init_toml, units).finish()).unwrap();
        let mut machine = self.start(&image, &dir.join("monitor"));
        machine.say(line);
        let over = machine.console.end();
        let status = over.then(|| end_of(&mut machine.process, Duration::from_secs(5))).flatten();
        if status.is_none() {
            let _ = machine.process.kill();
            let _ = machine.process.wait();
        }
        assert!(status.is_some_and(|status| status.success()), "qemu: {status:?}\n{}", machine.console.text);
        machine.console.text
    }

    /// An empty ext4.
    fn disk(&self, path: &Path) {
        fs::File::create(path).unwrap().set_len(DISK_BYTES).unwrap();
        let made = Command::new(&self.mke2fs).args(["-q", "-t", "ext4"]).arg(path).status();
        assert!(made.unwrap().success());
    }

    /// Boots as far as the shell.
    pub fn start(&self, image: &Path, monitor: &Path) -> Machine {
        let mut command = Command::new(&self.qemu);
        command.args(["-accel", "tcg,thread=multi", "-M", "q35", "-cpu", "max", "-smp", "2", "-m", MEMORY]);
        command.args(["-display", "none", "-nic", "none", "-no-reboot", "-serial", "stdio"]);
        command.arg("-monitor").arg(format!("unix:{},server=on,wait=off", monitor.display()));
        command.args(["-rtc", "base=1970-01-02"]);
        let disk = monitor.with_extension("disk");
        self.disk(&disk);
        command.arg("-drive").arg(format!("file={},format=raw,if=none,id=disk", disk.display()));
        command.args(["-device", "virtio-blk-pci,drive=disk"]);
        command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(image);
        // The last words are for nobody: the kernel gives them to process 1.
        // On a busy host the kernel finds no ticks of a timer that works, and panics.
        command.args([
            "-append",
            "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check moored.shell splash single",
        ]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut console = Console::of(&mut process);
        console.until("/ # ");
        Machine { process, console }
    }

    pub fn image(&self, dir: &TempDir, init_toml: &str, units: &[(&str, &str)]) -> Initramfs {
        let moored = Path::new(env!("CARGO_BIN_EXE_moored"));
        let example = |name: &str| stripped(dir, &moored.with_file_name("examples").join(name));
        let mut image = Initramfs::of_time(LAST_KNOWN);
        // No /proc, /sys, /run and /tmp: it makes what it needs.
        for directory in
            ["bin", "dev", "etc", "etc/moored", "etc/moored/units", "lib", "var", "var/lib", "var/lib/moored"]
        {
            image.directory(directory);
        }
        let samples = "etc/moored/target/samples";
        for directory in ["etc/moored/target", samples] {
            image.directory(directory);
        }
        for directory in ["bin", "web", "web/bin", "web/dev", "web/etc", "web/proc", "web/run", "web/sys", "web/tmp"] {
            image.directory(&format!("{samples}/{directory}"));
        }
        if let Some(panic) = panic_of_process_1(moored) {
            image.file("panic", panic.as_bytes());
        }
        let moored = stripped(dir, moored);
        image.copy("init", &moored);
        let (id, _, version) = places_in(&fs::read(&moored).unwrap());
        image.file("places", format!("place_id={id}\nplace_version={version}\n").as_bytes());
        image.copy("bin/forgets", &example("forgets"));
        for name in ["watchdog.ko", "softdog.ko"].into_iter().chain(VIRTIO) {
            module(name).iter().for_each(|file| image.copy(&format!("lib/{name}"), file));
        }
        image.link("bin/moored", "/init");
        image.copy("bin/busybox", &self.busybox);
        image.program("bin/sh", b"#!/bin/busybox sh\n/bin/busybox --install -s /bin\nexec /bin/busybox sh \"$@\"\n");
        image.copy(&format!("{samples}/bin/hello"), &example("hello"));
        image.copy(&format!("{samples}/web/bin/http"), &example("http"));
        image.file("scenarios", SCENARIOS);
        image.file("etc/moored/init.toml", init_toml.as_bytes());
        image.file("var/lib/moored/clock", b"");
        for (unit, text) in units {
            image.file(&format!("etc/moored/units/{unit}.toml"), text.as_bytes());
        }
        image
    }
}

/// For the shell: where in its memory process 1 works off each of its rounds, and what makes the next one a panic, a jump there. `None`: the program has
/// no symbols, or is for another machine.
fn panic_of_process_1(program: &Path) -> Option<String> {
    if !cfg!(target_arch = "x86_64") {
        return None;
    }
    let output = Command::new("nm").arg("-C").arg(program).output().ok()?;
    let symbols = String::from_utf8_lossy(&output.stdout);
    let address = |name: &str| {
        let line = symbols.lines().find(|line| line.ends_with(name))?;
        u64::from_str_radix(line.split(' ').next()?, 16).ok()
    };
    let round = address(" <moored::anchor::init::duty::Watch>::round")?;
    let panics = address(" core::panicking::panic_cannot_unwind")?;
    // jmp rel32, from the end of the instruction.
    let way = i32::try_from(panics.cast_signed() - round.cast_signed() - 5).ok()?;
    let jump: String = [0xe9].into_iter().chain(way.to_le_bytes()).map(|byte| format!("\\{byte:03o}")).collect();
    Some(format!("round={round}\npanics='{jump}'\n"))
}

/// One that runs.
pub struct Machine {
    pub process: Child,
    pub console: Console,
}

impl Machine {
    /// To its shell.
    pub fn say(&mut self, line: &str) {
        self.process.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

/// What a machine prints, as it comes.
pub struct Console {
    output: Receiver<Vec<u8>>,
    pub text: String,
    patience: Patience,
}

impl Console {
    pub fn of(machine: &mut Child) -> Console {
        let mut stdout = machine.stdout.take().unwrap();
        let (send, output) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = stdout.read(&mut bytes) {
                if send.send(bytes[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Console { output, text: String::new(), patience: Patience::of(PATIENCE) }
    }

    /// Reads on for so long at most, if there is anything to read.
    pub fn more_within(&mut self, wait: Duration) {
        if let Ok(bytes) = self.output.recv_timeout(wait) {
            self.text.push_str(&String::from_utf8_lossy(&bytes));
            // What came with it.
            self.output.try_iter().for_each(|bytes| self.text.push_str(&String::from_utf8_lossy(&bytes)));
        }
    }

    /// Reads on. `None`: it is over, or the patience is (`false`).
    fn more(&mut self) -> Option<bool> {
        match self.output.recv_timeout(self.patience.left()) {
            Ok(bytes) => self.text.push_str(&String::from_utf8_lossy(&bytes)),
            Err(RecvTimeoutError::Disconnected) => return Some(true),
            Err(RecvTimeoutError::Timeout) => {}
        }
        self.patience.is_over().then_some(false)
    }

    pub fn until(&mut self, text: &str) {
        while !self.text.contains(text) {
            let ended = self.more();
            assert!(ended.is_none(), "waited in vain for {text:?}:\n{}", self.text);
        }
    }

    pub fn end(&mut self) -> bool {
        loop {
            if let Some(ended) = self.more() {
                return ended;
            }
        }
    }
}
