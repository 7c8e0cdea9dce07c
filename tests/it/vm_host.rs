//! A Debian root with moored as process 1 and the units of `units/host`: udev, DHCP, sshd, getty and chrony of Debian's packages, without systemd.
//!
//! The machine has a disk, qemu's network with its DHCP server, and a clock that is years behind; the time comes from this test. It is used as its
//! owner would: over SSH, and by a login on the serial console, which switches it off. `tests/run` makes the root.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use super::support::{Patience, TempDir, end_of, skip, tool};
use super::vm::initramfs::Initramfs;
use super::vm::stripped;
use super::vm_init::Console;

/// `MOORED_HOST_ROOT` names another one, say of another release.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/host-root");
const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/units/host");
const SCRIPT: &str = include_str!("vm_host/script");
/// Locks the one out who writes it, but for the rollback. Behind the session's end, which it brings about.
const MISTAKE: &str = r#"
mkdir -p /etc/moored/units/sshd.toml.d
mistake='process.args = ["/usr/sbin/sshd", "-D", "-e", "-o", "Nonsense=yes"]'
setsid sh -c "sleep 0.5; echo '$mistake' > /etc/moored/units/sshd.toml.d/mistake.toml" > /dev/null 2>&1 < /dev/null &
echo done 0"#;
const AFTER_MISTAKE: &str = r#"
for i in $(seq 300); do moored ps | grep "^sshd  *ready.*rolled back" && echo "ok the earlier text came back" && break; sleep 0.2; done
rm /etc/moored/units/sshd.toml.d/mistake.toml
moored sync --timeout 60s && echo "ok and is the one on disk again"
moored why sshd
echo done 2"#;
/// What no program here reads; it would be unpacked into the machine's memory.
const WITHOUT: [&str; 10] = [
    "boot",
    "dev",
    "usr/share/perl5",
    "usr/share/zoneinfo",
    "usr/lib/udev/hwdb.d",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/perl-base",
    "var/cache",
    "var/lib/apt",
    "var/lib/dpkg",
];
/// Of root, on the console.
const PASSWORD: &str = "let me in";
/// A machine that does not answer by then hangs. It takes half a minute where nothing else runs.
const PATIENCE: Duration = Duration::from_secs(400);
/// From one attempt to log in to the next.
const AGAIN: Duration = Duration::from_millis(300);
/// From 1900, where NTP begins to count, to 1970 (RFC 5905).
const NTP_EPOCH: u64 = 2_208_988_800;

#[test]
fn a_debian_root_boots_on_the_units_of_the_host() {
    let Some(machine) = Machine::find() else { return };
    let (mut qemu, mut console) = machine.boot();
    console.until("box login: ");
    for script in [SCRIPT, MISTAKE, AFTER_MISTAKE] {
        let said = machine.ssh(&mut qemu, script);
        println!("{said}");
        let passed = said.lines().filter(|line| line.starts_with("ok ")).count();
        if said.contains("FAIL ") || !said.lines().any(|line| line == format!("done {passed}")) {
            let _ = qemu.kill();
            panic!("{said}\n{}", console.text);
        }
    }
    let mut keys = qemu.stdin.take().unwrap();
    let mut answer = |console: &mut Console, prompt: &str, text: &str| {
        console.until(prompt);
        keys.write_all(format!("{text}\n").as_bytes()).unwrap();
    };
    answer(&mut console, "box login: ", "root");
    answer(&mut console, "Password: ", PASSWORD);
    answer(&mut console, "root@box:~# ", "tty; moored poweroff");
    let status = console.end().then(|| end_of(&mut qemu, Duration::from_secs(5))).flatten();
    if status.is_none() {
        let _ = qemu.kill();
        let _ = qemu.wait();
    }
    assert!(status.is_some_and(|status| status.success()), "qemu: {status:?}\n{}", console.text);
    assert!(console.text.contains("/dev/ttyS0\r\n") && console.text.contains("reboot: Power down"), "{}", console.text);
    println!("{}", console.text);
}

/// What the machine is made of, and how it is reached.
struct Machine {
    qemu: PathBuf,
    ssh: PathBuf,
    dir: TempDir,
    port: u16,
}

impl Machine {
    fn find() -> Option<Machine> {
        let (qemu, ssh) = (tool("qemu-system-x86_64")?, tool("ssh")?);
        let (keygen, openssl) = (tool("ssh-keygen")?, tool("openssl")?);
        if !root().join("boot/vmlinuz").is_file() {
            skip("no root in target/host-root: tests/run makes it");
            return None;
        }
        let dir = TempDir::new("vm-host");
        let made = Command::new(keygen).args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.join("key")).status();
        assert!(made.unwrap().success());
        // Free now; who takes it meanwhile makes qemu say so.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let hash = Command::new(openssl).args(["passwd", "-6", PASSWORD]).output().unwrap().stdout;
        let image = image(&dir, time_server(), String::from_utf8(hash).unwrap().trim());
        fs::write(dir.join("initramfs"), image).unwrap();
        fs::File::create(dir.join("disk")).unwrap().set_len(1 << 20).unwrap();
        Some(Machine { qemu, ssh, dir, port })
    }

    fn boot(&self) -> (Child, Console) {
        let mut command = Command::new(&self.qemu);
        command.args(["-accel", "tcg,thread=multi", "-M", "q35", "-cpu", "max", "-smp", "2", "-m", "768M"]);
        command.args(["-display", "none", "-monitor", "none", "-no-reboot", "-serial", "stdio"]);
        command.args(["-rtc", "base=2020-02-02"]);
        let network = format!("user,id=net,hostfwd=tcp:127.0.0.1:{}-:22", self.port);
        command.args(["-netdev", &network, "-device", "virtio-net-pci,netdev=net,romfile="]);
        command.arg("-drive").arg(format!("file={},format=raw,if=none,id=disk", self.dir.join("disk").display()));
        command.args(["-device", "virtio-blk-pci,drive=disk,serial=moored-disk"]);
        command.arg("-kernel").arg(root().join("boot/vmlinuz"));
        command.arg("-initrd").arg(self.dir.join("initramfs"));
        command.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"]);
        let mut machine = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let console = Console::of(&mut machine);
        (machine, console)
    }

    /// What the script in the machine says. Until sshd listens, qemu takes the connection and drops it.
    fn ssh(&self, machine: &mut Child, script: &str) -> String {
        let mut patience = Patience::of(PATIENCE);
        loop {
            let Output { status, stdout, stderr } = self.log_in(script);
            // Code 255 is ssh's own.
            if status.code() != Some(255) {
                return String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
            }
            if patience.is_over() || machine.try_wait().unwrap().is_some() {
                let _ = machine.kill();
                panic!("no login: {}", String::from_utf8_lossy(&stderr));
            }
            std::thread::sleep(AGAIN);
        }
    }

    fn log_in(&self, script: &str) -> Output {
        let mut command = Command::new(&self.ssh);
        command.args(["-F", "/dev/null", "-o", "BatchMode=yes", "-o", "ConnectTimeout=60", "-o", "LogLevel=ERROR"]);
        command
            .args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-i"])
            .arg(self.dir.join("key"));
        command.args(["-p", &self.port.to_string(), "root@127.0.0.1", script]);
        command.stdin(Stdio::null()).output().unwrap()
    }
}

fn root() -> PathBuf {
    std::env::var_os("MOORED_HOST_ROOT").map_or_else(|| ROOT.into(), PathBuf::from)
}

fn image(dir: &TempDir, time_port: u16, password: &str) -> Vec<u8> {
    let mut image = Initramfs::default();
    image.tree(&root(), &WITHOUT);
    image.copy("usr/local/bin/moored", &stripped(dir, Path::new(env!("CARGO_BIN_EXE_moored"))));
    image.link("init", "usr/local/bin/moored");
    for directory in ["etc/moored", "etc/moored/units", "root/.ssh"] {
        image.directory(directory);
    }
    image.file("etc/moored/init.toml", b"host_name = \"box\"\n");
    for unit in fs::read_dir(UNITS).unwrap() {
        let unit = unit.unwrap();
        image
            .file(&format!("etc/moored/units/{}", unit.file_name().to_str().unwrap()), &fs::read(unit.path()).unwrap());
    }
    image.link("etc/moored/units/getty@ttyS0.toml", "getty@.toml");
    // As their owner would set Debian's packages up.
    let time = format!("server 10.0.2.2 port {time_port} iburst\n");
    image.file("etc/chrony/sources.d/test.sources", time.as_bytes());
    image.secret("root/.ssh/authorized_keys", &fs::read(dir.join("key.pub")).unwrap());
    let shadow = fs::read_to_string(root().join("etc/shadow")).unwrap();
    image.secret("etc/shadow", shadow.replacen("root:*:", &format!("root:{password}:"), 1).as_bytes());
    image.finish()
}

/// An NTP server of this host's time (RFC 5905), as long as the test lives.
fn time_server() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut packet = [0; 48];
        while let Ok((length, client)) = socket.recv_from(&mut packet) {
            if length == packet.len() {
                let _ = socket.send_to(&answer(&packet), client);
            }
        }
    });
    port
}

fn answer(asked: &[u8; 48]) -> [u8; 48] {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let fraction = (u64::from(now.subsec_nanos()) << 32) / 1_000_000_000;
    let stamp = ((now.as_secs() + NTP_EPOCH) << 32 | fraction).to_be_bytes();
    let mut packet = [0; 48];
    // Version 4, server; stratum 1; poll; precision 2^-20 s; root delay and dispersion 0; whose clock it is.
    packet[..4].copy_from_slice(&[0x24, 1, asked[2], 0xec]);
    packet[12..16].copy_from_slice(b"TEST");
    packet[16..24].copy_from_slice(&stamp);
    packet[24..32].copy_from_slice(&asked[40..48]);
    packet[32..40].copy_from_slice(&stamp);
    packet[40..48].copy_from_slice(&stamp);
    packet
}
